//! How far fan-out is complete, noted down; and what a crash left undone, finished.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::send::Outgoing;
use super::{ConversationItem, ConversationState};
use crate::engine::Inner;
use crate::fanout::{Batch, Ledger, Progress, read_log, recipients_of, recipients_of_many};
use crate::planted::{Bug, planted};
use crate::protocol::ConvId;
use crate::store::Error;
use crate::timeline::{Draft, commit_until_decided};

impl Inner {
    /// Delivers entries (after, head] of the log to all they are addressed to, and waits for it.
    ///
    /// # Errors
    /// That the log is damaged; nothing was delivered then.
    pub(in crate::engine) async fn redeliver(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        after: u64,
    ) -> Result<(), Error> {
        let conversation = self.loaded(id, state).await?;
        let head = conversation.head.position.seq;
        if after >= head {
            return Ok(());
        }
        let entries = loop {
            match read_log(&*self.store, id, after, head).await {
                Ok(entries) => break entries,
                Err(error) => self.pause(id, error).await?,
            }
        };
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
        let batch = Batch { conversation: id.clone(), mode, large_at, entries, complete_to };
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
        outgoing.progress.wait().await;
        Ok(())
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
                // Unknown outcomes may leave it: somebody will find it, and nothing to do.
                let _ = self.store.delete_mark(mark).await;
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

    pub(super) async fn recover_one(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        done: oneshot::Sender<()>,
    ) {
        let fanned = self.loaded(id, state).await.map(|conversation| conversation.head.fanned);
        // What is damaged stays unfinished, for the next start (perhaps of a restored backup).
        if let Ok(fanned) = fanned
            && self.redeliver(id, state, fanned).await.is_ok()
        {
            self.settle(id, state).await;
        }
        let _ = done.send(());
    }
}
