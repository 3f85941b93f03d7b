//! Typing and presence: on subscription only, among those who share a conversation, never kept.

use serde_json::{Value, json};

use crate::harness::{Client, House};

/// A group of alice, bob and carol.
async fn group(alice: &mut Client) -> String {
    let made = alice.ask(json!({"type":"create","members":["bob","carol"],"op_id":"1"})).await;
    assert_eq!(made["type"], "ok", "{made}");
    made["conv_id"].as_str().unwrap().to_owned()
}

/// Watches users; who of them is on-line.
async fn watch(client: &mut Client, users: &[&str]) -> Vec<(String, bool)> {
    let answer = client.ask(json!({"type":"presence","users":users})).await;
    assert_eq!(answer["type"], "presence", "{answer}");
    states(&answer)
}

fn states(frame: &Value) -> Vec<(String, bool)> {
    let state = |user: &Value| (user["user_id"].as_str().unwrap().to_owned(), user["online"].as_bool().unwrap());
    frame["users"].as_array().unwrap().iter().map(state).collect()
}

/// Everything this device is shown that was not asked for, up to what is on its way now.
async fn unasked(client: &mut Client) -> Vec<String> {
    let id = "barrier";
    client.send(json!({"type":"devices","id":id})).await;
    let mut types = Vec::new();
    loop {
        let frame = client.next().await;
        if frame["id"] == id {
            return types;
        }
        types.push(frame["type"].as_str().unwrap().to_owned());
    }
}

#[tokio::test]
async fn typing_reaches_those_who_watch_the_typist_and_are_in_the_conversation_and_nobody_else() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    let mut tablet = house.live("alice", "tablet").await;
    let mut bob = house.live("bob", "phone").await;
    let mut carol = house.live("carol", "phone").await;
    let mut dave = house.live("dave", "phone").await;
    let conv = group(&mut alice).await;
    house.post("alice", "dave", 1).await;
    assert_eq!(watch(&mut bob, &["alice", "nobody"]).await, [("alice".to_owned(), true), ("nobody".to_owned(), false)]);
    // Dave knows alice too, but is not in that conversation; the tablet is her own.
    assert_eq!(watch(&mut dave, &["alice"]).await, [("alice".to_owned(), true)]);
    watch(&mut tablet, &["alice"]).await;

    alice.send(json!({"type":"typing","conv_id":conv})).await;
    assert_eq!(bob.next_of("typing").await, json!({"type":"typing","conv_id":conv,"user_id":"alice"}));
    for other in [&mut tablet, &mut carol, &mut dave, &mut alice] {
        let heard = unasked(other).await;
        assert!(!heard.iter().any(|kind| kind == "typing"), "{heard:?}");
    }
    // Told once a second at most; in a conversation that is not hers, never.
    alice.send(json!({"type":"typing","conv_id":conv})).await;
    alice.send(json!({"type":"typing","conv_id":"d:bob:carol"})).await;
    unasked(&mut alice).await;
    assert!(!unasked(&mut bob).await.iter().any(|kind| kind == "typing"));
    // Nothing of it is in any log.
    let history = bob.ask(json!({"type":"history","conv_id":conv})).await;
    assert_eq!((&history["entries"], &history["head_seq"]), (&json!([]), &json!(1)));
}

#[tokio::test]
async fn presence_is_told_to_watchers_when_it_changes_and_to_no_stranger() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    let mut eve = house.live("eve", "phone").await;
    house.post("alice", "bob", 1).await;
    assert_eq!(watch(&mut alice, &["bob"]).await, [("bob".to_owned(), false)]);
    assert_eq!(watch(&mut eve, &["bob"]).await, [("bob".to_owned(), false)]);

    let bob = house.live("bob", "phone").await;
    assert_eq!(states(&alice.next_of("presence").await), [("bob".to_owned(), true)]);
    assert_eq!(watch(&mut eve, &["bob"]).await, [("bob".to_owned(), false)], "she shares no conversation with him");
    let tablet = house.live("bob", "tablet").await;
    drop(bob);
    drop(tablet);
    assert_eq!(states(&alice.next_of("presence").await), [("bob".to_owned(), false)]);
    let answer = alice.ask(json!({"type":"presence","users":["bob"]})).await;
    assert!(answer["users"][0]["last_seen_at"].is_u64(), "{answer}");
    assert!(!unasked(&mut eve).await.iter().any(|kind| kind == "presence"));

    // Another request watches others instead.
    watch(&mut alice, &["alice"]).await;
    let again = house.live("bob", "phone").await;
    house.post("bob", "alice", 1).await;
    let mut eyes = house.live("alice", "tablet").await;
    watch(&mut eyes, &["bob"]).await;
    drop(again);
    assert_eq!(states(&eyes.next_of("presence").await), [("bob".to_owned(), false)]);
    assert!(!unasked(&mut alice).await.iter().any(|kind| kind == "presence"));
}

#[tokio::test]
async fn a_watcher_who_does_not_read_loses_typing_and_nothing_else() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    let mut bob = house.live("bob", "phone").await;
    let convs: Vec<_> = (0..200).map(|n| json!({"type":"create","members":["bob"],"op_id":format!("{n}")})).collect();
    let mut names = Vec::new();
    for create in convs {
        names.push(alice.ask(create).await["conv_id"].as_str().unwrap().to_owned());
    }
    bob.read_to(200).await;
    watch(&mut bob, &["alice"]).await;
    for conv in &names {
        alice.send(json!({"type":"typing","conv_id":conv})).await;
    }
    unasked(&mut alice).await;
    house.post("alice", "bob", 300).await;
    // However much of the typing came: every entry is there, in order.
    assert_eq!(bob.read_to(500).await, (201..=500).collect::<Vec<_>>());
}
