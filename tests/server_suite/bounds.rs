//! Bounds: what is asked for is answered, however much there is of it, in frames that hold it; and nothing that
//! is rewritten whole grows with what people do to it.

use everline::conversation::rows;
use everline::engine::Caller;
use everline::protocol::{AnswerBody, ConvId, DeviceId, HistoryFrom, Request, UserId};
use everline::store::{Store, TimelineId};
use futures::future::join_all;
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

#[tokio::test]
async fn one_message_has_so_many_different_reactions_and_edits() {
    let house = House::start().await;
    let mut alice = house.live("alice", "phone").await;
    house.post("alice", "bob", 1).await;
    let react = |key: &str, add: bool| json!({"type":"react","conv_id":"d:alice:bob","target":1,"key":key,"add":add});
    for n in 0..64 {
        assert_eq!(alice.ask(react(&format!("k{n}"), true)).await["type"], "ok");
    }
    let answer = alice.ask(react("one more", true)).await;
    assert_eq!((&answer["code"], &answer["field"]), (&json!("invalid_field"), &json!("key")));
    assert_eq!(alice.ask(react("k5", true)).await["conv_seq"], 7, "one that is there: the first time's answer");
    let mut bob = house.live("bob", "phone").await;
    assert_eq!(bob.ask(react("k5", true)).await["type"], "ok", "with a key that is there");
    assert_eq!(alice.ask(react("k6", false)).await["type"], "ok");
    assert_eq!(alice.ask(react("one more", true)).await["type"], "ok", "one taken away makes room");

    let edit = |n: u64| json!({"type":"edit","conv_id":"d:alice:bob","target":1,"body":{"n":n}});
    for n in 1..=100 {
        assert_eq!(alice.ask(edit(n)).await["type"], "ok");
    }
    assert_eq!(alice.ask(edit(101)).await["code"], "too_late");
    let history = bob.ask(json!({"type":"history","conv_id":"d:alice:bob"})).await;
    assert_eq!(history["entries"][0]["body"]["n"], 100);
    let recall = json!({"type":"recall","conv_id":"d:alice:bob","target":1});
    assert_eq!(alice.ask(recall).await["type"], "ok", "all of them go with it");
}

/// Asks the engine for many users at once.
async fn all(house: &House, users: &[String], request: impl Fn() -> Request) {
    for users in users.chunks(500) {
        let answers = users.iter().map(|user| house.engine.submit(&caller(user), request()));
        for answer in join_all(answers).await {
            answer.unwrap();
        }
    }
}

fn caller(user: &str) -> Caller {
    Caller { user: UserId::parse(user).unwrap(), device: DeviceId::parse("none").unwrap() }
}

#[tokio::test]
async fn what_a_reaction_writes_does_not_grow_with_those_who_react() {
    const MANY: usize = 3000;
    let house = House::start().await;
    let users: Vec<String> = (0..MANY).map(|n| format!("member-{n:05}")).collect();
    let mut owner = house.live("owner", "phone").await;
    let conv = owner.ask(json!({"type":"create","members":["someone"],"op_id":"o"})).await["conv_id"].clone();
    for users in users.chunks(1000) {
        let answer = owner.ask(json!({"type":"invite","conv_id":conv,"users":users})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
    }
    let sent = owner.ask(json!({"type":"send","conv_id":conv,"client_msg_id":"m","body":{}})).await;
    let target = sent["conv_seq"].as_u64().unwrap();
    let conv_id = ConvId::parse(conv.as_str().unwrap()).unwrap();
    let react = |add| Request::React { conv_id: conv_id.clone(), target, key: "\u{1F44D}".to_owned(), add };
    all(&house, &users, || react(true)).await;
    let timeline = TimelineId::Conversation(conv_id.clone());
    let row = house.store.row(&timeline, &rows::target_key(target)).await.unwrap().unwrap();
    assert!(row.len() < 1024, "{} bytes rewritten by each of {MANY}", row.len());

    // Those named go, and one who was not named leaves the conversation.
    all(&house, &users[..100], || react(false)).await;
    let last = caller(&users[MANY - 1]);
    house.engine.submit(&last, Request::Leave { conv_id: conv_id.clone() }).await.unwrap();
    all(&house, &users[..10], || react(true)).await;
    let told = async |user: &str| {
        let request = Request::History { conv_id: conv_id.clone(), from: HistoryFrom::Before(target + 1), limit: 1 };
        let answer = house.engine.submit(&caller(user), request).await.unwrap();
        let AnswerBody::History { entries, .. } = answer else { panic!("{answer:?}") };
        let [reaction] = entries[0].reactions.as_slice() else { panic!("{entries:?}") };
        assert_eq!(reaction.users.len(), 20);
        (reaction.count, reaction.users[0].to_string())
    };
    assert_eq!(told(&users[2000]).await, (2910, users[2000].clone()), "the reader first, though one of many");
    assert_eq!(told("owner").await.0, 2910);
    assert_eq!(told(&users[MANY - 1]).await, (2900, users[MANY - 1].clone()), "as it was when he left");
}
