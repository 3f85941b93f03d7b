//! What a node does by itself: it says that it is alive, and finishes what dead nodes left undone.
//!
//! Loops of their own, so that a long taking over does not keep the word from being given. They end with the
//! house, not when it stops accepting: while it drains it is alive.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::House;
use crate::engine::Sights;

/// The word is given so often, and dead nodes are looked for.
const EVERY: Duration = Duration::from_secs(3);

/// Heads of large conversations are looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// Renews this node's word until the house is gone.
pub(super) async fn renew(house: Weak<House>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let Some(house) = house.upgrade() else { return };
        let why = match timeout(EVERY, house.engine.renew()).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(why, "could not say that this node is alive");
    }
}

/// Finishes the fan-outs of dead nodes until the house is gone.
pub(super) async fn finish(house: Weak<House>) {
    let (mut ticks, mut sights) = (ticks(), Sights::default());
    let counter = metrics::counter!("everline_marks_taken_over_total");
    loop {
        ticks.tick().await;
        let Some(house) = house.upgrade() else { return };
        match house.engine.finish_for_the_dead(&mut sights).await {
            Ok(0) => {}
            Ok(marks) => {
                counter.increment(marks as u64);
                tracing::info!(marks, "finished deliveries of nodes that are gone");
            }
            Err(error) => tracing::warn!(%error, "could not look for what dead nodes left"),
        }
    }
}

/// Looks where the large conversations stand that sessions here follow, until the house is gone: hints of
/// other nodes may be lost, and a node that dies behind its commit gives none.
pub(super) async fn look(house: Weak<House>) {
    let mut ticks = ticks_of(LOOK);
    loop {
        ticks.tick().await;
        let Some(house) = house.upgrade() else { return };
        house.engine.look_at_followed().await;
    }
}

fn ticks() -> tokio::time::Interval {
    ticks_of(EVERY)
}

fn ticks_of(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
