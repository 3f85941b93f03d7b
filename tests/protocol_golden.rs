//! The contract's frames, letter by letter: each literal parses and comes back equal.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use everline::protocol::{
    ClientFrame, EncodedHeads, Entry, Event, HistoryEntry, MsgId, ServerFrame, SyncFrame, write_heads_frame,
    write_sync_frame,
};
use serde_json::Value;
use serde_json::value::RawValue;

const CLIENT: &str = include_str!("golden/client.json");
const SERVER: &str = include_str!("golden/server.json");
const ENTRIES: &str = include_str!("golden/entries.json");
const CONTRACT: &str = include_str!("../docs/protocol.md");

fn literals(file: &str) -> Vec<&str> {
    let items: Vec<&RawValue> = serde_json::from_str(file).unwrap();
    items.into_iter().map(RawValue::get).collect()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn tags(file: &str, tag: &str) -> BTreeSet<String> {
    let tag = |text: &&str| value(text)[tag].as_str().unwrap().to_owned();
    literals(file).iter().map(tag).collect()
}

#[test]
fn client_frames_come_back_equal() {
    for text in literals(CLIENT) {
        let frame = ClientFrame::parse(text).unwrap_or_else(|reject| panic!("{text}: {reject}"));
        let written = frame.to_json();
        assert_eq!(value(&written), value(text));
        assert!(written.starts_with(r#"{"type":""#), "type comes first: {written}");
        assert_eq!(ClientFrame::parse(&written).unwrap(), frame);
    }
    let requests = "ack auth changes clear conversations create delete devices edit hello history \
        invite leave logout members pong presence react read recall remove role send settings sync \
        typing update";
    let requests: Vec<_> = requests.split_whitespace().collect();
    assert_eq!(tags(CLIENT, "type").iter().collect::<Vec<_>>(), requests);
}

#[test]
fn server_frames_come_back_equal() {
    for text in literals(SERVER) {
        let frame = ServerFrame::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_ne!(frame, ServerFrame::Unknown, "{text}");
        let written = frame.to_json();
        assert_eq!(value(&written), value(text));
        assert!(written.starts_with(r#"{"type":""#), "type comes first: {written}");
        assert_eq!(ServerFrame::parse(&written).unwrap(), frame);
    }
    let types = "changes conversations devices error heads history members ok ping presence reset \
        sent sync typing welcome";
    let types: Vec<_> = types.split_whitespace().collect();
    assert_eq!(tags(SERVER, "type").iter().collect::<Vec<_>>(), types);
}

/// The frames that stand in the contract, in blocks (continued over lines) and between backticks; true: the client's
/// (`C {`). Parts left out of the example (`[...]`) are empty; what is cut off (`,...`) is no frame.
fn frames_of_the_contract() -> Vec<(bool, String)> {
    let begins = |text: &str| ["C {", "S {", r#"{"type":"#].iter().any(|begin| text.starts_with(begin));
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in CONTRACT.lines() {
        match line.strip_prefix("    ") {
            Some(block) if begins(block) => found.push(block.to_owned()),
            Some(more) if open => found.last_mut().unwrap().push_str(more),
            _ => found.extend(line.split('`').skip(1).step_by(2).filter(|part| begins(part)).map(str::to_owned)),
        }
        open = line.starts_with("    ");
    }
    found.retain(|text| !text.contains(",...}"));
    let parts = found.iter().map(|text| match text.split_at(2) {
        ("C ", frame) => (true, frame),
        ("S ", frame) => (false, frame),
        _ => (false, text.as_str()),
    });
    parts.map(|(client, frame)| (client, frame.replace("[...]", "[]"))).collect()
}

#[test]
fn the_frames_of_the_contract_come_back_equal() {
    let frames = frames_of_the_contract();
    let mut types = BTreeSet::new();
    for (client, text) in &frames {
        let written = if *client {
            ClientFrame::parse(text).unwrap_or_else(|reject| panic!("{text}: {reject}")).to_json()
        } else {
            let frame = ServerFrame::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_ne!(frame, ServerFrame::Unknown, "{text}");
            frame.to_json()
        };
        assert_eq!(value(&written), value(text));
        types.insert(value(text)["type"].as_str().unwrap().to_owned());
    }
    let due = ["ack", "error", "heads", "hello", "ping", "pong", "reset", "sync", "typing", "welcome"];
    assert!(types.iter().eq(due), "{types:?}");
}

#[test]
fn entries_come_back_letter_by_letter() {
    for text in literals(ENTRIES) {
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert!(!matches!(entry.event, Event::Unknown { .. }), "{text}");
        assert_eq!(entry.event.op(), value(text)["op"]);
        assert_eq!(entry.event.conv_seq(), value(text)["conv_seq"].as_u64());
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        let encoded = entry.event.encode();
        assert_eq!(format!(r#"{{"seq":{},{encoded}"#, entry.seq), text);
        assert_eq!(Event::decode(&encoded).unwrap(), entry.event);
    }
    assert_eq!(tags(ENTRIES, "op").len(), 13);
}

#[test]
fn spliced_sync_frames_equal_serialised_ones() {
    let entries: Vec<Entry> = serde_json::from_str(ENTRIES).unwrap();
    let id = MsgId::parse(r#"a "quoted" \ id"#).unwrap();
    for (id, entries) in [(None, entries.clone()), (Some(id.clone()), entries), (Some(id), Vec::new())] {
        let mut out = String::from("kept");
        let encoded: Vec<_> = entries.iter().map(|e| (e.seq, e.event.encode())).collect();
        let spliced = encoded.iter().map(|(seq, text)| (*seq, &**text));
        write_sync_frame(&mut out, id.as_ref(), 0, 23, true, spliced);
        let frame = SyncFrame { id, from_seq: 0, to_seq: 23, live: true, entries };
        assert_eq!(out, format!("kept{}", ServerFrame::Sync(frame).to_json()));
    }
}

#[test]
fn spliced_heads_frames_equal_serialised_ones() {
    for text in literals(SERVER) {
        let ServerFrame::Heads { conversations } = ServerFrame::parse(text).unwrap() else {
            continue;
        };
        let encode = |events: &Vec<Event>| events.iter().map(Event::encode).collect();
        let encoded: Vec<Option<Vec<Arc<str>>>> =
            conversations.iter().map(|item| item.entries.as_ref().map(encode)).collect();
        let parts = conversations.iter().zip(&encoded).map(|(item, entries)| EncodedHeads {
            conv_id: &item.conv_id,
            from_seq: item.from_seq,
            head_seq: item.head_seq,
            entries: entries.as_deref(),
        });
        let mut out = String::new();
        write_heads_frame(&mut out, parts);
        assert_eq!(out, ServerFrame::Heads { conversations: conversations.clone() }.to_json());
    }
}

#[test]
fn what_a_later_version_sends_is_skipped() {
    let text = r#"{"type":"sync","from_seq":1,"to_seq":4,"live":true,"new":{},"entries":[
        {"seq":2,"op":"poll","target":"not a number","conv_id":[1]},
        {"seq":3,"op":"member","change":"frozen","user_id":"a"},
        {"seq":4,"op":"read","conv_id":"g:1","read_seq":1,"unread":0,"new":"field"}]}"#;
    let ServerFrame::Sync(frame) = ServerFrame::parse(text).unwrap() else { panic!("another type") };
    let seqs: Vec<u64> = frame.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [2, 3, 4]);
    assert_eq!(frame.entries[0].event, Event::Unknown { op: "poll".to_owned() });
    assert_eq!(frame.entries[1].event, Event::Unknown { op: "member".to_owned() });
    assert!(matches!(frame.entries[2].event, Event::Read { read_seq: 1, .. }));
    assert_eq!(ServerFrame::parse(r#"{"type":"poll","id":"1"}"#).unwrap(), ServerFrame::Unknown);
    assert_eq!(ServerFrame::parse("{}").unwrap(), ServerFrame::Unknown);
}

#[test]
fn a_server_frame_that_breaks_the_contract_is_an_error() {
    for bad in [
        "",
        "[]",
        r#"{"type":"ping"}"#,
        r#"{"type":"sent","conv_id":"g:1","conv_seq":1,"sent_at":1,"duplicate":false}"#,
        r#"{"type":"sync","from_seq":1,"to_seq":2,"live":true,"entries":[{"op":"read"}]}"#,
        r#"{"type":"sync","from_seq":1,"to_seq":2,"live":true,"entries":[{"seq":2}]}"#,
    ] {
        assert!(ServerFrame::parse(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<HistoryEntry>(r#"{"op":"message"}"#).is_err());
}
