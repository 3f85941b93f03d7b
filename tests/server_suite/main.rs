//! The server from outside: real sockets, port 0, a store in memory, one promise a test.
//!
//! Nothing here waits by sleeping: a test waits for a frame, a close or a line. Times that are promised
//! (deadlines, heartbeats) are configured small.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

mod bounds;
mod ephemeral;
mod flow;
mod handshake;
mod harness;
mod hello;
mod hostile;
mod large;
mod process;
mod random;
mod refusals;
mod requests;
mod tls;
mod wrong;
