//! What the engine refuses, as a client is told it: each row of the contract's table of errors that no other file
//! of this suite has.

use everline::store::sim::Moment;
use serde_json::{Value, json};

use crate::harness::{Client, House};

fn send(n: usize) -> Value {
    json!({"type":"send","id":format!("s{n}"),"to":"bob","client_msg_id":format!("m{n}"),"body":{"n":n}})
}

/// Answers until there are so many, by what they are about.
async fn answers(client: &mut Client, count: usize) -> Vec<(usize, Value)> {
    let mut found = Vec::new();
    while found.len() < count {
        let frame = client.next().await;
        if let Some(id) = frame["id"].as_str().and_then(|id| id.strip_prefix('s')) {
            found.push((id.parse().unwrap(), frame));
        }
    }
    found
}

#[tokio::test]
async fn beyond_what_a_lane_holds_is_overloaded_and_what_was_accepted_is_answered() {
    const HELD: usize = 4096;
    const BEYOND: usize = 50;
    let house = House::with(|settings| settings.session.requests_in_flight = 2 * HELD).await;
    let mut client = house.live("alice", "phone").await;
    let hold = house.store.hold_next_commit(Moment::Before);
    client.send(send(0)).await;
    hold.reached().await;
    // The first is being committed; behind it the lane fills.
    for n in 1..=HELD + BEYOND {
        client.send(send(n)).await;
    }
    let refused = answers(&mut client, BEYOND).await;
    for (n, answer) in &refused {
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("overloaded"), &json!(true)), "{answer}");
        assert!(answer["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{answer}");
        assert!(*n > HELD, "{n} was refused, though there was room");
    }
    hold.release();
    let sent = answers(&mut client, HELD + 1).await;
    assert!(sent.iter().all(|(n, answer)| *n <= HELD && answer["conv_seq"] == n + 1), "each once, in their order");
    let again = refused[0].0;
    client.send(send(again)).await;
    let answer = &answers(&mut client, 1).await[0].1;
    assert_eq!((&answer["conv_seq"], &answer["duplicate"]), (&json!(HELD + 2), &json!(false)), "{answer}");
}

#[tokio::test]
async fn recall_and_edit_after_their_time_are_too_late() {
    const DAY: i64 = 24 * 3_600_000;
    let house = House::start().await;
    let mut client = house.socket().await;
    let token = house.token_for("alice", None, std::time::Duration::from_secs(3 * 24 * 3600));
    assert_eq!(client.hello(&token, "phone", json!({})).await["type"], "welcome");
    assert_eq!(client.ask(send(1)).await["type"], "sent");
    let recall = json!({"type":"recall","conv_id":"d:alice:bob","target":1});
    let edit = json!({"type":"edit","conv_id":"d:alice:bob","target":1,"body":{}});
    house.clock.jump(DAY - 60_000);
    assert_eq!(client.ask(edit.clone()).await["type"], "ok", "before a day is over");
    house.clock.jump(61_000);
    for change in [&recall, &edit] {
        let answer = client.ask(change.clone()).await;
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("too_late"), &json!(false)), "{answer}");
    }
}

#[tokio::test]
async fn an_id_used_for_other_content_is_a_conflict_and_changes_of_what_is_recalled_are_gone() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    assert_eq!(client.ask(send(1)).await["type"], "sent");
    let mut other = send(1);
    other["body"] = json!({"n":2});
    assert_eq!(client.ask(other).await["code"], "idempotency_conflict");
    assert_eq!(client.ask(send(1)).await["duplicate"], true);
    let about = |kind: &str| json!({"type":kind,"conv_id":"d:alice:bob","target":1});
    let recalled = client.ask(about("recall")).await;
    assert_eq!(client.ask(about("recall")).await["conv_seq"], recalled["conv_seq"], "no change the second time");
    let (mut edit, mut react) = (about("edit"), about("react"));
    edit["body"] = json!({});
    (react["key"], react["add"]) = (json!("+1"), json!(true));
    for change in [edit, react] {
        assert_eq!(client.ask(change).await["code"], "gone");
    }
}

#[tokio::test]
async fn without_the_right_it_is_forbidden() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    let mut bob = house.live("bob", "phone").await;
    let conv = alice.ask(json!({"type":"create","members":["bob"],"op_id":"o"})).await["conv_id"].clone();
    let sent = alice.ask(json!({"type":"send","conv_id":conv,"client_msg_id":"m","body":{}})).await;
    let target = &sent["conv_seq"];
    for request in [
        json!({"type":"recall","conv_id":conv,"target":target}),
        json!({"type":"edit","conv_id":conv,"target":target,"body":{}}),
        json!({"type":"remove","conv_id":conv,"users":["alice"]}),
        json!({"type":"role","conv_id":conv,"user_id":"bob","role":"admin"}),
    ] {
        let answer = bob.ask(request.clone()).await;
        assert_eq!(answer["code"], "forbidden", "{request}");
    }
}

#[tokio::test]
async fn what_is_done_already_is_ok_and_changes_nothing() {
    let house = House::start().await;
    let mut client = house.live("alice", "phone").await;
    house.post("bob", "alice", 3).await;
    let read = |n: u64| json!({"type":"read","conv_id":"d:alice:bob","read_seq":n});
    let delete = json!({"type":"delete","conv_id":"d:alice:bob","ranges":[[1,1]]});
    let first = client.ask(read(2)).await["seq"].clone();
    assert_eq!(client.ask(read(1)).await["seq"], first, "read backwards");
    let deleted = client.ask(delete.clone()).await["seq"].clone();
    assert_ne!(deleted, first);
    assert_eq!(client.ask(delete).await["seq"], deleted, "deleted twice");
}
