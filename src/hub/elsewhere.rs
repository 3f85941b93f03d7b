//! Asking other nodes which devices of a user are connected there.
//!
//! A question goes out on the user's subject, which only nodes with a session of his hear; each answers on
//! the asker's own. Nothing is kept and nothing is certain: with a silent bus nobody answers, and the user
//! is taken for off-line elsewhere. How it can hurt: many questions are many notes, so callers bound them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Hub;
use crate::bus::{Note, Subject, Subscription};
use crate::protocol::{DeviceId, UserId};
use crate::timeline::codec::{Reader, put_number, put_text};

/// Kinds of [`Note::Other`] that are the hub's own.
pub(super) const ASK: u8 = 1;
const HERE: u8 = 2;
/// Answers are waited for so long; a node in the same place answers in about a millisecond.
const PATIENCE: Duration = Duration::from_millis(200);
/// Answers kept of one question.
const MOST_ANSWERS: usize = 64;

/// Questions under way.
#[derive(Default)]
pub(super) struct Questions {
    next: AtomicU64,
    open: Mutex<HashMap<u64, mpsc::Sender<Vec<DeviceId>>>>,
    answers: OnceLock<Subscription>,
}

impl Questions {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Vec<DeviceId>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its question out when dropped.
struct Asked<'a>(&'a Questions, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

impl Hub {
    /// Whether any device of the user is connected, to whichever node; a guess where nodes do not answer.
    pub async fn is_online(self: &Arc<Self>, user: &UserId) -> bool {
        self.has(user) || !self.ask(user, true).await.is_empty()
    }

    /// Devices of the user connected to other nodes, as far as these answer in time.
    pub async fn devices_elsewhere(self: &Arc<Self>, user: &UserId) -> Vec<DeviceId> {
        self.ask(user, false).await
    }

    async fn ask(self: &Arc<Self>, user: &UserId, first_will_do: bool) -> Vec<DeviceId> {
        if self.bus.is_alone() {
            return Vec::new();
        }
        let deadline = Instant::now() + PATIENCE;
        let answers = self.questions.answers.get_or_init(|| self.hear_answers());
        answers.stands().wait(PATIENCE).await;
        let number = self.questions.next.fetch_add(1, Ordering::Relaxed);
        let (tell, mut told) = mpsc::channel(MOST_ANSWERS);
        self.questions.open().insert(number, tell);
        let _asked = Asked(&self.questions, number);
        let mut payload = Vec::new();
        put_number(&mut payload, number);
        self.publish(user, &Note::Other { kind: ASK, payload: Bytes::from(payload) });
        let mut devices = Vec::new();
        while let Ok(Some(more)) = timeout_at(deadline, told.recv()).await {
            devices.extend(more);
            if first_will_do && !devices.is_empty() {
                break;
            }
        }
        devices
    }

    /// Another node asks for this user's devices here.
    pub(super) fn answer(&self, user: &UserId, asker: u64, payload: &[u8]) {
        let Some(number) = Reader::new(payload).number() else { return };
        let devices = self.devices_here(user);
        if devices.is_empty() {
            return;
        }
        let mut answer = Vec::new();
        put_number(&mut answer, number);
        devices.iter().for_each(|device| put_text(&mut answer, device));
        self.bus.publish(&Subject::Node(asker), &Note::Other { kind: HERE, payload: Bytes::from(answer) });
    }

    fn hear_answers(self: &Arc<Self>) -> Subscription {
        let hub = Arc::downgrade(self);
        let hear = move |_, note| {
            let (Some(hub), Note::Other { kind: HERE, payload }) = (hub.upgrade(), note) else { return };
            let Some((number, devices)) = read_answer(&payload) else { return };
            if let Some(tell) = hub.questions.open().get(&number) {
                // More answers than anybody has nodes are not waited for.
                let _ = tell.try_send(devices);
            }
        };
        self.bus.subscribe(&Subject::Node(self.bus.node()), Arc::new(hear))
    }
}

fn read_answer(payload: &[u8]) -> Option<(u64, Vec<DeviceId>)> {
    let mut read = Reader::new(payload);
    let number = read.number()?;
    let mut devices = Vec::new();
    while !read.rest().is_empty() {
        devices.push(DeviceId::parse(read.text()?).ok()?);
    }
    Some((number, devices))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bus::{Exchange, Identity};

    #[tokio::test(start_paused = true)]
    async fn a_device_at_another_node_is_found_until_it_leaves() {
        let exchange = Exchange::default();
        let join = |node| Arc::new(Hub::new(exchange.join(Identity { node, epoch: Arc::new(|| "e".to_owned()) })));
        let (here, there, third) = (join(1), join(2), join(3));
        let (bob, phone) = (UserId::parse("bob").unwrap(), DeviceId::parse("phone").unwrap());
        assert!(!here.is_online(&bob).await);
        let seat = there.register(&bob, &phone);
        let other = third.register(&bob, &DeviceId::parse("web").unwrap());
        assert!(here.is_online(&bob).await && there.is_online(&bob).await);
        let mut devices = here.devices_elsewhere(&bob).await;
        devices.sort();
        assert_eq!(devices, ["phone", "web"]);
        exchange.silence(true);
        assert!(!here.is_online(&bob).await, "nobody answers");
        exchange.silence(false);
        drop((seat, other));
        assert!(!here.is_online(&bob).await);
        assert!(here.questions.open().is_empty());
    }
}
