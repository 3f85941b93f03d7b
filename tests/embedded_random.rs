//! Random commits, reads, checkpoints, crashes and restarts against plain maps. A failing seed is printed;
//! `EVERLINE_SEED=n` runs it alone.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by an unwrap; seeds are printed")]

mod embedded_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use embedded_support::{conversation, options, user};
use everline::store::embedded::{Embedded, Options};
use everline::store::{
    Attempt, Commit, Entry, Head, NewEntry, Outcome, RowKey, RowWrite, Section, Span, Store, TimelineId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Default, Clone)]
struct Plain {
    head: Head,
    entries: BTreeMap<u64, Entry>,
    rows: BTreeMap<RowKey, Bytes>,
}

type Model = BTreeMap<TimelineId, Plain>;

struct Run {
    rng: StdRng,
    model: Model,
    timelines: Vec<TimelineId>,
}

impl Plain {
    fn apply(&mut self, commit: &Commit) {
        for (seq, data) in &commit.rewrite {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.data = data.clone();
            }
        }
        for new in &commit.entries {
            self.head.position.seq += 1;
            self.head.at = new.at;
            let seq = self.head.position.seq;
            self.entries.insert(seq, Entry { seq, at: new.at, attempt: commit.attempt, data: new.data.clone() });
        }
        for row in &commit.rows {
            match &row.value {
                Some(value) => drop(self.rows.insert(row.key.clone(), value.clone())),
                None => drop(self.rows.remove(&row.key)),
            }
        }
        self.head.position.term = commit.term;
        self.head.fanned = self.head.fanned.max(commit.fanned);
        self.head.floor = self.head.floor.max(commit.floor);
        self.entries = self.entries.split_off(&(self.head.floor + 1));
    }

    fn page(&self, span: Span) -> Vec<Entry> {
        let mut fits: Vec<Entry> =
            self.entries.values().filter(|entry| entry.seq > span.after && entry.seq <= span.up_to).cloned().collect();
        if span.backward {
            fits.reverse();
        }
        let mut bytes = 0;
        let mut page = Vec::new();
        for entry in fits {
            if page.len() >= span.limit || (!page.is_empty() && bytes >= span.max_bytes) {
                break;
            }
            bytes += entry.data.len();
            page.push(entry);
        }
        page
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let timelines = (0..4).flat_map(|no| [conversation(&format!("g:{no}")), user(&format!("u{no}"))]);
        Self { rng: StdRng::seed_from_u64(seed), model: Model::new(), timelines: timelines.collect() }
    }

    fn pick(&mut self) -> TimelineId {
        let index = self.rng.random_range(0..self.timelines.len());
        self.timelines[index].clone()
    }

    fn bytes(&mut self, up_to: usize) -> Bytes {
        let len = self.rng.random_range(0..up_to);
        (0..len).map(|_| self.rng.random::<u8>()).collect()
    }

    fn row_key(&mut self) -> RowKey {
        let section = Section::ALL[self.rng.random_range(0..Section::ALL.len())];
        let id = ["", "a", "ab", "b\n1"][self.rng.random_range(0..4)].into();
        RowKey { section, n: self.rng.random_range(0..3), id }
    }

    fn change(&mut self, timeline: TimelineId, shared: &Bytes) -> Commit {
        let head = self.model.get(&timeline).cloned().unwrap_or_default().head;
        let seq = head.position.seq;
        let large = self.rng.random_bool(0.05);
        let count = if large { self.rng.random_range(50..150) } else { self.rng.random_range(0..4) };
        let entries = (0..count)
            .map(|index| NewEntry {
                at: head.at + index,
                data: if self.rng.random_bool(0.5) { shared.clone() } else { self.bytes(60) },
            })
            .collect();
        let mut rows: Vec<RowWrite> = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            let key = self.row_key();
            if rows.iter().all(|row| row.key != key) {
                let value = self.rng.random_bool(0.7).then(|| self.bytes(30));
                rows.push(RowWrite { key, value, expires_at: self.rng.random_bool(0.3).then_some(u64::MAX) });
            }
        }
        let mut rewrite = Vec::new();
        if seq > 0 && self.rng.random_bool(0.3) {
            rewrite.push((self.rng.random_range(1..=seq + 2), self.bytes(20)));
            rewrite.retain(|(number, _)| *number <= seq);
        }
        let floor = if self.rng.random_bool(0.1) { self.rng.random_range(0..=seq) } else { 0 };
        let fanned = if self.rng.random_bool(0.3) { self.rng.random_range(0..=seq + count) } else { 0 };
        let mut expected = head.position;
        if self.rng.random_bool(0.05) {
            expected.seq += 1;
        }
        let term = expected.term + u64::from(self.rng.random_bool(0.05));
        let attempt = Attempt(self.rng.random());
        Commit { timeline, expected, term, attempt, entries, rewrite, rows, floor, fanned }
    }

    async fn commit(&mut self, store: &Embedded) {
        let shared = self.bytes(60);
        let mut call: Vec<Commit> = Vec::new();
        for _ in 0..self.rng.random_range(1..=4) {
            let timeline = self.pick();
            if call.iter().all(|commit| commit.timeline != timeline) {
                call.push(self.change(timeline, &shared));
            }
        }
        let head = |id| self.model.get(id).map(|plain: &Plain| plain.head).unwrap_or_default();
        let fits = call.iter().all(|commit| head(&commit.timeline).position == commit.expected);
        let expected: Vec<Outcome> = call
            .iter()
            .map(|commit| if fits { Outcome::Applied } else { Outcome::Conflict(head(&commit.timeline)) })
            .collect();
        assert_eq!(store.commit(call.clone()).await, expected);
        for commit in call.iter().filter(|_| fits) {
            self.model.entry(commit.timeline.clone()).or_default().apply(commit);
        }
    }

    async fn read(&mut self, store: &Embedded) {
        let timeline = self.pick();
        let plain = self.model.get(&timeline).cloned().unwrap_or_default();
        let seq = plain.head.position.seq;
        let span = Span {
            after: self.rng.random_range(0..=seq + 2),
            up_to: if self.rng.random_bool(0.3) { u64::MAX } else { self.rng.random_range(0..=seq + 2) },
            limit: if self.rng.random_bool(0.3) { usize::MAX } else { self.rng.random_range(0..100) },
            max_bytes: if self.rng.random_bool(0.5) { usize::MAX } else { self.rng.random_range(0..800) },
            backward: self.rng.random_bool(0.5),
        };
        assert_eq!(store.entries(&timeline, span).await.unwrap(), plain.page(span), "{timeline:?} {span:?}");
        let key = self.row_key();
        assert_eq!(store.row(&timeline, &key).await.unwrap(), plain.rows.get(&key).cloned(), "{key:?}");
        let after = self.rng.random_bool(0.5).then_some(key.clone());
        let (up_to_n, limit) = (self.rng.random_range(0..4), self.rng.random_range(0..12));
        let fits = |row: &RowKey| {
            row.section == key.section && row.n <= up_to_n && after.as_ref().is_none_or(|after| row > after)
        };
        let rows = plain.rows.iter().filter(|(row, _)| fits(row)).take(limit);
        let rows: Vec<_> = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(store.rows(&timeline, key.section, after.clone(), up_to_n, limit).await.unwrap(), rows);
    }

    async fn compare(&self, store: &Embedded) {
        let mut unfinished = Vec::new();
        for (timeline, plain) in &self.model {
            assert_eq!(store.head(timeline).await.unwrap(), plain.head, "{timeline:?}");
            let span = Span { after: 0, up_to: u64::MAX, limit: usize::MAX, max_bytes: usize::MAX, backward: false };
            assert_eq!(store.entries(timeline, span).await.unwrap(), plain.page(span), "{timeline:?}");
            for section in Section::ALL {
                let rows = plain.rows.iter().filter(|(key, _)| key.section == section);
                let rows: Vec<_> = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
                assert_eq!(store.rows(timeline, section, None, u64::MAX, usize::MAX).await.unwrap(), rows);
            }
            if let TimelineId::Conversation(id) = timeline
                && plain.head.fanned < plain.head.position.seq
            {
                unfinished.push(id.clone());
            }
        }
        assert_eq!(store.unfinished().await.unwrap(), unfinished);
        let names: Vec<TimelineId> = self.model.keys().cloned().collect();
        assert_eq!(store.timelines(None, usize::MAX).await.unwrap(), names);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for found in std::fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        let target = to.join(found.file_name());
        if found.file_type().unwrap().is_dir() {
            copy(&found.path(), &target);
        } else {
            std::fs::copy(found.path(), target).unwrap();
        }
    }
}

/// Runs what blocks where it may.
async fn blocking<R: Send + 'static>(store: &Arc<Embedded>, f: impl FnOnce(&Embedded) -> R + Send + 'static) -> R {
    let store = store.clone();
    tokio::task::spawn_blocking(move || f(&store)).await.unwrap()
}

async fn run(seed: u64, steps: u32) {
    let mut run = Run::new(seed);
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().join("0");
    let checkpoint_bytes = [0, 3_000, 30_000, 1 << 20][run.rng.random_range(0..4)];
    let timeline_cache_bytes = [1_000, 1 << 20][run.rng.random_range(0..2)];
    let open = |dir: &Path| {
        let overlay_bytes = checkpoint_bytes * 2;
        Embedded::open(Options { checkpoint_bytes, overlay_bytes, timeline_cache_bytes, ..options(dir) }).unwrap()
    };
    let mut store = open(&dir);
    for step in 0..steps {
        match run.rng.random_range(0..100) {
            0..60 => run.commit(&store).await,
            60..94 => run.read(&store).await,
            94..97 => blocking(&store, |store| store.checkpoint().unwrap()).await,
            97 => run.compare(&store).await,
            98 if run.rng.random_bool(0.2) => blocking(&store, |store| store.compact().unwrap()).await,
            _ => {
                match run.rng.random_range(0..4) {
                    0 => blocking(&store, |store| store.close().unwrap()).await,
                    1 => drop(store.checkpoint()),
                    _ => {}
                }
                drop(store);
                if run.rng.random_bool(0.3) {
                    let next = root.path().join((step + 1).to_string());
                    copy(&dir, &next);
                    std::fs::remove_dir_all(&dir).unwrap();
                    dir = next;
                }
                store = open(&dir);
                run.compare(&store).await;
            }
        }
    }
    run.compare(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behaves_like_plain_maps_whatever_happens_between() {
    let alone = std::env::var("EVERLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let count = std::env::var("EVERLINE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let seeds = alone.map_or(1..=count, |seed: u64| seed..=seed);
    for seed in seeds {
        println!("EVERLINE_SEED={seed}");
        run(seed, 600).await;
    }
}
