//! One commit of a conversation and what it brings to whom.
//!
//! On a store that commits many timelines together the message and its deliveries are one commit; on the
//! others a mark stands before it, and deliveries follow it (rule 3).

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ConversationState;
use super::batch::{Asked, refuse_damaged};
use super::send::Outgoing;
use crate::conversation::entry::{Appended, Kind};
use crate::engine::user_lane::{UserItem, UserWork};
use crate::engine::{Answer, Inner};
use crate::fanout::{Batch, Progress, recipients_of, told_of};
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, UserId};
use crate::store::{Attempt, Entry, Span, TimelineId};
use crate::timeline::{Decided, Draft, Pushed, commit_until_decided};

/// Members up to which the deliveries go into the message's own commit; more go in a task of their
/// own, so that nobody else's message waits behind them.
const INLINE_MEMBERS: usize = 512;

/// Answers of a batch, held back until the callers' own timelines have the effect.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

impl Inner {
    /// Commits a draft with its deliveries. False: refused, decide anew. Answers that must wait for
    /// the caller's own timeline are taken out of `requests` and sent from a task.
    #[expect(clippy::too_many_arguments, reason = "the parts of one commit; a struct would only rename them")]
    pub(super) async fn commit(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        draft: Draft,
        appended: Vec<Appended>,
        callers: Vec<UserId>,
        requests: &mut Vec<Asked>,
        decisions: &mut Vec<Answer>,
    ) -> bool {
        let Some(outgoing) = self.outgoing(state, appended, callers) else { return true };
        let applied = if self.store.together() {
            if let Err(damaged) = self.commit_together(id, state, draft, &outgoing).await {
                requests.extract_if(.., |(caller, _, _)| damaged.contains(caller)).for_each(refuse_damaged);
                state.conversation = None;
                return false;
            }
            true
        } else {
            self.commit_marked(id, state, draft, &outgoing).await
        };
        if applied {
            self.tell_followers(&outgoing.batch.entries, id);
            self.tell_tap(&outgoing);
        }
        outgoing.progress.finish();
        outgoing.own.finish();
        if applied && !outgoing.own.is_done() && !planted(Bug::AnswerBeforeOwnEffect) {
            let answers: Answers =
                requests.drain(..).zip(decisions.drain(..)).map(|((_, _, reply), answer)| (reply, answer)).collect();
            tokio::spawn(async move {
                outgoing.own.wait().await;
                answers.into_iter().for_each(|(reply, answer)| drop(reply.send(answer)));
            });
        }
        applied
    }

    /// What a commit brings to whom.
    fn outgoing(
        &self,
        state: &mut ConversationState,
        appended: Vec<Appended>,
        callers: Vec<UserId>,
    ) -> Option<Outgoing> {
        let conversation = state.conversation.as_mut()?;
        let mode = conversation.mode();
        let small = appended.iter().any(|entry| entry.header.large.is_none()) && !planted(Bug::CrossingToldByLog);
        let membership =
            appended.iter().any(|entry| entry.header.subject.is_some() || entry.header.kind == Kind::Dissolved);
        let recipients = match (small, membership || conversation.is_large()) {
            (false, _) if conversation.is_large() => told_of(conversation, &appended),
            (_, true) => recipients_of(conversation, &appended),
            (_, false) => conversation.roster(),
        };
        let first = appended.first().map_or(conversation.head.position.seq + 1, |entry| entry.seq);
        // This process is the only writer of a store that commits together, and earlier deliveries
        // stand before these in every lane: whatever came before `first` is there.
        let complete_to = if self.store.together() { first - 1 } else { 0 };
        let large_at = conversation.large_at();
        let taken = Instant::now();
        let batch =
            Batch { conversation: conversation.id.clone(), mode, large_at, entries: appended, complete_to, taken };
        Some(Outgoing {
            batch: Arc::new(batch),
            recipients,
            progress: Progress::begin(),
            own: Progress::begin(),
            callers,
        })
    }

    /// One atomic commit: the conversation's entries and the deliveries to every lane that is free. What
    /// cannot be put into a damaged timeline is left out, unless it is a caller's own: then nothing is
    /// committed, and the error names those callers.
    async fn commit_together(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        mut draft: Draft,
        outgoing: &Outgoing,
    ) -> Result<(), Vec<UserId>> {
        let (mut works, mut busy) = (Vec::new(), Vec::new());
        let inline = outgoing.recipients.len() <= INLINE_MEMBERS;
        for (user, member) in &*outgoing.recipients {
            let lane = self.user_lane(user);
            let taken = if inline || outgoing.callers.contains(user) { lane.try_take() } else { None };
            match taken {
                Some(inbox) => {
                    let mut work = UserWork::new(user.clone(), lane);
                    work.take_state(inbox, vec![UserItem::Deliver(outgoing.delivery(user, member))]);
                    works.push(work);
                }
                None => busy.push((user, member, lane)),
            }
        }
        let mut damaged = self.build_until_read(&mut works).await;
        damaged.retain(|user| outgoing.callers.contains(user));
        if !damaged.is_empty() {
            self.release(works);
            return Err(damaged);
        }
        if planted(Bug::PushedBeforeDurable) {
            works.iter().for_each(|work| work.push_to(&self.hub));
        }

        let Some(conversation) = state.conversation.as_mut() else { return Ok(()) };
        let head_seq = draft.head_seq();
        if let Some(ledger) = state.ledger.as_mut() {
            if (busy.is_empty() && self.tap.get().is_none() && ledger.last_open().is_none())
                || planted(Bug::FannedTooEarly)
            {
                ledger.skip_to(head_seq);
            } else {
                ledger.begin(head_seq, Arc::clone(&outgoing.progress));
            }
            draft.set_fanned(ledger.complete());
        }
        let head = draft.head_after();
        let mut commits = Vec::with_capacity(works.len() + 1);
        commits.push(draft.into_commit(conversation.timeline.clone(), self.attempts.next()));
        commits.extend(works.iter_mut().filter_map(|work| work.take_commit(self.attempts.next())));
        // From this call on the message stands before anything committed later: lanes that were busy
        // may get their deliveries now, before it is durable.
        let committed = commit_until_decided(&self.store, commits);
        let mut committed = std::pin::pin!(committed);
        let first_poll = futures::poll!(committed.as_mut());
        let mut freed = Vec::new();
        for (user, member, lane) in busy {
            let item = UserItem::Deliver(outgoing.delivery(user, member));
            if matches!(lane.push(item, usize::MAX), Ok(Pushed::Drive)) {
                freed.push(UserWork::new(user.clone(), lane));
            }
        }
        self.drive_in_chunks(freed);
        let decided = match first_poll {
            std::task::Poll::Ready(decided) => decided,
            std::task::Poll::Pending if planted(Bug::AckBeforeDurable) => Vec::new(),
            std::task::Poll::Pending => committed.await,
        };
        if decided.iter().any(|outcome| *outcome != Decided::Applied) {
            // The only writer was refused: its numbers and the store's differ. Nothing is served on.
            tracing::error!(conversation = %id, "the store refused its only writer; this conversation stops");
            return std::future::pending().await;
        }
        conversation.head = head;
        let freed = self.finish_works(works);
        if !freed.is_empty() {
            tokio::spawn(Arc::clone(self).drive_users(freed));
        }
        Ok(())
    }

    /// Mark, commit, then deliver (rule 3). False: refused.
    async fn commit_marked(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        draft: Draft,
        outgoing: &Outgoing,
    ) -> bool {
        // What goes into nobody's timeline leaves nothing undone, unless a tap takes it.
        let delivers = !outgoing.recipients.is_empty() || self.tap.get().is_some();
        let marked = delivers && !planted(Bug::NoMark) && !planted(Bug::MarkAfterAppend);
        if marked && self.ensure_mark(id, state).await.is_err() {
            // Loading it anew says what is damaged.
            state.conversation = None;
            return false;
        }
        let Some(conversation) = state.conversation.as_mut() else { return false };
        let (base, head) = (conversation.head.position.seq, draft.head_after());
        let attempt = self.attempts.next();
        let commit = draft.into_commit(conversation.timeline.clone(), attempt);
        let timeline = commit.timeline.clone();
        let has_entries = !commit.entries.is_empty();
        let decided = commit_until_decided(&self.store, vec![commit]).await;
        let ours = match decided.first() {
            Some(Decided::Applied) => {
                conversation.head = head;
                true
            }
            Some(Decided::Doubtful(_)) if has_entries && !planted(Bug::DoubtTakenForTheirs) => {
                state.conversation = None;
                self.is_ours(id, &timeline, base, attempt).await
            }
            Some(Decided::Refused(now)) if planted(Bug::RowsKeptAfterRefusal) => {
                conversation.head = *now;
                false
            }
            // Rows alone leave no trace of whose they were: decided anew, they come to the same.
            _ => {
                state.conversation = None;
                false
            }
        };
        if planted(Bug::MarkAfterAppend) {
            let _ = self.ensure_mark(id, state).await;
        }
        if ours {
            self.send_out(state, outgoing);
        }
        ours
    }

    /// Whose was it? The attempt at base + 1 tells; contents do not.
    async fn is_ours(&self, id: &ConvId, timeline: &TimelineId, base: u64, attempt: Attempt) -> bool {
        let span = Span { after: base, up_to: base + 1, limit: 1, max_bytes: usize::MAX, backward: false };
        loop {
            let error = match self.store.entries(timeline, span).await {
                Ok(entries) => {
                    let ours = |entry: &Entry| entry.attempt == attempt || planted(Bug::DoubtTakenForOurs);
                    return entries.first().is_some_and(ours);
                }
                Err(error) => error,
            };
            // Decided anew: if it was ours, its dedupe row says so.
            if self.pause(id, error).await.is_err() {
                return false;
            }
        }
    }
}
