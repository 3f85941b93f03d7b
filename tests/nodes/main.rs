//! Several nodes in front of one store, with a real `nats-server` between them (Debian's package
//! `nats-server`), and without.
//!
//! Nothing here waits by sleeping: a test waits for what must come, with a deadline.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod bus;
#[path = "../server_suite/harness.rs"]
#[allow(dead_code)]
mod harness;
mod nats;
mod sessions;
