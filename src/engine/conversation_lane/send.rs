//! Deliveries of one commit into the lanes of its recipients.
//!
//! How it can hurt: a delivery that is not counted in the ledger is taken for done before it is.

use std::sync::Arc;

use tokio::time::Instant;

use super::ConversationState;
use crate::conversation::member::Member;
use crate::conversation::state::Roster;
use crate::engine::user_lane::{UserItem, UserWork};
use crate::engine::{Fresh, Inner};
use crate::fanout::{Batch, Delivery, Progress, read_log};
use crate::protocol::{ConvId, UserId};
use crate::store::Error;
use crate::timeline::Pushed;

/// Users' lanes committed in one call.
const CHUNK: usize = 256;

/// A commit of a conversation with the deliveries that belong to it.
pub(super) struct Outgoing {
    pub(super) batch: Arc<Batch>,
    pub(super) recipients: Roster,
    /// All deliveries.
    pub(super) progress: Arc<Progress>,
    /// Those to the callers themselves.
    pub(super) own: Arc<Progress>,
    pub(super) callers: Vec<UserId>,
}

impl Outgoing {
    pub(super) fn delivery(&self, user: &UserId, member: &Arc<Member>) -> Delivery {
        let mut told = vec![Arc::clone(&self.progress)];
        if self.callers.contains(user) {
            told.push(Arc::clone(&self.own));
        }
        told.iter().for_each(|progress| progress.add());
        Delivery { batch: Arc::clone(&self.batch), member: Arc::clone(member), told }
    }
}

impl Inner {
    /// Tells the tap, if there is one, of entries that are durable.
    pub(super) fn tell_tap(&self, outgoing: &Outgoing) {
        let Outgoing { batch, recipients, progress, .. } = outgoing;
        if let (Some(tap), Some(first), Some(last)) = (self.tap.get(), batch.entries.first(), batch.entries.last()) {
            let span = (first.seq - 1, last.seq);
            tap.appended(Fresh::new(batch.conversation.clone(), span, Arc::clone(recipients), progress));
        }
    }

    /// Queues deliveries in every recipient's lane and notes them in the ledger.
    pub(super) fn send_out(self: &Arc<Self>, state: &mut ConversationState, outgoing: &Outgoing) {
        if let (Some(ledger), Some(last)) = (state.ledger.as_mut(), outgoing.batch.entries.last()) {
            ledger.begin(last.seq, Arc::clone(&outgoing.progress));
        }
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (user, member) in &*outgoing.recipients {
            let lane = self.user_lane(user);
            let item = UserItem::Deliver(outgoing.delivery(user, member));
            if matches!(lane.push(item, usize::MAX), Ok(Pushed::Drive)) {
                let freed = if outgoing.callers.contains(user) { &mut own } else { &mut others };
                freed.push(UserWork::new(user.clone(), lane));
            }
        }
        // The answer waits for the callers' own timelines only, not for the slowest of all members'.
        self.drive_in_chunks(own);
        self.drive_in_chunks(others);
    }

    /// Drives lanes some hundreds a commit, each such group in a task of its own: one does not wait for
    /// another's slowest timeline, nor until its busiest lane is empty.
    pub(super) fn drive_in_chunks(self: &Arc<Self>, works: Vec<UserWork>) {
        let mut works = works.into_iter();
        loop {
            let chunk: Vec<_> = works.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return;
            }
            tokio::spawn(Arc::clone(self).drive_users(chunk));
        }
    }

    /// Delivers one entry to one user, with what he lacks before it; it costs no commit if he has it.
    pub(super) async fn deliver_to(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        user: &UserId,
        seq: u64,
    ) -> Result<Option<Arc<Progress>>, Error> {
        let Some(conversation) = state.conversation.as_mut() else { return Ok(None) };
        let Some(member) = conversation.member(user).filter(|member| member.covers(seq)) else { return Ok(None) };
        let member = Arc::clone(member);
        let taken = Instant::now();
        let entries = loop {
            match read_log(&*self.store, id, seq - 1, seq).await {
                Ok(entries) => break entries,
                Err(error) => self.pause(id, error).await?,
            }
        };
        let mode = conversation.mode();
        if !entries.iter().all(|entry| member.addressed(user, entry.seq, &entry.header, mode)) {
            // Of a large conversation most entries are in nobody's own timeline.
            return Ok(None);
        }
        let complete_to = if self.store.together() { seq - 1 } else { 0 };
        let large_at = conversation.large_at();
        let batch = Batch { conversation: id.clone(), mode, large_at, entries, complete_to, taken };
        let progress = Progress::begin();
        let delivery = Delivery { batch: Arc::new(batch), member, told: vec![Arc::clone(&progress)] };
        self.push_user(user, UserItem::Deliver(delivery));
        Ok(Some(progress))
    }
}
