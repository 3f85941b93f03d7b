//! A keyspace of its own for each test that needs a CQL database.
//!
//! `EVERLINE_TEST_CQL=host:port[,host:port]` says where it is (`scripts/cassandra up` starts one); without it such a
//! test says that it was skipped.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "shared by tests that use parts of it"
)]

use std::sync::Arc;
use std::time::Duration;

use everline::config::{Clock, CqlTarget, Policy};
use everline::store::Store;
use everline::store::conformance::Fixture;
use everline::store::cql::{Cql, Options, schema};

/// Where the database is.
pub fn hosts() -> Option<String> {
    let hosts = std::env::var("EVERLINE_TEST_CQL").ok().filter(|hosts| !hosts.is_empty());
    if hosts.is_none() {
        eprintln!("SKIPPED: EVERLINE_TEST_CQL names no CQL database (scripts/cassandra up starts one)");
    }
    hosts
}

/// Whom to trust when connecting to it by TLS.
pub fn certificate() -> Option<String> {
    let file = std::env::var("EVERLINE_TEST_CQL_CA").ok();
    if file.is_none() {
        eprintln!("SKIPPED: EVERLINE_TEST_CQL_CA names no certificate to trust (scripts/cassandra up --tls makes one)");
    }
    file
}

/// A fresh keyspace with the schema in it.
pub async fn keyspace() -> Option<CqlTarget> {
    let target = unmade_keyspace()?;
    schema::apply(&target, false).await.unwrap();
    Some(target)
}

/// The name of a keyspace nobody has made.
pub fn unmade_keyspace() -> Option<CqlTarget> {
    let hosts = hosts()?;
    let copies = hosts.split(',').count().min(3);
    let name = format!("test_{:016x}", rand::random::<u64>());
    Some(CqlTarget::parse(&format!("//{hosts}/{name}?replication={copies}")).unwrap())
}

/// Options as a server has them.
pub fn options(target: &CqlTarget) -> Options {
    Options::new(target.clone(), Clock::system(), &Policy::default())
}

/// Opens; a test's database may be slow, but it is there.
pub async fn open(options: Options) -> Arc<Cql> {
    Cql::open(options).await.unwrap()
}

/// A fixture of the conformance suite; reopening is a new process as far as the database can tell.
pub async fn fixture(change: impl Fn(Options) -> Options + Send + 'static) -> Option<Fixture> {
    let options = change(options(&keyspace().await?));
    let store: Arc<dyn Store> = open(options.clone()).await;
    Some(Fixture::new(store).reopening(move |_| {
        let options = options.clone();
        async move { open(options).await as Arc<dyn Store> }
    }))
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}
