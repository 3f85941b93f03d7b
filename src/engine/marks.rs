//! Marks and the fence: how several nodes finish each other's fan-outs without a lease (rule 3).
//!
//! A mark moves on (as another mark: the key of one is never used again) while a conversation is never at
//! rest, so that whoever takes over has some thousands of entries to bring at most, and what is under way.
//!
//! How it can hurt: a mark that begins above a delivery under way, or that is deleted before the next one
//! stands, leaves entries nobody brings.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Inner;
use super::conversation_lane::{ConversationItem, ConversationState, page_end};
use crate::fanout::Ledger;
use crate::planted::{Bug, planted};
use crate::protocol::ConvId;
use crate::store::{Error, Mark, Position};
use crate::timeline::{Decided, Draft, commit_until_decided};

/// Entries by which fan-out moves on before the mark that stands is replaced.
const MOVED: u64 = 2048;
/// Marks remembered whose deletion is not known to have happened; any more are left to who comes after.
const MOST_LEFT: usize = 4096;
/// Of these, deleted again in one go.
const LEFT_AT_ONCE: usize = 64;

impl Inner {
    /// A mark stands, written under the present term, before anything is appended.
    ///
    /// # Errors
    /// That the conversation is damaged.
    pub(super) async fn ensure_mark(&self, id: &ConvId, state: &mut ConversationState) -> Result<(), Error> {
        let Position { seq: head, term } = self.loaded(id, state).await?.head.position;
        let complete = state.ledger.as_mut().map_or(head, Ledger::complete);
        let holds = |(mark, under): &(Mark, u64)| {
            (*under == term || planted(Bug::MarkOutlivesTerm)) && complete < mark.from.saturating_add(MOVED)
        };
        if state.mark.as_ref().is_some_and(holds) {
            return Ok(());
        }
        let open = state.ledger.as_mut().is_some_and(|ledger| ledger.last_open().is_some());
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
        self.be_known(id).await;
        while let Err(error) = self.store.put_mark(mark.clone()).await {
            self.wait_for_store(id, &error).await;
        }
        // The new one covers what is under way.
        if let Some((old, _)) = state.mark.replace((mark, term)) {
            self.drop_mark(old).await;
        }
        Ok(())
    }

    /// Deletes a mark of this node's own. One that is left costs whoever finds it all that was appended since,
    /// so what is unknown is tried again ([`Inner::drop_left_marks`]).
    pub(super) async fn drop_mark(&self, mark: Mark) {
        if self.store.delete_mark(mark.clone()).await.is_err() {
            let mut left = self.left_marks();
            if left.len() < MOST_LEFT {
                left.push(mark);
            }
        }
    }

    /// Deletes again what may have been left.
    pub(super) async fn drop_left_marks(&self) {
        let left: Vec<Mark> = self.left_marks().iter().take(LEFT_AT_ONCE).cloned().collect();
        for mark in left {
            if self.store.delete_mark(mark.clone()).await.is_err() {
                return;
            }
            self.left_marks().retain(|other| *other != mark);
        }
    }

    fn left_marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.left_marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the term, so that whoever wrote the mark is refused from now on; reads the log; fans out
    /// (from, head]; deletes the mark. The lane is held for the first two only.
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
        let Ok(conversation) = self.loaded(id, state).await else { return };
        let head = conversation.head.position.seq;
        tokio::spawn(Arc::clone(self).bring(id.clone(), mark, head, done));
    }

    /// Delivers (from, head] page after page, through the lane, and then deletes the mark. A timeline that is
    /// away holds up this, and nothing else of the conversation: what is appended meanwhile has a mark of its
    /// own, and a user's lane fills the gap before it.
    async fn bring(self: Arc<Self>, id: ConvId, mark: Mark, head: u64, done: oneshot::Sender<()>) {
        let mut after = mark.from;
        while let Some(up_to) = page_end(after, head) {
            let (begun, progress) = oneshot::channel();
            self.push_conversation(&id, ConversationItem::Redeliver { after, up_to, begun });
            // Damaged: the mark stays.
            let Ok(progress) = progress.await else { return };
            progress.wait().await;
            after = up_to;
        }
        while let Err(error) = self.store.delete_mark(mark.clone()).await {
            self.wait_for_store(&id, &error).await;
        }
        let _ = done.send(());
    }
}
