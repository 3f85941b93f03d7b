//! Everline: a timeline-model sync service over WebSocket.
#[cfg(feature = "server")]
pub mod commands;
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
pub mod protocol;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod timeline;
