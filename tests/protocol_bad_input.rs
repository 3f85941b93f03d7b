//! Refused input: the exact code and field, and no panic whatever comes.

#![allow(clippy::unwrap_used, clippy::panic)]

use everline::protocol::{ClientFrame, ErrorCode, ParseLimits, Reject, Request, ServerFrame};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::value::RawValue;

fn refused(text: &str) -> Reject {
    ClientFrame::parse(text).expect_err(text)
}

fn check(text: &str, id: Option<&str>, code: ErrorCode, field: Option<&str>) {
    let reject = refused(text);
    let got = (reject.id.as_deref(), reject.code, reject.field);
    assert_eq!(got, (id, code, field), "{text}");
}

#[test]
fn text_that_is_not_acceptable_json_is_bad_json() {
    let nested = |n: usize| {
        let (open, close) = ("[".repeat(n), "]".repeat(n));
        format!(r#"{{"type":"ack","seq":1,"x":{open}{close}}}"#)
    };
    assert!(ClientFrame::parse(&nested(31)).is_ok());
    for bad in [
        "",
        " ",
        "x",
        "1",
        "null",
        "\"ack\"",
        "[]",
        "{",
        r#"{"type":"ack","seq":1"#,
        r#"{"type":"ack","seq":1}x"#,
        r#"{"type":"ack","seq":1}{}"#,
        r#"{"type":"ack","seq":1,}"#,
        r#"{'type':"ack"}"#,
        r#"{"type":"ack","seq":01}"#,
        r#"{"type":"ack","seq":1,"x":"\ud800"}"#,
        r#"{"type":"ack","seq":1,"x":"\ude00\ud83d"}"#,
        r#"{"type":"ack","seq":1,"\ud800":1}"#,
        r#"{"type":"ack","seq":1,"x":"\x41"}"#,
        "{\"type\":\"ack\",\"seq\":1,\"x\":\"a\nb\"}",
        r#"{"type":"ack","seq":18446744073709551616}"#,
        r#"{"type":"ack","seq":1,"x":-9223372036854775809}"#,
        r#"{"type":"ack","seq":1,"x":[1e400]}"#,
        r#"{"type":"ack","seq":1,"x":NaN}"#,
        &nested(32),
        &nested(30_000),
    ] {
        check(bad, None, ErrorCode::BadJson, None);
    }
}

#[test]
fn a_type_missing_or_unknown_is_unknown_type_and_echoes_the_id() {
    for bad in [r#"{"id":"7"}"#, r#"{"id":"7","type":"sned"}"#, r#"{"id":"7","type":5}"#] {
        check(bad, Some("7"), ErrorCode::UnknownType, None);
    }
    check(r#"{"id":"7","type":null}"#, Some("7"), ErrorCode::UnknownType, None);
    check(r#"{"id":"","type":"x"}"#, None, ErrorCode::UnknownType, None);
    check("{}", None, ErrorCode::UnknownType, None);
}

#[test]
fn an_id_that_is_none_is_invalid_field_id() {
    let long = format!("\"{}\"", "x".repeat(65));
    for id in ["\"\"", "5", "null", "\"ä\"", "\"a\\n\"", "{}", &long] {
        let text = format!(r#"{{"type":"devices","id":{id}}}"#);
        check(&text, None, ErrorCode::InvalidField, Some("id"));
    }
    check(r#"{"type":"devices"}"#, None, ErrorCode::InvalidField, Some("id"));
    check(r#"{"type":"hello","device_id":"d"}"#, None, ErrorCode::InvalidField, Some("id"));
    // Frames without an answer need none.
    assert!(ClientFrame::parse(r#"{"type":"ack","seq":1,"id":5}"#).is_ok());
}

#[test]
fn only_plain_integers_up_to_2_53_are_numbers() {
    let text = |seq: &str| format!(r#"{{"type":"ack","seq":{seq}}}"#);
    for bad in ["-1", "-0", "3.0", "1e2", "\"3\"", "true", "[1]", "null", "9007199254740992", "18446744073709551615"] {
        check(&text(bad), None, ErrorCode::InvalidField, Some("seq"));
    }
    check(r#"{"type":"ack"}"#, None, ErrorCode::InvalidField, Some("seq"));
    for good in ["0", "9007199254740991", " 7 "] {
        assert!(ClientFrame::parse(&text(good)).is_ok(), "{good}");
    }
}

/// One faulty field each: the request, then the fields that differ from a good one.
#[test]
fn each_field_at_fault_is_named() {
    let long = |n: usize| format!("\"{}\"", "x".repeat(n));
    let users = |n: usize| format!("[{}]", vec!["\"u\""; n].join(","));
    let ranges = |n: usize| format!("[{}]", vec!["[1,1]"; n].join(","));
    let large = format!(r#"{{"x":{}}}"#, long(4_090));
    let held = (0..2_001).map(|n| format!("\"g:{n}\":1")).collect::<Vec<_>>().join(",");
    let held = format!("{{{held}}}");
    let cases: &[(&str, &str, &[&str])] = &[
        ("hello", "token", &["5", "{}", &long(8_193)]),
        ("hello", "device_id", &["null", "\"a b\"", "\"a:b\"", &long(65)]),
        ("hello", "cursor", &["5", "[]", "{}", r#"{"epoch":"e"}"#, r#"{"seq":1}"#]),
        ("hello", "cursor", &[r#"{"epoch":"e","seq":-1}"#, r#"{"epoch":5,"seq":1}"#]),
        ("hello", "cursor", &[r#"{"epoch":"","seq":1}"#, r#"{"epoch":"e","seq":1.0}"#]),
        ("hello", "conversations", &["[]", r#"{"g:1":-1}"#, r#"{"a b":1}"#, r#"{"g:1":"1"}"#]),
        ("hello", "conversations", &[&held]),
        ("hello", "client", &["\"web\"", r#"{"name":5}"#]),
        ("typing", "conv_id", &["null", "5", "\"a/b\"", &long(161)]),
        ("send", "conv_id", &["null", "5", "\"\"", &long(161)]),
        ("send", "to", &["\"bob\"", "\"a:b\""]),
        ("send", "client_msg_id", &["null", "\"\"", "5", &long(65), "\"\\u00e4\""]),
        ("send", "body", &["null", "[]", "\"x\"", "5", "true"]),
        ("send", "reply_to", &["0", "-1", "1.0", "\"1\""]),
        ("send", "mentions", &["{}", "[5]", "[null]", "[\"a b\"]", &users(51)]),
        ("recall", "target", &["null", "0", "-1", "\"1\""]),
        ("edit", "target", &["0"]),
        ("edit", "body", &["null", "[]"]),
        ("react", "target", &["0"]),
        ("react", "key", &["null", "\"\"", "5", &long(65)]),
        ("react", "add", &["null", "1", "\"true\""]),
        ("delete", "ranges", &["null", "[]", "{}", "[[2,1]]", "[[0,1]]", "[[1]]", "[[1,2,3]]"]),
        ("delete", "ranges", &["[1,2]", "[[1,2.0]]", "[[1,null]]", "[{}]", &ranges(201)]),
        ("clear", "up_to", &["null", "-1"]),
        ("read", "read_seq", &["null", "-1"]),
        ("settings", "muted", &["null", "1", "\"yes\""]),
        ("settings", "pinned", &["0"]),
        ("settings", "hidden", &["[]"]),
        ("create", "members", &["null", "[]", "\"u\"", "[\"a b\"]", &users(1_001)]),
        ("create", "title", &["\"\"", "5", &long(257)]),
        ("create", "attributes", &["[]", "5", &large]),
        ("create", "history", &["\"all\"", "5", "{\"full\":null}"]),
        ("create", "op_id", &["null", "\"\""]),
        ("invite", "users", &["null", "[]", &users(1_001)]),
        ("remove", "users", &["null", "[]", &users(1_001)]),
        ("leave", "conv_id", &["null"]),
        ("update", "title", &["\"\"", &long(257)]),
        ("update", "attributes", &["5", &large]),
        ("role", "user_id", &["null", "\"a b\""]),
        ("role", "role", &["null", "\"king\"", "5"]),
        ("sync", "after_seq", &["null", "-1"]),
        ("history", "before", &["-1", "\"1\""]),
        ("history", "after", &["-1", "1.0"]),
        ("history", "after_at", &["-1", "{}"]),
        ("history", "limit", &["0", "201", "-1", "4294967297"]),
        ("changes", "since", &["null", "-1"]),
        ("conversations", "active_after", &["-1"]),
        ("conversations", "page", &["\"\"", "5", &long(257)]),
        ("conversations", "limit", &["0", "1001"]),
        ("members", "page", &["\"\"", &long(257)]),
        ("members", "limit", &["0", "1001"]),
        ("presence", "users", &["null", "[]", &users(1_001)]),
        ("auth", "token", &["null", "5", &long(8_193)]),
        ("logout", "device_id", &["null", "\"a b\""]),
    ];
    for (kind, field, values) in cases {
        for value in *values {
            let text = with(kind, field, value);
            check(&text, Some("9"), ErrorCode::InvalidField, Some(field));
        }
    }
}

/// A good frame of that type, one field replaced.
fn with(kind: &str, field: &str, value: &str) -> String {
    let good = r#"{"hello":{"device_id":"d"},"typing":{"conv_id":"g:1"},
        "send":{"conv_id":"g:1","client_msg_id":"m","body":{}},
        "recall":{"conv_id":"g:1","target":1},"edit":{"conv_id":"g:1","target":1,"body":{}},
        "react":{"conv_id":"g:1","target":1,"key":"k","add":true},
        "delete":{"conv_id":"g:1","ranges":[[1,1]]},"clear":{"conv_id":"g:1","up_to":1},
        "read":{"conv_id":"g:1","read_seq":1},"settings":{"conv_id":"g:1","muted":true},
        "create":{"members":["u"],"op_id":"o"},"invite":{"conv_id":"g:1","users":["u"]},
        "remove":{"conv_id":"g:1","users":["u"]},"leave":{"conv_id":"g:1"},
        "update":{"conv_id":"g:1"},"role":{"conv_id":"g:1","user_id":"u","role":"member"},
        "sync":{"after_seq":1},"history":{"conv_id":"g:1"},"changes":{"conv_id":"g:1","since":1},
        "conversations":{},"members":{"conv_id":"g:1"},"presence":{"users":["u"]},
        "auth":{"token":"t"},"logout":{"device_id":"d"}}"#;
    let all: std::collections::BTreeMap<&str, std::collections::BTreeMap<&str, &RawValue>> =
        serde_json::from_str(good).unwrap();
    let mut text = format!(r#"{{"type":"{kind}","id":"9""#);
    for (name, raw) in all.get(kind).unwrap() {
        text.push_str(&format!(r#","{name}":{raw}"#));
    }
    assert!(ClientFrame::parse(&format!("{text}}}")).is_ok(), "{text}");
    format!(r#"{text},"{field}":{value}}}"#)
}

#[test]
fn fields_that_exclude_each_other_are_refused() {
    let text = r#"{"type":"send","id":"9","client_msg_id":"m","body":{}}"#;
    check(text, Some("9"), ErrorCode::InvalidField, Some("conv_id"));
    let text = r#"{"type":"history","id":"9","conv_id":"g:1","before":1,"after":1}"#;
    check(text, Some("9"), ErrorCode::InvalidField, Some("after"));
    let text = r#"{"type":"history","id":"9","conv_id":"g:1","after":0,"after_at":0}"#;
    check(text, Some("9"), ErrorCode::InvalidField, Some("after_at"));
}

#[test]
fn a_body_over_the_limit_is_too_large_by_its_compact_size() {
    let send = |body: &str| format!(r#"{{"type":"send","id":"9","to":"b","client_msg_id":"m","body":{body}}}"#);
    let exact = format!(r#"{{"x":"{}"}}"#, "y".repeat(32_768 - 8));
    let spaced = exact.replace(':', " : ");
    assert!(ClientFrame::parse(&send(&exact)).is_ok());
    assert!(ClientFrame::parse(&send(&spaced)).is_ok());
    let over = send(&exact.replace('x', "xx"));
    check(&over, Some("9"), ErrorCode::TooLarge, Some("body"));
    let limits = ParseLimits { max_body: 2 };
    assert!(ClientFrame::parse_with(&send("{ }"), &limits).is_ok());
    let reject = ClientFrame::parse_with(&send("{\"a\":1}"), &limits).unwrap_err();
    assert_eq!(reject.code, ErrorCode::TooLarge);
    let frame = ServerFrame::from(everline::protocol::ErrorFrame::from(reject)).to_json();
    assert!(frame.starts_with(r#"{"type":"error","id":"9","code":"too_large","#), "{frame}");
}

#[test]
fn null_optionals_are_absent_and_the_last_of_two_counts() {
    let text = r#"{"type":"send","id":"1","id":"2","to":null,"conv_id":"g:1","client_msg_id":"m",
        "body":{"a":null},"reply_to":null,"mentions":null}"#;
    let ClientFrame::Request(envelope) = ClientFrame::parse(text).unwrap() else { panic!() };
    assert_eq!(envelope.id, "2");
    let Request::Send(send) = envelope.request else { panic!() };
    assert_eq!((send.reply_to, send.mentions.len()), (None, 0));
    assert_eq!(send.body.as_str(), r#"{"a":null}"#);
    let text = r#"{"\u0074ype":"ac\u006b","s\u0065q":3}"#;
    assert_eq!(ClientFrame::parse(text).unwrap(), ClientFrame::Ack { seq: 3 });
}

/// `EVERLINE_SEED=n` repeats a run.
#[test]
fn ten_thousand_mutations_never_panic() {
    let seed = std::env::var("EVERLINE_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    #[allow(clippy::print_stderr, reason = "the seed of a failing run")]
    {
        eprintln!("EVERLINE_SEED={seed}");
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut frames: Vec<String> = Vec::new();
    for file in [include_str!("golden/client.json"), include_str!("golden/server.json")] {
        let items: Vec<&RawValue> = serde_json::from_str(file).unwrap();
        frames.extend(items.iter().map(|raw| raw.get().to_owned()));
    }
    let mut read = 0;
    for _ in 0..10_000 {
        let mut bytes = frames.choose(&mut rng).unwrap().clone().into_bytes();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut bytes, &frames, &mut rng);
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = ServerFrame::parse(&text);
        if let Ok(frame) = ClientFrame::parse(&text) {
            read += 1;
            assert_eq!(ClientFrame::parse(&frame.to_json()).as_ref(), Ok(&frame), "{text}");
        }
    }
    assert!(read > 100, "the mutations are too wild to test anything: {read}");
}

fn mutate(bytes: &mut Vec<u8>, frames: &[String], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..8)).min(bytes.len());
    match rng.random_range(0..6) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.insert(at, rng.random()),
        2 => bytes.truncate(at),
        3 => {
            let piece = bytes.get(at..end).unwrap().to_vec();
            bytes.splice(at..at, piece);
        }
        4 => {
            let other = frames.choose(rng).unwrap().as_bytes();
            let from = rng.random_range(0..other.len());
            bytes.splice(at..end, other.iter().skip(from).take(20).copied());
        }
        _ => {
            let odd = ["\\ud800", "\\u", "-0", "1e999", "[[[[", "null", "\"", "{}", "9", "\\"];
            bytes.splice(at..end, odd.choose(rng).unwrap().bytes());
        }
    }
}
