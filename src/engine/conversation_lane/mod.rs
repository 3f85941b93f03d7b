//! Drives a conversation's lane: requests in, one commit for what gathered, answers and deliveries out.
//!
//! | file | is |
//! |---|---|
//! | here | what is queued, what is kept, the loop |
//! | `batch` | deciding requests, and answering what changes nothing |
//! | `commit` | one commit and what it brings to whom, on either kind of store |
//! | `send` | deliveries into the recipients' lanes |
//! | `undone` | noting down how far fan-out is complete; finishing what a crash left |

mod batch;
mod commit;
mod send;
mod undone;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Answer, Inner, Refusal};
use crate::conversation::decide::Order;
use crate::conversation::state::Conversation;
use crate::fanout::{Ledger, Progress};
use crate::protocol::{ConvId, ErrorCode, UserId};
use crate::store::{Error, Mark};
use crate::timeline::{Lane, Weigh};

pub(super) use undone::page_end;

/// Requests in one commit. More make the commit longer for the first without making it cheaper.
const BATCH: usize = 64;
/// Bytes of contents in one commit, unless one request alone has more: a database takes a few MiB in a batch,
/// and one that it refuses for its size would be sent again for ever.
const BATCH_BYTES: usize = 256 * 1024;
/// Pause before a store that could not be read is asked again.
const PAUSE: Duration = Duration::from_millis(50);
pub(super) type ConversationLane = Lane<ConversationItem, ConversationState>;

/// What is queued in a conversation's lane.
#[derive(Debug)]
pub(super) enum ConversationItem {
    /// A request of a client, or an order of the server API about him.
    Request { caller: UserId, order: Order, reply: oneshot::Sender<Answer> },
    /// Deliveries have finished: note it down.
    Settle,
    /// Finish what a crash left undone (stores that commit together).
    Recover { done: oneshot::Sender<()> },
    /// Finish what another node left undone under this mark.
    TakeOver { mark: Mark, done: oneshot::Sender<()> },
    /// Deliver these entries again, a page of what is finished for another.
    Redeliver { after: u64, up_to: u64, begun: oneshot::Sender<Arc<Progress>> },
}

impl ConversationItem {
    pub(super) fn may_be_refused(&self) -> bool {
        matches!(self, Self::Request { .. })
    }

    pub(super) fn refuse(self, code: ErrorCode) {
        if let Self::Request { reply, .. } = self {
            let _ = reply.send(Err(Refusal::new(code)));
        }
    }

    /// Whether it must be decided in a commit of its own.
    fn alone(&self) -> bool {
        match self {
            Self::Request { order, .. } => order.changes_membership(),
            _ => true,
        }
    }

    /// About how many bytes it brings into a commit.
    fn bytes(&self) -> usize {
        match self {
            Self::Request { order, .. } => order.bytes(),
            _ => 0,
        }
    }

    /// Whether it may go into one commit with those taken before it.
    fn joins(&self, taken: &[Self]) -> bool {
        let bytes: usize = taken.iter().map(Self::bytes).sum();
        !self.alone() && !taken.iter().any(Self::alone) && bytes + self.bytes() <= BATCH_BYTES
    }
}

/// What a conversation's lane keeps between commits.
#[derive(Debug, Default)]
pub(super) struct ConversationState {
    /// Dropped after a refusal.
    conversation: Option<Conversation>,
    /// What is under way; outlives refusals.
    pub(super) ledger: Option<Ledger>,
    /// The mark that stands, and the term it was written under.
    pub(super) mark: Option<(Mark, u64)>,
    /// A task waits for deliveries and will push `Settle`.
    settling: bool,
}

impl Weigh for ConversationState {
    fn bytes(&self) -> usize {
        self.conversation.as_ref().map_or(0, Conversation::bytes)
    }
}

impl ConversationState {
    /// What was known of the log is no longer sure.
    pub(super) fn forget(&mut self) {
        self.conversation = None;
    }
}

impl Inner {
    /// Drives the lane until its queue is empty.
    pub(super) async fn drive_conversation(self: Arc<Self>, id: ConvId, lane: Arc<ConversationLane>) {
        let _watched = self.watch_driver();
        while let Some((items, state)) = lane.take(BATCH, |taken, next| next.joins(taken)) {
            let mut state = state.unwrap_or_default();
            let mut requests = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    ConversationItem::Request { caller, order, reply } => requests.push((caller, order, reply)),
                    ConversationItem::Settle => {
                        state.settling = false;
                        self.settle(&id, &mut state).await;
                    }
                    ConversationItem::Recover { done } => self.recover_one(&id, &mut state, done).await,
                    ConversationItem::TakeOver { mark, done } => self.take_over_one(&id, &mut state, mark, done).await,
                    ConversationItem::Redeliver { after, up_to, begun } => {
                        // Damaged: whoever waits is told by `begun` being dropped.
                        if let Ok(progress) = self.redeliver(&id, &mut state, after, up_to).await {
                            let _ = begun.send(progress);
                        }
                    }
                }
            }
            if !requests.is_empty() {
                self.decide_batch(&id, &mut state, requests).await;
            }
            self.watch_ledger(&id, &mut state);
            lane.put(Some(state));
        }
    }

    /// The lane's conversation, read as often as it takes; an error only if it is damaged.
    pub(super) async fn loaded<'a>(
        &self,
        id: &ConvId,
        state: &'a mut ConversationState,
    ) -> Result<&'a mut Conversation, Error> {
        if state.conversation.is_none() {
            let conversation = loop {
                match Conversation::load(&*self.store, id).await {
                    Ok(conversation) => break conversation,
                    Err(error) => self.pause(id, error).await?,
                }
            };
            let head = conversation.head;
            let complete = if self.store.together() { head.fanned } else { head.position.seq };
            state.ledger.get_or_insert_with(|| Ledger::new(complete));
            state.conversation = Some(conversation);
        }
        #[expect(clippy::expect_used, reason = "set just above")]
        let conversation = state.conversation.as_mut().expect("loaded");
        // Each time: this node may have written it itself, before its clock went back.
        self.note_time(conversation.head);
        Ok(conversation)
    }

    /// Waits before a store that is away is asked again. What is damaged stays so: that error comes back.
    pub(super) async fn pause(&self, id: &ConvId, error: Error) -> Result<(), Error> {
        if self.damage.is_damage(&error) {
            return Err(error);
        }
        self.wait_for_store(id, &error).await;
        Ok(())
    }

    pub(super) async fn wait_for_store(&self, id: &ConvId, error: &Error) {
        tracing::warn!(conversation = %id, %error, "conversation waits for the store");
        tokio::time::sleep(PAUSE).await;
    }
}
