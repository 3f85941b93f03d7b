//! The devices of the users: the client library on each, coming and going, keeping what it holds.
//!
//! A device that goes keeps its state as of then and its outbox, and comes back with them, like an
//! application that is started again. Requests go through whatever device of the user is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use everline::client::{
    BoxError, Cache, Client, ConnectionState, Event, Events, Options, Preload, Saved, State, StopReason, Write,
};
use everline::protocol::{DeviceId, ResetReason, UserId, WS_PATH};
use futures::future::BoxFuture;
use tokio::sync::{Mutex as Gate, OnceCell};
use tokio::time::{sleep, timeout};

use super::plan::{Device, People};
use super::witness::Witness;
use crate::target::Door;

/// How long a device may take to be live, a restart of the server included.
pub(crate) const LIVE_DEADLINE: Duration = Duration::from_secs(120);

/// What happened, over all devices and files.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) entries: AtomicU64,
    pub(crate) resets_too_old: AtomicU64,
    pub(crate) resets_other: AtomicU64,
    pub(crate) reconciled: AtomicU64,
    /// Connections that became live.
    pub(crate) lives: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) recalls: AtomicU64,
    /// Recalls while at least one member's device was off-line.
    pub(crate) recalls_missed: AtomicU64,
    pub(crate) asked_again: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) steps: AtomicU64,
    /// After so many messages nothing more is asked for now; 0: no such moment.
    pub(crate) hold_at: AtomicU64,
    /// What must not have been, in words.
    pub(crate) faults: Mutex<Vec<String>>,
}

impl Counters {
    pub(crate) fn fault(&self, what: String) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Waits as long as the replay is held.
    pub(crate) async fn hold(&self) {
        while matches!(self.hold_at.load(Relaxed), at if at > 0 && at <= self.messages.load(Relaxed)) {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Everybody.
pub(crate) struct Town {
    pub(crate) door: Door,
    pub(crate) counters: Arc<Counters>,
    persons: HashMap<UserId, Person>,
}

/// A user and his devices.
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) slots: Vec<Slot>,
    arrived: OnceCell<()>,
}

/// One device, there or away.
pub(crate) struct Slot {
    pub(crate) id: DeviceId,
    pub(crate) kind: Device,
    pub(crate) preload: Preload,
    running: Gate<Option<Running>>,
    kept: Kept,
    pub(crate) witness: Arc<Mutex<Witness>>,
    /// The device has had to reconcile.
    pub(crate) resets: Arc<AtomicU64>,
}

enum Running {
    Library(Client),
    Raw(tokio::task::JoinHandle<()>),
}

/// A cache that is read when a device comes back; the state in it is put there when it goes.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Saved>>);

impl Kept {
    fn with<T>(&self, look: impl FnOnce(&mut Saved) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Cache for Kept {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        let saved = self.with(|saved| Saved { state: std::mem::take(&mut saved.state), outbox: saved.outbox.clone() });
        Box::pin(async { Ok(saved) })
    }

    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        if let Some(outbox) = write.outbox {
            self.with(|saved| saved.outbox.clone_from(outbox));
        }
        Box::pin(async { Ok(()) })
    }
}

impl Town {
    pub(crate) fn new(door: Door, people: &People) -> Result<Self> {
        let mut persons = HashMap::new();
        for (number, (user, devices)) in people.iter().enumerate() {
            persons.insert(user.clone(), Person::new(user, devices, number)?);
        }
        Ok(Self { door, counters: Arc::default(), persons })
    }

    pub(crate) fn person(&self, user: &UserId) -> Result<&Person> {
        self.persons.get(user).with_context(|| format!("{user} is in no plan"))
    }

    pub(crate) fn devices(&self) -> usize {
        self.persons.values().map(|person| person.slots.len()).sum()
    }

    /// Connects a user's first devices, once, and waits until they are live: what happens from here on
    /// must reach them.
    pub(crate) async fn arrive(&self, user: &UserId) -> Result<&Person> {
        let person = self.person(user)?;
        let arrive = || async {
            for device in 0..person.slots.len() {
                if person.slot(device)?.kind != Device::Late {
                    self.come(user, device).await?;
                    self.wait_live(user, device).await?;
                }
            }
            anyhow::Ok(())
        };
        person.arrived.get_or_try_init(arrive).await?;
        Ok(person)
    }

    /// Connects a device with what it kept. Nothing happens when it is there.
    pub(crate) async fn come(&self, user: &UserId, device: usize) -> Result<()> {
        let slot = self.person(user)?.slot(device)?;
        let mut running = slot.running.lock().await;
        if running.is_some() {
            return Ok(());
        }
        let token = self.door.token(user)?;
        *running = Some(if slot.kind == Device::Witness {
            let (door, device) = (self.door.clone(), slot.id.to_string());
            Running::Raw(tokio::spawn(Witness::follow(Arc::clone(&slot.witness), door, token, device)))
        } else {
            let url = format!("ws://{}{WS_PATH}", self.door.addr);
            let options = Options::new(url, token, slot.id.clone()).cache(slot.kept.clone()).preload(slot.preload);
            let (client, events) = Client::connect(options)?;
            let name = format!("user {user} device {}", slot.id);
            tokio::spawn(listen(events, Arc::clone(&self.counters), Arc::clone(&slot.resets), name));
            Running::Library(client)
        });
        Ok(())
    }

    /// The device goes, keeping what it holds. Nothing happens when it is away.
    pub(crate) async fn go(&self, user: &UserId, device: usize) -> Result<()> {
        let slot = self.person(user)?.slot(device)?;
        let mut running = slot.running.lock().await;
        match running.take() {
            None => {}
            Some(Running::Raw(task)) => task.abort(),
            Some(Running::Library(client)) => {
                let state = client.look(State::clone).await;
                let state = state.with_context(|| stopped(user, slot, &client))?;
                slot.kept.with(|saved| saved.state = state);
                let closed = timeout(LIVE_DEADLINE, client.close()).await;
                closed.with_context(|| format!("user {user} device {} does not close", slot.id))?;
            }
        }
        Ok(())
    }

    pub(crate) async fn wait_live(&self, user: &UserId, device: usize) -> Result<()> {
        let slot = self.person(user)?.slot(device)?;
        let what = || format!("user {user} device {} is not live after {LIVE_DEADLINE:?}", slot.id);
        if slot.kind == Device::Witness {
            let live = async {
                while !slot.witness.lock().unwrap_or_else(PoisonError::into_inner).is_live() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            return timeout(LIVE_DEADLINE, live).await.with_context(what);
        }
        let client = self.library(user, device).await?.with_context(|| format!("{} is away", slot.id))?;
        let live = timeout(LIVE_DEADLINE, client.wait_live()).await;
        let live = live.with_context(|| format!("{}: {:?}", what(), client.status()))?;
        ensure!(live, stopped(user, slot, &client));
        Ok(())
    }

    /// The client of a device that is there.
    pub(crate) async fn library(&self, user: &UserId, device: usize) -> Result<Option<Client>> {
        let running = self.person(user)?.slot(device)?.running.lock().await;
        Ok(match &*running {
            Some(Running::Library(client)) => Some(client.clone()),
            _ => None,
        })
    }

    /// Some client of the user; `turn` spreads requests over his devices. Brings his first device back
    /// when all are away.
    pub(crate) async fn any(&self, user: &UserId, turn: usize) -> Result<Client> {
        let person = self.arrive(user).await?;
        let count = person.slots.len();
        for device in (0..count).map(|step| (turn + step) % count) {
            if let Some(client) = self.library(user, device).await? {
                if let ConnectionState::Disconnected(Some(reason)) = client.status()
                    && reason != StopReason::Closed
                {
                    bail!(stopped(user, person.slot(device)?, &client));
                }
                return Ok(client);
            }
        }
        self.come(user, 0).await?;
        self.library(user, 0).await?.with_context(|| format!("{user} has no device"))
    }

    /// Devices of the user that are away now.
    pub(crate) async fn away(&self, user: &UserId) -> Result<usize> {
        let mut away = 0;
        for slot in &self.person(user)?.slots {
            away += usize::from(slot.kind != Device::Late && slot.running.lock().await.is_none());
        }
        Ok(away)
    }
}

impl Person {
    fn new(user: &UserId, devices: &[Device], number: usize) -> Result<Self> {
        let mut slots = Vec::with_capacity(devices.len());
        for (device, kind) in devices.iter().enumerate() {
            // Every other first device asks for nothing by itself: what it holds came by the stream.
            let follower = device == 0 && number.is_multiple_of(2);
            slots.push(Slot {
                id: DeviceId::parse(&format!("d{device}"))?,
                kind: *kind,
                preload: if follower { Preload::None } else { Preload::History(u32::MAX) },
                running: Gate::new(None),
                kept: Kept::default(),
                witness: Arc::default(),
                resets: Arc::default(),
            });
        }
        Ok(Self { user: user.clone(), slots, arrived: OnceCell::new() })
    }

    pub(crate) fn slot(&self, device: usize) -> Result<&Slot> {
        self.slots.get(device).with_context(|| format!("{} has no device {device}", self.user))
    }
}

fn stopped(user: &UserId, slot: &Slot, client: &Client) -> String {
    format!("user {user} device {} stopped for good: {:?}", slot.id, client.status())
}

/// Counts what a device tells; the stream it tells of must rise.
async fn listen(mut events: Events, counters: Arc<Counters>, resets: Arc<AtomicU64>, name: String) {
    let mut last = 0;
    while let Some(event) = events.next().await {
        match event {
            Event::Applied { entries, .. } => {
                counters.entries.fetch_add(u64::try_from(entries.len()).unwrap_or_default(), Relaxed);
                for entry in entries.iter() {
                    if entry.seq <= last {
                        counters.fault(format!("{name}: entry {} was applied after {last}", entry.seq));
                    }
                    last = entry.seq;
                }
            }
            Event::Reset(reason) => {
                last = 0;
                resets.fetch_add(1, Relaxed);
                let counter = match reason {
                    ResetReason::TooOld => &counters.resets_too_old,
                    ResetReason::EpochMismatch | ResetReason::Ahead => &counters.resets_other,
                };
                counter.fetch_add(1, Relaxed);
            }
            Event::Reconciled => {
                counters.reconciled.fetch_add(1, Relaxed);
            }
            Event::StateChanged(ConnectionState::Live) => {
                counters.lives.fetch_add(1, Relaxed);
            }
            Event::Sent { sent, .. } if sent.duplicate => {
                counters.duplicates.fetch_add(1, Relaxed);
            }
            Event::Failed { item, error } => {
                counters.fault(format!("{name}: message {} was given up: {error}", item.client_msg_id));
            }
            _ => {}
        }
    }
}
