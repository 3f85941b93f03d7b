//! A fresh store under test, and the short words the promises are written with.
//!
//! Knows no backend. Must not forgive: where it resends after `Unknown`, it asks the store by attempt
//! what became of the first try, as the contract says.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::config::Clock;
use crate::protocol::{ConvId, UserId};
use crate::store::{
    Attempt, Commit, Entry, Head, Mark, NewEntry, Outcome, Position, Result, RowKey, RowWrite, Section, Span, Store,
    TimelineId,
};

type Reopen = Box<dyn FnMut(Arc<dyn Store>) -> BoxFuture<'static, Arc<dyn Store>> + Send>;

/// A fresh, empty store and what may be done with it.
pub struct Fixture {
    // Dropped in this order: the store before the guard of its files.
    store: Option<Arc<dyn Store>>,
    reopen: Option<Reopen>,
    clock: Clock,
    _guard: Option<Box<dyn Any + Send>>,
}

impl Fixture {
    /// A store that cannot be reopened, on the machine's clock.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store: Some(store), reopen: None, clock: Clock::system(), _guard: None }
    }

    /// How to end this store's process and start it again on the same data. The store given is the
    /// last reference but for futures under way; drop it before opening where only one may be open.
    #[must_use]
    pub fn reopening<F, Fut>(mut self, mut reopen: F) -> Self
    where
        F: FnMut(Arc<dyn Store>) -> Fut + Send + 'static,
        Fut: Future<Output = Arc<dyn Store>> + Send + 'static,
    {
        self.reopen = Some(Box::new(move |store| Box::pin(reopen(store))));
        self
    }

    /// The clock by which the store expires rows.
    #[must_use]
    pub fn on_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Something to drop after the store, such as its directory.
    #[must_use]
    pub fn guarded(mut self, guard: impl Any + Send) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().expect("only absent while reopening")
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Reopens the store where it can be.
    pub(super) async fn reopen(&mut self) {
        if let Some(reopen) = &mut self.reopen {
            let store = self.store.take().expect("only absent while reopening");
            self.store = Some(reopen(store).await);
        }
    }

    /// Commits and asserts that it was applied.
    pub(super) async fn apply(&self, commit: Commit) {
        let outcome = settle(&**self.store(), vec![commit.clone()]).await;
        assert_eq!(outcome, [Outcome::Applied], "{commit:?}");
    }

    /// Commits, asserts that it was refused, and that the head told is the head.
    pub(super) async fn refuse(&self, commit: Commit) -> Head {
        let mut outcome = self.store().commit(vec![commit.clone()]).await;
        while outcome == [Outcome::Unknown] {
            outcome = self.store().commit(vec![commit.clone()]).await;
        }
        let [Outcome::Conflict(head)] = outcome[..] else { panic!("{outcome:?} for {commit:?}") };
        assert_eq!(head, self.head(&commit.timeline).await, "the head told is the present one");
        head
    }

    /// Puts or deletes a mark, again until it is known to have happened.
    pub(super) async fn mark(&self, mark: &Mark, there: bool) {
        let change = |store: Arc<dyn Store>| async move {
            if there { store.put_mark(mark.clone()).await } else { store.delete_mark(mark.clone()).await }
        };
        self.until_done(change).await;
    }

    /// A node says that it is alive, for an hour.
    pub(super) async fn renew(&self, node: u64) {
        self.until_done(|store| async move { store.renew_node(node, Duration::from_secs(3600)).await }).await;
    }

    /// A node is to be known no more.
    pub(super) async fn forget(&self, node: u64) {
        self.until_done(|store| async move { store.forget_node(node).await }).await;
    }

    async fn until_done<F: Future<Output = Result<()>>>(&self, change: impl Fn(Arc<dyn Store>) -> F) {
        for _ in 0..100 {
            if change(Arc::clone(self.store())).await.is_ok() {
                return;
            }
        }
        panic!("undecided after 100 tries");
    }

    pub(super) async fn head(&self, timeline: &TimelineId) -> Head {
        self.store().head(timeline).await.unwrap()
    }

    pub(super) async fn read(&self, timeline: &TimelineId, span: Span) -> Vec<Entry> {
        self.store().entries(timeline, span).await.unwrap()
    }

    /// Every entry above `after`.
    pub(super) async fn above(&self, timeline: &TimelineId, after: u64) -> Vec<Entry> {
        self.read(timeline, above(after)).await
    }

    pub(super) async fn row(&self, timeline: &TimelineId, key: &RowKey) -> Option<Bytes> {
        self.store().row(timeline, key).await.unwrap()
    }

    /// All rows of a section, names and values as text.
    pub(super) async fn section(&self, timeline: &TimelineId, section: Section) -> Vec<(RowKey, Bytes)> {
        self.store().rows(timeline, section, None, u64::MAX, usize::MAX).await.unwrap()
    }
}

/// Commits until every outcome is known: what ended `Unknown` is sent again, the same; when refused
/// then, the attempt stored at its place tells whether an earlier try was it.
pub(super) async fn settle(store: &dyn Store, commits: Vec<Commit>) -> Vec<Outcome> {
    let mut outcomes = store.commit(commits.clone()).await;
    assert_eq!(outcomes.len(), commits.len(), "one outcome a commit");
    for _ in 0..100 {
        let again: Vec<usize> = (0..commits.len()).filter(|&i| outcomes[i] == Outcome::Unknown).collect();
        if again.is_empty() {
            return outcomes;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let resent: Vec<Commit> = again.iter().map(|&i| commits[i].clone()).collect();
        let mut answers = store.commit(resent.clone()).await;
        let mut ours = Vec::new();
        for (commit, answer) in resent.iter().zip(&answers) {
            ours.push(matches!(answer, Outcome::Conflict(_)) && is_ours(store, commit).await);
        }
        if store.together() {
            // All of the call was it, or nothing.
            let all = ours.iter().all(|ours| *ours);
            ours.fill(all);
        }
        answers.iter_mut().zip(ours).filter(|(_, ours)| *ours).for_each(|(answer, _)| *answer = Outcome::Applied);
        again.into_iter().zip(answers).for_each(|(i, answer)| outcomes[i] = answer);
    }
    panic!("undecided after 100 tries");
}

/// Whether a refused commit had been applied before. One without entries leaves no attempt: then the
/// position it would have led to must do, which is right as long as nobody else leads there.
async fn is_ours(store: &dyn Store, commit: &Commit) -> bool {
    if commit.entries.is_empty() {
        let after = Position { term: commit.term, ..commit.expected };
        return store.head(&commit.timeline).await.unwrap().position == after;
    }
    let first = Span { up_to: commit.expected.seq + 1, ..above(commit.expected.seq) };
    let found = store.entries(&commit.timeline, first).await.unwrap();
    found.first().is_some_and(|entry| entry.attempt == commit.attempt)
}

/// Everything above `after`, ascending, unbounded.
pub(super) fn above(after: u64) -> Span {
    Span { after, up_to: u64::MAX, limit: usize::MAX, max_bytes: usize::MAX, backward: false }
}

pub(super) fn conversation(name: &str) -> TimelineId {
    TimelineId::Conversation(ConvId::parse(name).unwrap())
}

pub(super) fn user(name: &str) -> TimelineId {
    TimelineId::User(UserId::parse(name).unwrap())
}

/// An attempt never used before.
pub(super) fn attempt() -> Attempt {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    // High bits too: an attempt is 128 bits wide.
    Attempt((0xfeed_0000_0000_0000_u128 << 64) | u128::from(COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A commit of nothing after `seq`, term 0. The other fields are set by struct update.
pub(super) fn nothing(timeline: &TimelineId, seq: u64) -> Commit {
    Commit {
        timeline: timeline.clone(),
        expected: Position { seq, term: 0 },
        term: 0,
        attempt: attempt(),
        entries: Vec::new(),
        rewrite: Vec::new(),
        rows: Vec::new(),
        floor: 0,
        fanned: 0,
    }
}

/// A commit of these contents after `seq`, term 0, at 1000 + number.
pub(super) fn append<T: AsRef<[u8]>>(timeline: &TimelineId, seq: u64, contents: &[T]) -> Commit {
    let bytes = contents.iter().map(|content| Bytes::copy_from_slice(content.as_ref()));
    let entries = (seq + 1..).zip(bytes).map(|(seq, data)| NewEntry { at: 1000 + seq, data });
    Commit { entries: entries.collect(), ..nothing(timeline, seq) }
}

/// A commit of `count` entries after `seq`, each content its number.
pub(super) fn append_numbers(timeline: &TimelineId, seq: u64, count: u64) -> Commit {
    let contents: Vec<String> = (seq + 1..=seq + count).map(|number| number.to_string()).collect();
    append(timeline, seq, &contents)
}

/// The entries this commit becomes.
pub(super) fn numbered(commit: &Commit) -> Vec<Entry> {
    let numbers = commit.expected.seq + 1..;
    let entry =
        |(seq, entry): (u64, &NewEntry)| Entry { seq, at: entry.at, attempt: commit.attempt, data: entry.data.clone() };
    numbers.zip(&commit.entries).map(entry).collect()
}

pub(super) fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

pub(super) fn key(section: Section, n: u64, id: &str) -> RowKey {
    RowKey { section, n, id: Arc::from(id) }
}

pub(super) fn put(key: &RowKey, value: &str) -> RowWrite {
    RowWrite { key: key.clone(), value: Some(Bytes::copy_from_slice(value.as_bytes())), expires_at: None }
}

pub(super) fn remove(key: &RowKey) -> RowWrite {
    RowWrite { key: key.clone(), value: None, expires_at: None }
}
