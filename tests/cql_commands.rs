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

    let version = async |version: &str| {
        execute(&target, &format!("UPDATE KS.meta SET value = '{version}' WHERE key = 'schema' IF EXISTS")).await;
    };
    version("0").await;
    refuses(&serve(&store), 2, &["schema version", "0", "run `everline schema`"]);
    let raised = run(&["schema", "--store", &store]);
    assert_eq!((raised.code, &raised.stdout), (0, &renamed.stdout), "the remedy that was named: {raised:?}");
    Program::serve_store(&store).stop();
    version("999").await;
    for ended in
        [serve(&store), run(&["schema", "--store", &store]), run(&["schema", "--new-epoch", "--store", &store])]
    {
        refuses(&ended, 2, &["schema version", "999", "newer Everline"]);
    }
    version("1").await;
    assert_eq!(run(&["schema", "--store", &store]).stdout, renamed.stdout, "a refused command changes nothing");
}

#[test]
fn more_copies_than_nodes_are_one_line_with_the_remedy() {
    let Some(target) = unmade_keyspace() else { return };
    let nine = store(&CqlTarget { replication: 9, ..target });
    for _ in 0..2 {
        refuses(&run(&["schema", "--store", &nine]), 1, &["too few nodes", "?replication="]);
    }
    refuses(&serve(&nine), 1, &["too few nodes", "?replication="]);
}

#[tokio::test]
async fn a_bus_that_is_not_there_is_one_line_with_the_remedy() {
    let Some(target) = keyspace().await else { return };
    let serve = |nats: &str| {
        let store = store(&target);
        let here = ["serve", "--listen", "127.0.0.1:0", "--jwt-secret", "of this test"];
        run(&[&here[..], &["--store", &store, "--nats", nats]].concat())
    };
    // It may come: who started the program tries again, as with a database that is not there.
    refuses(&serve("nats://127.0.0.1:1"), 1, &["127.0.0.1:1", "start nats-server there, or correct --nats"]);
    refuses(&serve("nats://no-such-host.invalid:4222"), 1, &["no-such-host.invalid:4222", "correct --nats"]);
    refuses(&serve("nats://127.0.0.1:no"), 2, &["not of the form nats://HOST:PORT", "correct --nats"]);
    // One process has a directory to itself.
    let embedded = ["serve", "--listen", "127.0.0.1:0", "--jwt-secret", "of this test", "--store", "memory:"];
    refuses(&run(&[&embedded[..], &["--nats", "nats://127.0.0.1:1"]].concat()), 2, &["nats", "cql://"]);
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

#[tokio::test]
async fn connections_to_the_database_are_tls_when_told_whom_to_trust() {
    let Some(target) = keyspace().await else { return };
    let plain = store(&target);
    let no_certificates = tempfile::NamedTempFile::new().unwrap();
    for (file, why) in
        [("/nowhere/ca.pem", "No such file"), (no_certificates.path().to_str().unwrap(), "no certificate")]
    {
        refuses(&serve(&format!("{plain}&tls={file}")), 2, &[file, why, "signed the database's certificates"]);
    }
    let Some(ca) = cql_support::certificate() else { return };
    let trusted = format!("{plain}&tls={ca}");
    let server = Program::serve_store(&trusted);
    Peer::connect(&server.addr, "alice").await.send("d:alice:bob", "m", "over TLS").await;
    server.stop();
    assert_eq!(run(&["verify", "--store", &trusted]).code, 0);
    // Another's certificate is not trusted: nothing is said in the clear instead.
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server_suite/testdata/cert.pem");
    refuses(&serve(&format!("{plain}&tls={other}")), 1, &["--store", "certificate"]);
}
