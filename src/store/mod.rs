//! The store: timelines as logs that advance by compare-and-set on their head.
//!
//! A **timeline** is a head, a floor, entries numbered 1, 2, 3 ... and side rows:
//!
//! ```text
//!             floor                                head
//!   ......... |  floor+1   ...   ...   ...   ...   |          entries: dense, never rewritten
//!   (expired) |  <-------- readable ------------>  |          (but for erased bodies)
//!
//!   side rows (section, n, id) -> value                       changed by the same commit
//! ```
//!
//! # The contract
//!
//! 1. A timeline changes by [`Store::commit`] only. A [`Commit`] is applied whole, entries, rows,
//!    floor and head, iff the present position equals [`Commit::expected`]; else nothing of it is.
//! 2. The outcome is [`Outcome::Applied`] (durable: it survives kill -9 and loss of power),
//!    [`Outcome::Conflict`] (this attempt did not apply and never will: positions only grow) or
//!    [`Outcome::Unknown`] (it may have happened, may happen later, or not). Who gets `Unknown` sends
//!    the *same* commit again until it is decided, never a new numbering.
//! 3. A call takes many commits, each decided by itself and answered in its place. Where
//!    [`Store::together`] is true the commits of one call are one atomic write: either all outcomes
//!    are `Applied` or none is.
//! 4. Reads see what is applied and durable, at least everything whose `Applied` was seen before the
//!    read began (by anybody). Each single read is of one moment; two reads may be of two.
//! 5. The head of a timeline never expires and never regresses, also when every entry has expired.
//!    `floor` never regresses. Entries at or below the floor may be gone at any time.
//! 6. [`Entry::attempt`] of the first entry of a commit is kept and comes back: it tells whose commit
//!    took the place `expected.seq + 1`. Contents cannot tell: two nodes may fan out the same.
//!    A commit without entries that keeps the term moves no position: on a store that does not commit
//!    together its rows are the last writer's, so only rows nobody else depends on are written so (devices).
//! 7. A row with `expires_at` may vanish any time after that moment, never before.
//!
//! The store knows nothing of messages, users' rights or sockets, and gives no sequence numbers of its
//! own: `timeline` does. `conformance` runs this contract against every backend.
//!
//! How it can hurt: a backend that answers `Applied` before the data is durable loses acked messages;
//! one that answers `Conflict` for an attempt that can still land doubles them.

pub mod conformance;
pub mod cql;
pub mod embedded;
pub mod sim;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::protocol::{ConvId, UserId};

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimelineId {
    /// The permanent log of a conversation (`b:all` included).
    Conversation(ConvId),
    /// The FIFO log of everything one user's devices must learn.
    User(UserId),
}

/// The part of a head that a commit is conditional on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Position {
    /// Last sequence number given; 0 for a timeline nobody has written.
    pub seq: u64,
    /// Raised by whoever takes over another node's unfinished fan-out (the fence). 0 for user timelines.
    pub term: u64,
}

/// The head of a timeline. All zero for one that was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Sequence and term.
    pub position: Position,
    /// Entries up to here may be gone.
    pub floor: u64,
    /// Time of the newest entry, milliseconds since 1970.
    pub at: u64,
    /// Conversations in a store that commits together: fan-out is complete up to here.
    pub fanned: u64,
}

/// Identifies one attempt to commit, across processes: (incarnation of the node, counter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attempt(pub u128);

/// One numbered entry as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Milliseconds since 1970; never below that of the entry before.
    pub at: u64,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Opaque to the store. Entries of one fan-out share one allocation (`Bytes` are compared by
    /// pointer first), so a backend can write the content once.
    pub data: Bytes,
}

/// An entry about to be numbered: it becomes `expected.seq + 1 + index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Milliseconds since 1970, not below [`Head::at`].
    pub at: u64,
    /// See [`Entry::data`].
    pub data: Bytes,
}

/// What a side row is about; the first part of its key. Rows of a section are ordered by (n, id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Section {
    /// Conversation: the folded small state (title, roles, large). One row.
    State = 1,
    /// Conversation: id = user. Stays and role of a member.
    Member = 2,
    /// Conversation: id = sender + '\n' + client_msg_id. What was sent under this key; expires.
    Dedupe = 3,
    /// Conversation: n = conv_seq of a change, so that `changes since` costs changes, not messages.
    Change = 4,
    /// Conversation: n = conv_seq of a message that was recalled, edited or reacted to; what it is now.
    Target = 5,
    /// User: id = conv_id. The one row of user and conversation.
    Conv = 6,
    /// User: id = conv_id. The ranges of conv_seq this user deleted for himself.
    Hidden = 7,
    /// User: id = device_id. What is known of a device.
    Device = 8,
    /// User: id = device_id, or empty for the user whole. Tokens issued until then are refused.
    Revoked = 9,
    /// User: id = conv_id. Large conversations he is in, so that a device learns at once what has moved.
    Large = 10,
    /// Conversation: n = conv_seq of a message, id = reaction key + '\n' + user. His last word about that key.
    Word = 11,
}

impl Section {
    /// All of them, in key order.
    pub const ALL: [Section; 11] = [
        Section::State,
        Section::Member,
        Section::Dedupe,
        Section::Change,
        Section::Target,
        Section::Conv,
        Section::Hidden,
        Section::Device,
        Section::Revoked,
        Section::Large,
        Section::Word,
    ];
}

/// Key of a side row within its timeline, ordered by (section, n, id).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// What it is about.
    pub section: Section,
    /// A number (a conv_seq mostly), 0 where the section has none.
    pub n: u64,
    /// A name (user, conversation, device), empty where the section has none. Up to 256 bytes.
    pub id: Arc<str>,
}

/// A side row written (or with `None` removed) by a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Which row.
    pub key: RowKey,
    /// New value; `None` removes it.
    pub value: Option<Bytes>,
    /// The row is of no use after this moment (milliseconds since 1970).
    pub expires_at: Option<u64>,
}

/// One conditional change of one timeline.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Which timeline.
    pub timeline: TimelineId,
    /// Applies iff this is the position now.
    pub expected: Position,
    /// The term afterwards; `expected.term`, or higher to fence others off.
    pub term: u64,
    /// Stored with every entry of this commit.
    pub attempt: Attempt,
    /// Numbered from `expected.seq + 1`. May be empty (rows, term or floor only).
    pub entries: Vec<NewEntry>,
    /// Bodies to erase, of entries before this commit: the entry with this number gets this content from now on; its `at` and
    /// `attempt` stay. A number never written, or expired, is skipped.
    pub rewrite: Vec<(u64, Bytes)>,
    /// Side rows, each key at most once.
    pub rows: Vec<RowWrite>,
    /// New floor; ignored when below the present one.
    pub floor: u64,
    /// New value of [`Head::fanned`]; ignored when below the present one.
    pub fanned: u64,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Applied and durable.
    Applied,
    /// The position is another; this attempt can never apply.
    Conflict(Head),
    /// Not known. Send the same commit again until it is decided.
    Unknown,
}

/// Why a read (or a mark) failed. A commit never fails this way: it is `Unknown`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Slow or unreachable; a later try may succeed.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// What was read is not what was written. The message names file and place.
    #[error("store damaged: {0}")]
    Damaged(String),
}

/// Result of reads.
pub type Result<T> = std::result::Result<T, Error>;

/// Says that a node may have left fan-outs of a conversation undone. Written once, deleted once, its
/// key never used again. Only for stores that do not commit together (design: rule 3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Whose log.
    pub conversation: ConvId,
    /// Incarnation of the node that wrote it.
    pub node: u64,
    /// Counts the marks of that incarnation.
    pub burst: u64,
    /// Fan-out was complete up to here.
    pub from: u64,
}

/// A node that has given its word, and may have left marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnownNode {
    /// Its incarnation.
    pub node: u64,
    /// Its word still holds.
    pub alive: bool,
}

/// Which entries to read: those with `after < seq <= up_to`.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Exclusive lower bound.
    pub after: u64,
    /// Inclusive upper bound.
    pub up_to: u64,
    /// At most so many entries, from the lower end, or from the upper one if `backward`.
    pub limit: usize,
    /// Stop (with at least one entry) once the contents reach so many bytes.
    pub max_bytes: usize,
    /// Descending from `up_to`.
    pub backward: bool,
}

/// A place where timelines are kept. See the module for the contract.
///
/// Futures are boxed so that backends can be chosen at run time. Reads of local backends are ready at
/// once. Dropping a commit's future does not take the commit back.
pub trait Store: Send + Sync + 'static {
    /// Names this incarnation of the data; kept over restarts, another after a restore.
    fn epoch(&self) -> String;

    /// True: the commits of one call are one atomic, durable write, decided before a later call's, and
    /// this process is the only writer (so a conflict cannot happen while lanes number rightly).
    fn together(&self) -> bool;

    /// Tries to apply each commit; outcomes in the same order. At most one commit a timeline in a call.
    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'static, Vec<Outcome>>;

    /// The head; all zero for an unknown timeline.
    fn head<'a>(&'a self, timeline: &'a TimelineId) -> BoxFuture<'a, Result<Head>>;

    /// Entries of a span, ascending (descending if `backward`). Missing numbers inside the span are
    /// simply not there: the caller checks that a page is dense.
    fn entries<'a>(&'a self, timeline: &'a TimelineId, span: Span) -> BoxFuture<'a, Result<Vec<Entry>>>;

    /// One side row.
    fn row<'a>(&'a self, timeline: &'a TimelineId, key: &'a RowKey) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// Side rows of a section with key > `after` (or all), n <= `up_to_n`, ascending by (n, id), at most `limit`.
    fn rows<'a>(
        &'a self,
        timeline: &'a TimelineId,
        section: Section,
        after: Option<RowKey>,
        up_to_n: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RowKey, Bytes)>>>;

    /// Timelines that exist, each once, in an order of the store's own that does not change, after the
    /// given one (one that was listed before); for `verify`, `inspect`, `migrate`.
    fn timelines<'a>(&'a self, after: Option<TimelineId>, limit: usize) -> BoxFuture<'a, Result<Vec<TimelineId>>>;

    /// Stores that commit together: conversations whose `fanned` is below their head.
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<ConvId>>>;

    /// Writes a mark; durable when this returns `Ok`. An error means unknown: write it again.
    fn put_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>>;

    /// Deletes a mark. An error means unknown; it may also vanish later.
    fn delete_mark(&self, mark: Mark) -> BoxFuture<'_, Result<()>>;

    /// Marks that a node has written and nobody has deleted; at most `limit` of them.
    fn marks_of(&self, node: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Mark>>>;

    /// Marks of all known nodes; for `verify`.
    fn marks(&self) -> BoxFuture<'_, Result<Vec<Mark>>> {
        async move {
            let mut found = Vec::new();
            for known in self.nodes().await? {
                found.extend(self.marks_of(known.node, usize::MAX).await?);
            }
            Ok(found)
        }
        .boxed()
    }

    /// For `migrate`: lets a timeline that nobody has written stand at `head`, without the entries up to
    /// there (its floor is its number). Durable when `Applied`; `Conflict`: somebody has written it.
    fn begin_at(&self, timeline: TimelineId, head: Head) -> BoxFuture<'_, Result<Outcome>> {
        let _ = (timeline, head);
        let refused = Error::Unavailable("nothing can be migrated into this store".to_owned());
        futures::future::ready(Err(refused)).boxed()
    }

    /// Says that the node of this incarnation is alive; the word holds for `ttl` by the store's clock. From now
    /// on it is known, until it is forgotten. A store of one process has no other nodes and may ignore it.
    fn renew_node(&self, node: u64, ttl: Duration) -> BoxFuture<'_, Result<()>>;

    /// All known nodes. Whether one is alive is a guess (rule 3 makes a wrong one harmless). A store of one
    /// process knows at least those that have marks.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<KnownNode>>>;

    /// This node is known no more, until it gives its word again: nobody looks for its marks.
    fn forget_node(&self, node: u64) -> BoxFuture<'_, Result<()>>;
}
