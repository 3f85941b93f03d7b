//! What the application's server asks of the engine: as nobody, or about a user as a whole.

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::conversation_lane::ConversationItem;
use super::notify::nobody;
use super::user_lane::UserItem;
use super::{Answer, Command, Engine, Inner, Refusal, created_id, unavailable, wait_for};
use crate::conversation::decide::Order;
use crate::conversation::entry::{Header, Kind};
use crate::conversation::inbox::{Inbox, conversations_of};
use crate::conversation::read;
use crate::conversation::rows::Revoked;
use crate::protocol::api::{ConversationInfo, Erased};
use crate::protocol::{CloseCode, ConvId, DeviceInfo, HistoryFrom, UserId};
use crate::store::{Result, Section, Span, TimelineId};
use crate::timeline::Draft;

/// Rows removed, messages recalled, entries looked at in one go.
const AT_ONCE: usize = 200;

impl Engine {
    /// Has the server API change a conversation: no user acts, no right is asked. Queued before this
    /// returns, as with [`Engine::submit`].
    pub fn command(&self, conversation: &ConvId, command: Command) -> BoxFuture<'static, Answer> {
        let (reply, answer) = oneshot::channel();
        // Who is concerned has the effect in his own timeline before the answer.
        let caller = command.user().cloned().unwrap_or_else(nobody);
        let item = ConversationItem::Request { caller, order: Order::Command(command), reply };
        self.inner.push_conversation(conversation, item);
        Box::pin(wait_for(answer))
    }

    /// The name of the conversation the server API makes under this key.
    pub fn server_made(op_id: &str) -> ConvId {
        created_id("", op_id)
    }

    /// A conversation as a whole.
    ///
    /// # Errors
    /// `not_found`, `unavailable`.
    pub async fn conversation(&self, id: &ConvId) -> std::result::Result<ConversationInfo, Refusal> {
        read::whole::info(&*self.inner.store, id).await
    }

    /// Messages of a conversation as they stand, all of them.
    ///
    /// # Errors
    /// `not_found`, `unavailable`.
    pub async fn messages(&self, id: &ConvId, from: HistoryFrom, limit: u32) -> Answer {
        read::whole::messages(&*self.inner.store, id, from, limit).await
    }

    /// Present members of a conversation.
    ///
    /// # Errors
    /// `not_found`, `invalid_field` for a page that was not ours, `unavailable`.
    pub async fn members(&self, id: &ConvId, page: Option<&str>, limit: u32) -> Answer {
        read::whole::members(&*self.inner.store, id, page, limit).await
    }

    /// The devices of a user.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn devices_of(&self, user: &UserId) -> std::result::Result<Vec<DeviceInfo>, Refusal> {
        self.inner.list_devices(user).await.map_err(|error| unavailable(&self.inner.damage, &error))
    }

    /// Removes what is the user's own: tokens and devices first, then his stays, then his sync timeline,
    /// settings, read state and deletes. With `messages` the bodies of what he sent are erased too. Done
    /// twice, or again after it broke off, it comes to the same.
    ///
    /// # Errors
    /// `unavailable`: do it again.
    pub async fn erase(&self, user: &UserId, messages: bool) -> std::result::Result<Erased, Refusal> {
        let inner = &self.inner;
        let at = inner.clock.now_ms();
        inner.revoke(user, None, Revoked { at, erased: true }).await?;
        inner.hub.close(user, None, CloseCode::Revoked);
        let mut erased = Erased { revoked_at: at, conversations: 0, messages: 0 };
        let mut after = None;
        loop {
            let page = conversations_of(&*inner.store, user, after.as_ref(), AT_ONCE).await;
            let page = page.map_err(|error| unavailable(&inner.damage, &error))?;
            for conversation in page.iter().filter(|id| !id.is_everybody()) {
                if messages {
                    erased.messages += self.withdraw(user, conversation).await?;
                }
                self.command(conversation, Command::Depart { user: user.clone() }).await?;
                erased.conversations += 1;
            }
            match page.into_iter().nth(AT_ONCE - 1) {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        self.blank_notices(user).await?;
        while inner.owns_anything(user).await.map_err(|error| unavailable(&inner.damage, &error))? {
            let (done, wait) = oneshot::channel();
            inner.push_user(user, UserItem::Forget { done });
            super::wait_until_done(wait).await?;
        }
        Ok(erased)
    }

    /// Erases what notifications to the user said.
    async fn blank_notices(&self, user: &UserId) -> std::result::Result<(), Refusal> {
        let inner = &self.inner;
        let (id, failed) = (ConvId::notices(user), |error| unavailable(&inner.damage, &error));
        let head = inner.store.head(&TimelineId::Conversation(id.clone())).await.map_err(failed)?.position.seq;
        let seqs: Vec<u64> = (1..=head).collect();
        for targets in seqs.chunks(AT_ONCE) {
            self.command(&id, Command::Blank { targets: targets.to_vec() }).await?;
        }
        Ok(())
    }

    /// Recalls everything the user sent in a conversation; tells how much.
    async fn withdraw(&self, user: &UserId, id: &ConvId) -> std::result::Result<u64, Refusal> {
        let inner = &self.inner;
        let timeline = TimelineId::Conversation(id.clone());
        let failed = |error| unavailable(&inner.damage, &error);
        let head = inner.store.head(&timeline).await.map_err(failed)?.position.seq;
        let (mut after, mut count) = (0, 0);
        while after < head {
            let span = Span { after, up_to: head, limit: AT_ONCE, max_bytes: 1 << 22, backward: false };
            let page = inner.store.entries(&timeline, span).await.map_err(failed)?;
            let Some(last) = page.last().map(|entry| entry.seq) else { break };
            let own = |data: &[u8]| {
                let header = Header::load(data).map(|(header, _)| header);
                header.is_some_and(|header| header.kind == Kind::Message && header.by.as_ref() == Some(user))
            };
            let targets: Vec<u64> = page.iter().filter(|entry| own(&entry.data)).map(|entry| entry.seq).collect();
            if !targets.is_empty() {
                count += targets.len() as u64;
                self.command(id, Command::Withdraw { user: user.clone(), targets }).await?;
            }
            after = last;
        }
        Ok(count)
    }
}

impl Inner {
    /// Whether rows or entries of the user's own are left.
    async fn owns_anything(&self, user: &UserId) -> Result<bool> {
        let timeline = TimelineId::User(user.clone());
        let head = self.store.head(&timeline).await?;
        let mut found = head.floor < head.position.seq;
        for section in [Section::Conv, Section::Hidden, Section::Device, Section::Large] {
            found |= !self.store.rows(&timeline, section, None, u64::MAX, 1).await?.is_empty();
        }
        Ok(found)
    }

    /// Removes rows of the user's own, and everything in his timeline so far.
    pub(super) async fn forget_some(self: &Inner, inbox: &mut Inbox, draft: &mut Draft) -> Result<()> {
        for conversation in conversations_of(&*self.store, &inbox.user, None, AT_ONCE).await? {
            inbox.forget(draft, &conversation);
        }
        for section in [Section::Hidden, Section::Device, Section::Large] {
            for (key, _) in self.store.rows(&inbox.timeline, section, None, u64::MAX, AT_ONCE).await? {
                draft.row(key, None, None);
            }
        }
        draft.raise_floor(draft.head_seq());
        Ok(())
    }
}
