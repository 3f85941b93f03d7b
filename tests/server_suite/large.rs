//! Large conversations and notifications to everybody: `heads`, catching up, what one's own timeline says.

use everline::engine::Recipients;
use everline::protocol::{Body, MsgId};
use serde_json::{Value, json};

use crate::harness::{Client, House};

/// A house in which three members are many.
async fn house() -> House {
    House::with(|settings| settings.policy.large_conversation_members = 2).await
}

/// A group of alice, bob and carol, large from its second entry on.
async fn town(alice: &mut Client) -> String {
    let made = alice.ask(json!({"type":"create","members":["bob","carol"],"title":"town","op_id":"t"})).await;
    made["conv_id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

async fn say(client: &mut Client, conv: &str, text: &str) -> u64 {
    let request = json!({"type":"send","conv_id":conv,"client_msg_id":text,"body":{"text":text}});
    let sent = client.ask(request).await;
    sent["conv_seq"].as_u64().unwrap_or_else(|| panic!("{sent}"))
}

/// What a device holds of one large conversation by `heads` alone.
struct Log {
    conv: String,
    held: u64,
    entries: Vec<Value>,
}

impl Log {
    fn behind(conv: &str, held: u64) -> Self {
        Self { conv: conv.to_owned(), held, entries: Vec::new() }
    }

    /// Reads `heads` until the conversation stands at `head`; every one must continue what is held.
    async fn read_to(&mut self, client: &mut Client, head: u64) {
        while self.held < head {
            let frame = client.next_of("heads").await;
            for item in frame["conversations"].as_array().unwrap() {
                if item["conv_id"] == self.conv {
                    self.take(client, item).await;
                }
            }
        }
        assert_eq!(self.held, head);
    }

    /// Entries that continue what is held; or the head only, as at the crossing, where others may have
    /// sent before this session had followed: then they are asked for.
    async fn take(&mut self, client: &mut Client, item: &Value) {
        let mut entries = item["entries"].clone();
        if entries.is_null() {
            let request = json!({"type":"history","conv_id":self.conv,"after":self.held,"limit":200});
            entries = client.ask(request).await["entries"].clone();
        } else {
            assert_eq!(item["from_seq"], self.held, "{item}");
        }
        let new = |entry: &&Value| entry["conv_seq"].as_u64().unwrap() <= item["head_seq"].as_u64().unwrap();
        self.held = item["head_seq"].as_u64().unwrap();
        self.entries.extend(entries.as_array().unwrap().iter().filter(new).cloned());
    }

    fn texts(&self) -> Vec<&str> {
        self.entries.iter().filter_map(|entry| entry["body"]["text"].as_str()).collect()
    }
}

/// Reads sync frames until one holds an entry of this op.
async fn entry(client: &mut Client, op: &str) -> Value {
    loop {
        let frame = client.next_of("sync").await;
        if let Some(entry) = frame["entries"].as_array().unwrap().iter().find(|entry| entry["op"] == op) {
            return entry.clone();
        }
    }
}

#[tokio::test]
async fn everybody_on_line_has_everything_once_and_in_order() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let mut others = [house.live("bob", "phone").await, house.live("carol", "phone").await];
    let conv = town(&mut alice).await;
    for other in &mut others {
        // Its own timeline says that it is large; that is the last it says of it.
        let frame = other.next_of("sync").await;
        let ops: Vec<_> = frame["entries"].as_array().unwrap().iter().map(|entry| &entry["change"]).collect();
        assert_eq!(ops, ["created", "large"], "{frame}");
    }
    let texts: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
    for text in &texts {
        say(&mut alice, &conv, text).await;
    }
    for other in &mut others {
        let mut log = Log::behind(&conv, 2);
        log.read_to(other, 102).await;
        assert_eq!(log.texts(), texts);
        assert_eq!(other.seq, 2, "nothing more in his own timeline");
    }
}

#[tokio::test]
async fn a_device_that_was_off_line_learns_at_once_what_has_moved() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let conv = town(&mut alice).await;
    let (bob, welcome) = house.device("bob", "phone", json!({})).await;
    drop(bob);
    for n in 0..5 {
        say(&mut alice, &conv, &format!("m{n}")).await;
    }
    let cursor = json!({"epoch":welcome["epoch"],"seq":welcome["head_seq"]});
    let back = async |held: Value| {
        let (mut bob, _) = house.device("bob", "phone", json!({"cursor":cursor,"conversations":held})).await;
        bob.seq = 2;
        let frame = bob.next_of("heads").await;
        let item = frame["conversations"].as_array().unwrap().first().unwrap().clone();
        assert_eq!((&item["conv_id"], &item["head_seq"]), (&json!(conv), &json!(7)), "{frame}");
        (bob, item)
    };
    // Alice's own session keeps the newest texts here, so what he lacks comes along.
    let (_, item) = back(json!({conv.clone(): 4})).await;
    let seqs: Vec<_> = item["entries"].as_array().unwrap().iter().map(|entry| &entry["conv_seq"]).collect();
    assert_eq!((&item["from_seq"], seqs), (&json!(4), vec![&json!(5), &json!(6), &json!(7)]), "{item}");
    // Of what he does not name he is told the head only.
    let (mut bob, item) = back(json!({})).await;
    assert_eq!((&item["from_seq"], &item["entries"]), (&Value::Null, &Value::Null), "{item}");
    let history = bob.ask(json!({"type":"history","conv_id":conv,"after":2})).await;
    assert_eq!(history["entries"].as_array().unwrap().len(), 5, "{history}");
    let list = bob.ask(json!({"type":"conversations"})).await;
    let line = &list["conversations"][0];
    let told = (&line["large"], &line["unread"], &line["head_seq"], &line["members_count"]);
    assert_eq!(told, (&json!(true), &json!(5), &json!(7), &json!(3)), "{line}");
    // Who lacks nothing is told nothing: the next word is of what comes then.
    let (mut bob, _) = house.device("bob", "phone", json!({"cursor":cursor,"conversations":{conv.clone():7}})).await;
    bob.seq = 2;
    say(&mut alice, &conv, "m5").await;
    let mut log = Log::behind(&conv, 7);
    log.read_to(&mut bob, 8).await;
    assert_eq!(log.texts(), ["m5"]);
}

#[tokio::test]
async fn what_one_device_deleted_no_other_is_given() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let conv = town(&mut alice).await;
    let (bob, welcome) = house.device("bob", "phone", json!({})).await;
    drop(bob);
    for n in 0..3 {
        say(&mut alice, &conv, &format!("m{n}")).await;
    }
    let mut laptop = house.live("bob", "laptop").await;
    let deleted = laptop.ask(json!({"type":"delete","conv_id":conv,"ranges":[[4,4]]})).await;
    assert_eq!(deleted["type"], "ok", "{deleted}");
    let cursor = json!({"epoch":welcome["epoch"],"seq":welcome["head_seq"]});
    let back = async |held: u64| {
        let held = json!({"cursor":cursor,"conversations":{conv.clone():held}});
        let (mut phone, _) = house.device("bob", "phone", held).await;
        phone.seq = 2;
        phone.next_of("heads").await["conversations"][0].clone()
    };
    assert_eq!(back(3).await, json!({"conv_id":conv,"head_seq":5}));
    let item = back(4).await;
    assert_eq!((&item["from_seq"], &item["entries"][0]["conv_seq"]), (&json!(4), &json!(5)), "{item}");
}

#[tokio::test]
async fn who_was_removed_is_told_nothing_and_who_comes_back_goes_on() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let mut bob = house.live("bob", "phone").await;
    let conv = town(&mut alice).await;
    say(&mut alice, &conv, "before").await;
    let mut log = Log::behind(&conv, 2);
    log.read_to(&mut bob, 3).await;
    let answer = alice.ask(json!({"type":"remove","conv_id":conv,"users":["bob"]})).await;
    assert_eq!(answer["conv_seq"], 4, "{answer}");
    assert_eq!(entry(&mut bob, "member").await["change"], "removed");
    say(&mut alice, &conv, "without him").await;
    let refused = bob.ask(json!({"type":"send","conv_id":conv,"client_msg_id":"x","body":{}})).await;
    assert_eq!(refused["code"], "not_found");
    alice.ask(json!({"type":"invite","conv_id":conv,"users":["bob"]})).await;
    assert_eq!(entry(&mut bob, "member").await["conv_seq"], 6);
    say(&mut alice, &conv, "again").await;
    // Whatever heads there were meanwhile, none names what is not his.
    let mut seen = Vec::new();
    loop {
        let frame = bob.next_of("heads").await;
        for item in frame["conversations"].as_array().unwrap() {
            seen.extend(item["entries"].as_array().into_iter().flatten().cloned());
            if item["head_seq"] == 7 {
                let texts: Vec<_> = seen.iter().filter_map(|entry| entry["body"]["text"].as_str()).collect();
                assert!(!texts.contains(&"without him"), "{texts:?}");
                return;
            }
            assert_eq!(item["head_seq"], 4, "{item}");
        }
    }
}

#[tokio::test]
async fn a_mention_is_in_the_mentioned_members_own_timeline() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let mut bob = house.live("bob", "phone").await;
    let conv = town(&mut alice).await;
    let send = json!({"type":"send","conv_id":conv,"client_msg_id":"1","body":{},"mentions":["bob","alice","mallory"]});
    assert_eq!(alice.ask(send).await["conv_seq"], 3);
    let mention = entry(&mut bob, "mention").await;
    assert_eq!((&mention["target"], &mention["sender_id"]), (&json!(3), &json!("alice")), "{mention}");
    // The same by a page of the log.
    let frame = bob.ask(json!({"type":"sync","after_seq":2})).await;
    assert_eq!(frame["entries"][0], mention);
    // She mentioned herself as well, and that is no news.
    let frame = alice.ask(json!({"type":"sync","after_seq":0})).await;
    assert_eq!(frame["to_seq"], 2, "{frame}");
}

#[tokio::test]
async fn a_recalled_message_is_told_to_nobody_any_more() {
    let house = house().await;
    let mut alice = house.live("alice", "phone").await;
    let mut bob = house.live("bob", "phone").await;
    let conv = town(&mut alice).await;
    say(&mut alice, &conv, "secret").await;
    let mut log = Log::behind(&conv, 2);
    log.read_to(&mut bob, 3).await;
    alice.ask(json!({"type":"recall","conv_id":conv,"target":3})).await;
    log.read_to(&mut bob, 4).await;
    assert_eq!((&log.entries[1]["op"], &log.entries[1]["target"]), (&json!("recall"), &json!(3)));
    let (_, welcome) = house.device("carol", "phone", json!({})).await;
    let cursor = json!({"epoch":welcome["epoch"],"seq":welcome["head_seq"]});
    let held = json!({"cursor":cursor,"conversations":{conv.clone():2}});
    let (mut carol, _) = house.device("carol", "phone", held).await;
    carol.seq = 2;
    let frame = carol.next_of("heads").await;
    assert_eq!(frame["conversations"], json!([{"conv_id":conv,"head_seq":4}]));
    let changes = carol.ask(json!({"type":"changes","conv_id":conv,"since":2})).await;
    assert_eq!(changes["recalled"][0]["target"], 3, "{changes}");
}

#[tokio::test]
async fn a_notification_to_everybody_is_one_entry_that_all_devices_get() {
    let house = house().await;
    let (mut alice, mut bob) = (house.live("alice", "phone").await, house.live("bob", "phone").await);
    let notify = async |key: &str| {
        let body = Body::from_value(&json!({"text": key})).unwrap();
        let (topic, key) = (MsgId::parse("news").unwrap(), MsgId::parse(key).unwrap());
        house.engine.notify(Recipients::Everybody, topic, body, key).await.unwrap()
    };
    assert_eq!(notify("one").await.made, 1);
    assert_eq!(notify("one").await.duplicates, 1);
    for device in [&mut alice, &mut bob] {
        let mut log = Log::behind("b:all", 0);
        log.read_to(device, 1).await;
        assert_eq!(log.entries[0]["op"], "notification");
        assert_eq!(log.texts(), ["one"]);
        assert_eq!(device.seq, 0, "nobody's own timeline was written");
    }
    // Who comes later begins where the log stands.
    let mut carol = house.live("carol", "phone").await;
    notify("two").await;
    let mut log = Log::behind("b:all", 1);
    log.read_to(&mut carol, 2).await;
    let history = alice.ask(json!({"type":"history","conv_id":"b:all","after":0})).await;
    let texts: Vec<_> = history["entries"].as_array().unwrap().iter().map(|entry| &entry["body"]["text"]).collect();
    assert_eq!(texts, ["one", "two"], "{history}");
    assert_eq!(alice.ask(json!({"type":"conversations"})).await["conversations"], json!([]));
    for request in [
        json!({"type":"send","conv_id":"b:all","client_msg_id":"1","body":{}}),
        json!({"type":"changes","conv_id":"b:all","since":0}),
        json!({"type":"read","conv_id":"b:all","read_seq":1}),
    ] {
        assert_eq!(alice.ask(request).await["code"], "forbidden");
    }
}
