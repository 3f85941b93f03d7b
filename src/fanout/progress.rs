//! How far the fan-outs of a conversation have come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the deliveries of one commit that are still under way.
#[derive(Debug)]
pub struct Progress {
    open: AtomicUsize,
    done: Notify,
}

impl Progress {
    /// With one delivery open for the caller himself, so that it is not done before all are begun.
    pub fn begin() -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(1), done: Notify::new() })
    }

    /// Another delivery is under way.
    pub fn add(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// One delivery is durable.
    pub fn finish(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_waiters();
        }
    }

    /// Whether all are.
    pub fn is_done(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Waits until all are.
    pub async fn wait(&self) {
        loop {
            // Registered first, then looked at: a finish in between is not missed.
            let mut finished = std::pin::pin!(self.done.notified());
            finished.as_mut().enable();
            if self.is_done() {
                return;
            }
            finished.await;
        }
    }
}

/// Fan-outs of one conversation in conv_seq order; complete up to a number.
#[derive(Debug)]
pub struct Ledger {
    complete: u64,
    open: VecDeque<(u64, Arc<Progress>)>,
}

impl Ledger {
    /// Everything up to `complete` is with everybody it is addressed to (or is another's to bring).
    pub fn new(complete: u64) -> Self {
        Self { complete, open: VecDeque::new() }
    }

    /// Entries up to `up_to` are on their way.
    pub fn begin(&mut self, up_to: u64, progress: Arc<Progress>) {
        self.open.push_back((up_to, progress));
    }

    /// Fan-out is complete up to here.
    pub fn complete(&mut self) -> u64 {
        while let Some((up_to, progress)) = self.open.front() {
            if !progress.is_done() {
                break;
            }
            self.complete = self.complete.max(*up_to);
            self.open.pop_front();
        }
        self.complete
    }

    /// The newest fan-out still under way, if any. Not simply the last begun: that may be done before an
    /// older one, and whoever waited for it would come back at once, again and again.
    pub fn last_open(&mut self) -> Option<Arc<Progress>> {
        self.complete();
        self.open.iter().rev().find(|(_, progress)| !progress.is_done()).map(|(_, progress)| Arc::clone(progress))
    }

    /// With `most` or more fan-outs under way: the oldest, to be waited for.
    pub fn crowded(&mut self, most: usize) -> Option<Arc<Progress>> {
        self.complete();
        self.open.front().filter(|_| self.open.len() >= most).map(|(_, progress)| Arc::clone(progress))
    }

    /// Nothing is under way: entries up to `seq` are complete.
    pub fn skip_to(&mut self, seq: u64) {
        if self.open.is_empty() {
            self.complete = self.complete.max(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_out_of_order_is_not_waited_for() {
        let (older, newer) = (Progress::begin(), Progress::begin());
        let mut ledger = Ledger::new(0);
        ledger.begin(1, Arc::clone(&older));
        ledger.begin(2, Arc::clone(&newer));
        newer.finish();
        assert!(ledger.last_open().is_some_and(|open| !open.is_done()));
        assert_eq!(ledger.complete(), 0);
        older.finish();
        assert!(ledger.last_open().is_none());
        assert_eq!(ledger.complete(), 2);
    }
}
