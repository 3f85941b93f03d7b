//! The hunt for planted bugs, as every test that plays seeds goes about it: each bug alone, seed after seed, until
//! one is found to go wrong. Only in builds that contain the bugs (`scripts/planted`).
//!
//! One of them by itself: `EVERLINE_BUG=NoFence`.
#![cfg(planted_bugs)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use everline::planted::{Bug, choose};

/// How far it goes.
pub struct Hunt {
    /// Names of bugs that are not asked for: the stories do not show them, or too rarely.
    pub blind: &'static [&'static str],
    /// Seeds for each bug, from 0.
    pub seeds: u64,
    /// Time for each bug.
    pub patience: Duration,
}

impl Hunt {
    /// Plants one bug after the other, two at once, and panics when one was not found. `play`: what went wrong
    /// with a seed; the bug is planted on the calling thread only.
    pub fn run(&self, play: impl Fn(u64) -> Option<String> + Sync) {
        let wanted = std::env::var("EVERLINE_BUG").ok();
        let asked = |bug: &Bug| {
            let name = format!("{bug:?}");
            wanted.as_ref().map_or_else(|| !self.blind.contains(&name.as_str()), |wanted| name == *wanted)
        };
        let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(asked).collect();
        let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !self.finds(*bug, &play) {
                    missed.lock().unwrap().push(*bug);
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
        let missed = missed.into_inner().unwrap();
        assert!(missed.is_empty(), "not found: {missed:?}");
    }

    fn finds(&self, bug: Bug, play: impl Fn(u64) -> Option<String>) -> bool {
        let begun = Instant::now();
        choose(Some(bug));
        let mut seeds = (0..self.seeds).take_while(|_| begun.elapsed() < self.patience);
        let found = seeds.find_map(|seed| play(seed).map(|wrong| (seed, wrong)));
        choose(None);
        let took = begun.elapsed().as_secs_f64();
        match &found {
            Some((seed, wrong)) => {
                let wrong: String = wrong.lines().next().unwrap_or_default().chars().take(150).collect();
                eprintln!("{bug:?}: found after {} seeds, {took:.1} s: {wrong}", seed + 1);
            }
            None => eprintln!("{bug:?}: NOT found, {took:.1} s"),
        }
        found.is_some()
    }
}
