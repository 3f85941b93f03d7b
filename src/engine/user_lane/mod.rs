//! Drives users' lanes: deliveries and the users' own requests, many lanes in one commit call.
//!
//! `build` makes the draft of one lane; here it is committed, pushed and answered.

mod build;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Answer, Inner, Refusal};
use crate::conversation::inbox::Inbox;
use crate::conversation::own::Receipt;
use crate::conversation::rows::Revoked;
use crate::fanout::Delivery;
use crate::hub::{Hub, Live};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ClientInfo, DeviceId, ErrorCode, Request, UserId};
use crate::store::{Attempt, Commit, Head};
use crate::timeline::{Decided, Draft, Lane, commit_again, commit_once};

/// Items of one lane in one commit.
const BATCH: usize = 256;
/// Entries in one commit, unless one delivery alone has more: databases bound what a batch may hold.
const BATCH_ENTRIES: usize = 4096;

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
        let mut delivered = self.items.iter().filter_map(|item| match item {
            UserItem::Deliver(delivery) => Some(delivery),
            _ => None,
        });
        let untold = if self.live.is_empty() {
            // It was all there already, but whoever brought it may have died before he told anybody.
            !hub.bus().is_alone() && delivered.next().is_some()
        } else {
            // The log is read by its changes; what was taken long ago may show what was recalled since.
            delivered.any(Delivery::is_late)
        };
        if untold {
            hub.moved(&self.user, self.head.position.seq);
        } else if !self.live.is_empty() {
            hub.push(&self.user, &self.live);
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

    /// Frees lanes of which nothing was committed.
    pub(super) fn release(self: &Arc<Self>, works: Vec<UserWork>) {
        let queued = works.into_iter().filter(|work| work.lane.put_and_release(None));
        let queued: Vec<_> = queued.map(|work| UserWork::new(work.user, work.lane)).collect();
        if !queued.is_empty() {
            tokio::spawn(Arc::clone(self).drive_users(queued));
        }
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

/// `ok` with the head of the user's timeline.
pub(super) fn ok_seq(seq: u64) -> AnswerBody {
    AnswerBody::Ok { conv_id: None, conv_seq: None, seq: Some(seq) }
}
