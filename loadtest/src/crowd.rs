//! Many connections that do nothing but stay: opened together, held, dropped together.
//!
//! Each is a task that answers heartbeats. Used by `idle` and `storm`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::catchup::{Behind, catch_up};
use crate::target::{Door, progress};
use crate::wire::{Frame, Wire};

/// Connections that are open.
pub(crate) struct Crowd {
    tasks: JoinSet<()>,
    /// The devices with the cursors they hold now.
    pub(crate) devices: Vec<Behind>,
    /// From the start of connecting to live, each.
    pub(crate) took: Vec<Duration>,
    /// Sync entries received on the way to live.
    pub(crate) entries: u64,
}

struct Arrived {
    device: Behind,
    took: Duration,
    entries: u64,
}

impl Crowd {
    /// Connects all `devices`, `at_once` handshakes under way at a time; with `resume` each catches up
    /// from its cursor, without it each is fresh.
    pub(crate) async fn connect(door: &Door, devices: Vec<Behind>, resume: bool, at_once: usize) -> Result<Self> {
        let bar = progress(u64::try_from(devices.len())?, "connecting");
        let slots = Arc::new(Semaphore::new(at_once));
        let (arrivals, mut arrived) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        let count = devices.len();
        for (index, device) in devices.into_iter().enumerate() {
            let (door, slots, arrivals) = (door.clone(), Arc::clone(&slots), arrivals.clone());
            tasks.spawn(async move {
                let slot = slots.acquire_owned().await;
                let entered = enter(&door, index, device, resume).await;
                drop(slot);
                let (wire, arrival) =
                    entered.map(|(wire, arrival)| (Some(wire), Ok(arrival))).unwrap_or_else(|e| (None, Err(e)));
                let _ = arrivals.send(arrival).await;
                // Kept senders would keep the receiver waiting.
                drop(arrivals);
                if let Some(wire) = wire {
                    stay(wire).await;
                }
            });
        }
        drop(arrivals);
        let mut crowd = Self { tasks, devices: Vec::with_capacity(count), took: Vec::new(), entries: 0 };
        while let Some(arrival) = arrived.recv().await {
            let arrival = arrival.with_context(|| format!("after {} of {count} connections", crowd.devices.len()))?;
            crowd.devices.push(arrival.device);
            crowd.took.push(arrival.took);
            crowd.entries += arrival.entries;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(crowd)
    }

    /// Connections that ended though nobody ended them.
    pub(crate) fn gone(&mut self) -> usize {
        let mut gone = 0;
        while self.tasks.try_join_next().is_some() {
            gone += 1;
        }
        gone
    }

    /// Drops every connection without a word, as a failing network does; gives the devices back.
    pub(crate) async fn drop_all(mut self) -> Vec<Behind> {
        self.tasks.shutdown().await;
        self.devices
    }
}

async fn enter(door: &Door, index: usize, device: Behind, resume: bool) -> Result<(Wire, Arrived)> {
    let began = Instant::now();
    let token = door.token(&device.user)?;
    let mut wire = Wire::open(door.addr, index).await?;
    if resume {
        let caught = catch_up(&mut wire, &token, &device).await;
        let caught = caught.with_context(|| format!("user {}", device.user))?;
        let device = Behind { seq: caught.cursor, ..device };
        let (took, entries) = (began.elapsed(), caught.entries);
        return Ok((wire, Arrived { device, took, entries }));
    }
    let welcome = wire.hello(&token, "behind", None).await?;
    let device = Behind { epoch: welcome.epoch, seq: welcome.head_seq, ..device };
    Ok((wire, Arrived { device, took: began.elapsed(), entries: 0 }))
}

/// Answers heartbeats until the connection ends.
async fn stay(mut wire: Wire) {
    while let Ok(text) = wire.next().await {
        let Ok(frame) = Frame::scan(&text) else {
            return;
        };
        if frame.kind != "ping" {
            continue;
        }
        let pong = format!(r#"{{"type":"pong","seq":{}}}"#, frame.head_seq);
        if wire.feed(pong).await.is_err() || wire.flush().await.is_err() {
            return;
        }
    }
}

/// Devices that have never connected.
pub(crate) fn newcomers(count: usize) -> Vec<Behind> {
    let user = |index| format!("idle{index:06}");
    (0..count).map(|index| Behind { user: user(index), epoch: String::new(), seq: 0 }).collect()
}
