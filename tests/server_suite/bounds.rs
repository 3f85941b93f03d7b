//! What is asked for is answered, however much there is of it: no answer outgrows the frame it comes in.

use serde_json::{Value, json};

use crate::harness::{Client, House};

/// Asks page by page, `next` sent back as `param`, until there is none: the elements of `field`, page by page.
async fn pages(client: &mut Client, mut request: Value, param: &str, field: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    loop {
        let answer = client.ask(request.clone()).await;
        assert_eq!(answer["type"], request["type"], "{answer}");
        assert!(pages.len() < 1000, "no end in sight: {:?}", answer["next"]);
        pages.push(answer[field].as_array().unwrap().clone());
        match &answer["next"] {
            Value::Null => return pages,
            next => request[param] = next.clone(),
        }
    }
}

fn conv_seqs(pages: &[Vec<Value>]) -> Vec<u64> {
    let mut seqs: Vec<_> = pages.iter().flatten().map(|entry| entry["conv_seq"].as_u64().unwrap()).collect();
    seqs.sort_unstable();
    seqs
}

#[tokio::test]
async fn history_of_messages_that_have_grown_since_comes_in_several_pages() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    house.post("alice", "bob", 40).await;
    let body = json!({"text": "x".repeat(32_000)});
    for target in 1..=40 {
        let answer = alice.ask(json!({"type":"edit","conv_id":"d:alice:bob","target":target,"body":body})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
    }
    let mut bob = house.live("bob", "phone").await;
    let ask = json!({"type":"history","conv_id":"d:alice:bob","limit":200});
    let pages = pages(&mut bob, ask, "before", "entries").await;
    assert_eq!(conv_seqs(&pages), (1..=40).collect::<Vec<_>>());
    assert!(pages.iter().flatten().all(|message| message["body"] == body), "each as it stands now");
    let ask = json!({"type":"changes","conv_id":"d:alice:bob","since":0});
    let answer = bob.ask(ask).await;
    assert_eq!((&answer["type"], &answer["more"]), (&json!("changes"), &json!(true)));
}

#[tokio::test]
async fn a_list_of_conversations_with_much_to_tell_comes_in_several_pages() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    let title = "\u{1F600}".repeat(256);
    let mentions: Vec<String> = (0..50).map(|n| format!("{n:064}")).collect();
    for n in 0..250 {
        let create = json!({"type":"create","members":["bob"],"title":title,"op_id":format!("op{n}")});
        let conv = alice.ask(create).await["conv_id"].clone();
        let send = json!({"type":"send","conv_id":conv,"client_msg_id":"m","body":{},"mentions":mentions});
        assert_eq!(alice.ask(send).await["type"], "sent");
    }
    let mut bob = house.live("bob", "phone").await;
    let pages = pages(&mut bob, json!({"type":"conversations","limit":1000}), "page", "conversations").await;
    let mut names: Vec<&str> = pages.iter().flatten().map(|one| one["conv_id"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), pages.iter().flatten().count()), (250, 250), "each once");
}

/// After a clock that went back, entries have the time of the last one before, however many they are.
#[tokio::test]
async fn any_number_of_messages_of_one_moment_is_read_by_time_in_bounded_pages() {
    let house = House::start().await;
    house.clock.jump(3_600_000);
    house.post("alice", "bob", 1).await;
    house.clock.jump(-3_600_000);
    house.post("alice", "bob", 2100).await;
    let mut bob = house.live("bob", "phone").await;
    let ask = json!({"type":"history","conv_id":"d:alice:bob","after_at":0,"limit":10});
    let pages = pages(&mut bob, ask, "after_at", "entries").await;
    let seqs: Vec<_> = pages.iter().flatten().map(|entry| entry["conv_seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=2101).collect::<Vec<_>>(), "each once, in order");
    assert!(pages.iter().all(|page| page.len() <= 2000), "{:?}", pages.iter().map(Vec::len).collect::<Vec<_>>());
}

#[tokio::test]
async fn deleted_ranges_are_bounded_and_told_whole() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    for _ in 0..6 {
        house.post("bob", "alice", 4000).await;
    }
    // Every second message, 200 ranges a request.
    for first in (1..=20_000).step_by(400) {
        let ranges: Vec<_> = (first..first + 400).step_by(2).map(|n| [n, n]).collect();
        let answer = alice.ask(json!({"type":"delete","conv_id":"d:alice:bob","ranges":ranges})).await;
        assert_eq!(answer["type"], "ok", "{first}: {answer}");
    }
    let more = json!({"type":"delete","conv_id":"d:alice:bob","ranges":[[20_001, 20_001]]});
    let answer = alice.ask(more).await;
    assert_eq!((&answer["code"], &answer["field"]), (&json!("too_large"), &json!("ranges")));
    let answer = alice.ask(json!({"type":"changes","conv_id":"d:alice:bob","since":0})).await;
    assert_eq!(answer["deleted"].as_array().map(Vec::len), Some(10_000));
    // What joins ranges makes room.
    for (ranges, count) in [(json!([[1, 20_000]]), 1), (json!([[20_001, 20_001]]), 1), (json!([[20_005, 20_005]]), 2)] {
        let answer = alice.ask(json!({"type":"delete","conv_id":"d:alice:bob","ranges":ranges})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
        let answer = alice.ask(json!({"type":"changes","conv_id":"d:alice:bob","since":0})).await;
        assert_eq!(answer["deleted"].as_array().map(Vec::len), Some(count));
    }
}
