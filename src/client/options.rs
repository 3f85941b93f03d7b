//! What a client is told when it is made.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::cache::{Cache, NoCache};
use super::error::BoxError;
use super::state::Preload;
use crate::protocol::{ClientInfo, DeviceId};

/// Gives tokens. Called before each connection; `renew`: the last one was refused as expired.
pub type TokenProvider = Arc<dyn Fn(bool) -> BoxFuture<'static, Result<String, BoxError>> + std::marker::Send + Sync>;

/// Where the token comes from.
#[derive(Clone)]
pub enum Token {
    /// One for good; the client stops when it expires.
    Fixed(String),
    /// Asked for each connection.
    Provider(TokenProvider),
}

impl fmt::Debug for Token {
    /// Never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "Fixed",
            Self::Provider(_) => "Provider",
        })
    }
}

impl From<&str> for Token {
    fn from(token: &str) -> Self {
        Self::Fixed(token.to_owned())
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self::Fixed(token)
    }
}

/// A byte stream to a server.
pub trait Stream: AsyncRead + AsyncWrite + std::marker::Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + std::marker::Send + Unpin> Stream for T {}

/// Opens a byte stream to `host:port`; for tests, proxies and TLS.
pub type Dial = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + std::marker::Send + Sync>;

/// How a client is to work. Made with [`Options::new`]; every field may be set.
pub struct Options {
    /// `ws://host:port/v1/ws`. With `wss` a [`Dial`] has to bring the encryption.
    pub url: String,
    /// Who connects.
    pub token: Token,
    /// Which of his devices.
    pub device_id: DeviceId,
    /// What runs here.
    pub client: ClientInfo,
    /// Where it is kept.
    pub cache: Box<dyn Cache>,
    /// What is loaded unasked.
    pub preload: Preload,
    /// For waits and keys; random when absent. Two clients of one user must not share it.
    pub seed: Option<u64>,
    /// Events that may wait for the application; more are dropped, see [`super::Event::Lagged`].
    pub event_capacity: usize,
    /// How to reach the server; plain TCP when absent.
    pub dial: Option<Dial>,
}

impl Options {
    /// Keeps nothing, preloads nothing.
    #[must_use]
    pub fn new(url: impl Into<String>, token: impl Into<Token>, device_id: DeviceId) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            device_id,
            client: ClientInfo {
                name: Some("everline-rust".to_owned()),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            },
            cache: Box::new(NoCache),
            preload: Preload::None,
            seed: None,
            event_capacity: 1_024,
            dial: None,
        }
    }

    /// Keeps state and outbox there.
    #[must_use]
    pub fn cache(mut self, cache: impl Cache) -> Self {
        self.cache = Box::new(cache);
        self
    }

    /// Loads this much unasked.
    #[must_use]
    pub fn preload(mut self, preload: Preload) -> Self {
        self.preload = preload;
        self
    }

    /// Makes waits and keys repeatable.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Reaches the server another way.
    #[must_use]
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = Some(dial);
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Options");
        out.field("url", &self.url).field("device_id", &self.device_id);
        out.field("preload", &self.preload).finish_non_exhaustive()
    }
}
