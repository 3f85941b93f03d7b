//! The commands on a CQL store, as an operator calls them.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "a failed unwrap is a failed test")]

#[path = "commands_binary/harness.rs"]
mod harness;

mod cql_support;

use cql_support::{keyspace, unmade_keyspace};
use everline::config::CqlTarget;
use harness::{Ended, Peer, Program, one_line, run};
use scylla::client::session_builder::SessionBuilder;

fn store(target: &CqlTarget) -> String {
    format!("cql://{}/{}?replication={}", target.hosts.join(","), target.keyspace, target.replication)
}

fn serve(store: &str) -> Ended {
    run(&["serve", "--listen", "127.0.0.1:0", "--jwt-secret", "of this test", "--store", store])
}

async fn execute(target: &CqlTarget, statement: &str) {
    let session = SessionBuilder::new().known_nodes(&target.hosts).build().await.unwrap();
    session.query_unpaged(statement.replace("KS", &target.keyspace), ()).await.unwrap();
}

/// Ends with this code and one line that says this.
fn refuses(ended: &Ended, code: i32, says: &[&str]) {
    assert!(one_line(ended) && ended.code == code, "{ended:?}");
    for part in says {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
}

#[test]
fn the_schema_is_printed_without_a_database() {
    let printed = run(&["schema", "--print", "--store", "cql://nowhere:1/letters?replication=1"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(printed.stdout.contains("CREATE TABLE IF NOT EXISTS letters.conversation_timeline"));
    assert!(printed.stdout.contains("'replication_factor': 1"));
    refuses(&run(&["schema", "--store", "embedded:x"]), 2, &["cql://"]);
}

#[test]
fn nobody_there_is_one_line() {
    refuses(&serve("cql://127.0.0.1:1/everline"), 1, &["127.0.0.1:1", "--store"]);
    refuses(&serve("cql://no-such-host.invalid:9042/everline"), 1, &["no-such-host.invalid:9042", "--store"]);
    refuses(&run(&["schema", "--store", "cql://127.0.0.1:1/everline"]), 1, &["127.0.0.1:1", "--store"]);
}

#[tokio::test]
async fn a_keyspace_that_does_not_fit_is_one_line_with_the_remedy() {
    let Some(target) = unmade_keyspace() else { return };
    let store = store(&target);
    refuses(&serve(&store), 2, &["no keyspace", &target.keyspace, "everline schema"]);
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";
    execute(&target, &format!("CREATE KEYSPACE KS WITH replication = {replication}")).await;
    refuses(&serve(&store), 2, &["no Everline tables", "everline schema"]);

    let made = run(&["schema", "--store", &store]);
    assert_eq!(made.code, 0, "{made:?}");
    let again = run(&["schema", "--store", &store]);
    assert_eq!((again.code, &again.stdout), (0, &made.stdout), "twice changes nothing: {again:?}");
    let renamed = run(&["schema", "--new-epoch", "--store", &store]);
    assert_eq!(renamed.code, 0, "{renamed:?}");
    assert_ne!(renamed.stdout, made.stdout);

    for (version, says) in [("0", "run `everline schema`"), ("999", "newer Everline")] {
        execute(&target, &format!("UPDATE KS.meta SET value = '{version}' WHERE key = 'schema' IF EXISTS")).await;
        refuses(&serve(&store), 2, &["schema version", version, says]);
    }
    refuses(&run(&["schema", "--store", &store]), 2, &["newer Everline"]);
}

#[tokio::test]
async fn a_server_on_it_serves_and_what_it_wrote_is_verified_and_shown() {
    let Some(target) = keyspace().await else { return };
    let store = store(&target);
    let mut epochs = Vec::new();
    for round in 0..2 {
        let server = Program::serve_store(&store);
        let mut alice = Peer::connect(&server.addr, "alice").await;
        for n in 0..20 {
            alice.send("d:alice:bob", &format!("m{round}.{n}"), &format!("secret text {n}")).await;
        }
        epochs.push(alice.epoch.clone());
        server.stop();
    }
    assert_eq!(epochs[0], epochs[1], "the epoch is kept");
    let verified = run(&["verify", "--store", &store, "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let report: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!((&report["conversations"], &report["users"]), (&1.into(), &2.into()), "{report}");
    let shown = run(&["inspect", "--store", &store, "--conversation", "d:alice:bob", "--limit", "100"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.contains("message") && !shown.stdout.contains("secret"), "{shown:?}");
}
