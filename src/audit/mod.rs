//! Looking into a store from beside the service: whether it agrees with itself, and what it holds as text.
//!
//! Pure functions over [`crate::store::Store`], so that tests use them on a simulated one; the commands
//! `verify` and `inspect` print what comes out. Nothing here writes, and no part of the service calls it.

pub mod inspect;
pub mod verify;
