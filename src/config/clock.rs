//! Wall time from outside. One `Clock` is made at the start and handed to every room, so that a
//! simulation (tokio's paused clock, jumps) owns time. Never ask the system for the time elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970, from the system or, in tests, from tokio's clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System,
    /// `base_ms` at `start`, then as fast as tokio's clock, plus `jump_ms`.
    Tokio {
        base_ms: u64,
        start: Instant,
        jump_ms: AtomicI64,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(Source::System))
    }

    /// Begins at `base_ms` and follows tokio's clock (which tests may pause). Call inside a runtime.
    pub fn simulated(base_ms: u64) -> Self {
        Self(Arc::new(Source::Tokio { base_ms, start: Instant::now(), jump_ms: AtomicI64::new(0) }))
    }

    /// Now, milliseconds since 1970. May go backwards, as clocks do.
    pub fn now_ms(&self) -> u64 {
        match &*self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_millis()
                .try_into()
                .unwrap_or(u64::MAX),
            Source::Tokio { base_ms, start, jump_ms } => {
                let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                base_ms.saturating_add(elapsed).saturating_add_signed(jump_ms.load(Ordering::Relaxed))
            }
        }
    }

    /// Moves a simulated clock by `by_ms` (either way); the system's clock is not touched.
    pub fn jump(&self, by_ms: i64) {
        if let Source::Tokio { jump_ms, .. } = &*self.0 {
            jump_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}
