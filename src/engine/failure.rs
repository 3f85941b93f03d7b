//! What the engine cannot do anything about: damaged data, and a driver that panicked.
//!
//! Damage is answered `unavailable` by whoever meets it, and told to the operator once with its place: a
//! client that comes again and again must not fill the log. A panic in the task that drives a lane leaves
//! the lane taken for ever, which nobody would notice but those who wait; so it is noticed here.
//!
//! Must not log more than the place. How it can hurt: a bug of the driver that a client can trigger ends
//! the process for all; the alternative is a conversation that silently stands still.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::store::Error;

/// Places remembered; what comes beyond is told each time.
const PLACES: usize = 1024;

/// Remembers what damage was told.
#[derive(Debug, Default)]
pub(super) struct DamageLog(Mutex<HashSet<String>>);

impl DamageLog {
    /// Whether this is damage, which no later try will mend; the first time it is logged.
    pub(super) fn is_damage(&self, error: &Error) -> bool {
        let Error::Damaged(place) = error else { return false };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(place) {
            if told.len() < PLACES {
                told.insert(place.clone());
            }
            tracing::error!(%error, "what needs this is answered unavailable");
        }
        true
    }
}

/// Whether a driver has panicked.
#[derive(Debug, Default)]
pub(super) struct Broken(watch::Sender<bool>);

/// Notices a panic that passes through.
#[derive(Debug)]
pub(super) struct Watched(watch::Sender<bool>);

impl Broken {
    pub(super) fn watch(&self) -> Watched {
        Watched(self.0.clone())
    }

    /// Returns when it has.
    pub(super) async fn wait(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|broken| *broken).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the driver of a lane panicked");
            self.0.send_replace(true);
        }
    }
}
