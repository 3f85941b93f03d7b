//! The simulated store keeps the contract of every store, and its faults are the ones it promises.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use everline::config::Clock;
use everline::protocol::ConvId;
use everline::store::sim::{Faults, Moment, Sim, SimOptions};
use everline::store::{Attempt, Commit, NewEntry, Outcome, Position, Store, TimelineId};

fn sim(together: bool, faults: Faults) -> Sim {
    Sim::new(SimOptions { seed: 7, clock: Clock::simulated(1_000_000), together, faults })
}

fn timeline() -> TimelineId {
    TimelineId::Conversation(ConvId::parse("g:one").unwrap())
}

fn append(seq: u64, attempt: u128) -> Commit {
    Commit {
        timeline: timeline(),
        expected: Position { seq, term: 0 },
        term: 0,
        attempt: Attempt(attempt),
        entries: vec![NewEntry { at: 1, data: Bytes::from_static(b"x") }],
        rewrite: Vec::new(),
        rows: Vec::new(),
        floor: 0,
        fanned: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_can_be_held_before_and_after_its_effect() {
    for together in [false, true] {
        let sim = sim(together, Faults::none());
        assert_eq!(sim.commit(vec![append(0, 1)]).await, [Outcome::Applied]);
        for (seq, moment) in [(1, Moment::Before), (2, Moment::After)] {
            let hold = sim.hold_next_commit(moment);
            let commit = tokio::spawn(sim.commit(vec![append(seq, 2)]));
            hold.reached().await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            let effect = u64::from(moment == Moment::After);
            assert_eq!(sim.dump(&timeline()).head.position.seq, seq + effect);
            assert!(!commit.is_finished());
            hold.release();
            assert_eq!(commit.await.unwrap(), [Outcome::Applied]);
            assert_eq!(sim.head(&timeline()).await.unwrap().position.seq, seq + 1);
        }
    }
}
