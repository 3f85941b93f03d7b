//! Token buckets of a device: messages, and everything else it asks for.
//!
//! A device keeps its buckets over reconnects: they live in [`Rates`], not in the session, and are
//! forgotten once they are full again. A session that never asks anything has none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::protocol::{DeviceId, UserId};

/// A burst may be so many times the rate.
const BURST: u32 = 3;
/// More refusals than so many bursts within [`COUNTED`] end the connection.
const FAR_BEYOND: u32 = 10;
/// Refusals are counted over so long.
const COUNTED: Duration = Duration::from_secs(1);
/// Look for forgotten devices when the table has doubled from this size.
const FIRST_SWEEP: usize = 1024;

/// Why a frame is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Try again after so long.
    Wait(Duration),
    /// So far beyond the rate that the connection ends.
    FarBeyond(Duration),
}

/// What a frame is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A `send`.
    Message,
    /// Any other request, and frames that cannot be read.
    Request,
}

/// A token bucket; also used per address by the server.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(rate: u32, now: Instant) -> Self {
        Self { tokens: burst(rate), at: now }
    }

    fn fill(&mut self, rate: u32, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * f64::from(rate)).min(burst(rate));
        self.at = now;
    }

    /// Takes one token, or tells how long until there is one. A rate of 0 is no limit.
    pub(crate) fn take(&mut self, rate: u32, now: Instant) -> Result<(), Duration> {
        if rate == 0 {
            return Ok(());
        }
        self.fill(rate, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / f64::from(rate)))
    }

    /// Whether forgetting it changes nothing.
    pub(crate) fn is_full(&self, rate: u32, now: Instant) -> bool {
        let mut later = self.clone();
        later.fill(rate, now);
        later.tokens >= burst(rate)
    }
}

fn burst(rate: u32) -> f64 {
    f64::from(rate.saturating_mul(BURST))
}

/// Both buckets of one device, and how often it was refused lately.
#[derive(Debug)]
pub(super) struct Buckets {
    messages: Bucket,
    requests: Bucket,
    refused: u32,
    since: Instant,
}

/// Rates allowed to each device, per second; 0 = off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    pub(super) messages: u32,
    pub(super) requests: u32,
}

impl Buckets {
    fn full(allowed: Allowed, now: Instant) -> Self {
        Self {
            messages: Bucket::full(allowed.messages, now),
            requests: Bucket::full(allowed.requests, now),
            refused: 0,
            since: now,
        }
    }

    fn take(&mut self, kind: Kind, allowed: Allowed, now: Instant) -> Result<(), Refused> {
        let (bucket, rate) = match kind {
            Kind::Message => (&mut self.messages, allowed.messages),
            Kind::Request => (&mut self.requests, allowed.requests),
        };
        let Err(wait) = bucket.take(rate, now) else { return Ok(()) };
        if now.saturating_duration_since(self.since) > COUNTED {
            (self.refused, self.since) = (0, now);
        }
        self.refused = self.refused.saturating_add(1);
        let bound = rate.saturating_mul(BURST).saturating_mul(FAR_BEYOND);
        Err(if self.refused > bound { Refused::FarBeyond(wait) } else { Refused::Wait(wait) })
    }

    fn is_full(&self, allowed: Allowed, now: Instant) -> bool {
        self.messages.is_full(allowed.messages, now) && self.requests.is_full(allowed.requests, now)
    }
}

/// The buckets of one device, shared by its sessions old and new.
pub(super) type Shared = Arc<Mutex<Buckets>>;

/// Buckets of all devices that asked for something lately.
#[derive(Debug)]
pub(super) struct Rates {
    allowed: Allowed,
    devices: DashMap<(UserId, DeviceId), Shared>,
    sweep_at: std::sync::atomic::AtomicUsize,
}

impl Rates {
    pub(super) fn new(allowed: Allowed) -> Self {
        Self { allowed, devices: DashMap::new(), sweep_at: FIRST_SWEEP.into() }
    }

    /// The buckets of a device.
    pub(super) fn of(&self, user: &UserId, device: &DeviceId, now: Instant) -> Shared {
        self.sweep(now);
        let entry = self.devices.entry((user.clone(), device.clone()));
        Arc::clone(&entry.or_insert_with(|| Arc::new(Mutex::new(Buckets::full(self.allowed, now)))))
    }

    /// Counts one frame.
    pub(super) fn take(&self, buckets: &Shared, kind: Kind, now: Instant) -> Result<(), Refused> {
        buckets.lock().unwrap_or_else(PoisonError::into_inner).take(kind, self.allowed, now)
    }

    /// Forgets devices that are neither here nor owe anything, whenever the table has doubled.
    fn sweep(&self, now: Instant) {
        use std::sync::atomic::Ordering::Relaxed;
        let bound = self.sweep_at.load(Relaxed);
        if self.devices.len() < bound || self.sweep_at.compare_exchange(bound, usize::MAX, Relaxed, Relaxed).is_err() {
            return;
        }
        self.devices.retain(|_, buckets| {
            let idle = buckets.lock().is_ok_and(|buckets| buckets.is_full(self.allowed, now));
            Arc::strong_count(buckets) > 1 || !idle
        });
        self.sweep_at.store((self.devices.len() * 2).max(FIRST_SWEEP), Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const ALLOWED: Allowed = Allowed { messages: 20, requests: 0 };

    fn device(n: usize) -> (UserId, DeviceId) {
        (UserId::parse("alice").expect("a user"), DeviceId::parse(&format!("d{n}")).expect("a device"))
    }

    #[test]
    fn a_burst_is_three_times_the_rate_and_fills_again() {
        let rates = Rates::new(ALLOWED);
        let (now, (user, phone)) = (Instant::now(), device(0));
        let buckets = rates.of(&user, &phone, now);
        let taken = (0..100).filter(|_| rates.take(&buckets, Kind::Message, now).is_ok()).count();
        assert_eq!(taken, 60);
        let Err(Refused::Wait(wait)) = rates.take(&buckets, Kind::Message, now) else { panic!("not refused") };
        assert!(wait <= Duration::from_millis(50), "{wait:?}");
        assert!(rates.take(&buckets, Kind::Message, now + wait).is_ok());
        let again = rates.of(&user, &phone, now + wait);
        assert!(rates.take(&again, Kind::Message, now + wait).is_err(), "a reconnect must not fill it");
        assert!((0..1000).all(|_| rates.take(&buckets, Kind::Request, now).is_ok()), "0 is off");
    }

    #[test]
    fn far_beyond_the_rate_ends_the_connection() {
        let rates = Rates::new(ALLOWED);
        let now = Instant::now();
        let (user, phone) = device(0);
        let buckets = rates.of(&user, &phone, now);
        let ended =
            (0..10_000).position(|_| matches!(rates.take(&buckets, Kind::Message, now), Err(Refused::FarBeyond(_))));
        assert_eq!(ended, Some(60 + 600));
        let mut patient = now;
        for _ in 0..2000 {
            patient += Duration::from_millis(2);
            assert!(
                !matches!(rates.take(&buckets, Kind::Message, patient), Err(Refused::FarBeyond(_)))
                    || patient < now + COUNTED
            );
        }
    }

    #[test]
    fn devices_that_owe_nothing_are_forgotten() {
        let rates = Rates::new(ALLOWED);
        let now = Instant::now();
        for n in 0..FIRST_SWEEP {
            let (user, phone) = device(n);
            let buckets = rates.of(&user, &phone, now);
            assert!(rates.take(&buckets, Kind::Message, now).is_ok());
        }
        let (user, phone) = device(FIRST_SWEEP);
        rates.of(&user, &phone, now + Duration::from_secs(4));
        assert_eq!(rates.devices.len(), 1);
    }
}
