//! Revocation: tokens issued until a moment are refused, and the sessions they opened are closed.
//!
//! The row is durable before a session is closed, and a session registers in the hub before its token is
//! checked: whoever says hello meanwhile is either refused or closed. How it can hurt: checked the other
//! way round, a device could slip through between the two.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::user_lane::UserItem;
use super::{Caller, Engine, Inner, Refusal, unavailable};
use crate::conversation::inbox::Inbox;
use crate::conversation::rows::{self, Revoked};
use crate::protocol::{CloseCode, DeviceId, ErrorCode, UserId};
use crate::store::{Result, Section, TimelineId};
use crate::timeline::Draft;

/// Devices forgotten in one commit.
const DEVICES: usize = 1000;

impl Engine {
    /// Whether a token issued then is still good for this device; one that does not say when it was
    /// issued is not, once anything was revoked. Register the session in the hub before asking.
    ///
    /// # Errors
    /// `revoked`, or `unavailable`.
    pub async fn check_token(&self, caller: &Caller, issued_at_ms: Option<u64>) -> std::result::Result<(), Refusal> {
        let inner = &self.inner;
        let timeline = TimelineId::User(caller.user.clone());
        let (device, whole) = (rows::revoked_key(Some(&caller.device)), rows::revoked_key(None));
        let (device, whole) = tokio::join!(
            rows::read::<Revoked>(&*inner.store, &timeline, &device),
            rows::read::<Revoked>(&*inner.store, &timeline, &whole),
        );
        let revoked = [device, whole]
            .into_iter()
            .collect::<Result<Vec<_>>>()
            .map_err(|error| unavailable(&inner.damage, &error))?;
        let refused = revoked.iter().flatten().any(|revoked| issued_at_ms.is_none_or(|issued| issued <= revoked.at));
        if refused { Err(Refusal::new(ErrorCode::Revoked)) } else { Ok(()) }
    }

    /// Whether several nodes share the store, so that a revocation may have been made elsewhere.
    pub fn shares_store(&self) -> bool {
        !self.inner.store.together()
    }

    /// Refuses all tokens of this device issued until now, forgets it and closes its session here.
    /// Tells the moment: milliseconds.
    ///
    /// # Errors
    /// `unavailable`: not known whether it is done; do it again.
    pub async fn revoke(&self, user: &UserId, device: &DeviceId) -> std::result::Result<u64, Refusal> {
        let at = self.inner.clock.now_ms();
        self.inner.revoke(user, Some(device), Revoked { at, erased: false }).await?;
        self.inner.hub.close(user, Some(device), CloseCode::Revoked);
        Ok(at)
    }
}

impl Inner {
    pub(super) async fn revoke(
        self: &Arc<Self>,
        user: &UserId,
        device: Option<&DeviceId>,
        revoked: Revoked,
    ) -> std::result::Result<(), Refusal> {
        let (done, wait) = oneshot::channel();
        self.push_user(user, UserItem::Revoke { device: device.cloned(), revoked, done });
        super::wait_until_done(wait).await
    }

    /// Writes the moment and forgets the device, or all.
    pub(super) async fn note_revoked(
        &self,
        inbox: &Inbox,
        draft: &mut Draft,
        device: Option<&DeviceId>,
        revoked: Revoked,
    ) -> Result<()> {
        draft.row(rows::revoked_key(device), Some(rows::pack(&revoked)), None);
        match device {
            Some(device) => draft.row(rows::device_key(device), None, None),
            None => {
                let devices = self.store.rows(&inbox.timeline, Section::Device, None, u64::MAX, DEVICES).await?;
                devices.into_iter().for_each(|(key, _)| draft.row(key, None, None));
            }
        }
        Ok(())
    }
}
