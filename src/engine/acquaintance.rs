//! Who may know of whom: what presence and typing ask before anybody is told anything.

use std::collections::HashSet;

use super::Engine;
use crate::conversation::inbox::{conversations_of, read_row};
use crate::conversation::rows::{self, Device};
use crate::conversation::view::View;
use crate::protocol::{ConvId, UserId};
use crate::store::{Result, Section, TimelineId};

/// Conversations of a user that are looked at for one in common.
const MOST: usize = 500;
/// Devices looked at for the last one seen.
const MOST_DEVICES: usize = 100;

impl Engine {
    /// Whether the user is a member of the conversation now. A store that does not answer says no.
    pub async fn is_member(&self, user: &UserId, conversation: &ConvId) -> bool {
        self.present(user, conversation).await.unwrap_or(false)
    }

    /// For each of these users: is he a member of a conversation together with `user`, or `user` himself?
    /// A store that does not answer says no.
    pub async fn acquainted(&self, user: &UserId, others: &[UserId]) -> Vec<bool> {
        let groups = |found: Vec<ConvId>| found.into_iter().filter(|id| !id.is_direct()).collect::<HashSet<_>>();
        let own = conversations_of(&*self.inner.store, user, None, MOST).await.map(groups).unwrap_or_default();
        let mut known = Vec::with_capacity(others.len());
        for other in others {
            known.push(user == other || self.share(user, other, &own).await.unwrap_or(false));
        }
        known
    }

    async fn share(&self, user: &UserId, other: &UserId, own: &HashSet<ConvId>) -> Result<bool> {
        let store = &*self.inner.store;
        let direct = ConvId::direct(user, other);
        if read_row(store, &TimelineId::User(user.clone()), &direct).await?.is_some() {
            return self.present(other, &direct).await;
        }
        if own.is_empty() {
            return Ok(false);
        }
        for id in conversations_of(store, other, None, MOST).await?.iter().filter(|id| own.contains(*id)) {
            if self.present(user, id).await? && self.present(other, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn present(&self, user: &UserId, conversation: &ConvId) -> Result<bool> {
        // That all users are in `b:all` makes nobody acquainted.
        if conversation.is_everybody() {
            return Ok(false);
        }
        let view = View::load(&*self.inner.store, conversation, user).await?;
        Ok(view.is_some_and(|view| view.member.present()))
    }

    /// When a device of the user was here last, as far as that was noted: milliseconds since 1970.
    pub async fn last_seen(&self, user: &UserId) -> Option<u64> {
        let timeline = TimelineId::User(user.clone());
        let found = self.inner.store.rows(&timeline, Section::Device, None, u64::MAX, MOST_DEVICES).await.ok()?;
        let seen = found.iter().filter_map(|(key, value)| rows::unpack::<Device>(&timeline, key, value).ok());
        seen.map(|device| device.last_seen_at).max()
    }
}
