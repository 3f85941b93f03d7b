//! Messages on their way out: once, in order, over any number of connections.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod client_fake;

use client_fake::*;
use everline::client::*;
use everline::protocol::{DeviceId, ErrorCode, MsgId};
use futures::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

fn message(n: u64) -> Outgoing {
    Outgoing::new(bob(), body(n)).client_msg_id(MsgId::parse(&format!("m{n}")).unwrap())
}

#[tokio::test]
async fn a_message_is_sent_and_joined_with_its_answer() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let queued = client.queue(message(1)).await.unwrap();
    assert_eq!(cache.saved().outbox.len(), 1, "saved before anything else");
    let send = peer.expect("send").await;
    assert_eq!((&send["to"], &send["client_msg_id"], &send["body"]), (&json!("bob"), &json!("m1"), &json!({"n":1})));
    peer.sent(&send, 1).await;
    let sent = within("sent", queued.sent()).await.unwrap();
    assert_eq!((sent.conv_id, sent.conv_seq, sent.duplicate), (conv(), 1, false));
    assert!(cache.saved().outbox.is_empty());
    until(&mut events, "Sent", |event| matches!(event, Event::Sent { .. })).await;
}

#[tokio::test]
async fn the_own_entry_is_as_good_as_the_answer() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let queued = client.queue(message(1)).await.unwrap();
    let send = peer.expect("send").await;
    peer.send(sync(0, 1, true, json!([own(1)]))).await;
    assert_eq!(within("sent", queued.sent()).await.unwrap().conv_seq, 1);
    assert!(cache.saved().outbox.is_empty());
    // The answer that comes later harms nothing, and the next message goes.
    peer.sent(&send, 1).await;
    drop(client.queue(message(2)).await.unwrap());
    while peer.next().await["client_msg_id"] != "m2" {}
}

#[tokio::test]
async fn answers_that_come_behind_the_own_entry_do_not_touch_the_next_message() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    for n in 1..=3 {
        drop(client.queue(message(n)).await.unwrap());
    }
    for (n, answer) in (1..).zip(["sent", "unavailable"]) {
        let send = peer.expect("send").await;
        assert_eq!(send["client_msg_id"], format!("m{n}"));
        peer.send(sync(n - 1, n, true, json!([own(n)]))).await;
        let next = peer.expect("send").await;
        assert_eq!(next["client_msg_id"], format!("m{}", n + 1));
        match answer {
            "sent" => peer.sent(&send, n).await,
            code => peer.error(&send, code, json!(0)).await,
        }
        peer.send(json!({"type":"ping","head_seq":n})).await;
        loop {
            let frame = peer.next().await;
            assert_ne!(frame["type"], "send", "twice at once, behind {answer}");
            if frame["type"] == "pong" {
                break;
            }
        }
        peer.error(&next, "unavailable", json!(0)).await;
    }
    assert_eq!(peer.expect("send").await["client_msg_id"], "m3");
}

/// Found by the simulation (seed 7308): a hold that was over and belonged to nobody kept the loop from sleeping.
#[test]
fn a_late_error_does_not_keep_the_client_awake() {
    let (slept, sleeps) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let line = std::sync::Mutex::new(Some(ours));
            let dial: Dial = std::sync::Arc::new(move |_| {
                let stream = line.lock().unwrap().take().map(|line| Box::new(line) as Box<dyn Stream>);
                async move { stream.ok_or_else(|| std::io::ErrorKind::ConnectionRefused.into()) }.boxed()
            });
            let options = Options::new("ws://nowhere/v1/ws", "secret", DeviceId::parse("phone").unwrap()).seed(1);
            let (client, _events) = Client::connect(options.dial(dial)).unwrap();
            let mut socket = upgrade(theirs).await;
            let hello = text(&mut socket).await;
            for frame in [welcome(&hello, "fresh", 0), sync(0, 0, true, json!([]))] {
                socket.send(Frame::text(frame.to_string())).await.unwrap();
            }
            until_live(&client).await;
            drop(client.queue(message(1)).await.unwrap());
            let send = text(&mut socket).await;
            let error = json!({"type":"error","id":send["id"],"code":"unavailable","message":"","retryable":true,
                "retry_after_ms":5,"field":null});
            for frame in [sync(0, 1, true, json!([own(1)])), error] {
                socket.send(Frame::text(frame.to_string())).await.unwrap();
            }
            // The clock moves only when everything sleeps.
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            slept.send(()).unwrap();
        });
    });
    sleeps.recv_timeout(DEADLINE).unwrap();
}

async fn text(socket: &mut tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream>) -> Value {
    match socket.next().await {
        Some(Ok(Frame::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?} instead of a frame"),
    }
}

/// alice's own message as her timeline brings it.
fn own(n: u64) -> Value {
    let mut own = entry(n);
    own["sender_id"] = json!("alice");
    own["client_msg_id"] = json!(format!("m{n}"));
    own
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_in_order_with_its_key() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        waiting.push(client.queue(message(n)).await.unwrap());
    }
    assert_eq!(peer.expect("send").await["client_msg_id"], "m1");
    assert_eq!(peer.expect_nothing().await, 0, "a second one of the same conversation under way");
    peer.close(1012).await;
    let mut peer = fake.live().await;
    for n in 1..=3 {
        let send = peer.expect("send").await;
        assert_eq!(send["client_msg_id"], format!("m{n}"));
        peer.sent(&send, n).await;
    }
    assert_eq!(peer.expect("send").await["client_msg_id"], "m4");
    // Another process, the same cache.
    client.close().await;
    peer.expect_close().await;
    for (n, queued) in waiting.into_iter().enumerate() {
        let sent = within("a result", queued.sent()).await;
        assert_eq!(sent.is_ok(), n < 3, "{n}");
    }
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    for n in 4..=5 {
        let send = peer.expect("send").await;
        assert_eq!(send["client_msg_id"], format!("m{n}"));
        peer.sent(&send, n).await;
    }
    while !client.outbox().await.is_empty() {}
}

#[tokio::test]
async fn errors_that_pass_are_tried_again_and_none_overtakes() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let first = client.queue(message(1)).await.unwrap();
    let second = client.queue(message(2)).await.unwrap();
    for code in ["unavailable", "rate_limited", "overloaded"] {
        let send = peer.expect("send").await;
        assert_eq!(send["client_msg_id"], "m1");
        peer.error(&send, code, json!(1)).await;
    }
    for n in 1..=2 {
        let send = peer.expect("send").await;
        assert_eq!(send["client_msg_id"], format!("m{n}"));
        peer.sent(&send, n).await;
    }
    assert_eq!(within("sent", first.sent()).await.unwrap().conv_seq, 1);
    assert_eq!(within("sent", second.sent()).await.unwrap().conv_seq, 2);
}

#[tokio::test]
async fn errors_that_stay_are_told_and_the_next_message_goes() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let first = client.queue(message(1)).await.unwrap();
    assert_eq!(client.queue(message(1)).await.unwrap_err(), SendError::IdInUse);
    drop(client.queue(message(2)).await.unwrap());
    let send = peer.expect("send").await;
    peer.error(&send, "forbidden", json!(null)).await;
    let Err(SendError::Refused(error)) = within("an error", first.sent()).await else { panic!() };
    assert_eq!(error.code, ErrorCode::Forbidden);
    let failed = until(&mut events, "Failed", |event| matches!(event, Event::Failed { .. })).await;
    let Event::Failed { item, .. } = failed else { panic!() };
    assert_eq!(item.client_msg_id, "m1");
    assert_eq!(peer.expect("send").await["client_msg_id"], "m2");
    assert_eq!(cache.saved().outbox.len(), 1);
}

#[tokio::test]
async fn conversations_do_not_wait_for_each_other() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    drop(client.queue(message(1)).await.unwrap());
    // The same conversation under its other name waits, another does not.
    drop(client.queue(Outgoing::new(conv(), body(2)).client_msg_id(MsgId::parse("m2").unwrap())).await.unwrap());
    let carol = everline::protocol::UserId::parse("carol").unwrap();
    drop(client.queue(Outgoing::new(carol, body(3)).client_msg_id(MsgId::parse("m3").unwrap())).await.unwrap());
    assert_eq!(peer.expect("send").await["client_msg_id"], "m1");
    assert_eq!(peer.expect("send").await["client_msg_id"], "m3");
    assert_eq!(peer.expect_nothing().await, 0);
}

#[tokio::test]
async fn a_message_tried_longer_ago_than_the_server_remembers_is_not_sent_twice() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    drop(client.queue(message(1)).await.unwrap());
    peer.expect("send").await;
    client.close().await;
    peer.expect_close().await;
    let (_client, mut events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.accept().await;
    let mut answer = welcome(&peer.hello, "resumed", 0);
    answer["limits"]["dedupe_seconds"] = json!(0);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    peer.send(answer).await;
    let failed = until(&mut events, "Failed", |event| matches!(event, Event::Failed { .. })).await;
    assert!(matches!(failed, Event::Failed { error: SendError::OutcomeUnknown, .. }), "{failed:?}");
    assert!(cache.saved().outbox.is_empty());
}

#[tokio::test]
async fn requests_fail_when_the_connection_goes_and_messages_do_not() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let mut peer = fake.live().await;
    until_live(&client).await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.devices().await }
    });
    peer.expect("devices").await;
    peer.close(4408).await;
    assert_eq!(within("an error", asked).await.unwrap().unwrap_err(), RequestError::Disconnected);
    let queued = client.queue(message(1)).await.unwrap();
    let mut peer = fake.live().await;
    let send = peer.expect("send").await;
    peer.sent(&send, 1).await;
    within("sent", queued.sent()).await.unwrap();
}
