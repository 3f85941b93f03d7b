//! Receivers that fail, send elsewhere, hang or never end; and who is told to be off-line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use everline::config::{Clock, Secret, Settings, TokenKey, WebhookSettings};
use everline::engine::{Caller, Engine};
use everline::protocol::{AnswerBody, Body, ConvId, DeviceId, MsgId, Request, Send, SendTo, UserId};
use everline::server::{self, Parts};
use everline::store::sim::{Faults, Sim, SimOptions};

use crate::receiver::{Manner, PATIENCE, Receiver, SECRET};

struct House {
    parts: Parts,
    receiver: Receiver,
    _dir: tempfile::TempDir,
}

impl House {
    async fn start() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let (receiver, dir) = (Receiver::start(), tempfile::tempdir().unwrap());
        let mut settings = Settings {
            token_key: Some(TokenKey::Secret(Secret::new("x"))),
            webhook: Some(WebhookSettings {
                url: Secret::new(receiver.url()),
                secret: Secret::new(SECRET),
                queue: dir.path().join("queue"),
                max_bytes: 1 << 20,
                max_age: Duration::from_secs(3600),
                patience: Duration::from_millis(500),
                first_pause: Duration::from_millis(20),
            }),
            ..Settings::default()
        };
        change(&mut settings);
        let clock = Clock::system();
        let options = SimOptions { seed: 7, clock: clock.clone(), together: true, faults: Faults::none() };
        let verifier = server::verifier(&settings, clock.clone()).unwrap();
        let parts = Parts::assemble(&settings, Arc::new(Sim::new(options)), verifier, clock, 1).await.unwrap();
        Self { parts, receiver, _dir: dir }
    }

    async fn send(&self, from: &str, conv: &str, id: &str) -> u64 {
        send(&self.parts.engine, from, conv, id).await
    }
}

async fn ask(engine: &Engine, who: &str, request: Request) -> AnswerBody {
    let caller = Caller { user: UserId::parse(who).unwrap(), device: DeviceId::parse("d").unwrap() };
    engine.submit(&caller, request).await.unwrap()
}

async fn send(engine: &Engine, from: &str, conv: &str, id: &str) -> u64 {
    mention(engine, from, conv, id, &[]).await
}

async fn mention(engine: &Engine, from: &str, conv: &str, id: &str, whom: &[&str]) -> u64 {
    let send = Send {
        to: SendTo::Conv(ConvId::parse(conv).unwrap()),
        client_msg_id: MsgId::parse(id).unwrap(),
        body: Body::parse(&format!("{{\"text\":\"{id}\"}}")).unwrap(),
        reply_to: None,
        mentions: whom.iter().map(|name| UserId::parse(name).unwrap()).collect(),
    };
    match ask(engine, from, Request::Send(send)).await {
        AnswerBody::Sent { conv_seq, .. } => conv_seq,
        other => panic!("{other:?}"),
    }
}

/// Alice's group with bob and carol.
async fn group(engine: &Engine) -> ConvId {
    let create = Request::Create {
        members: ["bob", "carol"].map(|name| UserId::parse(name).unwrap()).to_vec(),
        title: None,
        attributes: None,
        history: everline::protocol::HistoryMode::SinceJoin,
        op_id: MsgId::parse("op").unwrap(),
    };
    match ask(engine, "alice", create).await {
        AnswerBody::Ok { conv_id: Some(conv), .. } => conv,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bad_receiver_does_not_take_comes_again_and_no_sender_waits() {
    let house = House::start().await;
    let mut expected = 0;
    for manner in [Manner::Fails, Manner::Redirects, Manner::Hangs, Manner::Babbles] {
        house.receiver.behave(manner);
        let (began, requests) = (Instant::now(), house.receiver.heard().requests);
        for n in 0..20 {
            expected += 1;
            house.send("alice", "d:alice:bob", &format!("{manner:?}{n}")).await;
        }
        assert!(began.elapsed() < PATIENCE / 5, "a receiver that {manner:?} holds up senders");
        // It was asked, and asked again, while it was bad.
        let again = if manner == Manner::Babbles { 1 } else { 2 };
        house.receiver.until(|heard| heard.requests >= requests + again).await;
        house.receiver.behave(Manner::Good);
        house.receiver.until(|heard| heard.sent().get("d:alice:bob").map_or(0, Vec::len) == expected).await;
    }
    let heard = house.receiver.heard();
    assert_eq!((heard.forged, heard.astray), (0, 0));
    let seqs = heard.sent().remove("d:alice:bob").unwrap();
    assert_eq!(seqs, (1..=80).collect::<Vec<_>>());
    assert_eq!(heard.of("message.sent")[0]["message"]["body"]["text"], "Fails0");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_conversations_that_waited_for_a_dead_receiver_are_all_told() {
    let mut house = House::start().await;
    house.receiver.die();
    for n in 0..50 {
        house.send("alice", &format!("d:alice:u{n:02}"), "1").await;
    }
    house.receiver.rise();
    house.receiver.until(|heard| heard.sent().len() == 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_without_a_connected_device_are_told_as_off_line_with_their_unread() {
    let house = House::start().await;
    let conv = group(&house.parts.engine).await;
    let seat = house.parts.hub.register(&UserId::parse("bob").unwrap(), &DeviceId::parse("phone").unwrap());
    let mute = Request::Settings { conv_id: conv.clone(), muted: Some(true), pinned: None, hidden: None };
    ask(&house.parts.engine, "carol", mute).await;
    // `unread` is of the moment the event is made: one after the other.
    let mut seqs = Vec::new();
    for n in 1..=2 {
        seqs.push(house.send("alice", &conv, &n.to_string()).await);
        house.receiver.until(|heard| heard.sent().get(conv.as_str()).map_or(0, Vec::len) == n).await;
    }
    let (first, second) = (seqs[0], seqs[1]);
    let recall = Request::Recall { conv_id: conv.clone(), target: second };
    ask(&house.parts.engine, "alice", recall).await;
    drop(seat);
    let third = house.send("carol", &conv, "3").await;
    // Nobody is here now: alice and bob.
    house.receiver.until(|heard| heard.of("message.offline").len() == 4).await;
    let heard = house.receiver.heard();
    let mut told: Vec<_> = heard
        .of("message.offline")
        .iter()
        .map(|event| {
            (
                event["conv_seq"].as_u64().unwrap(),
                event["user_id"].as_str().unwrap().to_owned(),
                event["sender_id"].as_str().unwrap().to_owned(),
                event["unread"].as_u64().unwrap(),
                event["muted"].as_bool().unwrap(),
            )
        })
        .collect();
    told.sort();
    let one = |seq, user: &str, sender: &str, unread, muted| (seq, user.to_owned(), sender.to_owned(), unread, muted);
    assert_eq!(
        told,
        [
            one(first, "carol", "alice", 1, true),
            one(second, "carol", "alice", 2, true),
            one(third, "alice", "carol", 1, false),
            one(third, "bob", "carol", 2, false),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recalled_meanwhile_is_told_without_its_body() {
    let mut house = House::start().await;
    house.receiver.die();
    let seq = house.send("alice", "d:alice:bob", "secret").await;
    let recall = Request::Recall { conv_id: ConvId::parse("d:alice:bob").unwrap(), target: seq };
    ask(&house.parts.engine, "alice", recall).await;
    house.receiver.rise();
    house.receiver.until(|heard| !heard.of("message.sent").is_empty()).await;
    let message = house.receiver.heard().of("message.sent")[0]["message"].clone();
    assert_eq!((message["recalled"].as_bool(), message.get("body")), (Some(true), None), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_conversation_those_mentioned_are_told_with_all_they_have_not_seen() {
    let house = House::with(|settings| settings.policy.large_conversation_members = 2).await;
    let engine = &house.parts.engine;
    let conv = group(engine).await;
    for id in ["1", "2"] {
        send(engine, "alice", &conv, id).await;
    }
    let named = mention(engine, "alice", &conv, "3", &["bob", "alice"]).await;
    house.receiver.until(|heard| heard.sent().get(conv.as_str()).map_or(0, Vec::len) == 3).await;
    // Events of one conversation come in order: had others been told, they had been told by now.
    send(engine, "carol", &conv, "4").await;
    house.receiver.until(|heard| heard.sent().get(conv.as_str()).map_or(0, Vec::len) == 4).await;
    let heard = house.receiver.heard();
    let offline = heard.of("message.offline");
    let told: Vec<_> = offline.iter().map(|event| (&event["user_id"], &event["conv_seq"], &event["unread"])).collect();
    assert_eq!(told, [(&"bob".into(), &named.into(), &3.into())]);
}
