//! Marks and the fence: how several nodes finish each other's fan-outs without a lease (rule 3).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::Inner;
use super::conversation_lane::ConversationState;
use crate::fanout::Ledger;
use crate::planted::{Bug, planted};
use crate::protocol::ConvId;
use crate::store::{Error, Mark};
use crate::timeline::{Decided, Draft, commit_until_decided};

impl Inner {
    /// A mark stands, written under the present term, before anything is appended.
    ///
    /// # Errors
    /// That the conversation is damaged.
    pub(super) async fn ensure_mark(&self, id: &ConvId, state: &mut ConversationState) -> Result<(), Error> {
        let term = self.loaded(id, state).await?.head.position.term;
        if state.mark.as_ref().is_some_and(|(_, under)| *under == term || planted(Bug::MarkOutlivesTerm)) {
            return Ok(());
        }
        let head = self.loaded(id, state).await?.head.position.seq;
        let open = state.ledger.as_mut().is_some_and(|ledger| ledger.last_open().is_some());
        let complete = state.ledger.as_mut().map_or(head, Ledger::complete);
        // Nothing of ours under way: what is below the head is done, or under another's mark.
        let from = if open && !planted(Bug::MarkForgetsOpen) { complete.min(head) } else { head };
        if !open && let Some(ledger) = state.ledger.as_mut() {
            ledger.skip_to(head);
        }
        let mut mark = Mark {
            conversation: id.clone(),
            node: self.attempts.incarnation(),
            burst: self.bursts.fetch_add(1, Ordering::Relaxed),
            from,
        };
        if planted(Bug::MarkKeyReused) {
            (mark.burst, mark.from) = (1, 0);
        }
        while let Err(error) = self.store.put_mark(mark.clone()).await {
            self.wait_for_store(id, &error).await;
        }
        // One of another term stays until the deliveries it covers are done; it only costs a look.
        if let Some((old, _)) = state.mark.replace((mark, term)) {
            let _ = self.store.delete_mark(old).await;
        }
        Ok(())
    }

    /// Raises the term, so that whoever wrote the mark is refused from now on; reads the log; fans out
    /// (from, head]; deletes the mark.
    pub(super) async fn take_over_one(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        mark: Mark,
        done: oneshot::Sender<()>,
    ) {
        while !planted(Bug::NoFence) {
            // What is damaged keeps its mark, for whoever comes after a repair.
            let Ok(conversation) = self.loaded(id, state).await else { return };
            let mut draft = Draft::new(conversation.head, self.clock.now_ms());
            draft.raise_term();
            let commit = draft.into_commit(conversation.timeline.clone(), self.attempts.next());
            let decided = commit_until_decided(&self.store, vec![commit]).await;
            // What is known of the log is older than the fence, whatever the outcome.
            state.forget();
            // A doubtful refusal may be our own raise: raising once more is harmless.
            if decided.first() == Some(&Decided::Applied) {
                break;
            }
        }
        if self.redeliver(id, state, mark.from).await.is_err() {
            return;
        }
        while let Err(error) = self.store.delete_mark(mark.clone()).await {
            self.wait_for_store(id, &error).await;
        }
        let _ = done.send(());
    }
}
