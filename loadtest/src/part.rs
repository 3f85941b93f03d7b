//! What devices under load are told to do, and what they share with whoever conducts them.
//!
//! Counters are relaxed atomics: they are read for figures and for deciding that a drain is over, never
//! to order anything.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::stats::Latency;
use crate::tracker::Faults;

/// Where all devices of a run stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Connected, silent.
    Wait,
    /// Senders send.
    Run,
    /// Nothing new is sent; what is open is finished.
    Finish,
    /// Go.
    End,
}

/// What the devices of a run share with whoever conducts it.
pub(crate) struct Shared {
    /// Times in messages count from here.
    pub(crate) origin: Instant,
    /// Messages acknowledged, by sender.
    pub(crate) acked_by: Vec<AtomicU64>,
    /// Messages acknowledged.
    pub(crate) acked: AtomicU64,
    /// Messages received, each once per receiver.
    pub(crate) delivered: AtomicU64,
    /// Deliveries that the acknowledged messages must come to.
    pub(crate) expected: AtomicU64,
    /// Messages sent and not answered yet.
    pub(crate) open: AtomicU64,
    /// Latencies count for messages due in this stretch: microseconds from the origin.
    pub(crate) window: [AtomicU64; 2],
    /// From when a message was due to its `sent`.
    pub(crate) ack: Mutex<Latency>,
    /// From when a message was due to its entry at a receiver.
    pub(crate) delivery: Mutex<Latency>,
}

impl Shared {
    pub(crate) fn new(senders: usize) -> Self {
        Self {
            origin: Instant::now(),
            acked_by: (0..senders).map(|_| AtomicU64::new(0)).collect(),
            acked: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            open: AtomicU64::new(0),
            window: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            ack: Mutex::new(Latency::new()),
            delivery: Mutex::new(Latency::new()),
        }
    }

    /// Microseconds from the origin.
    pub(crate) fn now(&self) -> u64 {
        micros(self.origin.elapsed())
    }

    pub(crate) fn record(&self, into: &Mutex<Latency>, due: u64) {
        if due < self.window[0].load(Relaxed) || due >= self.window[1].load(Relaxed) {
            return;
        }
        let latency = Duration::from_micros(self.now().saturating_sub(due));
        if let Ok(mut histogram) = into.lock() {
            histogram.record(latency);
        }
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What one device does.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) user: String,
    /// Number of its connection.
    pub(crate) index: usize,
    pub(crate) sending: Option<Sending>,
    /// The senders whose every message must arrive here.
    pub(crate) follows: std::ops::Range<u32>,
    /// Come back when the connection breaks.
    pub(crate) reconnect: bool,
}

/// What a sender sends.
#[derive(Clone)]
pub(crate) struct Sending {
    /// Its number.
    pub(crate) sender: u32,
    /// Receivers of each message, the sender's own device among them.
    pub(crate) fan_out: u64,
    pub(crate) conv_id: String,
    /// The message body, JSON.
    pub(crate) body: Arc<str>,
    /// Messages unanswered at a time. With `every` it only bounds memory.
    pub(crate) outstanding: usize,
    /// Open loop: one message each such interval, begun at `offset`, whatever the answers.
    pub(crate) every: Option<Duration>,
    pub(crate) offset: Duration,
    /// At most so many messages.
    pub(crate) limit: Option<u64>,
}

/// What a device has seen when it is done.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) faults: Faults,
    /// Entries of a conversation whose conv_seq did not rise.
    pub(crate) unordered: u64,
    /// Frames that did not continue the cursor.
    pub(crate) gaps: u64,
    /// Numbers of the sync timeline without an entry, though nothing may be left out here.
    pub(crate) holes: u64,
    /// `sent` with `duplicate`.
    pub(crate) duplicates_answered: u64,
    /// Refusals that asked to try again.
    pub(crate) retried: u64,
    pub(crate) reconnects: u64,
    pub(crate) resets: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.unordered += other.unordered;
        self.gaps += other.gaps;
        self.holes += other.holes;
        self.duplicates_answered += other.duplicates_answered;
        self.retried += other.retried;
        self.reconnects += other.reconnects;
        self.resets += other.resets;
    }
}
