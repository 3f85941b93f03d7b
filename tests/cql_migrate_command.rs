//! `everline migrate` as an operator calls it: killed in the middle, run again, and served.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code, reason = "a failed unwrap is a failed test")]

#[path = "commands_binary/harness.rs"]
mod harness;

mod cql_support;

use std::sync::Arc;

use everline::config::{Clock, Policy};
use everline::engine::{Caller, Engine};
use everline::hub::Hub;
use everline::protocol::{AnswerBody, Body, ConvId, DeviceId, MsgId, Request, Send, SendTo, UserId};
use everline::store::embedded::{self, Embedded};
use everline::store::{Store, TimelineId};
use harness::{Ended, Peer, Program, run, start, text};
use serde_json::json;

/// Messages of alice to bob. Each is a conditional round when it is copied, so this takes some seconds.
const MESSAGES: u64 = 600;
const CONVERSATION: &str = "d:alice:bob";

fn conversation() -> TimelineId {
    TimelineId::Conversation(ConvId::parse(CONVERSATION).unwrap())
}

/// A directory with the messages in it, closed; its epoch.
async fn filled(dir: &std::path::Path) -> String {
    let store = Embedded::open(embedded::Options::new(dir, Clock::system())).unwrap();
    let engine = Engine::new(store.clone(), Arc::new(Hub::default()), Clock::system(), Policy::default(), 1);
    let caller = Caller { user: UserId::parse("alice").unwrap(), device: DeviceId::parse("phone").unwrap() };
    for n in 1..=MESSAGES {
        let send = Send {
            to: SendTo::Conv(ConvId::parse(CONVERSATION).unwrap()),
            client_msg_id: MsgId::parse(&format!("m{n}")).unwrap(),
            body: Body::from_value(&json!({ "n": n })).unwrap(),
            reply_to: None,
            mentions: vec![],
        };
        let answer = engine.submit(&caller, Request::Send(send)).await.unwrap();
        assert!(matches!(answer, AnswerBody::Sent { conv_seq, .. } if conv_seq == n), "{answer:?}");
    }
    let epoch = store.epoch();
    let bob = TimelineId::User(UserId::parse("bob").unwrap());
    cql_support::until("all is delivered", async || store.head(&bob).await.unwrap().position.seq == MESSAGES).await;
    drop(engine);
    store.close().unwrap();
    epoch
}

fn verified(store: &str) -> serde_json::Value {
    let verified = run(&["verify", "--store", store, "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    serde_json::from_str(&verified.stdout).unwrap()
}

/// The number behind a name in what the command prints.
fn told(ended: &Ended, name: &str) -> u64 {
    let line = ended.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// Numbers of all entries that come, up to the frame that says `live`.
async fn until_live(peer: &mut Peer) -> Vec<u64> {
    let mut seqs = Vec::new();
    loop {
        let frame = peer.next().await;
        let entries = frame["entries"].as_array().into_iter().flatten();
        seqs.extend(entries.map(|entry| entry["seq"].as_u64().unwrap()));
        if frame["live"] == true {
            return seqs;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_goes_on_and_devices_resume_with_the_cursors_they_have() {
    let Some(keyspace) = cql_support::keyspace().await else { return };
    let to = format!("cql://{}/{}", keyspace.hosts.join(","), keyspace.keyspace);
    let tmp = tempfile::tempdir().unwrap();
    let epoch = filled(&tmp.path().join("data")).await;
    let from = format!("embedded:{}", text(&tmp.path().join("data")));
    let migrate = ["migrate", "--from", &from, "--to", &to];

    let mut first = start(&migrate);
    let target = cql_support::open(cql_support::options(&keyspace)).await;
    let copied = async || target.head(&conversation()).await.unwrap().position.seq;
    cql_support::until("some of it is copied", async || copied().await >= 20).await;
    assert!(first.try_wait().unwrap().is_none(), "it was done before it could be killed");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(copied().await < MESSAGES, "killed too late to prove anything");

    let second = run(&migrate);
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.stdout.contains(&format!("verified; keyspace {} has epoch {epoch}", keyspace.keyspace)));
    // The conversation's, alice's, bob's.
    assert_eq!((told(&second, "timelines"), told(&second, "entries")), (3, 3 * MESSAGES));
    assert!(second.stderr.contains(&format!("{}/{} entries, 3/3 timelines", 3 * MESSAGES, 3 * MESSAGES)));
    let third = run(&migrate);
    assert_eq!((third.code, told(&third, "found done")), (0, 3), "{third:?}");
    let (source, copy) = (verified(&from), verified(&to));
    for what in ["epoch", "entries", "conversations", "users"] {
        assert_eq!(source[what], copy[what], "{what}");
    }

    let server = Program::serve_store(&to);
    let token = run(&["token", "--jwt-secret", harness::SECRET, "--user", "bob"]);
    let cursor = json!({ "cursor": { "epoch": epoch, "seq": MESSAGES - 7 } });
    let (mut bob, welcome) = Peer::resume(&server.addr, token.stdout.trim(), cursor).await;
    assert_eq!((&welcome["sync"], &welcome["head_seq"]), (&"resumed".into(), &MESSAGES.into()), "{welcome}");
    assert_eq!(until_live(&mut bob).await, (MESSAGES - 6..=MESSAGES).collect::<Vec<_>>());
    bob.send(CONVERSATION, "after", "after").await;
    server.stop();
    let late = run(&migrate);
    let last = late.stderr.lines().last().unwrap();
    assert!(late.code == 1 && last.starts_with("everline: ") && last.contains("served meanwhile"), "{late:?}");
}
