//! The client library: one device of one user, kept in step with a server.
//!
//! It connects, catches up, keeps what it knows in a [`Cache`], sends from an outbox that survives
//! everything, and tells the application what happens. It must work without any server part of this
//! crate (`--no-default-features`), and must never call old state live.
//!
//! ```no_run
//! use everline::client::{Client, Event, MemoryCache, Options, Preload};
//! use everline::protocol::{Body, DeviceId, UserId};
//!
//! # async fn chat() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::new("ws://127.0.0.1:7700/v1/ws", "a token", DeviceId::parse("phone")?)
//!     .cache(MemoryCache::default())
//!     .preload(Preload::History(1));
//! let (client, mut events) = Client::connect(options)?;
//!
//! // In the outbox at once; `sent` when the server has it for good, over any number of connections.
//! let body = Body::parse(r#"{"text":"hi"}"#)?;
//! let sent = client.send(UserId::parse("bob")?, body, None, vec![]).await?;
//! println!("{} {}", sent.conv_id, sent.conv_seq);
//!
//! while let Some(event) = events.next().await {
//!     if let Event::Applied { entries, live: true } = event {
//!         println!("{} new", entries.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `state/` | the model and what entries and answers do to it; pure |
//! | `outbox` | messages on their way; pure |
//! | `backoff` | when to connect again; pure |
//! | `loader` | what the client asks by itself, decided from marks in the state |
//! | `cache` | the trait, and three simple caches |
//! | `core` | what outlives a connection |
//! | `transport`, `session`, `frames`, `task` | the socket, one connection, its frames, all connections |
//! | `handle`, `requests`, `options`, `event`, `error` | what the application sees |
//!
//! # States
//! `Connecting` -> `Syncing` -> `Live`, and `Disconnected` between connections. `Live` is said only
//! while the last frame applied reached the head, no gap is open (none of a large conversation's log
//! either), no reset or first load is unfinished, and something was heard within two heartbeats (and 5 s). Older pages, titles
//! and members of a conversation just joined may still be on their way then:
//! [`state::ConversationState::is_stale`] says so.
//!
//! # Order and repetition
//! Messages of one conversation go one at a time, so that none overtakes another that has to be
//! tried again. `unavailable`, `rate_limited` and `overloaded` are tried again with the same key, any
//! other error is final and reported. Other requests are never repeated by the client.

mod backoff;
mod cache;
mod core;
mod error;
mod event;
mod frames;
mod handle;
mod loader;
mod options;
mod outbox;
mod requests;
mod session;
pub mod state;
mod task;
mod transport;

pub use backoff::{LONGEST, RESTART_SPREAD, SHORTEST};
pub use cache::{Cache, FileCache, MemoryCache, NoCache, Saved, Write};
pub use core::Outgoing;
pub use error::{BoxError, InvalidUrl, RequestError, SendError, StopReason};
pub use event::{ConnectionState, Event, Events, Sent};
pub use handle::{Client, Queued};
pub use options::{Dial, Options, Stream, Token, TokenProvider};
pub use outbox::{MAX_OUTBOX, Outbox, OutboxItem, To};
pub use requests::{NewGroup, NewSettings};
pub use state::{Preload, State};
