//! Everline: a timeline-model sync service over WebSocket.
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod conversation;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod fanout;
#[cfg(feature = "server")]
pub mod hub;
#[doc(hidden)]
pub mod planted;
pub mod protocol;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod timeline;
