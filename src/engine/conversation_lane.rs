//! Drives a conversation's lane: requests in, one commit for what gathered, answers and deliveries out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::user_lane::{UserItem, UserWork};
use super::{Answer, Fresh, Inner, Refusal};
use crate::conversation::decide::{Desk, NotDecided, Order};
use crate::conversation::entry::{Appended, Kind};
use crate::conversation::member::Member;
use crate::conversation::rows::{self, Info};
use crate::conversation::state::{Conversation, Roster};
use crate::fanout::{Batch, Delivery, Ledger, Progress, read_log};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ConvId, ErrorCode, UserId};
use crate::store::{Error, Mark, Section, Span, Store, TimelineId};
use crate::timeline::{Decided, Draft, Lane, Pushed, Weigh, commit_until_decided};

/// Requests in one commit. More make the commit longer for the first without making it cheaper.
const BATCH: usize = 64;
/// Bytes of contents in one commit, unless one request alone has more: a database takes a few MiB in a batch,
/// and one that it refuses for its size would be sent again for ever.
const BATCH_BYTES: usize = 256 * 1024;
/// Members up to which the deliveries go into the message's own commit; more go in a task of their
/// own, so that nobody else's message waits behind them.
const INLINE_MEMBERS: usize = 512;
/// Lanes committed in one call.
const CHUNK: usize = 256;
/// Fan-outs of one conversation under way at once; further requests wait for the oldest.
const FAN_OUTS: usize = 256;
/// Pause before a store that could not be read is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// Members looked at in one go.
const PAGE: usize = 1000;

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

/// Answers of a batch, held back until the callers' own timelines have the effect.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

/// A commit of a conversation with the deliveries that belong to it.
struct Outgoing {
    batch: Arc<Batch>,
    recipients: Roster,
    /// All deliveries.
    progress: Arc<Progress>,
    /// Those to the callers themselves.
    own: Arc<Progress>,
    callers: Vec<UserId>,
}

impl Outgoing {
    fn delivery(&self, user: &UserId, member: &Arc<Member>) -> Delivery {
        let mut told = vec![Arc::clone(&self.progress)];
        if self.callers.contains(user) {
            told.push(Arc::clone(&self.own));
        }
        told.iter().for_each(|progress| progress.add());
        Delivery { batch: Arc::clone(&self.batch), member: Arc::clone(member), told }
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
            self.note_time(head);
            let complete = if self.store.together() { head.fanned } else { head.position.seq };
            state.ledger.get_or_insert_with(|| Ledger::new(complete));
            state.conversation = Some(conversation);
        }
        #[expect(clippy::expect_used, reason = "set just above")]
        Ok(state.conversation.as_mut().expect("loaded"))
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

    /// Decides requests in order, commits what they come to, delivers and answers. After a refusal
    /// everything is decided anew from the log (rule 2).
    async fn decide_batch(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        mut requests: Vec<(UserId, Order, oneshot::Sender<Answer>)>,
    ) {
        if planted(Bug::AbandonedRequestDropped) {
            requests.retain(|(_, _, reply)| !reply.is_closed());
        }
        while let Some(oldest) = state.ledger.as_mut().and_then(|ledger| ledger.crowded(FAN_OUTS)) {
            oldest.wait().await;
        }
        loop {
            let Ok(conversation) = self.loaded(id, state).await else {
                return requests.into_iter().for_each(refuse_damaged);
            };
            conversation.trim();
            let mut draft = Draft::new(conversation.head, self.clock.now_ms());
            let mut appended = Vec::new();
            let mut decisions = Vec::with_capacity(requests.len());
            let mut damaged = false;
            for (caller, order, _) in &requests {
                let mut desk = Desk {
                    store: &*self.store,
                    policy: &self.policy,
                    conversation,
                    draft: &mut draft,
                    appended: &mut appended,
                };
                match desk.decide(caller, order).await {
                    Ok(answer) => decisions.push(Ok(answer)),
                    Err(NotDecided::Refused(refusal)) => decisions.push(Err(refusal)),
                    Err(NotDecided::Store(error)) => {
                        damaged = self.pause(id, error).await.is_err();
                        break;
                    }
                }
            }
            if decisions.len() < requests.len() {
                // What was drafted is thrown away, and with it the state that already counted on it.
                state.conversation = None;
                if damaged {
                    // The others are decided without the one that needs what is damaged.
                    refuse_damaged(requests.remove(decisions.len()));
                }
                if requests.is_empty() {
                    return;
                }
                continue;
            }
            if draft.is_empty() && !self.still_at(id, state).await {
                // Refused, or nothing to change, by a state another node has left behind.
                state.conversation = None;
                continue;
            }
            let callers = requests.iter().map(|(caller, _, _)| caller.clone()).collect();
            if draft.is_empty() {
                self.answer_unchanged(id, state, requests, decisions).await;
                return;
            }
            if self.commit(id, state, draft, appended, callers, &mut requests, &mut decisions).await {
                let open = requests.drain(..).zip(decisions);
                open.for_each(|((_, _, reply), answer)| drop(reply.send(answer)));
                return;
            }
            if requests.is_empty() {
                return;
            }
        }
    }

    /// Answers what was refused or there already. A success names an entry, and that may still be on its
    /// way to the caller's own timeline (perhaps from a node that died): it is delivered first (rule 5).
    async fn answer_unchanged(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        requests: Vec<(UserId, Order, oneshot::Sender<Answer>)>,
        decisions: Vec<Answer>,
    ) {
        for ((caller, _, reply), answer) in requests.into_iter().zip(decisions) {
            let named = match &answer {
                _ if planted(Bug::DuplicateBeforeOwnEffect) => 0,
                Ok(AnswerBody::Sent { conv_seq, .. } | AnswerBody::Ok { conv_seq: Some(conv_seq), .. }) => *conv_seq,
                _ => 0,
            };
            let under_way = match planted(Bug::DuplicateBeforeOwnEffect) {
                true => None,
                false => match self.deliver_to(id, state, &caller, named).await {
                    Ok(under_way) => under_way,
                    Err(_) => {
                        drop(reply.send(Err(Refusal::new(ErrorCode::Unavailable))));
                        continue;
                    }
                },
            };
            let Some(progress) = under_way else {
                drop(reply.send(answer));
                continue;
            };
            tokio::spawn(async move {
                progress.wait().await;
                drop(reply.send(answer));
            });
        }
    }

    /// Delivers one entry to one user, with what he lacks before it; it costs no commit if he has it.
    async fn deliver_to(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        user: &UserId,
        seq: u64,
    ) -> Result<Option<Arc<Progress>>, Error> {
        let Some(conversation) = state.conversation.as_mut() else { return Ok(None) };
        let Some(member) = conversation.member(user).filter(|member| member.covers(seq)) else { return Ok(None) };
        let member = Arc::clone(member);
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
        let batch = Batch { conversation: id.clone(), mode, large_at, entries, complete_to };
        let progress = Progress::begin();
        let delivery = Delivery { batch: Arc::new(batch), member, told: vec![Arc::clone(&progress)] };
        self.push_user(user, UserItem::Deliver(delivery));
        Ok(Some(progress))
    }

    /// Whether the log still stands where it was when this was decided (rule 4). A commit asks that by
    /// its condition; an answer without one must ask for itself.
    async fn still_at(&self, id: &ConvId, state: &ConversationState) -> bool {
        let Some(conversation) = &state.conversation else { return false };
        if self.store.together() || planted(Bug::JudgedByCache) {
            return true;
        }
        loop {
            match self.store.head(&conversation.timeline).await {
                Ok(head) => return head.position == conversation.head.position,
                // Loading it anew says what is damaged.
                Err(error) => match self.pause(id, error).await {
                    Ok(()) => {}
                    Err(_) => return false,
                },
            }
        }
    }

    /// Commits a draft with its deliveries. False: refused, decide anew. Answers that must wait for
    /// the caller's own timeline are taken out of `requests` and sent from a task.
    #[expect(clippy::too_many_arguments, reason = "the parts of one commit; a struct would only rename them")]
    async fn commit(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        draft: Draft,
        appended: Vec<Appended>,
        callers: Vec<UserId>,
        requests: &mut Vec<(UserId, Order, oneshot::Sender<Answer>)>,
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
        let batch = Batch { conversation: conversation.id.clone(), mode, large_at, entries: appended, complete_to };
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
                // Whose was it? The attempt at base + 1 tells; contents do not.
                state.conversation = None;
                let span = Span { after: base, up_to: base + 1, limit: 1, max_bytes: usize::MAX, backward: false };
                loop {
                    match self.store.entries(&timeline, span).await {
                        Ok(entries) => {
                            break entries
                                .first()
                                .is_some_and(|entry| entry.attempt == attempt || planted(Bug::DoubtTakenForOurs));
                        }
                        // Decided anew: if it was ours, its dedupe row says so.
                        Err(error) => match self.pause(id, error).await {
                            Ok(()) => {}
                            Err(_) => break false,
                        },
                    }
                }
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

    /// Tells the tap, if there is one, of entries that are durable.
    fn tell_tap(&self, outgoing: &Outgoing) {
        let Outgoing { batch, recipients, progress, .. } = outgoing;
        if let (Some(tap), Some(first), Some(last)) = (self.tap.get(), batch.entries.first(), batch.entries.last()) {
            let span = (first.seq - 1, last.seq);
            tap.appended(Fresh::new(batch.conversation.clone(), span, Arc::clone(recipients), progress));
        }
    }

    /// Queues deliveries in every recipient's lane and notes them in the ledger.
    fn send_out(self: &Arc<Self>, state: &mut ConversationState, outgoing: &Outgoing) {
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
    fn drive_in_chunks(self: &Arc<Self>, works: Vec<UserWork>) {
        let mut works = works.into_iter();
        loop {
            let chunk: Vec<_> = works.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return;
            }
            tokio::spawn(Arc::clone(self).drive_users(chunk));
        }
    }

    /// Delivers entries (after, head] of the log to all they are addressed to, and waits for it.
    ///
    /// # Errors
    /// That the log is damaged; nothing was delivered then.
    pub(super) async fn redeliver(
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
    fn watch_ledger(self: &Arc<Self>, id: &ConvId, state: &mut ConversationState) {
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
    async fn settle(self: &Arc<Self>, id: &ConvId, state: &mut ConversationState) {
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

    async fn recover_one(self: &Arc<Self>, id: &ConvId, state: &mut ConversationState, done: oneshot::Sender<()>) {
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

/// Answers a request that would need what is damaged.
fn refuse_damaged((_, _, reply): (UserId, Order, oneshot::Sender<Answer>)) {
    let _ = reply.send(Err(Refusal::new(ErrorCode::Unavailable)));
}

/// Everybody to whom any of the entries is addressed, or who is handed over what he missed.
fn recipients_of(conversation: &Conversation, entries: &[Appended]) -> Roster {
    let mode = conversation.mode();
    let addressed = |user: &UserId, member: &Member| {
        if planted(Bug::MembersOfNow) && !member.present() {
            return false;
        }
        entries.iter().any(|entry| member.addressed(user, entry.seq, &entry.header, mode))
    };
    let found = conversation.everyone().filter(|(user, member)| addressed(user, member));
    let mut found: Vec<_> = found.map(|(user, member)| (user.clone(), Arc::clone(member))).collect();
    // By id, as the roster is: the order of deliveries follows from the log alone.
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    found.into()
}

/// Whom the entries of a large conversation name: their rows were looked at when it was decided.
fn told_of(conversation: &Conversation, entries: &[Appended]) -> Roster {
    let users = named_in(entries);
    users.into_iter().filter_map(|user| Some((user.clone(), Arc::clone(conversation.member(user)?)))).collect()
}

/// Users whose sync timelines entries of a large conversation go to, by id.
fn named_in(entries: &[Appended]) -> BTreeSet<&UserId> {
    let large = entries.iter().filter_map(|entry| entry.header.large.as_ref());
    large.flat_map(|large| large.told.iter().map(|told| &told.user)).collect()
}

/// [`recipients_of`] a large conversation, for recovery: all members are looked at, a page at a time, only
/// if there are entries from before it was large.
async fn recipients_of_many(
    store: &dyn Store,
    id: &ConvId,
    info: Option<&Info>,
    entries: &[Appended],
) -> Result<Roster, Error> {
    let Some(info) = info else { return Ok(Roster::from([])) };
    let timeline = TimelineId::Conversation(id.clone());
    let mut found: BTreeMap<UserId, Arc<Member>> = BTreeMap::new();
    for user in named_in(entries) {
        if let Some(member) = rows::read::<Member>(store, &timeline, &rows::member_key(user)).await? {
            found.insert(user.clone(), Arc::new(info.as_of(member)));
        }
    }
    let small: Vec<&Appended> = entries.iter().filter(|entry| entry.header.large.is_none()).collect();
    let mut after = None;
    while !small.is_empty() {
        let page = store.rows(&timeline, Section::Member, after, u64::MAX, PAGE).await?;
        for (key, value) in &page {
            let Ok(user) = UserId::parse(&key.id) else { continue };
            let member = info.as_of(rows::unpack(&timeline, key, value)?);
            if small.iter().any(|entry| member.addressed(&user, entry.seq, &entry.header, info.history)) {
                found.insert(user, Arc::new(member));
            }
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((key, _)) => after = Some(key),
            None => break,
        }
    }
    Ok(found.into_iter().collect())
}
