//! Devices that do anything they may, in any order: none of them may miss or double an entry.
//!
//! The seed is printed when it fails; `EVERLINE_TEST_SEED=n` runs that one alone.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Client, House, seqs_of};

/// Entries a run makes in all.
const ENTRIES: u64 = 1200;

const WINDOW: u64 = 40;

/// One device: what it has applied, and its connection if it has one.
struct Device {
    name: String,
    epoch: Value,
    cursor: u64,
    seen: BTreeSet<u64>,
    client: Option<Client>,
    acked: u64,
    /// A `sync` request is not answered yet.
    waiting: bool,
}

impl Device {
    async fn connect(&mut self, house: &House) {
        let cursor = json!({"cursor":{"epoch":self.epoch,"seq":self.cursor}});
        let (mut client, welcome) = house.device("alice", &self.name, cursor).await;
        assert_eq!(welcome["sync"], "resumed");
        (client.seq, self.acked, self.waiting) = (self.cursor, self.cursor, false);
        self.client = Some(client);
    }

    async fn send(&mut self, frame: Value) {
        self.client.as_mut().unwrap().send(frame).await;
    }

    async fn ack(&mut self) {
        self.acked = self.cursor;
        self.send(json!({"type":"ack","seq":self.cursor})).await;
    }

    async fn sync(&mut self) {
        if !self.waiting {
            self.waiting = true;
            self.acked = self.cursor;
            self.send(json!({"type":"sync","id":"s","after_seq":self.cursor})).await;
        }
    }

    /// Takes in everything sent before the answer to a request made now.
    async fn receive(&mut self) {
        self.send(json!({"type":"devices","id":"barrier"})).await;
        loop {
            let frame = self.client.as_mut().unwrap().next().await;
            if frame["id"] == "barrier" {
                return;
            }
            self.apply(&frame).await;
        }
    }

    /// As the contract tells a client to.
    async fn apply(&mut self, frame: &Value) {
        let number = |name: &str| frame[name].as_u64().unwrap();
        assert_eq!(frame["type"], "sync", "{frame}");
        assert!(number("to_seq") <= self.acked + WINDOW, "{} got more than its window", self.name);
        if frame["id"] == "s" {
            self.waiting = false;
        }
        if number("from_seq") == self.cursor {
            for seq in seqs_of(frame) {
                assert!(self.seen.insert(seq), "{} got {seq} twice", self.name);
            }
            self.cursor = number("to_seq");
        } else if number("to_seq") > self.cursor {
            self.sync().await;
        }
    }

    async fn act(&mut self, house: &House, rng: &mut SmallRng) {
        if self.client.is_none() {
            return self.connect(house).await;
        }
        match rng.random_range(0..10) {
            0 => self.client = None,
            1 => self.sync().await,
            2..7 => self.receive().await,
            _ => self.ack().await,
        }
    }
}

async fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let house = House::with(|settings| {
        settings.policy.sync_max_entries = ENTRIES;
        settings.session.window_entries = WINDOW;
        settings.session.page_bytes = 1000;
    })
    .await;
    let (_, welcome) = house.device("alice", "probe", json!({})).await;
    let mut devices: Vec<Device> = (0..4)
        .map(|n| Device {
            name: format!("d{n}"),
            epoch: welcome["epoch"].clone(),
            cursor: 0,
            seen: BTreeSet::new(),
            client: None,
            acked: 0,
            waiting: false,
        })
        .collect();
    let mut made = 0;
    while made < ENTRIES {
        let burst = rng.random_range(1..=30).min(ENTRIES - made);
        house.post("bob", "alice", usize::try_from(burst).unwrap()).await;
        made += burst;
        for device in &mut devices {
            device.act(&house, &mut rng).await;
        }
    }
    for device in &mut devices {
        device.client = None;
        device.connect(&house).await;
        let mut client = device.client.take().unwrap();
        device.seen.extend(client.read_to(ENTRIES).await);
        assert_eq!(device.seen, (1..=ENTRIES).collect(), "{}", device.name);
    }
}

#[tokio::test]
async fn devices_that_come_go_and_ask_at_random_miss_nothing() {
    let one = std::env::var("EVERLINE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..6, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let ran = tokio::spawn(run(seed)).await;
        assert!(ran.is_ok(), "seed {seed}: run it alone with EVERLINE_TEST_SEED={seed}");
    }
}
