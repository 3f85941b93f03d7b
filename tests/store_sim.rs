//! The simulated store keeps the contract of every store, in both kinds, quick, slow, and when answers
//! get lost.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use everline::config::Clock;
use everline::conformance_suite;
use everline::store::Store;
use everline::store::conformance::Fixture;
use everline::store::sim::{Faults, Sim, SimOptions, Unknown};

/// Reopening is a crash: nothing but what was durable may be needed.
fn fixture(together: bool, faults: Faults) -> Fixture {
    let clock = Clock::simulated(1_700_000_000_000);
    let sim = Sim::new(SimOptions { seed: 11, clock: clock.clone(), together, faults });
    let store: Arc<dyn Store> = Arc::new(sim.clone());
    let reopen = move |_| {
        let restarted: Arc<dyn Store> = Arc::new(sim.crash());
        async { restarted }
    };
    Fixture::new(store).reopening(reopen).on_clock(clock)
}

fn slow() -> Faults {
    Faults { latency: Duration::from_millis(1)..Duration::from_millis(30), lose_unsynced: true, ..Faults::none() }
}

/// Answers of changes get lost; a lost request would break the promise about dropped futures, rightly.
fn silent() -> Faults {
    let unknown = Unknown { happened: 1.0, did_not: 0.0, later: 0.0 };
    Faults { unknown_p: 0.2, unknown, ..slow() }
}

conformance_suite!(apart, || async { fixture(false, Faults::none()) });
conformance_suite!(together, || async { fixture(true, Faults::none()) });
conformance_suite!(apart_and_slow, || async { fixture(false, slow()) }, start_paused = true);
conformance_suite!(together_and_slow, || async { fixture(true, slow()) }, start_paused = true);
conformance_suite!(apart_and_silent, || async { fixture(false, silent()) }, start_paused = true);
conformance_suite!(together_and_silent, || async { fixture(true, silent()) }, start_paused = true);

#[tokio::test]
async fn the_suite_runs_as_one_function_too() {
    everline::store::conformance::all(|| async { fixture(true, Faults::none()) }).await;
}
