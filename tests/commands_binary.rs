//! The commands as an operator calls them: the real binary, real directories.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "commands_binary/harness.rs"]
mod harness;

use std::os::unix::fs::PermissionsExt;

use rand::Rng;
use rand::distr::Alphanumeric;

use harness::{Peer, Program, get, holds, one_line, run, text};

/// A directory with some messages of alice to bob in it, written by a server that has ended.
async fn used_dir(tmp: &tempfile::TempDir) -> String {
    let dir = text(&tmp.path().join("data"));
    let server = Program::serve(&dir);
    let mut alice = Peer::connect(&server.addr, "alice").await;
    for n in 0..20 {
        alice.send("d:alice:bob", &format!("m{n}"), &format!("secret text {n}")).await;
    }
    server.stop();
    dir
}

#[tokio::test]
async fn a_backup_taken_while_serving_is_restored_under_a_new_epoch_and_agrees() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, file, copy) =
        (text(&tmp.path().join("data")), text(&tmp.path().join("backup")), text(&tmp.path().join("copy")));
    let server = Program::serve(&dir);
    let mode = std::fs::metadata(tmp.path().join("data/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut alice = Peer::connect(&server.addr, "alice").await;
    for n in 0..30 {
        alice.send("d:alice:bob", &format!("m{n}"), "before").await;
    }
    let store = format!("embedded:{dir}");
    let (store_of_backup, file_of_backup) = (store.clone(), file.clone());
    let backup =
        tokio::task::spawn_blocking(move || run(&["backup", "--store", &store_of_backup, "--to", &file_of_backup]));
    let mut sent = 30;
    while !backup.is_finished() {
        alice.send("d:alice:bob", &format!("m{sent}"), "meanwhile").await;
        sent += 1;
    }
    let backup = backup.await.unwrap();
    assert_eq!(backup.code, 0, "{backup:?}");
    assert!(backup.stdout.contains("entries") && backup.stdout.contains("file"), "{backup:?}");

    // Not twice into the same file; and the server goes on.
    let again = run(&["backup", "--store", &store, "--to", &file]);
    assert_eq!((again.code, one_line(&again)), (1, true), "{again:?}");
    alice.send("d:alice:bob", "after", "after").await;
    let epoch = alice.epoch.clone();
    server.stop();
    assert!(!tmp.path().join("data/control.sock").exists());

    let restored = run(&["restore", "--from", &file, "--to", &copy]);
    assert_eq!(restored.code, 0, "{restored:?}");
    for (dir, least) in [(&dir, sent + 1), (&copy, 30)] {
        let verified = run(&["verify", "--store", &format!("embedded:{dir}"), "--json"]);
        assert_eq!(verified.code, 0, "{verified:?}");
        let report: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
        assert_eq!(report["epoch"] == epoch.as_str(), *dir != copy, "{report}");
        // Each message is in the conversation and in two people's timelines.
        assert!(report["entries"].as_u64().unwrap() >= 3 * least, "{least} {report}");
    }
}

#[tokio::test]
async fn restore_touches_nothing_that_is_there() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = used_dir(&tmp).await;
    let file = text(&tmp.path().join("backup"));
    // Nobody has it open now.
    let backup = run(&["backup", "--store", &format!("embedded:{dir}"), "--to", &file]);
    assert_eq!(backup.code, 0, "{backup:?}");
    let refused = run(&["restore", "--from", &file, "--to", &dir]);
    assert_eq!((refused.code, one_line(&refused)), (2, true), "{refused:?}");
    assert!(refused.stderr.contains("exists already"), "{refused:?}");

    let bytes = std::fs::read(&file).unwrap();
    let cut = tmp.path().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 9]).unwrap();
    let refused = run(&["restore", "--from", &text(&cut), "--to", &text(&tmp.path().join("copy"))]);
    assert_eq!((refused.code, one_line(&refused)), (1, true), "{refused:?}");
    assert!(!tmp.path().join("copy").exists());
}

#[tokio::test]
async fn verify_refuses_a_directory_in_use_and_tells_a_damaged_one() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = used_dir(&tmp).await;
    let store = format!("embedded:{dir}");
    let server = Program::serve(&dir);
    for command in ["verify", "inspect"] {
        let mut args = vec![command, "--store", &store];
        args.extend(if command == "inspect" { ["--user", "bob"].as_slice() } else { &[] });
        let refused = run(&args);
        assert_eq!((refused.code, one_line(&refused)), (2, true), "{refused:?}");
        assert!(refused.stderr.contains("in use"), "{refused:?}");
    }
    server.stop();
    let clean = run(&["verify", "--store", &store]);
    assert_eq!(clean.code, 0, "{clean:?}");
    assert!(clean.stdout.lines().any(|line| line.starts_with("differences") && line.ends_with(" 0")), "{clean:?}");

    let missing = run(&["verify", "--store", &format!("embedded:{dir}-not-there")]);
    assert_eq!((missing.code, one_line(&missing)), (1, true), "{missing:?}");
    assert!(!std::path::Path::new(&format!("{dir}-not-there")).exists());

    harness::damage(std::path::Path::new(&dir));
    let damaged = run(&["verify", "--store", &store]);
    assert_eq!((damaged.code, one_line(&damaged)), (1, true), "{damaged:?}");
}

#[tokio::test]
async fn inspect_prints_no_bodies_unless_asked() {
    let tmp = tempfile::tempdir().unwrap();
    let store = format!("embedded:{}", used_dir(&tmp).await);
    let log = ["inspect", "--store", &store, "--conversation", "d:alice:bob"];
    let plain = run(&log);
    assert_eq!(plain.code, 0, "{plain:?}");
    assert!(plain.stdout.contains("head 20  floor 0") && !plain.stdout.contains("secret text"), "{plain:?}");
    let bodies = run(&[&log[..], &["--bodies", "--after", "5", "--limit", "3"]].concat());
    let shown: Vec<usize> = (0..20).filter(|n| bodies.stdout.contains(&format!("secret text {n}\""))).collect();
    assert_eq!(shown, [5, 6, 7], "{bodies:?}");
    let user = run(&["inspect", "--store", &store, "--user", "bob"]);
    assert!(user.stdout.contains("conversation d:alice:bob  delivered 20  read 0  unread 20"), "{user:?}");
    let neither = run(&["inspect", "--store", &store]);
    assert_eq!(neither.code, 2, "{neither:?}");
}

#[tokio::test]
async fn demo_serves_its_page_and_tokens_on_this_machine_only() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = text(&tmp.path().join("demo"));
    for listen in ["0.0.0.0:0", "[::]:0", "example.org:7700"] {
        let refused = run(&["demo", "--listen", listen, "--dir", &dir]);
        assert_eq!((refused.code, one_line(&refused)), (2, true), "{refused:?}");
        assert!(refused.stderr.contains("not a loopback address"), "{refused:?}");
    }
    assert!(!tmp.path().join("demo").exists());

    let demo = Program::demo(&dir);
    let (head, page) = get(&demo.addr, "/", "127.0.0.1");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-security-policy"), "{head}");
    for path in page.split('"').filter(|part| part.starts_with("/demo/")) {
        let (head, content) = get(&demo.addr, path, "127.0.0.1");
        assert!(head.starts_with("HTTP/1.1 200") && !content.is_empty(), "{path}: {head}");
    }
    let (_, answer) = get(&demo.addr, "/demo/token?user=alice", "localhost");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let mut alice = Peer::hello(&demo.addr, "alice", answer["token"].as_str().unwrap()).await;
    alice.send("d:alice:bob", "m1", "hi").await;
    // A name that was made to lead here gets none.
    assert!(get(&demo.addr, "/demo/token?user=alice", "rebound.example").0.starts_with("HTTP/1.1 403"));
    assert!(get(&demo.addr, "/demo/token?user=a%20b", "localhost").0.starts_with("HTTP/1.1 400"));
    demo.stop();
}

#[tokio::test]
async fn serve_has_no_route_for_tokens() {
    let tmp = tempfile::tempdir().unwrap();
    let server = Program::serve(&text(&tmp.path().join("data")));
    for path in ["/demo/token?user=alice", "/demo/token", "/demo/app.js"] {
        assert!(get(&server.addr, path, "127.0.0.1").0.starts_with("HTTP/1.1 404"), "{path}");
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn compact_takes_recalled_bodies_out_of_the_files_while_serving_and_without_a_server() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("data");
    let dir = text(&path);
    // Random letters: what repeats, compression would hide from the search.
    let marker = || -> String { rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect() };
    let (first, second, kept) = (marker(), marker(), marker());
    let server = Program::serve(&dir);
    let mut alice = Peer::connect(&server.addr, "alice").await;
    for (n, said) in [&first, &second, &kept].into_iter().enumerate() {
        alice.send("d:alice:bob", &format!("m{n}"), said).await;
        assert!(holds(&path, said), "the search must find it first");
    }
    let compact = || {
        let store = format!("embedded:{dir}");
        let ended = run(&["compact", "--store", &store]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("compacted"), "{ended:?}");
    };
    alice.recall("d:alice:bob", 1).await;
    tokio::task::block_in_place(compact);
    assert!(!holds(&path, &first) && holds(&path, &second));
    alice.recall("d:alice:bob", 2).await;
    server.stop();
    compact();
    assert!(!holds(&path, &second) && holds(&path, &kept));
    let verified = run(&["verify", "--store", &format!("embedded:{dir}")]);
    assert_eq!(verified.code, 0, "{verified:?}");
}
