//! Three nodes on one store, real sockets at each, a real NATS server between them.

use std::sync::Arc;
use std::time::Duration;

use everline::bus::{self, Identity};
use everline::config::Clock;
use everline::engine::{Caller, Engine};
use everline::hub::Hub;
use everline::protocol::{ClientFrame, DeviceId, Envelope, Request, UserId};
use everline::server::{self, Parts, Server};
use everline::store::Store;
use everline::store::sim::{Faults, Moment, Sim, SimOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::{Client, House, NOW_MS, PATIENCE, settings};
use crate::nats::Nats;

/// Short, so that a silent bus is soon seen through; long against what a busy machine takes to answer.
const HEARTBEAT: Duration = Duration::from_secs(2);

struct Town {
    nats: Nats,
    store: Sim,
    clock: Clock,
    nodes: Vec<House>,
}

impl Town {
    async fn start() -> Self {
        let (nats, clock) = (Nats::start(), Clock::simulated(NOW_MS));
        let options = SimOptions { seed: 7, clock: clock.clone(), together: false, faults: Faults::none() };
        let mut town = Self { nats, store: Sim::new(options), clock, nodes: Vec::new() };
        for number in 1..=3 {
            let node = town.node(number).await;
            town.nodes.push(node);
        }
        town
    }

    async fn node(&self, number: u64) -> House {
        let mut settings = settings();
        settings.session.heartbeat = HEARTBEAT;
        let (store, clock) = (self.store.handle(), self.clock.clone());
        let of_store = store.clone();
        let identity = Identity { node: number, epoch: Arc::new(move || of_store.epoch()) };
        let bus = bus::nats::connect(&self.nats.url(), identity).await.unwrap();
        let verifier = server::verifier(&settings, clock.clone()).unwrap();
        let parts = Parts::assemble_on(bus, &settings, Arc::new(store.clone()), verifier, clock.clone()).await.unwrap();
        let engine = parts.engine.clone();
        let listener = server::bind("127.0.0.1:0").await.unwrap();
        let handle = Server::start(&settings, parts, listener).await.unwrap();
        House { handle, engine, store, clock }
    }
}

/// Says something to bob, and waits for `sent`.
async fn say(client: &mut Client, key: &str) -> Value {
    let sent = client.ask(json!({"type":"send","to":"bob","client_msg_id":key,"body":{"text":key}})).await;
    assert_eq!(sent["type"], "sent", "{sent}");
    sent
}

/// The next entry that is a message.
async fn hears(client: &mut Client, key: &str) {
    loop {
        let frame = client.next_of("sync").await;
        for entry in frame["entries"].as_array().unwrap() {
            if entry["op"] == "message" {
                assert_eq!(entry["client_msg_id"], key, "{frame}");
                return;
            }
        }
    }
}

/// Status and text of `/readyz`.
async fn ready(node: &House) -> String {
    let mut stream = TcpStream::connect(node.handle.addr()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().to_owned();
    format!("{status} {}", answer.rsplit("\r\n\r\n").next().unwrap().trim())
}

async fn until_ready(node: &House, says: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = ready(node).await;
        if said == says {
            return;
        }
        assert!(Instant::now() < deadline, "{said}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn devices_at_every_node_get_what_is_sent_at_one_also_while_the_bus_is_away() {
    let mut town = Town::start().await;
    let mut alice = town.nodes[0].live("alice", "phone").await;
    let mut bobs = Vec::new();
    for (node, device) in town.nodes.iter().zip(["phone", "tablet", "web"]) {
        bobs.push(node.live("bob", device).await);
    }
    for key in ["1", "2", "3"] {
        say(&mut alice, key).await;
        for bob in &mut bobs {
            hears(bob, key).await;
        }
    }
    until_ready(&town.nodes[1], "200 ready").await;
    town.nats.stop();
    for node in &town.nodes {
        until_ready(node, "503 bus unavailable").await;
    }
    for key in ["4", "5"] {
        // Served on; the heartbeats of the other nodes' sessions find it.
        say(&mut alice, key).await;
        for bob in &mut bobs {
            hears(bob, key).await;
        }
    }
    // A device that comes now is not kept waiting.
    let mut late = town.nodes[2].live("bob", "late").await;
    town.nats.go_on();
    for node in &town.nodes {
        until_ready(node, "200 ready").await;
    }
    for key in ["6", "7"] {
        say(&mut alice, key).await;
        for bob in bobs.iter_mut().chain([&mut late]) {
            hears(bob, key).await;
        }
    }
}

#[tokio::test]
async fn a_session_that_only_asks_notices_what_a_silent_bus_hides() {
    let mut town = Town::start().await;
    let mut alice = town.nodes[0].live("alice", "phone").await;
    let mut bob = town.nodes[1].live("bob", "phone").await;
    town.nats.stop();
    say(&mut alice, "1").await;
    // Answers flow all the time, so no heartbeat is due by silence.
    let deadline = Instant::now() + PATIENCE;
    while bob.seq == 0 {
        assert!(Instant::now() < deadline, "never noticed");
        let answer = bob.ask(json!({"type":"devices"})).await;
        assert_eq!(answer["type"], "devices", "{answer}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_device_has_one_socket_at_all_nodes_and_logs_out_of_all() {
    let town = Town::start().await;
    let mut older = town.nodes[0].live("alice", "phone").await;
    let mut tablet = town.nodes[0].live("alice", "tablet").await;
    let mut newer = town.nodes[1].live("alice", "phone").await;
    assert_eq!(older.rest().await.1, 4509);
    let answer = tablet.ask(json!({"type":"logout","device_id":"phone"})).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    newer.fails("revoked", 4504).await;
    let answer = tablet.ask(json!({"type":"devices"})).await;
    assert_eq!(answer["devices"].as_array().unwrap().len(), 1, "{answer}");
}

#[tokio::test]
async fn what_a_dead_node_left_undone_is_finished_by_the_others() {
    let town = Town::start().await;
    let mut alice = town.nodes[0].live("alice", "phone").await;
    let mut bob = town.nodes[1].live("bob", "phone").await;
    say(&mut alice, "1").await;
    hears(&mut bob, "1").await;
    // A node whose message is in the log, under a mark, when it dies: it has told nobody.
    let store = town.store.handle();
    let hub = Arc::new(Hub::default());
    let engine = Engine::new(Arc::new(store.clone()), hub, town.clock.clone(), settings().policy, 99);
    let hold = store.hold_next_commit(Moment::After);
    let caller = Caller { user: UserId::parse("alice").unwrap(), device: DeviceId::parse("other").unwrap() };
    let answer = engine.submit(&caller, request(json!({"to":"bob","client_msg_id":"2","body":{}})));
    hold.reached().await;
    drop((answer, store.crash()));
    // Its word runs out.
    town.clock.jump(11_000);
    hears(&mut bob, "2").await;
    assert!(town.store.marks().await.unwrap().iter().all(|mark| mark.node != 99), "the mark is gone");
    hears(&mut alice, "2").await;
    for node in &town.nodes {
        until_ready(node, "200 ready").await;
    }
}

fn request(mut send: Value) -> Request {
    send["type"] = json!("send");
    send["id"] = json!("1");
    match ClientFrame::parse(&send.to_string()) {
        Ok(ClientFrame::Request(Envelope { request, .. })) => request,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_far_behind_or_whose_word_is_not_heard_is_not_ready() {
    let town = Town::start().await;
    let mut alice = town.nodes[0].live("alice", "phone").await;
    say(&mut alice, "1").await;
    town.clock.jump(-90_000);
    until_ready(&town.nodes[0], "503 this machine's clock is over a minute behind").await;
    town.clock.jump(90_000);
    until_ready(&town.nodes[0], "200 ready").await;
    town.nodes[1].store.cut(true);
    until_ready(&town.nodes[1], "503 store unavailable").await;
    town.nodes[1].store.cut(false);
    until_ready(&town.nodes[1], "200 ready").await;
}

#[tokio::test]
async fn typing_presence_and_connected_devices_are_known_over_nodes() {
    let town = Town::start().await;
    let mut alice = town.nodes[0].live("alice", "phone").await;
    say(&mut alice, "1").await;
    let answer = alice.ask(json!({"type":"presence","users":["bob"]})).await;
    assert_eq!(answer["users"][0]["online"], false, "{answer}");
    let mut bob = town.nodes[1].live("bob", "phone").await;
    // The subscription of the watched may reach the bus a moment after the answer: asked again until told.
    let deadline = Instant::now() + PATIENCE;
    while alice.ask(json!({"type":"presence","users":["bob"]})).await["users"][0]["online"] == false {
        assert!(Instant::now() < deadline, "bob is not seen");
    }
    let devices = town.nodes[2].engine.devices_of(&UserId::parse("bob").unwrap()).await.unwrap();
    assert!(devices.iter().all(|device| device.connected), "{devices:?}");
    let mut ticks = tokio::time::interval(Duration::from_millis(1100));
    let typing = loop {
        tokio::select! {
            _ = ticks.tick() => {
                bob.send(json!({"type":"typing","conv_id":"d:alice:bob"})).await;
                // Heartbeats are short here.
                bob.send(json!({"type":"pong","seq":bob.seq})).await;
                alice.send(json!({"type":"pong","seq":alice.seq})).await;
            }
            frame = alice.next_of("typing") => break frame,
        }
    };
    assert_eq!(typing["user_id"], "bob");
    drop(bob);
    loop {
        tokio::select! {
            _ = ticks.tick() => alice.send(json!({"type":"pong","seq":alice.seq})).await,
            frame = alice.next_of("presence") => if frame["users"][0]["online"] == false {
                break;
            },
        }
    }
}
