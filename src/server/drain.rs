//! The end: nobody new, everybody told, what was begun finished.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::House;
use crate::protocol::CloseCode;

/// Sessions are closed in at most so many steps.
const STEPS: usize = 100;

/// Stops accepting, closes sessions with 1012 spread over `spread`, waits at most `deadline` for what is
/// still under way. True when nothing was left.
pub(super) async fn drain(house: &House, spread: Duration, deadline: Duration) -> bool {
    house.stopping.cancel();
    let closers = house.hub.closers();
    tracing::info!(sessions = closers.len(), "draining");
    // Not all at once: their devices come back within seconds, to this server or to another.
    let chunk = closers.len().div_ceil(STEPS).max(1);
    let steps = closers.chunks(chunk);
    let pause = spread / u32::try_from(steps.len().max(1)).unwrap_or(u32::MAX);
    for (index, step) in steps.enumerate() {
        if index > 0 {
            sleep(pause).await;
        }
        for closer in step {
            closer.close(CloseCode::Restart);
        }
    }
    house.tracker.close();
    timeout(deadline, house.tracker.wait()).await.is_ok()
}
