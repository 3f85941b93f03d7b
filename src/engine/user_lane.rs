//! Drives users' lanes: deliveries and the users' own requests, many lanes in one commit call.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Answer, Inner, Refusal};
use crate::conversation::decide::NotDecided;
use crate::conversation::inbox::Inbox;
use crate::conversation::own::{OwnDesk, Receipt};
use crate::conversation::rows::Revoked;
use crate::fanout::{Delivery, deliver};
use crate::hub::{Hub, Live};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ClientInfo, DeviceId, ErrorCode, Request, UserId};
use crate::store::{Attempt, Commit, Error, Head, Result};
use crate::timeline::{Decided, Draft, Lane, commit_again, commit_once};

/// Items of one lane in one commit.
const BATCH: usize = 256;
/// Entries in one commit, unless one delivery alone has more: databases bound what a batch may hold.
const BATCH_ENTRIES: usize = 4096;
/// Pause before a store that could not be read is asked again.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) type UserLane = Lane<UserItem, Inbox>;

/// What is queued in a user's lane.
#[derive(Debug)]
pub(super) enum UserItem {
    /// Entries of a conversation for this user.
    Deliver(Delivery),
    /// A request about what is his own. `receipted`: the peer has been told before.
    Request { request: Request, reply: oneshot::Sender<Answer>, receipted: bool },
    /// The peer of a direct conversation has read.
    Receipt { receipt: Receipt, done: oneshot::Sender<()> },
    /// A device says hello.
    Hello { device: DeviceId, client: Option<ClientInfo>, reply: oneshot::Sender<Answer> },
    /// A device is gone.
    Goodbye { device: DeviceId, acked: u64 },
    /// Tokens issued until then are refused, those of one device or all; its row goes.
    Revoke { device: Option<DeviceId>, revoked: Revoked, done: oneshot::Sender<()> },
    /// Removes some of what is the user's own; repeated until nothing is left.
    Forget { done: oneshot::Sender<()> },
    /// Entries have become too old: raise the floor.
    Expire { done: oneshot::Sender<()> },
}

impl UserItem {
    pub(super) fn may_be_refused(&self) -> bool {
        matches!(self, Self::Request { receipted: false, .. } | Self::Hello { .. })
    }

    /// Entries it may bring into a commit.
    fn entries(&self) -> usize {
        if let Self::Deliver(delivery) = self { delivery.batch.entries.len() } else { 1 }
    }

    /// Whether it may go into one commit with those taken before it.
    fn joins(&self, taken: &[Self]) -> bool {
        taken.iter().map(Self::entries).sum::<usize>() + self.entries() <= BATCH_ENTRIES
    }

    pub(super) fn refuse(self, code: ErrorCode) {
        if let Self::Request { reply, .. } | Self::Hello { reply, .. } = self {
            let _ = reply.send(Err(Refusal::new(code)));
        }
    }
}

/// A lane being driven, with what it is working on.
#[derive(Debug)]
pub(super) struct UserWork {
    user: UserId,
    lane: Arc<UserLane>,
    items: Vec<UserItem>,
    inbox: Option<Inbox>,
    draft: Option<Draft>,
    /// Head once the draft is applied.
    head: Head,
    live: Vec<Live>,
    /// Decided answers by index of the item.
    answers: Vec<(usize, Answer)>,
    /// Reads that owe a receipt first, by index of the item.
    owing: Vec<(usize, Receipt)>,
}

impl UserWork {
    /// A lane the caller drives.
    pub(super) fn new(user: UserId, lane: Arc<UserLane>) -> Self {
        Self {
            user,
            lane,
            items: Vec::new(),
            inbox: None,
            draft: None,
            head: Head::default(),
            live: Vec::new(),
            answers: Vec::new(),
            owing: Vec::new(),
        }
    }

    /// What to work on, and the state that was in the lane.
    pub(super) fn take_state(&mut self, inbox: Option<Inbox>, items: Vec<UserItem>) {
        self.inbox = inbox;
        self.items = items;
    }

    /// Tells the user's sessions.
    pub(super) fn push_to(&self, hub: &Hub) {
        if !self.live.is_empty() {
            hub.push(&self.user, &self.live);
        } else if !hub.bus().is_alone() && self.items.iter().any(|item| matches!(item, UserItem::Deliver(_))) {
            // It was all there already, but whoever brought it may have died before he told anybody.
            hub.moved(&self.user, self.head.position.seq);
        }
    }

    /// Nothing is built.
    fn forget(&mut self) {
        (self.inbox, self.draft) = (None, None);
        self.live.clear();
        self.answers.clear();
        self.owing.clear();
    }

    /// The commit, if there is anything to commit.
    pub(super) fn take_commit(&mut self, attempt: Attempt) -> Option<Commit> {
        let draft = self.draft.take().filter(|draft| !draft.is_empty())?;
        let inbox = self.inbox.as_ref()?;
        Some(draft.into_commit(inbox.timeline.clone(), attempt))
    }
}

impl Inner {
    /// Drives lanes together until all their queues are empty.
    pub(super) async fn drive_users(self: Arc<Self>, mut works: Vec<UserWork>) {
        let _watched = self.watch_driver();
        loop {
            works.retain_mut(|work| {
                if !work.items.is_empty() {
                    return true;
                }
                match work.lane.take(BATCH, |taken, next| next.joins(taken)) {
                    Some((items, inbox)) => {
                        work.take_state(inbox, items);
                        true
                    }
                    None => false,
                }
            });
            if works.is_empty() {
                return;
            }
            self.build_until_read(&mut works).await;
            works = self.commit_works(works).await;
        }
    }

    /// Commits what was built and finishes what was applied; what was refused keeps its items and is
    /// built anew from the store (rule 2). Lanes whose outcome is not known yet go on by themselves: a
    /// timeline that is away holds up no other.
    async fn commit_works(self: &Arc<Self>, mut works: Vec<UserWork>) -> Vec<UserWork> {
        let (mut commits, mut committing) = (Vec::new(), Vec::new());
        for (index, work) in works.iter_mut().enumerate() {
            if let Some(commit) = work.take_commit(self.attempts.next()) {
                commits.push(commit);
                committing.push(index);
            }
        }
        let mut outcomes = vec![Some(Decided::Applied); works.len()];
        let mut open = Vec::new();
        if !commits.is_empty() {
            let (mut decided, undecided) = commit_once(&self.store, commits).await;
            open = undecided;
            if planted(Bug::OneHoldsUpAll) {
                commit_again(&self.store, std::mem::take(&mut open), &mut decided).await;
            }
            for (index, outcome) in committing.into_iter().zip(decided) {
                if let Some(slot) = outcomes.get_mut(index) {
                    *slot = outcome;
                }
            }
        }
        let (mut done, mut undecided) = (Vec::new(), Vec::new());
        for (work, outcome) in works.into_iter().zip(outcomes) {
            match outcome {
                Some(outcome) => done.push((work, outcome)),
                None => undecided.push(work),
            }
        }
        for (work, (_, commit)) in undecided.into_iter().zip(open) {
            tokio::spawn(Arc::clone(self).decide_late(work, commit));
        }
        self.conclude(done).await
    }

    /// Goes on with one lane until its commit is decided and its queue empty.
    async fn decide_late(self: Arc<Self>, work: UserWork, commit: Commit) {
        let _watched = self.watch_driver();
        let mut outcome = [None];
        commit_again(&self.store, vec![(0, commit)], &mut outcome).await;
        if let [Some(outcome)] = outcome {
            let again = self.conclude(vec![(work, outcome)]).await;
            self.drive_on(again).await;
        }
    }

    /// [`Inner::drive_users`], boxed: it leads back to where it is called from.
    fn drive_on(self: Arc<Self>, works: Vec<UserWork>) -> BoxFuture<'static, ()> {
        Box::pin(self.drive_users(works))
    }

    /// Finishes lanes that were applied; gives back those that are to be driven on.
    async fn conclude(self: &Arc<Self>, decided: Vec<(UserWork, Decided)>) -> Vec<UserWork> {
        let (mut again, mut done) = (Vec::new(), Vec::new());
        for (mut work, outcome) in decided {
            // A user's lane never asks whose it was: reloaded and redone, its rows make it once. What
            // stands there already is not pushed again, so sessions are told to read it.
            if let Decided::Refused(now) | Decided::Doubtful(now) = outcome {
                match outcome {
                    _ if planted(Bug::RefusalToldToNobody) => {}
                    // It may have been ours, and then no other node tells of it.
                    Decided::Doubtful(_) => self.hub.moved(&work.user, now.position.seq),
                    _ => self.hub.moved_here(&work.user, now.position.seq),
                }
                match work.inbox.as_mut().filter(|_| planted(Bug::InboxKeptAfterRefusal)) {
                    Some(inbox) => inbox.head = self.store.head(&inbox.timeline).await.unwrap_or_default(),
                    None => work.inbox = None,
                }
                again.push(work);
            } else {
                done.push(work);
            }
        }
        again.extend(self.finish_works(done));
        again
    }

    /// Builds every work's draft, as often as it takes to read what is needed. Items that need what is
    /// damaged are answered and taken out; tells whose they were.
    pub(super) async fn build_until_read(&self, works: &mut [UserWork]) -> Vec<UserId> {
        let mut damaged = Vec::new();
        for work in works {
            loop {
                let (index, error) = match self.build(work).await {
                    Ok(true) => break,
                    Ok(false) => {
                        work.inbox = None;
                        continue;
                    }
                    Err(NotBuilt { index, error }) => (index, error),
                };
                work.forget();
                if !self.damage.is_damage(&error) {
                    tracing::warn!(user = %work.user, %error, "user lane waits for the store");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                damaged.push(work.user.clone());
                match index {
                    Some(index) if index < work.items.len() => give_up(work.items.remove(index)),
                    _ => work.items.drain(..).for_each(give_up),
                }
                if work.items.is_empty() {
                    break;
                }
            }
        }
        damaged
    }

    /// Frees lanes of which nothing was committed.
    pub(super) fn release(self: &Arc<Self>, works: Vec<UserWork>) {
        let queued = works.into_iter().filter(|work| work.lane.put_and_release(None));
        let queued: Vec<_> = queued.map(|work| UserWork::new(work.user, work.lane)).collect();
        if !queued.is_empty() {
            tokio::spawn(Arc::clone(self).drive_users(queued));
        }
    }

    /// False: built on a state that another node has left behind.
    async fn build(&self, work: &mut UserWork) -> std::result::Result<bool, NotBuilt> {
        let inbox = match &mut work.inbox {
            Some(inbox) => inbox,
            none => none.insert(Inbox::load(&*self.store, &work.user).await?),
        };
        self.note_time(inbox.head);
        let mut draft = Draft::new(inbox.head, self.clock.now_ms());
        work.live.clear();
        work.answers.clear();
        work.owing.clear();
        let mut build = Build { inner: self, inbox, draft: &mut draft, live: &mut work.live };
        for (index, item) in work.items.iter().enumerate() {
            match build.item(item).await.map_err(|error| NotBuilt { index: Some(index), error })? {
                Built::Silent => {}
                Built::Answer(answer) => work.answers.push((index, answer)),
                Built::Owes(receipt) => work.owing.push((index, receipt)),
            }
        }
        draft.raise_floor(draft.head_seq().saturating_sub(self.policy.sync_max_entries));
        // A commit asks by its condition whether the state still holds; answers without one must ask
        // for themselves (rule 4), and so must a floor found to be high enough.
        let expires = work.items.iter().any(|item| matches!(item, UserItem::Expire { .. }));
        let unasked = draft.is_empty() && (expires || !work.answers.is_empty() || !work.owing.is_empty());
        let holds = !unasked
            || self.store.together()
            || planted(Bug::JudgedByCache)
            || self.store.head(&inbox.timeline).await?.position == inbox.head.position;
        work.head = draft.head_after();
        work.draft = Some(draft);
        Ok(holds)
    }

    /// After the commit: pushes, answers, frees lanes; gives back those whose queue has filled.
    pub(super) fn finish_works(self: &Arc<Self>, works: Vec<UserWork>) -> Vec<UserWork> {
        let mut again = Vec::new();
        for mut work in works {
            if let Some(inbox) = work.inbox.as_mut() {
                inbox.head = work.head;
            }
            work.push_to(&self.hub);
            self.finish_items(&mut work);
            if work.lane.put_and_release(work.inbox.take()) {
                again.push(work);
            }
        }
        again
    }

    fn finish_items(self: &Arc<Self>, work: &mut UserWork) {
        let mut answers = std::mem::take(&mut work.answers).into_iter().peekable();
        let mut owing = std::mem::take(&mut work.owing).into_iter().peekable();
        for (index, item) in std::mem::take(&mut work.items).into_iter().enumerate() {
            let answer = answers.next_if(|(at, _)| *at == index).map(|(_, answer)| answer);
            let receipt = owing.next_if(|(at, _)| *at == index).map(|(_, receipt)| receipt);
            match item {
                UserItem::Deliver(delivery) => delivery.told.iter().for_each(|progress| progress.finish()),
                UserItem::Request { reply, .. } => match (answer, receipt) {
                    (Some(answer), _) => drop(reply.send(answer)),
                    (None, Some(receipt)) => self.receipt_first(work.user.clone(), receipt, reply),
                    (None, None) => {}
                },
                UserItem::Hello { reply, .. } => drop(answer.map(|answer| reply.send(answer))),
                UserItem::Receipt { done, .. }
                | UserItem::Expire { done }
                | UserItem::Revoke { done, .. }
                | UserItem::Forget { done } => drop(done.send(())),
                UserItem::Goodbye { .. } => {}
            }
        }
    }

    /// The peer's timeline first, then the reader's own: a crash in between loses no receipt. What is
    /// read then is what the peer was told, however far the conversation has come meanwhile.
    fn receipt_first(self: &Arc<Self>, reader: UserId, receipt: Receipt, reply: oneshot::Sender<Answer>) {
        let this = Arc::clone(self);
        let request = Request::Read { conv_id: receipt.conv.clone(), read_seq: receipt.read_seq };
        tokio::spawn(async move {
            if planted(Bug::ReceiptAfterRead) {
                return this.receipt_last(reader, receipt, request, reply).await;
            }
            let (done, told) = oneshot::channel();
            let peer = receipt.peer.clone();
            this.push_user(&peer, UserItem::Receipt { receipt, done });
            let _ = told.await;
            this.push_user(&reader, UserItem::Request { request, reply, receipted: true });
        });
    }

    /// [`Bug::ReceiptAfterRead`]: the other way round.
    async fn receipt_last(
        self: &Arc<Self>,
        reader: UserId,
        receipt: Receipt,
        request: Request,
        reply: oneshot::Sender<Answer>,
    ) {
        let (own, read) = oneshot::channel();
        self.push_user(&reader, UserItem::Request { request, reply: own, receipted: true });
        let answer = read.await;
        let (done, told) = oneshot::channel();
        let peer = receipt.peer.clone();
        self.push_user(&peer, UserItem::Receipt { receipt, done });
        let _ = told.await;
        if let Ok(answer) = answer {
            let _ = reply.send(answer);
        }
    }

    /// Raises the floor of a timeline with entries that are too old.
    pub(super) async fn expire(self: &Arc<Self>, user: &UserId) {
        let (done, wait) = oneshot::channel();
        self.push_user(user, UserItem::Expire { done });
        let _ = wait.await;
    }
}

/// Ends an item that cannot be decided because what it needs is damaged. A delivery counts as done, or
/// its conversation would wait for it for ever: who reads that timeline is told `unavailable`.
fn give_up(item: UserItem) {
    match item {
        UserItem::Deliver(delivery) => delivery.told.iter().for_each(|progress| progress.finish()),
        UserItem::Request { reply, .. } | UserItem::Hello { reply, .. } => {
            let _ = reply.send(Err(Refusal::new(ErrorCode::Unavailable)));
        }
        // Who waits for these goes on when they are dropped.
        UserItem::Receipt { .. }
        | UserItem::Expire { .. }
        | UserItem::Goodbye { .. }
        | UserItem::Revoke { .. }
        | UserItem::Forget { .. } => {}
    }
}

/// Why a draft was not built.
struct NotBuilt {
    /// The item that could not be read for; none: the timeline itself.
    index: Option<usize>,
    error: Error,
}

impl From<Error> for NotBuilt {
    fn from(error: Error) -> Self {
        Self { index: None, error }
    }
}

/// What an item came to.
enum Built {
    /// Nothing to answer.
    Silent,
    Answer(Answer),
    /// A receipt must be durable first; the item comes back after it.
    Owes(Receipt),
}

/// One lane's draft in the making.
struct Build<'a> {
    inner: &'a Inner,
    inbox: &'a mut Inbox,
    draft: &'a mut Draft,
    live: &'a mut Vec<Live>,
}

impl Build<'_> {
    async fn item(&mut self, item: &UserItem) -> Result<Built> {
        match item {
            UserItem::Deliver(delivery) => {
                deliver(&*self.inner.store, self.inbox, self.draft, delivery, self.live).await?;
                Ok(Built::Silent)
            }
            UserItem::Request { request: Request::Logout { device_id }, .. } => {
                self.inner.forget_device(self.inbox, self.draft, device_id).await.map(Built::Answer)
            }
            UserItem::Request { request, receipted, .. } => self.own(request, *receipted).await,
            UserItem::Receipt { receipt, .. } => {
                let result = self.desk(async |desk| desk.receipt(receipt).await).await?;
                debug_assert!(result.is_ok(), "a receipt is never refused");
                Ok(Built::Silent)
            }
            UserItem::Hello { device, client, .. } => {
                self.inner.register_device(self.inbox, self.draft, device, client.as_ref()).await.map(Built::Answer)
            }
            UserItem::Revoke { device, revoked, .. } => {
                self.inner.note_revoked(self.inbox, self.draft, device.as_ref(), *revoked).await?;
                Ok(Built::Silent)
            }
            UserItem::Forget { .. } => {
                self.inner.forget_some(self.inbox, self.draft).await?;
                Ok(Built::Silent)
            }
            UserItem::Goodbye { device, acked } => {
                self.inner.note_goodbye(self.inbox, self.draft, device, *acked).await?;
                Ok(Built::Silent)
            }
            UserItem::Expire { .. } => {
                let floor = self.inner.floor_by_age(&self.inbox.timeline, self.inbox.head).await?;
                if !planted(Bug::FloorNotStored) {
                    self.draft.raise_floor(floor);
                }
                Ok(Built::Silent)
            }
        }
    }

    async fn own(&mut self, request: &Request, receipted: bool) -> Result<Built> {
        if let (Request::Read { conv_id, read_seq }, false) = (request, receipted)
            && conv_id.is_direct()
        {
            match self.desk(async |desk| desk.receipt_due(conv_id, *read_seq).await).await? {
                Ok(Some(receipt)) => return Ok(Built::Owes(receipt)),
                // Nothing to tell is nothing to read: decided here, for the next look may see more.
                Ok(None) => return Ok(Built::Answer(Ok(ok_seq(self.draft.head_seq())))),
                Err(refusal) => return Ok(Built::Answer(Err(refusal))),
            }
        }
        self.desk(async |desk| desk.decide(request).await).await.map(Built::Answer)
    }

    /// Runs a decision of the user's own, and turns what it appended into pushes.
    async fn desk<T>(
        &mut self,
        decide: impl AsyncFnOnce(&mut OwnDesk<'_>) -> std::result::Result<T, NotDecided>,
    ) -> Result<std::result::Result<T, Refusal>> {
        let mut appended = Vec::new();
        let mut desk =
            OwnDesk { store: &*self.inner.store, inbox: self.inbox, draft: self.draft, appended: &mut appended };
        let decided = decide(&mut desk).await;
        let live = appended.into_iter().map(|(seq, text)| Live { seq, text: Some(text), changes_earlier: true });
        self.live.extend(live);
        match decided {
            Ok(value) => Ok(Ok(value)),
            Err(NotDecided::Refused(refusal)) => Ok(Err(refusal)),
            Err(NotDecided::Store(error)) => Err(error),
        }
    }
}

/// `ok` with the head of the user's timeline.
pub(super) fn ok_seq(seq: u64) -> AnswerBody {
    AnswerBody::Ok { conv_id: None, conv_seq: None, seq: Some(seq) }
}
