//! Webhooks from outside: a receiver on a real socket, bad in every way, against the program or a server.
//!
//! Nothing here waits by sleeping for a result: a test waits for what it expects, with a deadline.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests: a failure is a panic")]

mod bad;
mod program;
mod receiver;
mod trouble;
