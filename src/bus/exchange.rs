//! Buses without a network: the one of a node that is alone, and one for several nodes in a process.
//!
//! An [`Exchange`] hands notes over at once, on the publisher's thread, through the same bytes as NATS
//! would; a test makes it silent as a broken bus is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Bus, Hear, Identity, Note, Opened, Subject, Subscription};

/// The bus of a node that has no others beside it.
pub fn alone(node: u64) -> Arc<dyn Bus> {
    Arc::new(Alone(node))
}

#[derive(Debug)]
struct Alone(u64);

impl Bus for Alone {
    fn node(&self) -> u64 {
        self.0
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn is_usable(&self) -> bool {
        true
    }

    fn publish(&self, _subject: &Subject, _note: &Note) {}

    fn subscribe(&self, _subject: &Subject, _hear: Hear) -> Subscription {
        Subscription::standing(None)
    }
}

/// Joins nodes of one process.
#[derive(Debug, Clone, Default)]
pub struct Exchange(Arc<Shared>);

#[derive(Default)]
struct Shared {
    subjects: Mutex<HashMap<Subject, Vec<Listener>>>,
    next: AtomicU64,
    silent: AtomicBool,
}

struct Listener {
    number: u64,
    identity: Identity,
    hear: Hear,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("silent", &self.silent).finish_non_exhaustive()
    }
}

impl Shared {
    fn subjects(&self) -> MutexGuard<'_, HashMap<Subject, Vec<Listener>>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// A node's end of it.
    pub fn join(&self, identity: Identity) -> Arc<dyn Bus> {
        Arc::new(End { shared: Arc::clone(&self.0), identity })
    }

    /// From now on everything is lost (or not any more).
    pub fn silence(&self, on: bool) {
        self.0.silent.store(on, Ordering::Release);
    }
}

#[derive(Debug)]
struct End {
    shared: Arc<Shared>,
    identity: Identity,
}

impl Bus for End {
    fn node(&self) -> u64 {
        self.identity.node
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn is_usable(&self) -> bool {
        !self.shared.silent.load(Ordering::Acquire)
    }

    fn publish(&self, subject: &Subject, note: &Note) {
        if !self.is_usable() {
            return;
        }
        let bytes = self.identity.seal(note);
        // Nobody is called with the lock held: who hears may subscribe or publish.
        let mut heard = Vec::new();
        for listener in self.shared.subjects().get(subject).into_iter().flatten() {
            if let Opened::Note(node, note) = listener.identity.open(&bytes) {
                heard.push((Arc::clone(&listener.hear), node, note));
            }
        }
        heard.into_iter().for_each(|(hear, node, note)| hear(node, note));
    }

    fn subscribe(&self, subject: &Subject, hear: Hear) -> Subscription {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let listener = Listener { number, identity: self.identity.clone(), hear };
        self.shared.subjects().entry(subject.clone()).or_default().push(listener);
        let place = Place { shared: Arc::clone(&self.shared), subject: subject.clone(), number };
        Subscription::standing(Some(Box::new(place)))
    }
}

/// Takes a listener out when dropped.
struct Place {
    shared: Arc<Shared>,
    subject: Subject,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut subjects = self.shared.subjects();
        if let Some(listeners) = subjects.get_mut(&self.subject) {
            listeners.retain(|listener| listener.number != self.number);
            if listeners.is_empty() {
                subjects.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u64, epoch: &'static str) -> Identity {
        Identity { node, epoch: Arc::new(move || epoch.to_owned()) }
    }

    #[test]
    fn others_of_the_same_data_hear_a_note_until_they_leave() {
        let (exchange, heard) = (Exchange::default(), Arc::new(Mutex::new(Vec::new())));
        let ends = [identity(1, "a"), identity(2, "a"), identity(3, "b")].map(|who| exchange.join(who));
        let mut subscriptions = Vec::new();
        for end in &ends {
            let (heard, me) = (Arc::clone(&heard), end.node());
            let hear: Hear = Arc::new(move |from, _| {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push((from, me));
            });
            subscriptions.push(end.subscribe(&Subject::Nodes, hear));
        }
        let publish = |note| ends.first().map(|end| end.publish(&Subject::Nodes, &note));
        let taken = || std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        publish(Note::Moved { head: 1 });
        assert_eq!(taken(), [(1, 2)], "neither its own node nor one of another epoch");
        exchange.silence(true);
        publish(Note::Moved { head: 2 });
        assert!(taken().is_empty());
        exchange.silence(false);
        drop(subscriptions);
        publish(Note::Moved { head: 3 });
        assert!(taken().is_empty() && exchange.0.subjects().is_empty());
    }
}
