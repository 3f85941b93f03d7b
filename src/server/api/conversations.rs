//! Conversations and who is in them.

use super::call::{Answered, Call, answer};
use crate::engine::{Caller, Command, Engine, Refusal};
use crate::protocol::api::{
    AddMembers, ConversationChanged, ConversationPatch, MembersPage, NewConversation, RemoveMembers,
};
use crate::protocol::limits::{DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT};
use crate::protocol::{AnswerBody, ConvId, DeviceId, ErrorCode, Request, UserId};

/// The device a user acts on when the server acts for him; it is never registered.
const DEVICE: &str = ".server";

/// A user, for whom the server asks.
pub(super) fn on_behalf(user: &UserId) -> Result<Caller, Refusal> {
    let device = DeviceId::parse(DEVICE).map_err(|_| Refusal::new(ErrorCode::Unavailable))?;
    Ok(Caller { user: user.clone(), device })
}

fn changed(conv_id: ConvId, answered: &AnswerBody) -> Answered {
    let conv_seq = match answered {
        AnswerBody::Ok { conv_seq, .. } => conv_seq.unwrap_or(0),
        _ => 0,
    };
    answer(&ConversationChanged { conv_id, conv_seq })
}

/// With an owner it is as if he had made it: his key, his conversation.
pub(super) async fn create(engine: Engine, call: Call) -> Answered {
    let NewConversation { owner, members, title, attributes, history } = call.content()?;
    let op_id = call.key_or_new()?;
    match owner {
        Some(owner) => {
            let request = Request::Create { members, title, attributes, history, op_id };
            match engine.submit(&on_behalf(&owner)?, request).await? {
                AnswerBody::Ok { conv_id: Some(conv_id), conv_seq, .. } => {
                    answer(&ConversationChanged { conv_id, conv_seq: conv_seq.unwrap_or(0) })
                }
                _ => Err(Refusal::new(ErrorCode::Unavailable).into()),
            }
        }
        None => {
            let conv_id = Engine::server_made(&op_id);
            let command = Command::Create { members, title, attributes, history };
            let answered = engine.command(&conv_id, command).await?;
            changed(conv_id, &answered)
        }
    }
}

pub(super) async fn show(engine: Engine, call: Call) -> Answered {
    let conv_id: ConvId = call.id("conv_id", "conv_id")?;
    answer(&engine.conversation(&conv_id).await?)
}

pub(super) async fn update(engine: Engine, call: Call) -> Answered {
    let ConversationPatch { title, attributes } = call.content()?;
    command(&engine, &call, Command::Update { title, attributes }).await
}

pub(super) async fn dissolve(engine: Engine, call: Call) -> Answered {
    command(&engine, &call, Command::Dissolve).await
}

pub(super) async fn add(engine: Engine, call: Call) -> Answered {
    let AddMembers { users, role } = call.content()?;
    command(&engine, &call, Command::Add { users, role }).await
}

pub(super) async fn remove(engine: Engine, call: Call) -> Answered {
    let RemoveMembers { users } = call.content()?;
    command(&engine, &call, Command::Remove { users }).await
}

async fn command(engine: &Engine, call: &Call, command: Command) -> Answered {
    let conv_id: ConvId = call.id("conv_id", "conv_id")?;
    let answered = engine.command(&conv_id, command).await?;
    changed(conv_id, &answered)
}

pub(super) async fn members(engine: Engine, call: Call) -> Answered {
    let conv_id: ConvId = call.id("conv_id", "conv_id")?;
    let limit = call.limit(DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT)?;
    match engine.members(&conv_id, call.page()?, limit).await? {
        AnswerBody::Members { members, next } => answer(&MembersPage { members, next }),
        _ => Err(Refusal::new(ErrorCode::Unavailable).into()),
    }
}
