//! A device with a real session of a node, on a pipe instead of a socket.

use std::sync::Arc;
use std::time::Duration;

use everline::auth::{Minter, Verifier};
use everline::config::{Policy, SessionLimits, Settings};
use everline::protocol::*;
use everline::session;
use futures::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::world::{Node, World, user};
use crate::ensure;

/// A session looks at the head when nothing was said for so long.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
const SECRET: &str = "a secret for tests, and only for them";

pub struct Device {
    socket: WebSocketStream<DuplexStream>,
    /// The last seq shown.
    pub at: u64,
}

impl Device {
    /// Says hello; the welcome is not waited for.
    pub async fn hello(world: &World, node: &Node, who: &str) -> Self {
        let limits = SessionLimits { heartbeat: HEARTBEAT, ..Settings::default().session };
        let verifier = Verifier::with_secret(SECRET, world.clock.clone());
        let token = Minter::new(SECRET, world.clock.clone()).mint(&user(who), None, 1000 * HEARTBEAT);
        let (engine, hub, clock) = (node.engine.clone(), Arc::clone(&node.hub), world.clock.clone());
        let policy = Policy::default();
        let stop = CancellationToken::new();
        let shared = session::Shared::new(engine, hub, clock, verifier, limits, &policy, stop);
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(session::serve(Arc::new(shared), far, Vec::new(), Some(token)));
        let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let hello = r#"{"type":"hello","id":"1","device_id":"phone"}"#;
        socket.send(Message::text(hello)).await.unwrap();
        Self { socket, at: 0 }
    }

    /// What is said next, unless nothing is for so long.
    pub async fn next(&mut self, at_most: Duration) -> Result<Option<ServerFrame>, String> {
        let Ok(message) = timeout(at_most, self.socket.next()).await else { return Ok(None) };
        let Some(Ok(Message::Text(text))) = message else { return Err(format!("{message:?}")) };
        ServerFrame::parse(&text).map(Some).map_err(|error| error.to_string())
    }

    /// Waits, at most so long, until everything up to `seq` is shown, each frame going on where the last ended.
    pub async fn shown(&mut self, seq: u64, at_most: Duration) -> Result<(), String> {
        let shown = async {
            while self.at < seq {
                match self.next(at_most).await? {
                    Some(ServerFrame::Welcome(welcome)) => self.at = welcome.head_seq,
                    Some(ServerFrame::Sync(frame)) => self.take(&frame)?,
                    Some(_) => {}
                    None => break,
                }
            }
            Ok::<_, String>(())
        };
        timeout(at_most, shown).await.unwrap_or(Ok(()))?;
        ensure!(self.at >= seq, "{seq} is not shown, {} is", self.at);
        Ok(())
    }

    fn take(&mut self, frame: &SyncFrame) -> Result<(), String> {
        let seqs: Vec<u64> = frame.entries.iter().map(|entry| entry.seq).collect();
        let dense = frame.from_seq == self.at && seqs == (self.at + 1..=frame.to_seq).collect::<Vec<_>>();
        ensure!(dense, "after {}: ({}, {}] with {seqs:?}", self.at, frame.from_seq, frame.to_seq);
        self.at = frame.to_seq;
        Ok(())
    }
}
