//! The engine: the one door through which sessions and the server API reach timelines.
//!
//! ```text
//!   submit ─► conversation lane ─► decide ─► number ─► commit ─┬─► answer
//!                                                              └─► user lanes ─► commit ─► hub
//! ```
//!
//! It owns the lanes, decides requests by the rules of `conversation`, commits, fans out, answers.
//! It knows no sockets. Two ways through it, by what the store can do:
//! * a store that commits together (embedded): a message and its deliveries are one atomic write; what
//!   found a busy lane is queued there, and `fanned` tells recovery how far fan-out is complete;
//! * a store that does not (CQL): a mark first, then the message, then the deliveries (rule 3).
//!
//! How it can hurt: pushing before a commit is durable, or answering before the caller's own timeline
//! has the effect (rule 5), breaks promises no test of a single room would see.

mod acquaintance;
mod conversation_lane;
mod devices;
mod failure;
mod large;
mod liveness;
mod marks;
mod notify;
mod page;
mod revoke;
mod server;
mod tap;
mod user_lane;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::config::{Clock, Policy};
use crate::conversation::decide::Order;
use crate::conversation::read;
use crate::hub::Hub;
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ClientInfo, ConvId, DeviceId, ErrorCode, Request, SendTo, UserId};
use crate::store::{self, Store};
use crate::timeline::{Attempts, Lanes, Pushed};

pub use crate::conversation::Refusal;
pub use crate::conversation::decide::Command;
pub use large::Followed;
pub use liveness::Sights;
pub use notify::{Notified, Recipients};
pub use page::{Page, PageRead};
pub use tap::{Fresh, Tap};

use conversation_lane::{ConversationItem, ConversationLane, ConversationState};
use user_lane::{UserItem, UserLane, UserWork};

/// Items waiting in one lane beyond which requests are refused as `overloaded`.
const LANE_BOUND: usize = 4096;
/// Lanes of each kind kept in memory when at rest.
const LANES_KEPT: usize = 200_000;
/// Bytes of their states, by kind.
const LANES_BYTES: usize = 256 * 1024 * 1024;
/// How long an answer is waited for; the item itself keeps its place (rule 6).
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The authenticated user.
    pub user: UserId,
    /// The device the session belongs to.
    pub device: DeviceId,
}

/// What a request comes to.
pub type Answer = Result<AnswerBody, Refusal>;

/// Where a user's sync timeline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Last seq given.
    pub head: u64,
    /// Entries up to here are not kept any more.
    pub floor: u64,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("incarnation", &self.inner.attempts.incarnation()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    clock: Clock,
    policy: Policy,
    attempts: Attempts,
    conversations: Lanes<ConvId, ConversationItem, ConversationState>,
    users: Lanes<UserId, UserItem, crate::conversation::inbox::Inbox>,
    bursts: std::sync::atomic::AtomicU64,
    left_marks: std::sync::Mutex<Vec<store::Mark>>,
    damage: failure::DamageLog,
    broken: failure::Broken,
    liveness: liveness::Liveness,
    tap: std::sync::OnceLock<Arc<dyn Tap>>,
}

impl Engine {
    /// Builds an engine over a store. `incarnation` must never have been used before with this store.
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, clock: Clock, policy: Policy, incarnation: u64) -> Self {
        let inner = Inner {
            store,
            hub,
            clock,
            policy,
            attempts: Attempts::new(incarnation),
            conversations: Lanes::new(LANES_KEPT, LANES_BYTES),
            users: Lanes::new(LANES_KEPT, LANES_BYTES),
            bursts: std::sync::atomic::AtomicU64::new(1),
            left_marks: std::sync::Mutex::default(),
            damage: failure::DamageLog::default(),
            broken: failure::Broken::default(),
            liveness: liveness::Liveness::default(),
            tap: std::sync::OnceLock::new(),
        };
        let inner = Arc::new(inner);
        Inner::read_for(&inner, &inner.hub);
        Self { inner }
    }

    /// Who else is told of what is appended. Can be set once, before [`Engine::recover`].
    pub fn set_tap(&self, tap: Arc<dyn Tap>) {
        let set = self.inner.tap.set(tap);
        debug_assert!(set.is_ok(), "set twice");
    }

    /// Finishes fan-outs that a crash left undone; tells how many conversations needed it. Serve
    /// nobody before it has returned.
    ///
    /// # Errors
    /// That the store could not be read.
    pub async fn recover(&self) -> store::Result<usize> {
        let mut unfinished = self.inner.store.unfinished().await?;
        if planted(Bug::RecoveryForgotten) {
            unfinished.clear();
        }
        for conversation in &unfinished {
            let (done, wait) = oneshot::channel();
            self.inner.push_conversation(conversation, ConversationItem::Recover { done });
            let _ = wait.await;
        }
        Ok(unfinished.len())
    }

    /// Takes over the fan-outs that nodes named by `dead` left undone (stores that do not commit
    /// together). Being wrong about a node's death is harmless (rule 3).
    ///
    /// # Errors
    /// That the marks could not be read.
    pub async fn take_over(&self, dead: impl Fn(u64) -> bool) -> store::Result<usize> {
        let mut taken = 0;
        for known in self.inner.store.nodes().await?.into_iter().filter(|known| dead(known.node)) {
            for mark in self.inner.store.marks_of(known.node, usize::MAX).await? {
                self.finish_mark(mark).await;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Returns when a lane's driver has panicked: that lane stands still for ever, so the process must
    /// end and start anew.
    pub async fn broken(&self) {
        self.inner.broken.wait().await;
    }

    /// The epoch of the data.
    pub fn epoch(&self) -> String {
        self.inner.store.epoch()
    }

    /// A device says hello: registers it (`too_many_connections` beyond the limit of devices) and tells
    /// where its user's timeline stands. Register the session in the hub before calling this.
    ///
    /// # Errors
    /// The refusal.
    pub async fn hello(&self, caller: &Caller, client: Option<ClientInfo>) -> Result<Standing, Refusal> {
        self.inner.register(caller, client).await?;
        self.standing(&caller.user).await
    }

    /// A device is gone (socket closed): keeps what it acknowledged, for `devices`. Never fails.
    pub fn goodbye(&self, caller: &Caller, acked: u64) {
        self.inner.push_user(&caller.user, UserItem::Goodbye { device: caller.device.clone(), acked });
    }

    /// Where the user's timeline stands now; the floor told is stored before.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn standing(&self, user: &UserId) -> Result<Standing, Refusal> {
        self.inner.standing(user).await
    }

    /// Reads at most `max_entries` numbers after `after`, at most about `max_bytes` of text (at least one
    /// entry). Judged as of now: deletes, recalls and edits committed since are respected.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn page(
        &self,
        user: &UserId,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<PageRead, Refusal> {
        self.inner.page(user, after, max_entries, max_bytes).await
    }

    /// Takes a request. It is queued in its lane before this returns, so requests submitted one after
    /// the other to the same lane take effect in that order; the future only waits for the answer, and
    /// dropping it takes nothing back. `sync` and `auth` are the session's own and refused here.
    ///
    /// Lanes: send, recall, edit, react, create, invite, remove, leave, update, role go through the
    /// conversation's lane; delete, clear, read, settings through the caller's; the rest only read.
    pub fn submit(&self, caller: &Caller, request: Request) -> BoxFuture<'static, Answer> {
        match lane_of(caller, &request) {
            Ok(Lane::Conversation(id)) => {
                let (reply, answer) = oneshot::channel();
                let order = Order::Request(request);
                let item = ConversationItem::Request { caller: caller.user.clone(), order, reply };
                self.inner.push_conversation(&id, item);
                Box::pin(wait_for(answer))
            }
            Ok(Lane::User) => {
                let (reply, answer) = oneshot::channel();
                self.inner.push_user(&caller.user, UserItem::Request { request, reply, receipted: false });
                Box::pin(wait_for(answer))
            }
            Ok(Lane::Read) => {
                let (inner, caller) = (Arc::clone(&self.inner), caller.clone());
                Box::pin(async move { inner.read(&caller, request).await })
            }
            Err(refusal) => Box::pin(async { Err(refusal) }),
        }
    }
}

enum Lane {
    Conversation(ConvId),
    User,
    Read,
}

/// Which way a request goes.
fn lane_of(caller: &Caller, request: &Request) -> Result<Lane, Refusal> {
    match request.conv_id() {
        Some(id) if id.is_reserved() => return Err(Refusal::new(ErrorCode::NotFound)),
        Some(id) if id.is_everybody() && !matches!(request, Request::History { .. }) => {
            return Err(Refusal::new(ErrorCode::Forbidden));
        }
        _ => {}
    }
    Ok(match request {
        Request::Send(send) => match &send.to {
            SendTo::Conv(id) => Lane::Conversation(id.clone()),
            SendTo::User(user) if *user == caller.user => return Err(Refusal::field("to")),
            SendTo::User(user) => Lane::Conversation(ConvId::direct(&caller.user, user)),
        },
        Request::Create { op_id, .. } => Lane::Conversation(created_id(&caller.user, op_id)),
        Request::Recall { conv_id, .. }
        | Request::Edit { conv_id, .. }
        | Request::React { conv_id, .. }
        | Request::Invite { conv_id, .. }
        | Request::Remove { conv_id, .. }
        | Request::Leave { conv_id }
        | Request::Update { conv_id, .. }
        | Request::Role { conv_id, .. } => Lane::Conversation(conv_id.clone()),
        Request::Delete { .. } | Request::Clear { .. } | Request::Read { .. } | Request::Settings { .. } => Lane::User,
        Request::Logout { .. } => Lane::User,
        Request::History { .. }
        | Request::Changes { .. }
        | Request::Conversations { .. }
        | Request::Members { .. }
        | Request::Devices => Lane::Read,
        Request::Sync { .. } | Request::Auth { .. } | Request::Presence { .. } => {
            return Err(Refusal::new(ErrorCode::UnknownType));
        }
    })
}

/// The name of a conversation made by this creator under this op_id: the same again makes no second.
fn created_id(creator: &str, op_id: &str) -> ConvId {
    let mut hash = xxhash_rust::xxh3::xxh3_128(op_id.as_bytes());
    if planted(Bug::CreateMakesAnother) {
        hash = rand::random();
    }
    let name = format!("g:{creator}:{hash:032x}");
    #[expect(clippy::expect_used, reason = "at most 2 + 64 + 1 + 32 characters, all of the allowed set")]
    ConvId::parse(&name).expect("a made name is valid")
}

async fn wait_for(answer: oneshot::Receiver<Answer>) -> Answer {
    match tokio::time::timeout(ANSWER_DEADLINE, answer).await {
        Ok(Ok(answer)) => answer,
        _ => Err(Refusal::new(ErrorCode::Unavailable)),
    }
}

/// Waits for something that has no answer but its being durable.
async fn wait_until_done(done: oneshot::Receiver<()>) -> Result<(), Refusal> {
    match tokio::time::timeout(ANSWER_DEADLINE, done).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Refusal::new(ErrorCode::Unavailable)),
    }
}

/// A read the store could not answer, as the client is told it. Damage is told once.
fn unavailable(damage: &failure::DamageLog, error: &store::Error) -> Refusal {
    if !damage.is_damage(error) {
        tracing::warn!(%error, "read failed");
    }
    Refusal::new(ErrorCode::Unavailable)
}

impl Inner {
    /// Held by whoever drives a lane, for as long.
    fn watch_driver(&self) -> failure::Watched {
        self.broken.watch()
    }

    fn conversation_lane(&self, id: &ConvId) -> Arc<ConversationLane> {
        self.conversations.get(id)
    }

    fn user_lane(&self, user: &UserId) -> Arc<UserLane> {
        self.users.get(user)
    }

    /// Queues an item of a conversation and sees to it that somebody drives the lane.
    fn push_conversation(self: &Arc<Self>, id: &ConvId, item: ConversationItem) {
        let lane = self.conversation_lane(id);
        let bound = if item.may_be_refused() { LANE_BOUND } else { usize::MAX };
        match lane.push(item, bound) {
            Ok(Pushed::Drive) => {
                tokio::spawn(Arc::clone(self).drive_conversation(id.clone(), lane));
            }
            Ok(Pushed::Queued) => {}
            Err(full) => full.0.refuse(ErrorCode::Overloaded),
        }
    }

    /// Queues an item of a user and sees to it that somebody drives the lane.
    fn push_user(self: &Arc<Self>, user: &UserId, item: UserItem) {
        let lane = self.user_lane(user);
        let bound = if item.may_be_refused() { LANE_BOUND } else { usize::MAX };
        match lane.push(item, bound) {
            Ok(Pushed::Drive) => {
                tokio::spawn(Arc::clone(self).drive_users(vec![UserWork::new(user.clone(), lane)]));
            }
            Ok(Pushed::Queued) => {}
            Err(full) => full.0.refuse(ErrorCode::Overloaded),
        }
    }

    async fn read(&self, caller: &Caller, request: Request) -> Answer {
        let desk = read::Reader { store: &*self.store, user: &caller.user };
        match request {
            Request::History { conv_id, from, limit } => desk.history(&conv_id, from, limit).await,
            Request::Changes { conv_id, since } => desk.changes(&conv_id, since).await,
            Request::Conversations { active_after, page, limit } => {
                desk.conversations(active_after, page.as_deref(), limit).await
            }
            Request::Members { conv_id, page, limit } => desk.members(&conv_id, page.as_deref(), limit).await,
            Request::Devices => self.devices(caller).await,
            _ => Err(Refusal::new(ErrorCode::UnknownType)),
        }
    }
}
