//! Configuration: what the operator decides, and where the time comes from. No I/O but reading the
//! configuration file.
//!
//! | file | holds |
//! |---|---|
//! | `options` | the table of options; flag over environment over file over default |
//! | `settings` | the values, read and checked |
//! | `policy` | the numbers timelines and conversations follow |
//! | `duration`, `secret` | two kinds of values |
//! | `cql` | the address of a CQL store |
//! | `clock` | wall time from outside |

pub mod clock;
mod cql;
pub mod duration;
pub mod options;
pub mod policy;
mod secret;
mod settings;
#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use cql::CqlTarget;
pub use options::Options;
pub use policy::Policy;
pub use secret::Secret;
pub use settings::{SessionLimits, Settings, StoreChoice, TlsFiles, TokenKey, WebhookSettings};

/// A configuration that cannot be used: one line for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);
