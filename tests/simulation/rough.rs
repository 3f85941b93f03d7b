//! The bus between the nodes, as bad as the seed wants it: hints are lost, late, doubled, overtake each
//! other; or all of them are lost for a while.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use everline::bus::{Bus, Hear, Note, Subject, Subscription};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How bad.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    pub lost_p: f64,
    pub late_p: f64,
    pub late_ms: u64,
    pub doubled_p: f64,
}

/// What became of hints.
pub type Told = Arc<dyn Fn(&'static str) + Send + Sync>;

/// See the module. The switch is shared by all nodes.
pub struct Rough {
    inner: Arc<dyn Bus>,
    dice: Mutex<StdRng>,
    hints: Arc<Mutex<Hints>>,
    told: Told,
}

impl fmt::Debug for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rough").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Rough {
    pub fn new(inner: Arc<dyn Bus>, seed: u64, hints: Arc<Mutex<Hints>>, told: Told) -> Self {
        Self { inner, dice: Mutex::new(StdRng::seed_from_u64(seed)), hints, told }
    }
}

impl Bus for Rough {
    fn node(&self) -> u64 {
        self.inner.node()
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn is_usable(&self) -> bool {
        self.inner.is_usable()
    }

    fn publish(&self, subject: &Subject, note: &Note) {
        let hints = *self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let (lost, doubled, late, ms) = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let late = dice.random_bool(hints.late_p);
            (
                dice.random_bool(hints.lost_p),
                dice.random_bool(hints.doubled_p),
                late,
                dice.random_range(0..=hints.late_ms),
            )
        };
        if lost {
            return (self.told)("hints lost");
        }
        (self.told)("hints");
        if doubled {
            (self.told)("hints doubled");
            self.inner.publish(subject, note);
        }
        if !late {
            return self.inner.publish(subject, note);
        }
        (self.told)("hints late");
        let (inner, subject, note) = (Arc::clone(&self.inner), subject.clone(), note.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            inner.publish(&subject, &note);
        });
    }

    fn subscribe(&self, subject: &Subject, hear: Hear) -> Subscription {
        self.inner.subscribe(subject, hear)
    }
}
