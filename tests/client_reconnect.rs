//! Connections that end: which codes end a client, which token comes next, how long it waits.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod client_fake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client_fake::*;
use everline::client::*;
use everline::protocol::DeviceId;
use serde_json::json;
use tokio::time::Instant;

#[tokio::test]
async fn codes_that_say_so_end_a_client() {
    for code in [4500, 4501, 4503, 4504, 4506, 4509, 1003, 1009] {
        let (fake, cache) = (Fake::new().await, MemoryCache::default());
        let (client, mut events) = connect(&fake, &cache, Preload::None);
        fake.live().await.close(code).await;
        let expected = StopReason::Refused { code, reason: "why".into() };
        assert_eq!(until_stopped(&client).await, ConnectionState::Disconnected(Some(expected)));
        while within("the end of events", events.next()).await.is_some() {}
        assert!(client.state().await.is_none());
        let stopped = client.queue(Outgoing::new(bob(), body(1))).await;
        assert_eq!(stopped.unwrap_err(), SendError::Stopped);
    }
}

#[tokio::test]
async fn all_other_ends_are_followed_by_a_new_connection() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    for code in [4408, 4429, 4400, 1000, 1011] {
        let peer = fake.live().await;
        until_live(&client).await;
        peer.close(code).await;
    }
    // A frame that makes no sense could have held anything.
    let mut peer = fake.live().await;
    peer.send(json!({"type":"sync","from_seq":"x"})).await;
    // A socket that just ends.
    drop(fake.live().await);
    let _peer = fake.live().await;
    until_live(&client).await;
}

#[tokio::test]
async fn an_expired_token_is_replaced_by_the_provider() {
    let fake = Fake::new().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let provider: TokenProvider = Arc::new(move |renew| {
        log.lock().unwrap().push(renew);
        let number = log.lock().unwrap().len();
        Box::pin(async move { Ok(format!("t{number}")) })
    });
    let options = Options::new(&fake.url, Token::Provider(provider), DeviceId::parse("phone").unwrap()).seed(3);
    let (client, _events) = Client::connect(options).unwrap();
    let mut peer = fake.accept().await;
    assert_eq!(peer.hello["token"], "t1");
    peer.error(&json!({}), "token_expired", json!(null)).await;
    peer.close(4401).await;
    let mut peer = fake.accept().await;
    assert_eq!(peer.hello["token"], "t2");
    peer.send(welcome(&peer.hello.clone(), "fresh", 0)).await;
    peer.send(sync(0, 0, true, json!([]))).await;
    until_live(&client).await;
    peer.close(4408).await;
    assert_eq!(fake.accept().await.hello["token"], "t3");
    assert_eq!(*asked.lock().unwrap(), [false, true, false]);
}

#[tokio::test]
async fn an_expired_token_without_provider_ends_the_client() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    fake.accept().await.close(4401).await;
    let expected = ConnectionState::Disconnected(Some(StopReason::TokenExpired));
    assert_eq!(until_stopped(&client).await, expected);
}

#[tokio::test]
async fn a_cache_of_another_user_is_not_used() {
    let (fake, cache) = (Fake::new().await, MemoryCache::default());
    let (client, _events) = connect(&fake, &cache, Preload::None);
    let peer = fake.live().await;
    until_live(&client).await;
    peer.close(4408).await;
    let mut peer = fake.accept().await;
    let mut answer = welcome(&peer.hello, "resumed", 0);
    answer["user_id"] = json!("mallory");
    peer.send(answer).await;
    let expected = ConnectionState::Disconnected(Some(StopReason::OtherUser));
    assert_eq!(until_stopped(&client).await, expected);
}

/// A dial that fails and notes when it was tried.
fn dead(tries: &Arc<Mutex<Vec<Instant>>>) -> Dial {
    let tries = Arc::clone(tries);
    Arc::new(move |_| {
        tries.lock().unwrap().push(Instant::now());
        Box::pin(async { Err(std::io::Error::other("dead")) })
    })
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_their_bound_and_differ_between_clients() {
    let mut first_waits = Vec::new();
    for seed in 0..20 {
        let tries = Arc::new(Mutex::new(Vec::new()));
        let options = Options::new("ws://nowhere:1/v1/ws", "t", DeviceId::parse("phone").unwrap());
        let (client, _events) = Client::connect(options.seed(seed).dial(dead(&tries))).unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        client.close().await;
        let tries = tries.lock().unwrap().clone();
        let waits: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (attempt, wait) in waits.iter().enumerate() {
            let bound = Duration::from_millis((500_u64 << (attempt + 1).min(10)).min(20_000) + 2);
            assert!(*wait >= SHORTEST && *wait <= bound, "seed {seed} attempt {attempt}: {wait:?} of {bound:?}");
        }
        let late = &waits[6..];
        assert!(late.iter().any(|wait| *wait > Duration::from_secs(10)), "{late:?}");
        assert!(late.iter().max() > late.iter().min(), "no jitter");
        first_waits.push(waits[0]);
    }
    first_waits.sort();
    first_waits.dedup();
    assert!(first_waits.len() > 10, "{first_waits:?}");
}

/// A stream to a server that says hello and then nothing; the paused clock passes the heartbeats.
#[tokio::test(start_paused = true)]
async fn silence_is_not_live() {
    let (streams, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let dial: Dial = Arc::new(move |_| {
        let (near, far) = tokio::io::duplex(1 << 16);
        streams.send(far).unwrap();
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    });
    let options = Options::new("ws://nowhere:1/v1/ws", "t", DeviceId::parse("phone").unwrap()).seed(1).dial(dial);
    let (client, _events) = Client::connect(options).unwrap();
    let mut socket = upgrade(accepted.recv().await.unwrap()).await;
    use futures::{SinkExt, StreamExt};
    let hello = socket.next().await.unwrap().unwrap().into_text().unwrap();
    let hello = serde_json::from_str(&hello).unwrap();
    for frame in [welcome(&hello, "fresh", 0), sync(0, 0, true, json!([]))] {
        socket.send(frame.to_string().into()).await.unwrap();
    }
    assert!(client.wait_live().await);
    let since = Instant::now();
    let mut status = client.watch_status();
    status.wait_for(|status| *status != ConnectionState::Live).await.unwrap();
    assert_eq!(since.elapsed().as_secs(), 55, "two heartbeats and five seconds");
    assert_ne!(client.status(), ConnectionState::Live);
    accepted.recv().await.unwrap();
}
