//! The promise behind the promises: under random calls a store behaves like the plain model.
//!
//! The seed is printed; `EVERLINE_SEED=<seed>` plays the same calls again.
#![allow(clippy::print_stderr, reason = "the seed of a failed run must be seen")]

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::fixture::{Fixture, conversation, key, nothing, settle, user};
use super::model::{Model, Plain};
use crate::store::{Commit, NewEntry, RowKey, RowWrite, Section, Span, TimelineId};

/// Several hundred random calls and reads, with restarts in between.
pub async fn behaves_like_the_model(mut fixture: Fixture) {
    let given = std::env::var("EVERLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    eprintln!("EVERLINE_SEED={seed}");
    let mut run = Run { rng: StdRng::seed_from_u64(seed), model: Model::default() };
    for step in 0..600 {
        match run.rng.random_range(0..100) {
            0..55 => run.commit(&fixture, step).await,
            55..75 => run.read_entries(&fixture).await,
            75..94 => run.read_rows(&fixture).await,
            94..97 => run.read_lists(&fixture).await,
            _ => fixture.reopen().await,
        }
    }
    fixture.reopen().await;
    run.compare_all(&fixture).await;
}

struct Run {
    rng: StdRng,
    model: Model,
}

impl Run {
    fn timeline(&mut self) -> TimelineId {
        let names = ["a", "ab", "a.b", "a-"];
        let name = names.choose(&mut self.rng).copied().unwrap_or("a");
        if self.rng.random_bool(0.5) { user(name) } else { conversation(&format!("{name}:")) }
    }

    fn row_key(&mut self) -> RowKey {
        let section = Section::ALL.choose(&mut self.rng).copied().unwrap_or(Section::State);
        let id = ["", "a", "a\n", "a:b", "b\0", "ü"].choose(&mut self.rng).copied().unwrap_or("");
        key(section, self.rng.random_range(0..4), id)
    }

    fn bytes(&mut self) -> Bytes {
        let longest = if self.rng.random_bool(0.05) { 9000 } else { 40 };
        let length = self.rng.random_range(0..longest);
        (0..length).map(|_| self.rng.random::<u8>()).collect()
    }

    fn change(&mut self, timeline: TimelineId, shared: &Bytes) -> Commit {
        let head = self.model.of(&timeline).head;
        let mut commit = nothing(&timeline, head.position.seq);
        commit.expected.term = head.position.term;
        if self.rng.random_bool(0.1) {
            let moved = commit.expected.seq.saturating_add_signed(self.rng.random_range(-2..=2));
            commit.expected.seq = moved;
            commit.expected.term += u64::from(self.rng.random_bool(0.2));
        }
        commit.term = commit.expected.term + u64::from(self.rng.random_bool(0.05));
        let count = if self.rng.random_bool(0.1) { self.rng.random_range(0..90) } else { self.rng.random_range(0..4) };
        let mut at = head.at;
        for _ in 0..count {
            at += self.rng.random_range(0..5);
            let data = if self.rng.random_bool(0.5) { shared.clone() } else { self.bytes() };
            commit.entries.push(NewEntry { at, data });
        }
        self.decorate(&mut commit);
        commit
    }

    /// Rewrites, rows, floor and fanned.
    fn decorate(&mut self, commit: &mut Commit) {
        let seq = commit.expected.seq;
        if self.rng.random_bool(0.2) {
            // Above the floor, or never written.
            let floor = self.model.of(&commit.timeline).head.floor;
            let (number, body) = (self.rng.random_range(floor + 1..=floor.max(seq) + 1), self.bytes());
            let number = if number > seq { u64::MAX } else { number };
            commit.rewrite.push((number, body));
        }
        for _ in 0..self.rng.random_range(0..4) {
            let key = self.row_key();
            if commit.rows.iter().all(|row| row.key != key) {
                let value = self.rng.random_bool(0.7).then(|| self.bytes());
                let expires_at = self.rng.random_bool(0.2).then_some(u64::MAX);
                commit.rows.push(RowWrite { key, value, expires_at });
            }
        }
        if self.rng.random_bool(0.1) {
            commit.floor = self.rng.random_range(0..=seq);
        }
        if self.rng.random_bool(0.3) {
            commit.fanned = self.rng.random_range(0..=seq + commit.entries.len() as u64);
        }
    }

    async fn commit(&mut self, fixture: &Fixture, step: u32) {
        let shared = self.bytes();
        let mut call: Vec<Commit> = Vec::new();
        for _ in 0..self.rng.random_range(1..=4) {
            let timeline = self.timeline();
            if call.iter().all(|commit| commit.timeline != timeline) {
                call.push(self.change(timeline, &shared));
            }
        }
        let expected = self.model.call(&call, fixture.store().together());
        let outcomes = settle(&**fixture.store(), call.clone()).await;
        assert_eq!(outcomes, expected, "step {step}: {call:?}");
        for commit in call {
            let head = fixture.head(&commit.timeline).await;
            assert_eq!(head, self.model.of(&commit.timeline).head, "step {step}");
        }
    }

    async fn read_entries(&mut self, fixture: &Fixture) {
        let timeline = self.timeline();
        let plain = self.model.of(&timeline);
        let seq = plain.head.position.seq;
        let after = self.rng.random_range(plain.head.floor..=seq + 3);
        let up_to = if self.rng.random_bool(0.3) { u64::MAX } else { self.rng.random_range(0..=seq + 3) };
        let limit = if self.rng.random_bool(0.5) { usize::MAX } else { self.rng.random_range(1..200) };
        let span = Span { after, up_to, limit, max_bytes: usize::MAX, backward: self.rng.random_bool(0.5) };
        assert_eq!(fixture.read(&timeline, span).await, plain.page(span), "{timeline:?} {span:?}");
    }

    async fn read_rows(&mut self, fixture: &Fixture) {
        let timeline = self.timeline();
        let plain = self.model.of(&timeline);
        let row = self.row_key();
        assert_eq!(fixture.row(&timeline, &row).await.as_ref(), plain.rows.get(&row), "{timeline:?} {row:?}");
        let after = self.rng.random_bool(0.5).then_some(row.clone());
        let up_to_n = if self.rng.random_bool(0.5) { u64::MAX } else { self.rng.random_range(0..5) };
        let limit = self.rng.random_range(1..30);
        let expected = plain.section(row.section, after.as_ref(), up_to_n, limit);
        let found = fixture.store().rows(&timeline, row.section, after.clone(), up_to_n, limit).await.unwrap();
        assert_eq!(found, expected, "{timeline:?} {:?} after {after:?} up to {up_to_n}, {limit}", row.section);
    }

    async fn read_lists(&mut self, fixture: &Fixture) {
        let whole = fixture.store().timelines(None, usize::MAX).await.unwrap();
        let mut sorted = whole.clone();
        sorted.sort();
        assert_eq!(sorted, self.model.0.keys().cloned().collect::<Vec<_>>());
        let (place, limit) = (self.rng.random_range(0..=whole.len()), self.rng.random_range(1..10));
        let after = place.checked_sub(1).map(|last| whole[last].clone());
        let expected: Vec<TimelineId> = whole[place..].iter().take(limit).cloned().collect();
        assert_eq!(fixture.store().timelines(after, limit).await.unwrap(), expected);
        if fixture.store().together() {
            let mut found = fixture.store().unfinished().await.unwrap();
            found.sort();
            assert_eq!(found, self.model.unfinished());
        }
    }

    async fn compare_all(&self, fixture: &Fixture) {
        for (timeline, plain) in &self.model.0 {
            let Plain { head, entries, rows } = plain;
            assert_eq!(fixture.head(timeline).await, *head, "{timeline:?}");
            let above_floor = &entries[head.floor as usize..];
            assert_eq!(fixture.above(timeline, head.floor).await, above_floor, "{timeline:?}");
            for section in Section::ALL {
                let mine = rows.iter().filter(|(key, _)| key.section == section);
                let expected: Vec<_> = mine.map(|(key, value)| (key.clone(), value.clone())).collect();
                assert_eq!(fixture.section(timeline, section).await, expected, "{timeline:?} {section:?}");
            }
        }
    }
}
