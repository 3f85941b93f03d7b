//! What a server lives through: an old backup put back under its devices, clocks that jump. And what it
//! tells of all that: no bodies, tokens or secrets.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests: a failure is a panic")]

#[path = "commands_binary/harness.rs"]
mod harness;

use std::io::{Read, Write};
use std::path::PathBuf;

use harness::{Peer, Program, SECRET, run, text};
use serde_json::{Value, json};

fn token(user: &str) -> String {
    let minted = run(&["token", "--jwt-secret", SECRET, "--user", user, "--ttl", "9000d"]);
    assert_eq!(minted.code, 0, "{minted:?}");
    minted.stdout.trim().to_owned()
}

/// The texts of a conversation, oldest first, and the times of its entries.
async fn history(peer: &mut Peer, conv_id: &str) -> (Vec<String>, Vec<u64>) {
    let page = peer.ask(json!({"type": "history", "id": "h", "conv_id": conv_id, "after": 0, "limit": 200})).await;
    assert_eq!((&page["type"], &page["complete"]), (&json!("history"), &json!(true)), "{page}");
    let entries = page["entries"].as_array().unwrap();
    let texts = entries.iter().filter_map(|entry| Some(entry["body"]["text"].as_str()?.to_owned())).collect();
    (texts, entries.iter().map(|entry| entry["sent_at"].as_u64().unwrap()).collect())
}

#[tokio::test]
async fn a_device_ahead_of_a_restored_backup_is_reset_and_goes_on_with_what_is_there() {
    let tmp = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&tmp.path().join(name));
    let store = format!("embedded:{}", path("data"));
    let server = Program::serve_store(&store);
    let mut alice = Peer::connect(&server.addr, "alice").await;
    for n in 0..5 {
        alice.send("d:alice:bob", &format!("m{n}"), &format!("kept {n}")).await;
    }
    let backup = run(&["backup", "--store", &store, "--to", &path("backup")]);
    assert_eq!(backup.code, 0, "{backup:?}");
    for n in 5..9 {
        alice.send("d:alice:bob", &format!("m{n}"), &format!("gone {n}")).await;
    }
    let cursor = json!({"epoch": alice.epoch, "seq": 9});
    server.stop();
    assert_eq!(run(&["restore", "--from", &path("backup"), "--to", &path("restored")]).code, 0);

    let server = Program::serve(&path("restored"));
    let (mut bob, welcome) = Peer::resume(&server.addr, &token("bob"), json!({"cursor": cursor})).await;
    assert_eq!((&welcome["sync"], &welcome["head_seq"]), (&json!("reset"), &json!(5)), "{welcome}");
    let reset = bob.next().await;
    assert_eq!((&reset["type"], &reset["reason"]), (&json!("reset"), &json!("epoch_mismatch")), "{reset}");
    assert_eq!(history(&mut bob, "d:alice:bob").await.0, ["kept 0", "kept 1", "kept 2", "kept 3", "kept 4"]);
    // What was lost with the newer data can be sent again under its old id, as a client's outbox does.
    let mut alice = Peer::connect(&server.addr, "alice").await;
    alice.send("d:alice:bob", "m5", "kept 5").await;
    alice.send("d:alice:bob", "m4", "kept 4").await;
    assert_eq!(history(&mut bob, "d:alice:bob").await.0.len(), 6);
    server.stop();
    let verified = run(&["verify", "--store", &format!("embedded:{}", path("restored"))]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// The library that lies about the time of day to one program.
fn false_clock() -> Option<PathBuf> {
    let listing = std::fs::read_dir("/usr/lib").ok()?;
    let under = listing.filter_map(|dir| Some(dir.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    let found = under.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.exists());
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: jumps of the clock: libfaketime is not installed (faketime)");
    }
    found
}

#[tokio::test]
async fn a_clock_that_jumps_loses_nothing_and_turns_no_time_back() {
    let Some(library) = false_clock() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let offset = tmp.path().join("offset");
    let store = format!("embedded:{}", text(&tmp.path().join("data")));
    let serve = || {
        Program::serve_as(&store, |command| {
            command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &offset);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        })
    };
    let (mut sent, mut span) = (Vec::new(), 0);
    // Jumps while it serves, and between two lives: back a month, on by more than the sync timeline's days.
    for days in [["+0d", "-30d"], ["-40d", "+3d"], ["+12d", "+2d"], ["+30d", "-1d"]] {
        std::fs::write(&offset, days[0]).unwrap();
        let server = serve();
        let (mut alice, _) = Peer::resume(&server.addr, &token_of_all_times("alice"), json!({})).await;
        for day in days {
            std::fs::write(&offset, day).unwrap();
            for n in 0..3 {
                let id = format!("{}-{day}-{n}", sent.len());
                alice.send("d:alice:bob", &id, &id).await;
                // Sent again, it is known whatever the clock says now.
                alice.send("d:alice:bob", &id, &id).await;
                sent.push(id);
            }
        }
        let (texts, times) = history(&mut alice, "d:alice:bob").await;
        assert_eq!(texts, sent);
        assert!(times.is_sorted(), "{times:?}");
        span = times.last().unwrap() - times[0];
        let (mut bob, welcome) = Peer::resume(&server.addr, &token_of_all_times("bob"), json!({})).await;
        assert_eq!(welcome["head_seq"], sent.len(), "{welcome}");
        assert_eq!(history(&mut bob, "d:alice:bob").await.0, sent);
        drop((alice, bob));
        server.stop();
    }
    let days = span / 86_400_000;
    assert_eq!(days, 30, "the clock did jump");
    let verified = run(&["verify", "--store", &store]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// A token that was issued long ago and is good for long.
fn token_of_all_times(user: &str) -> String {
    let claims = json!({"sub": user, "aud": "everline", "exp": 4_102_444_800_u64});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// POST or DELETE to the server API.
fn api(addr: &str, method: &str, path: &str, key: &str, content: &Value) -> String {
    let (content, mut answer) = (content.to_string(), String::new());
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let head =
        format!("{method} /v1/api/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}");
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{content}", content.len()).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn nothing_secret_is_told_in_the_logs_however_fine_they_are() {
    const KEY: &str = "KEYtoTheApizQ4711";
    let tmp = tempfile::tempdir().unwrap();
    let dir = text(&tmp.path().join("data"));
    let mut logs = String::new();
    let tokens = [token("alice"), token("bob")];
    for life in 0..2 {
        let server = Program::serve_as(&format!("embedded:{dir}"), |command| {
            command.args(["--api-key", KEY]).env("RUST_LOG", "trace");
        });
        let (mut alice, _) = Peer::resume(&server.addr, &tokens[0], json!({})).await;
        let (mut bob, _) = Peer::resume(&server.addr, &tokens[1], json!({})).await;
        let seq = alice.send("d:alice:bob", &format!("m{life}"), "BODYtoBobzQ4711").await;
        assert_eq!(history(&mut bob, "d:alice:bob").await.0, ["BODYtoBobzQ4711"]);
        let edit = json!({"type": "edit", "id": "e", "conv_id": "d:alice:bob", "target": seq, "body": {"text": "BODYeditedzQ4711"}});
        let edited = alice.ask(edit).await;
        assert_eq!(edited["type"], "ok", "{edited}");
        let recall = json!({"type": "recall", "id": "r", "conv_id": "d:alice:bob", "target": seq});
        let recalled = alice.ask(recall).await;
        assert_eq!(recalled["type"], "ok", "{recalled}");
        // What is refused is not told either.
        let bad = json!({"type": "send", "id": "b", "conv_id": "nonsense", "client_msg_id": "x", "body": "BODYrefusedzQ4711"});
        assert_eq!(alice.ask(bad).await["type"], "error");
        let note = json!({"topic": "billing", "users": ["bob"], "body": {"text": "BODYnotifiedzQ4711"}});
        let told = api(&server.addr, "POST", "notifications", KEY, &note);
        assert!(told.starts_with("HTTP/1.1 200"), "{told}");
        assert!(api(&server.addr, "POST", "notifications", "KEYthatIsWrongzQ4711", &note).starts_with("HTTP/1.1 401"));
        drop((alice, bob));
        logs += &server.stop();
    }
    assert!(logs.lines().count() > 20, "there are logs:\n{logs}");
    let mut secrets = vec![SECRET, "zQ4711"];
    secrets.extend(tokens.iter().map(|token| token.rsplit('.').next().unwrap()));
    for secret in secrets {
        let line = logs.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is told");
    }
}
