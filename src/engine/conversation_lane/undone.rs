//! How far fan-out is complete, noted down; and what a crash left undone, finished.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::send::Outgoing;
use super::{ConversationItem, ConversationState};
use crate::engine::Inner;
use crate::fanout::{Batch, Ledger, Progress, read_log, recipients_of, recipients_of_many};
use crate::planted::{Bug, planted};
use crate::protocol::ConvId;
use crate::store::Error;
use crate::timeline::{Draft, commit_until_decided};

/// Entries of a log that are read and delivered in one go when they are brought again.
const PAGE: u64 = 256;

/// Where the page after this number ends; `None` when there is none up to `head`.
pub(in crate::engine) fn page_end(after: u64, head: u64) -> Option<u64> {
    (after < head).then(|| head.min(after.saturating_add(PAGE)))
}

impl Inner {
    /// Delivers entries (after, up_to] of the log, a page at most, to all they are addressed to; the progress
    /// tells when it is done.
    ///
    /// # Errors
    /// That the log is damaged; nothing was delivered then.
    pub(super) async fn redeliver(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        after: u64,
        up_to: u64,
    ) -> Result<Arc<Progress>, Error> {
        let taken = Instant::now();
        let entries = loop {
            match read_log(&*self.store, id, after, up_to).await {
                Ok(entries) => break entries,
                Err(error) => self.pause(id, error).await?,
            }
        };
        let conversation = self.loaded(id, state).await?;
        let (mode, large_at) = (conversation.mode(), conversation.large_at());
        let recipients = if conversation.is_large() {
            let info = conversation.info.clone();
            loop {
                match recipients_of_many(&*self.store, id, info.as_ref(), &entries).await {
                    Ok(recipients) => break recipients,
                    Err(error) => self.pause(id, error).await?,
                }
            }
        } else {
            recipients_of(conversation, &entries)
        };
        let complete_to = if self.store.together() { after } else { 0 };
        let batch = Batch { conversation: id.clone(), mode, large_at, entries, complete_to, taken };
        let outgoing = Outgoing {
            batch: Arc::new(batch),
            recipients,
            progress: Progress::begin(),
            own: Progress::begin(),
            callers: Vec::new(),
        };
        self.send_out(state, &outgoing);
        self.tell_tap(&outgoing);
        outgoing.progress.finish();
        Ok(outgoing.progress)
    }

    /// Sees to it that the lane comes back when the deliveries under way are done.
    pub(super) fn watch_ledger(self: &Arc<Self>, id: &ConvId, state: &mut ConversationState) {
        let unsettled = self.unsettled(state);
        let Some(ledger) = state.ledger.as_mut() else { return };
        let open = ledger.last_open().filter(|_| !planted(Bug::MarkDeletedEarly));
        if state.settling || (open.is_none() && !unsettled) {
            return;
        }
        state.settling = true;
        let (this, id) = (Arc::clone(self), id.clone());
        // Holding the lane keeps the sweep from dropping it with the ledger inside.
        let lane = self.conversation_lane(&id);
        tokio::spawn(async move {
            if let Some(progress) = open {
                progress.wait().await;
            }
            this.push_conversation(&id, ConversationItem::Settle);
            drop(lane);
        });
    }

    /// Whether something is to be noted down once nothing is under way.
    fn unsettled(&self, state: &mut ConversationState) -> bool {
        if !self.store.together() {
            return state.mark.is_some();
        }
        match (&state.conversation, &mut state.ledger) {
            (Some(conversation), Some(ledger)) => ledger.complete() > conversation.head.fanned,
            _ => false,
        }
    }

    /// Notes down how far fan-out is complete: `fanned`, or the mark deleted. Runs in the lane, so no
    /// append is between its mark check and its decision.
    pub(super) async fn settle(self: &Arc<Self>, id: &ConvId, state: &mut ConversationState) {
        let idle = state.ledger.as_mut().is_none_or(|ledger| ledger.last_open().is_none());
        let idle = idle || planted(Bug::MarkDeletedEarly);
        if !self.store.together() {
            if idle && let Some((mark, _)) = state.mark.take() {
                self.drop_mark(mark).await;
            }
            return;
        }
        let complete = state.ledger.as_mut().map_or(0, Ledger::complete);
        let Ok(conversation) = self.loaded(id, state).await else { return };
        let mut draft = Draft::new(conversation.head, self.clock.now_ms());
        draft.set_fanned(complete);
        if !draft.is_empty() {
            conversation.head = draft.head_after();
            let commit = draft.into_commit(conversation.timeline.clone(), self.attempts.next());
            commit_until_decided(&self.store, vec![commit]).await;
        }
    }

    /// Brings what is above `fanned`, page after page, and notes it down. Nobody is served meanwhile.
    pub(super) async fn recover_one(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        done: oneshot::Sender<()>,
    ) {
        // What is damaged stays unfinished, for the next start (perhaps of a restored backup).
        if let Ok(head) = self.loaded(id, state).await.map(|conversation| conversation.head) {
            let mut after = head.fanned;
            while let Some(up_to) = page_end(after, head.position.seq) {
                let Ok(progress) = self.redeliver(id, state, after, up_to).await else { break };
                progress.wait().await;
                after = up_to;
            }
            self.settle(id, state).await;
        }
        let _ = done.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, page_end};

    #[test]
    fn pages_lead_from_where_it_was_complete_to_the_head() {
        let pages = |after, head| -> Vec<u64> {
            let next = |after: &u64| page_end(*after, head);
            std::iter::successors(page_end(after, head), next).collect()
        };
        assert!(pages(0, 0).is_empty() && pages(7, 7).is_empty() && pages(9, 7).is_empty());
        assert_eq!(pages(6, 7), [7]);
        assert_eq!(pages(7, 7 + PAGE), [7 + PAGE]);
        assert_eq!(pages(7, 8 + PAGE), [7 + PAGE, 8 + PAGE]);
        assert_eq!(pages(u64::MAX - 1, u64::MAX), [u64::MAX]);
        let many = pages(100, 100_000);
        assert_eq!(many.last(), Some(&100_000));
        assert!(many.windows(2).all(|pair| pair[1] - pair[0] <= PAGE));
    }
}
