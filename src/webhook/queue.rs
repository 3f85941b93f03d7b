//! The queue on disk: events in the order they were put in, and for each conversation which of them are its.
//!
//! An event is durable when [`Queue::put`] returns. Taking out is not synced: what a crash brings back is
//! delivered once more. All calls block; use them from a blocking task. The lines are in memory (some 16
//! bytes an event), bounded like the queue by its bytes: beyond, the oldest events are dropped.
//!
//! How it can hurt: a number must never go to two events, so the next one is above all that lie here.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::dropped;
use super::event::Event;
use crate::protocol::ConvId;

/// What an event costs beside its own bytes: its key, and its place in memory.
const OVERHEAD: u64 = 48;
/// Write buffer, cache and write-ahead files of the engine.
const BUFFER: u64 = 4 * 1024 * 1024;
const JOURNAL: u64 = 64 * 1024 * 1024;

/// What stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fill {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

pub(super) struct Queue {
    db: Database,
    events: Keyspace,
    max_bytes: u64,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    /// Number of the next event.
    next: u64,
    /// Nothing below it is left on disk.
    lowest: u64,
    fill: Fill,
    /// Of each conversation with events: their numbers and bytes, ascending.
    of: HashMap<ConvId, VecDeque<(u64, u32)>>,
}

impl Lines {
    fn push(&mut self, conversation: &ConvId, number: u64, size: u64) {
        self.next = self.next.max(number + 1);
        self.fill.events += 1;
        self.fill.bytes += size;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.of.entry(conversation.clone()).or_default().push_back((number, size));
    }

    /// Takes numbers up to `up_to` out of a line.
    fn pop(&mut self, conversation: &ConvId, up_to: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        let Some(line) = self.of.get_mut(conversation) else { return numbers };
        while let Some((number, size)) = line.front().copied().filter(|(number, _)| *number <= up_to) {
            line.pop_front();
            self.fill.events -= 1;
            self.fill.bytes -= u64::from(size);
            numbers.push(number);
        }
        if line.is_empty() {
            self.of.remove(conversation);
        }
        numbers
    }
}

impl Queue {
    /// Opens or makes the queue in this directory, which must be its own.
    pub(super) fn open(dir: &Path, max_bytes: u64) -> fjall::Result<Self> {
        let db = Database::builder(dir)
            .manual_journal_persist(true)
            .cache_size(BUFFER)
            .max_journaling_size(JOURNAL)
            .open()?;
        let events = db.keyspace("events", || KeyspaceCreateOptions::default().max_memtable_size(BUFFER))?;
        let mut lines = Lines { next: 1, ..Lines::default() };
        let mut damaged = Vec::new();
        for found in events.iter() {
            let (key, value) = found.into_inner()?;
            match (number_of(&key), Event::load(&value)) {
                (Some(number), Some(event)) => lines.push(&event.conversation, number, size_of(&value)),
                _ => damaged.push(key),
            }
        }
        if !damaged.is_empty() {
            dropped("damaged", damaged.len());
            tracing::error!(events = damaged.len(), "unreadable events in the webhook queue are dropped");
        }
        for key in damaged {
            events.remove(key)?;
        }
        Ok(Self { db, events, max_bytes, lines: Mutex::new(lines) })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing under the lock can panic half-way.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends events; they are durable when this returns. Tells how many old ones had to go for them.
    pub(super) fn put(&self, events: &[Event]) -> fjall::Result<usize> {
        // Only the taker puts, one call after the other: numbers given here are nobody else's.
        let first = self.lines().next;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        let mut sizes = Vec::with_capacity(events.len());
        for (number, event) in (first..).zip(events) {
            let value = event.store();
            sizes.push(size_of(&value));
            batch.insert(&self.events, number.to_be_bytes(), value);
        }
        self.lines().next = first + events.len() as u64;
        batch.commit()?;
        let mut lines = self.lines();
        for ((number, event), size) in (first..).zip(events).zip(sizes) {
            lines.push(&event.conversation, number, size);
        }
        drop(lines);
        self.drop_oldest(|fill, _| fill.bytes > self.max_bytes)
    }

    /// Drops events put in before `cutoff_ms`; tells how many.
    pub(super) fn drop_older(&self, cutoff_ms: u64) -> fjall::Result<usize> {
        self.drop_oldest(|_, event| event.is_none_or(|event| event.at < cutoff_ms))
    }

    /// Drops from the front as long as `go` says so (of an unreadable event too).
    fn drop_oldest(&self, go: impl Fn(Fill, Option<&Event>) -> bool) -> fjall::Result<usize> {
        let lowest = self.lines().lowest;
        let mut count = 0;
        for found in self.events.range(lowest.to_be_bytes()..) {
            let (key, value) = found.into_inner()?;
            let event = Event::load(&value);
            if !go(self.fill(), event.as_ref()) {
                break;
            }
            self.events.remove(key.clone())?;
            let mut lines = self.lines();
            if let (Some(number), Some(event)) = (number_of(&key), event) {
                lines.lowest = number;
                // What was delivered meanwhile is not dropped.
                count += lines.pop(&event.conversation, number).len();
            }
        }
        Ok(count)
    }

    /// Conversations with events.
    pub(super) fn conversations(&self) -> Vec<ConvId> {
        self.lines().of.keys().cloned().collect()
    }

    pub(super) fn has(&self, conversation: &ConvId) -> bool {
        self.lines().of.contains_key(conversation)
    }

    pub(super) fn fill(&self) -> Fill {
        self.lines().fill
    }

    /// The first events of a conversation, with their numbers.
    pub(super) fn peek(&self, conversation: &ConvId, limit: usize) -> fjall::Result<Vec<(u64, Event)>> {
        let numbers: Vec<u64> = match self.lines().of.get(conversation) {
            Some(line) => line.iter().take(limit).map(|(number, _)| *number).collect(),
            None => return Ok(Vec::new()),
        };
        let mut events = Vec::with_capacity(numbers.len());
        for number in numbers {
            // One that is missing was dropped this moment.
            if let Some(event) = self.events.get(number.to_be_bytes())?.and_then(|value| Event::load(&value)) {
                events.push((number, event));
            }
        }
        Ok(events)
    }

    /// Takes a conversation's events up to this number out.
    pub(super) fn remove(&self, conversation: &ConvId, up_to: u64) -> fjall::Result<()> {
        let numbers = self.lines().pop(conversation, up_to);
        let mut batch = self.db.batch();
        for number in numbers {
            batch.remove(&self.events, number.to_be_bytes());
        }
        batch.commit()
    }
}

fn number_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn size_of(value: &[u8]) -> u64 {
    value.len() as u64 + OVERHEAD
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::event::What;
    use super::*;

    fn event(conversation: &str, conv_seq: u64, at: u64) -> Event {
        Event { at, conversation: ConvId::parse(conversation).unwrap(), conv_seq, what: What::Sent }
    }

    fn seqs(queue: &Queue, conversation: &str) -> Vec<u64> {
        let found = queue.peek(&ConvId::parse(conversation).unwrap(), 100).unwrap();
        found.iter().map(|(_, event)| event.conv_seq).collect()
    }

    #[test]
    fn what_was_put_in_is_there_after_a_restart_in_order_until_it_is_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path(), u64::MAX).unwrap();
        queue.put(&[event("g:a", 1, 10), event("g:b", 1, 11), event("g:a", 2, 12)]).unwrap();
        queue.put(&[event("g:a", 3, 13)]).unwrap();
        drop(queue);
        let queue = Queue::open(dir.path(), u64::MAX).unwrap();
        assert_eq!((seqs(&queue, "g:a"), seqs(&queue, "g:b")), (vec![1, 2, 3], vec![1]));
        let a = ConvId::parse("g:a").unwrap();
        let second = queue.peek(&a, 2).unwrap()[1].0;
        queue.remove(&a, second).unwrap();
        assert_eq!((seqs(&queue, "g:a"), queue.fill().events), (vec![3], 2));
        queue.put(&[event("g:a", 4, 14)]).unwrap();
        drop(queue);
        let queue = Queue::open(dir.path(), u64::MAX).unwrap();
        assert_eq!((seqs(&queue, "g:a"), queue.conversations().len()), (vec![3, 4], 2));
    }

    #[test]
    fn the_oldest_go_when_bytes_or_age_say_so_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let one = size_of(&event("g:a", 1, 10).store());
        let queue = Queue::open(dir.path(), 4 * one).unwrap();
        for seq in 1..=3 {
            assert_eq!(
                queue.put(&[event("g:a", seq, seq), event("g:b", seq, seq)]).unwrap(),
                [0, 0, 2][seq as usize - 1]
            );
        }
        assert_eq!((seqs(&queue, "g:a"), seqs(&queue, "g:b")), (vec![2, 3], vec![2, 3]));
        assert_eq!(queue.fill().bytes, 4 * one);
        let a = ConvId::parse("g:a").unwrap();
        queue.remove(&a, queue.peek(&a, 1).unwrap()[0].0).unwrap();
        assert_eq!(queue.drop_older(3).unwrap(), 1, "that of b; the one of a was delivered");
        assert_eq!((seqs(&queue, "g:a"), seqs(&queue, "g:b")), (vec![3], vec![3]));
        assert_eq!(queue.drop_older(u64::MAX).unwrap(), 2);
        assert_eq!((queue.fill(), queue.conversations().len()), (Fill::default(), 0));
    }
}
