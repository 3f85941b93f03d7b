//! The commands beside `serve`: each reads its arguments, opens what it needs, prints, and ends with an
//! exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed, or `verify` found a difference |
//! | 2 | the directory is in use by another process, or the arguments make no sense |
//!
//! They decide nothing about timelines. How they can hurt: opening a directory a server is using would
//! be a second writer, which the store refuses.

pub mod verify;
