//! Which faults the simulated store makes, and the dice that choose them.
//!
//! Nothing is decided outside these dice, and they are thrown when a call is made, so one seed gives
//! one story. Conflicts are not among the faults: a wrong conflict would be a broken store, real ones
//! come from several writers and latency.

use std::ops::Range;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// How badly the store behaves.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Time of one way, to the data and back again. In a store that commits together: the time until a
    /// commit is durable.
    pub latency: Range<Duration>,
    /// Chance that a commit (or a mark) ends unknown.
    pub unknown_p: f64,
    /// What became of those that end unknown.
    pub unknown: Unknown,
    /// How long a request that lands later stays under way.
    pub late: Range<Duration>,
    /// Chance that a read ends `Unavailable`.
    pub read_error_p: f64,
    /// Stores that commit together: `Sim::crash` forgets what was not yet durable.
    pub lose_unsynced: bool,
}

/// Shares of what an unknown outcome hides; any scale.
#[derive(Debug, Clone, Copy)]
pub struct Unknown {
    /// It happened, the answer was lost.
    pub happened: f64,
    /// The request was lost.
    pub did_not: f64,
    /// The request is still under way and is judged when it lands.
    pub later: f64,
}

impl Faults {
    /// Answers at once and never fails.
    pub fn none() -> Self {
        Self {
            latency: Duration::ZERO..Duration::ZERO,
            unknown_p: 0.0,
            unknown: Unknown { happened: 1.0, did_not: 1.0, later: 1.0 },
            late: Duration::from_millis(1)..Duration::from_secs(10),
            read_error_p: 0.0,
            lose_unsynced: false,
        }
    }

    /// True when every call can be answered at once.
    pub(super) fn immediate(&self) -> bool {
        self.latency.start.max(self.latency.end).is_zero() && self.unknown_p <= 0.0 && self.read_error_p <= 0.0
    }

    /// Throws the dice for a change.
    pub(super) fn plan(&self, rng: &mut StdRng) -> Plan {
        let there = delay(&self.latency, rng);
        let back = delay(&self.latency, rng);
        Plan { there, back, fate: self.fate(rng) }
    }

    fn fate(&self, rng: &mut StdRng) -> Fate {
        if !chance(self.unknown_p, rng) {
            return Fate::Answered;
        }
        let Unknown { happened, did_not, later } = self.unknown;
        let point = rng.random::<f64>() * (happened + did_not + later);
        if point < happened {
            Fate::AnswerLost
        } else if point < happened + did_not {
            Fate::RequestLost
        } else {
            Fate::Late(delay(&self.late, rng))
        }
    }

    /// Throws the dice for a read: its two ways, and whether it fails.
    pub(super) fn read_plan(&self, rng: &mut StdRng) -> (Duration, Duration, bool) {
        let there = delay(&self.latency, rng);
        (there, delay(&self.latency, rng), chance(self.read_error_p, rng))
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// What will become of one change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) there: Duration,
    pub(super) back: Duration,
    pub(super) fate: Fate,
}

/// See [`Unknown`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Answered,
    AnswerLost,
    RequestLost,
    Late(Duration),
}

fn chance(p: f64, rng: &mut StdRng) -> bool {
    p > 0.0 && rng.random_bool(p.min(1.0))
}

fn delay(range: &Range<Duration>, rng: &mut StdRng) -> Duration {
    if range.is_empty() { range.start } else { rng.random_range(range.clone()) }
}
