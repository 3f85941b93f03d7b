//! Devices of a user: registered at hello, listed, forgotten. Rows of his own timeline.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::user_lane::{UserItem, ok_seq};
use super::{Answer, Caller, Inner, Refusal, wait_for};
use crate::conversation::inbox::Inbox;
use crate::conversation::rows::{self, Device, Everybody};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ClientInfo, CloseCode, ConvId, DeviceId, DeviceInfo, ErrorCode, UserId};
use crate::store::{Result, RowKey, Section, TimelineId};
use crate::timeline::Draft;

/// `last_seen_at` is written again at a hello only when it is older than this.
const SEEN_STEP_MS: u64 = 60 * 60 * 1000;
/// More devices than anybody is allowed.
const MANY: usize = 10_000;

impl Inner {
    /// Registers a device that says hello.
    pub(super) async fn register(
        self: &Arc<Self>,
        caller: &Caller,
        client: Option<ClientInfo>,
    ) -> std::result::Result<(), Refusal> {
        let timeline = TimelineId::User(caller.user.clone());
        // Mostly it is known, was here lately and says the same: nothing to write.
        if let Ok(Some(known)) = rows::read::<Device>(&*self.store, &timeline, &rows::device_key(&caller.device)).await
            && !self.is_stale(&known, client.as_ref())
        {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.push_user(&caller.user, UserItem::Hello { device: caller.device.clone(), client, reply });
        wait_for(answer).await.map(drop)
    }

    fn is_stale(&self, known: &Device, client: Option<&ClientInfo>) -> bool {
        known.client.as_ref() != client || known.last_seen_at + SEEN_STEP_MS < self.clock.now_ms()
    }

    pub(super) async fn register_device(
        &self,
        inbox: &mut Inbox,
        draft: &mut Draft,
        device: &DeviceId,
        client: Option<&ClientInfo>,
    ) -> Result<Answer> {
        let key = rows::device_key(device);
        let known = self.known_device(inbox, draft, &key).await?;
        if known.is_none() {
            let stored = self.store.rows(&inbox.timeline, Section::Device, None, u64::MAX, MANY).await?;
            let stays = stored.iter().filter(|(key, _)| draft.pending_row(key).is_none()).count();
            if stays + draft.pending_rows(Section::Device).count() >= self.policy.max_devices {
                return Ok(Err(Refusal::new(ErrorCode::TooManyConnections)));
            }
        }
        self.join_everybody(inbox, draft).await?;
        let acked = known.map_or(0, |known| known.acked);
        let device = Device { acked, last_seen_at: self.clock.now_ms(), client: client.cloned() };
        draft.row(key, Some(rows::pack(&device)), None);
        Ok(Ok(ok_seq(draft.head_seq())))
    }

    /// From his first hello on a user is in `b:all`.
    async fn join_everybody(&self, inbox: &Inbox, draft: &mut Draft) -> Result<()> {
        let key = rows::large_key(&ConvId::everybody());
        let known = draft.pending_row(&key).is_some() || self.store.row(&inbox.timeline, &key).await?.is_some();
        if known && !planted(Bug::EachDeviceANewcomer) {
            return Ok(());
        }
        let head = self.store.head(&TimelineId::Conversation(ConvId::everybody())).await?;
        let join_seq = if planted(Bug::NewcomerReadsAll) { 0 } else { head.position.seq };
        draft.row(key, Some(rows::pack(&Everybody { join_seq })), None);
        Ok(())
    }

    pub(super) async fn note_goodbye(
        &self,
        inbox: &Inbox,
        draft: &mut Draft,
        device: &DeviceId,
        acked: u64,
    ) -> Result<()> {
        let key = rows::device_key(device);
        // One that was logged out meanwhile stays forgotten.
        if let Some(known) = self.known_device(inbox, draft, &key).await? {
            let acked = known.acked.max(acked);
            let device = Device { acked, last_seen_at: self.clock.now_ms(), client: known.client };
            draft.row(key, Some(rows::pack(&device)), None);
        }
        Ok(())
    }

    pub(super) async fn forget_device(&self, inbox: &Inbox, draft: &mut Draft, device: &DeviceId) -> Result<Answer> {
        let key = rows::device_key(device);
        if self.known_device(inbox, draft, &key).await?.is_some() {
            draft.row(key, None, None);
        }
        self.hub.close(&inbox.user, Some(device), CloseCode::Revoked);
        Ok(Ok(ok_seq(draft.head_seq())))
    }

    /// A device's row as the draft leaves it: what is decided in one commit sees what goes before.
    async fn known_device(&self, inbox: &Inbox, draft: &Draft, key: &RowKey) -> Result<Option<Device>> {
        match draft.pending_row(key) {
            Some(value) => value.map(|value| rows::unpack(&inbox.timeline, key, value)).transpose(),
            None => rows::read(&*self.store, &inbox.timeline, key).await,
        }
    }

    pub(super) async fn devices(&self, caller: &Caller) -> Answer {
        match self.list_devices(&caller.user).await {
            Ok(devices) => Ok(AnswerBody::Devices { devices }),
            Err(error) => Err(super::unavailable(&self.damage, &error)),
        }
    }

    pub(super) async fn list_devices(&self, user: &UserId) -> Result<Vec<DeviceInfo>> {
        let timeline = TimelineId::User(user.clone());
        let found = self.store.rows(&timeline, Section::Device, None, u64::MAX, MANY).await?;
        let elsewhere = self.hub.devices_elsewhere(user).await;
        let mut devices = Vec::with_capacity(found.len());
        for (key, value) in &found {
            let Ok(device_id) = DeviceId::parse(&key.id) else { continue };
            let known: Device = rows::unpack(&timeline, key, value)?;
            let acked = self.hub.acked(user, &device_id);
            devices.push(DeviceInfo {
                connected: self.hub.is_connected(user, &device_id) || elsewhere.contains(&device_id),
                acked_seq: acked.unwrap_or(known.acked),
                last_seen_at: if acked.is_some() { self.clock.now_ms() } else { known.last_seen_at },
                client: known.client,
                device_id,
            });
        }
        Ok(devices)
    }
}
