//! A timer finer than tokio's millisecond, for messages that are due at a time.
//!
//! In an open loop latency counts from when a message was due, so every microsecond the generator
//! wakes late would be charged to the server. One kernel timer (`timerfd`) each.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Wakes at a time; one at a time.
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Call inside a runtime.
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that may lie about their descriptor; OwnedFd does not"
    )]
    pub(crate) fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::with_interest(fd, Interest::READABLE)?))
    }

    /// Waits; dropping the future forgets the wait.
    pub(crate) async fn until(&self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: zero, it_value: timespec(left) };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut guard = self.0.readable().await?;
            let mut expirations = [0_u8; 8];
            match read(self.0.get_ref(), &mut expirations) {
                Ok(_) => return Ok(()),
                // An older wait's readiness.
                Err(Errno::WOULDBLOCK) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_at_its_time_also_after_a_forgotten_one() -> Result<()> {
        let timer = Timer::new()?;
        let begun = Instant::now();
        tokio::select! {
            biased;
            waited = timer.until(begun + Duration::from_millis(1)) => waited?,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        timer.until(begun + Duration::from_millis(40)).await?;
        assert!(begun.elapsed() >= Duration::from_millis(40));
        Ok(())
    }
}
