//! Everline: a timeline-model sync service over WebSocket.
//!
//! Everything is a timeline, and a push is only a shortcut of a pull. A conversation has a timeline
//! (permanent), a user has a timeline (FIFO). Both are logs with dense sequence numbers, appended by the
//! same code and read by the same code; what is on the wire can always be read again from the log.
//!
//! # The rooms
//! Each depends only on those named before it.
//!
//! | room | what it is for |
//! |---|---|
//! | [`protocol`] | the frames of the contract; no I/O |
//! | [`config`] | what the operator decides; the clock |
//! | [`store`] | logs advanced by compare-and-set: the trait, `embedded`, `cql`, `sim`, the conformance suite |
//! | [`timeline`] | lanes, drafts, certain outcomes: the only place that gives a sequence number |
//! | [`bus`] | hints between nodes: nothing on one, NATS on several |
//! | [`hub`] | which sessions a user has here, and the way to them |
//! | [`conversation`] | rules: membership, rights, visibility, changes; answers that only read |
//! | [`fanout`] | from a conversation's log into users' timelines, once and in order |
//! | [`engine`] | the one door for sessions: drives lanes, commits, delivers, answers |
//! | [`webhook`] | tells the application's server what happens: signed, from a queue on disk |
//! | [`auth`] | tokens |
//! | [`session`] | one socket, one cursor, one loop |
//! | [`server`] | one port: WebSocket, health, metrics, page |
//! | [`audit`] | looking into a store from beside: whether it agrees with itself, what it holds as text |
//! | [`migrate`] | a whole store into another one |
//! | [`client`] | the client library; usable without all of the above but `protocol` |
//!
//! # The two paths
//! *Sending:* session → [`engine::Engine::submit`] → conversation lane: decide, number, commit together
//! with the deliveries → answer → hub → sessions. *Receiving:* a session registers in the hub, looks at
//! the head, reads pages up to there, then lives on pushes; on any gap it goes back to reading pages.
//!
//! # Invariants
//! * Only `timeline` numbers. An unknown outcome is never renumbered.
//! * No ack before durable; no push before durable: what is pushed can be pulled.
//! * `store` knows no sockets, `hub` no store, `protocol` no I/O.
//! * Nobody awaits a session's queue. Every queue has a bound.
//! * Bodies are stored once, in the conversation: a recall erases one place.

#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod bus;
pub mod client;
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
#[cfg(feature = "server")]
pub mod migrate;
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
#[cfg(feature = "server")]
pub mod webhook;
