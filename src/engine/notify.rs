//! Notifications, as the server API makes them: to named users or to everybody.

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::conversation_lane::ConversationItem;
use super::{Engine, Refusal, wait_for};
use crate::conversation::decide::{Notice, Order};
use crate::protocol::{AnswerBody, Body, ConvId, ErrorCode, MsgId, UserId};

/// Users told at once.
const AT_ONCE: usize = 64;

/// Whom a notification is for.
#[derive(Debug, Clone)]
pub enum Recipients {
    /// These users: an entry of each one's sync timeline.
    Users(Vec<UserId>),
    /// Everybody who has ever said hello: one entry of `b:all`, whatever their number.
    Everybody,
}

/// What a call of [`Engine::notify`] came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notified {
    /// Notifications made by this call; one for everybody counts as one.
    pub made: usize,
    /// Those made by an earlier call with the same key.
    pub duplicates: usize,
}

impl Engine {
    /// Makes a notification, once for each user (or once for everybody) and key; it is durable, and in
    /// the named users' sync timelines, when this returns. Called again with the same key it finishes
    /// what an earlier call left undone.
    ///
    /// # Errors
    /// `too_large`; `idempotency_conflict` when the key was used for other content; `unavailable` and
    /// `overloaded`, after which some users may have it: call again with the same key.
    pub async fn notify(&self, to: Recipients, topic: MsgId, body: Body, key: MsgId) -> Result<Notified, Refusal> {
        if body.len() > self.inner.policy.max_body_bytes {
            return Err(Refusal { field: Some("body"), ..Refusal::new(ErrorCode::TooLarge) });
        }
        let notice = Notice { topic, body, key };
        let made: Vec<bool> = match to {
            Recipients::Everybody => vec![self.notify_in(ConvId::everybody(), nobody(), notice).await?],
            Recipients::Users(users) => {
                let one = |user: UserId| self.notify_in(ConvId::notices(&user), user, notice.clone());
                stream::iter(users).map(one).buffer_unordered(AT_ONCE).try_collect().await?
            }
        };
        let count = made.iter().filter(|made| **made).count();
        Ok(Notified { made: count, duplicates: made.len() - count })
    }

    /// True: made now.
    async fn notify_in(&self, id: ConvId, user: UserId, notice: Notice) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        let item = ConversationItem::Request { caller: user, order: Order::Notify(notice), reply };
        self.inner.push_conversation(&id, item);
        Ok(!matches!(wait_for(answer).await?, AnswerBody::Sent { duplicate: true, .. }))
    }
}

/// Who stands in the log of `b:all` as the one who wrote: the server, which is no user.
pub(super) fn nobody() -> UserId {
    #[expect(clippy::expect_used, reason = "a hyphen is of the allowed set")]
    UserId::parse("-").expect("a user_id")
}
