//! What was recalled is gone from the files of the embedded store after `purge`: a search of the directory
//! finds it before and not after. The marker is random letters, which the engine's compression leaves as
//! they are (the search before proves it).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

use std::path::Path;
use std::sync::Arc;

use everline::config::{Clock, Policy};
use everline::engine::{Answer, Caller, Command, Engine, Recipients};
use everline::hub::Hub;
use everline::protocol::{Body, ConvId, DeviceId, MsgId, Request, Send, SendTo, UserId};
use everline::store::embedded::{Embedded, Options};
use rand::Rng;
use rand::distr::Alphanumeric;

fn marker() -> String {
    rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect()
}

/// Files of the directory that hold the text.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

async fn ask(engine: &Engine, user: &str, request: Request) -> Answer {
    let caller = Caller { user: user.parse::<UserId>().unwrap(), device: "d".parse::<DeviceId>().unwrap() };
    engine.submit(&caller, request).await
}

fn body(text: &str) -> Body {
    Body::parse(&format!("{{\"text\":\"{text}\"}}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn recalled_and_erased_bodies_are_gone_from_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(dir.path(), Clock::system())).unwrap();
    let engine = Engine::new(Arc::clone(&store) as _, Arc::new(Hub::default()), Clock::system(), Policy::default(), 1);
    let conv: ConvId = "d:alice:bob".parse().unwrap();
    let texts = [marker(), marker(), marker(), marker()];
    let [recalled, edited, withdrawn, kept] = &texts;
    for (n, (user, text)) in [("alice", recalled), ("alice", kept), ("bob", withdrawn)].into_iter().enumerate() {
        let to = SendTo::Conv(conv.clone());
        // Not of the text: a repetition is what compression would take out of the middle of it.
        let client_msg_id = MsgId::parse(&format!("m{n}")).unwrap();
        let send = Send { to, client_msg_id, body: body(text), reply_to: None, mentions: Vec::new() };
        ask(&engine, user, Request::Send(send)).await.unwrap();
    }
    let edit = Request::Edit { conv_id: conv.clone(), target: 1, body: body(edited) };
    ask(&engine, "alice", edit).await.unwrap();
    // Into tables, so that not only the write-ahead file holds them.
    store.compact().unwrap();
    for text in &texts {
        let found = holding(dir.path(), text);
        assert!(found.iter().any(|path| path.contains("tables")), "the search must find it first: {found:?}");
    }

    let (told, later) = (marker(), marker());
    let notify = async |text: &str, key: &str| {
        let (topic, key) = (MsgId::parse("news").unwrap(), MsgId::parse(key).unwrap());
        let made = engine.notify(Recipients::Users(vec!["dora".parse().unwrap()]), topic, body(text), key).await;
        assert_eq!(made.unwrap().made, 1);
    };
    notify(&told, "1").await;
    store.compact().unwrap();
    assert!(!holding(dir.path(), &told).is_empty(), "the search must find it first");
    let dora: UserId = "dora".parse().unwrap();
    engine.erase(&dora, false).await.unwrap();
    // Who comes back under that name is told of what comes then, and of nothing before.
    notify(&later, "2").await;
    let head = engine.standing(&dora).await.unwrap();
    let page = engine.page(&dora, head.floor, 10, 1 << 20).await.unwrap();
    let shown = format!("{page:?}");
    assert!(shown.contains(&later) && !shown.contains("erased"), "{shown}");

    ask(&engine, "alice", Request::Recall { conv_id: conv.clone(), target: 1 }).await.unwrap();
    let bob: UserId = "bob".parse().unwrap();
    engine.command(&conv, Command::Withdraw { user: bob, targets: vec![1, 2, 3] }).await.unwrap();
    store.purge().unwrap();
    for text in [recalled, edited, withdrawn, &told] {
        assert_eq!(holding(dir.path(), text), Vec::<String>::new());
    }
    assert!(!holding(dir.path(), kept).is_empty());
    store.close().unwrap();
}
