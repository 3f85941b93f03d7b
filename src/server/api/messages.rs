//! Messages: sent as a user, and read.

use super::call::{Answered, Call, answer, fresh};
use super::conversations::on_behalf;
use super::problem::Problem;
use crate::engine::{Engine, Notified, Recipients, Refusal};
use crate::protocol::api::{Addressees, MessageSent, MessagesPage, NewMessage, NewNotification, NotificationMade};
use crate::protocol::limits::{DEFAULT_HISTORY_LIMIT, MAX_HISTORY_LIMIT};
use crate::protocol::{AnswerBody, ConvId, ErrorCode, HistoryFrom, MsgId, Request, Send, SendTo};

/// The same rules and the same idempotence as if the user had sent it himself.
pub(super) async fn send(engine: Engine, call: Call) -> Answered {
    let conv_id: ConvId = call.id("conv_id", "conv_id")?;
    let NewMessage { sender_id, client_msg_id, body, reply_to, mentions } = call.content()?;
    let client_msg_id = key(&call, client_msg_id)?;
    let request = Request::Send(Send { to: SendTo::Conv(conv_id), client_msg_id, body, reply_to, mentions });
    match engine.submit(&on_behalf(&sender_id)?, request).await? {
        AnswerBody::Sent { conv_id, conv_seq, sent_at, duplicate } => {
            answer(&MessageSent { conv_id, conv_seq, sent_at, duplicate })
        }
        _ => Err(Refusal::new(ErrorCode::Unavailable).into()),
    }
}

/// In the content, in the header, or in both if they say the same.
fn key(call: &Call, named: Option<MsgId>) -> Result<MsgId, Problem> {
    match (named, &call.key) {
        (Some(named), Some(key)) if named != *key => Err(Problem::field("client_msg_id", "and Idempotency-Key differ")),
        (Some(named), _) => Ok(named),
        (None, Some(key)) => Ok(key.clone()),
        (None, None) => fresh(),
    }
}

/// Once for each user and key.
pub(super) async fn notify(engine: Engine, call: Call) -> Answered {
    let NewNotification { users, topic, body } = call.content()?;
    let to = match users {
        Addressees::Everybody => Recipients::Everybody,
        Addressees::Users(users) => Recipients::Users(users),
    };
    let Notified { made, duplicates } = engine.notify(to, topic, body, call.key_or_new()?).await?;
    answer(&NotificationMade { made: made as u64, duplicates: duplicates as u64 })
}

pub(super) async fn list(engine: Engine, call: Call) -> Answered {
    let conv_id: ConvId = call.id("conv_id", "conv_id")?;
    let given = [call.number("before")?, call.number("after")?, call.number("after_at")?];
    if given.iter().flatten().count() > 1 {
        return Err(Problem::field("after", "excludes the others of its kind"));
    }
    let [before, after, after_at] = given;
    let from = before.map(HistoryFrom::Before);
    let from = from.or(after.map(HistoryFrom::After)).or(after_at.map(HistoryFrom::AfterAt)).unwrap_or_default();
    match engine.messages(&conv_id, from, call.limit(DEFAULT_HISTORY_LIMIT, MAX_HISTORY_LIMIT)?).await? {
        AnswerBody::History { entries, next, complete, head_seq } => {
            answer(&MessagesPage { entries, next, complete, head_seq })
        }
        _ => Err(Refusal::new(ErrorCode::Unavailable).into()),
    }
}
