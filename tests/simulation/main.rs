//! The simulation of the whole system: several nodes, real sessions and real clients in one process, on
//! one thread and a virtual clock, everything random from one seed; faults everywhere; a plain model of
//! the promises (design, section 1) that is told only what clients were told.
//!
//! ```text
//!   cargo test --test simulation                            a few dozen seeds
//!   EVERLINE_SIM_SEEDS=5000 cargo test --test simulation    that many
//!   EVERLINE_SIM_SECONDS=240 ...                            as many as the time allows
//!   EVERLINE_SIM_FROM=100000 ...                            beginning with that one
//!   EVERLINE_SIM_SEED=17 ...                                one again, with its trace
//! ```

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub)]

mod answers;
#[path = "../between/mod.rs"]
mod between;
mod blows;
mod device;
mod exact;
mod frames;
mod health;
mod house;
#[cfg(planted_bugs)]
#[path = "../hunt/mod.rs"]
mod hunt;
mod inside;
mod interlude;
mod judge;
mod large;
mod line;
mod log;
mod model;
mod notices;
mod plan;
mod prompt;
mod quiet;
mod rough;
mod run;
mod scenes;
mod sends;
mod server;
mod trap;
mod twice;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use model::Tally;
use run::Run;

/// Seeds when nobody says how many.
const SEEDS: u64 = 40;
/// What must have happened at least once in a run of [`ENOUGH`] seeds: else the generator is blind.
const MUST_HAPPEN: [&str; 86] = [
    "ahead of delivery",
    "broadcasts",
    "broadcasts looked up",
    "broadcasts shown",
    "keys misused",
    "killed while telling",
    "notifications",
    "notifications shown",
    "notifications unanswered",
    "notified again",
    "notified in part before",
    "system logs refused",
    "told much",
    "told twice at once",
    "feuds",
    "large conversations",
    "last readings",
    "looking back",
    "older answers",
    "one ails",
    "outlived",
    "partings",
    "burials",
    "buried alive",
    "changes",
    "clears",
    "creates",
    "cuts",
    "deletes",
    "duplicates",
    "fresh",
    "half open downwards",
    "half open upwards",
    "heads",
    "heads with entries",
    "hints",
    "hints doubled",
    "hints late",
    "hints lost",
    "history",
    "jumps ahead",
    "jumps back",
    "kills",
    "mended lines",
    "mentions",
    "partitions",
    "pauses",
    "reads",
    "recalls",
    "recalls shown",
    "refused",
    "resets",
    "resets in mid-session",
    "resumed",
    "silent bus",
    "slow lines",
    "stubs shown",
    "syncs answered",
    "takeovers",
    "tokens expired in session",
    "unavailable",
    "together",
    "several nodes",
    "unknown outcomes",
    "slow stores",
    "unsynced writes lost",
    "checked at rest",
    "drowned",
    "elsewhere",
    "floods",
    "patience",
    "read during a recall",
    "snatches",
    "strikes",
    "told at once",
    "under fire",
    "begun anew",
    "cut off for long",
    "dead not named",
    "foreign notes",
    "late clocks",
    "replaced elsewhere",
    "replaced here",
    "sent away from elsewhere",
    "sent away here",
    "silent nodes asked",
];
/// Seeds after which everything that must happen has happened.
const ENOUGH: u64 = 300;

/// Real time after which a seed is taken to hang.
const LONGEST: Duration = Duration::from_secs(120);
/// Virtual time after which a seed is taken to hang.
const VIRTUAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Failed seeds after which no more are tried.
const FAILURES: usize = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What a seed came to, and what is equal for equal stories.
struct Came {
    tally: Tally,
    fingerprint: (u64, u64, u64),
    trace: String,
    wrong: Option<String>,
}

/// Plays a seed; `steps`: only a prefix of its story.
fn play(seed: u64, traced: bool, steps: Option<usize>) -> Came {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(seed, traced, steps);
        let story = std::panic::AssertUnwindSafe(tokio::time::timeout(VIRTUAL, run.story()));
        let wrong = match futures::FutureExt::catch_unwind(story).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(wrong))) => Some(wrong),
            Ok(Err(_)) => Some("hangs".to_owned()),
            Err(panic) => Some(format!("panic: {:?}", panic.downcast_ref::<String>())),
        };
        let (tally, fingerprint, trace) = (run.tally(), run.house.fingerprint(), run.house.trace());
        let trace = if traced && wrong.is_some() { format!("{trace}\n\n{}", run.house.dump()) } else { trace };
        Came { tally, fingerprint, trace, wrong }
    })
}

/// The shortest prefix found that fails too.
fn shorten(seed: u64) -> (usize, Came) {
    let (mut low, mut high) = (0, 90);
    let mut shortest = (high, play(seed, true, None));
    while low < high {
        let middle = (low + high) / 2;
        let came = play(seed, true, Some(middle));
        if came.wrong.is_some() {
            high = middle;
            shortest = (middle, came);
        } else {
            low = middle + 1;
        }
    }
    shortest
}

#[test]
fn every_story_keeps_the_promises() {
    let (first, count) = match number("EVERLINE_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (number("EVERLINE_SIM_FROM").unwrap_or(0), number("EVERLINE_SIM_SEEDS").unwrap_or(SEEDS)),
    };
    if number("EVERLINE_SIM_SEED").is_some() {
        // With RUST_LOG=debug the service tells its side of the story too.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let seconds = number("EVERLINE_SIM_SECONDS").map(Duration::from_secs);
    let count = if seconds.is_some() && number("EVERLINE_SIM_SEEDS").is_none() { u64::MAX - first } else { count };
    let begun = Instant::now();
    let (next, total, failed) = (AtomicU64::new(first), Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
    let played = AtomicU64::new(0);
    let work = || {
        loop {
            let over = seconds.is_some_and(|seconds| begun.elapsed() >= seconds);
            if over || failed.lock().unwrap().len() >= FAILURES {
                return;
            }
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let came = watched(seed, || play(seed, false, None));
            played.fetch_add(1, Ordering::Relaxed);
            let mut total: std::sync::MutexGuard<'_, Tally> = total.lock().unwrap();
            came.tally.into_iter().for_each(|(what, n)| *total.entry(what).or_insert(0) += n);
            if let Some(wrong) = came.wrong {
                failed.lock().unwrap().insert(seed, wrong);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (played, took) = (played.into_inner(), begun.elapsed().as_secs_f64());
    eprintln!(
        "{played} seeds from {first} in {took:.1} s, {:.1} a second\n{:?}",
        played as f64 / took,
        total.lock().unwrap()
    );
    let missing: Vec<_> = MUST_HAPPEN.iter().filter(|what| !total.lock().unwrap().contains_key(*what)).collect();
    let failed = failed.into_inner().unwrap();
    for (seed, wrong) in failed.iter() {
        eprintln!("seed {seed}: {wrong}");
    }
    if let Some(seed) = failed.keys().next() {
        let (steps, came) = shorten(*seed);
        let wrong = came.wrong.unwrap_or_else(|| "not again: the simulation depends on something else".into());
        let trace = came.trace;
        panic!(
            "{trace}\n\nseed {seed}, {steps} steps: {wrong}\n\
             replay: EVERLINE_SIM_SEED={seed} cargo test --test simulation every_story"
        );
    }
    assert!(played < ENOUGH || missing.is_empty(), "never happened: {missing:?}");
}

/// A story that never ends can't be stopped from inside its one thread.
fn watched<T>(seed: u64, play: impl FnOnce() -> T) -> T {
    let (ended, watch) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        if watch.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            // Not `eprintln`: the harness would keep it, and it dies here.
            let told =
                format!("seed {seed} does not end\nreplay: EVERLINE_SIM_SEED={seed} cargo test --test simulation\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
            std::process::abort();
        }
    });
    let came = play();
    drop(ended);
    watching.join().unwrap();
    came
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..10 {
        let (one, other) = (play(seed, true, None), play(seed, true, None));
        let parts = one.trace.lines().zip(other.trace.lines()).position(|(one, other)| one != other);
        assert_eq!(one.fingerprint, other.fingerprint, "seed {seed} differs at line {parts:?}");
    }
}

/// The simulation is blind to none of the bugs it is here for: each planted alone is found.
/// `scripts/planted`; one of them with `EVERLINE_BUG=NoFence`, at most `EVERLINE_SIM_SEEDS` seeds or
/// `EVERLINE_SIM_SECONDS` each.
#[cfg(planted_bugs)]
#[test]
fn every_planted_bug_is_found() {
    hunt::Hunt {
        blind: &[],
        seeds: number("EVERLINE_SIM_SEEDS").unwrap_or(5000),
        patience: Duration::from_secs(number("EVERLINE_SIM_SECONDS").unwrap_or(900)),
    }
    .run(|seed| watched(seed, || play(seed, false, None)).wrong);
}
