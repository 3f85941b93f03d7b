//! One WebSocket, seen as texts in and frames out.
//!
//! Reading, unmasking, pings and the closing handshake are tungstenite's. Frames out are gathered here
//! and written to the stream in one piece: tungstenite would copy them into a buffer whose room it keeps
//! for ever, while a session that was idle after a large page must be small again. For the same reason
//! the codec is made anew after a large frame came in, at a moment when nothing is buffered in it.
//!
//! How it can hurt: two writers on one stream could cut a frame in two. So tungstenite's own bytes
//! (pongs) are flushed before ours, and nothing is read while a write is under way.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::metered::Metered;
use crate::protocol::CloseCode;

/// Room for what is read at once, allocated for each connection.
const READ_BUFFER: usize = 2048;
/// A scratch text above this is not kept by its thread.
const SCRATCH_KEPT: usize = 64 * 1024;
/// At most so much is read and thrown away after a close.
const DISCARDED: usize = 1024 * 1024;

/// The stream must allow both directions and moving.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for S {}

/// Why nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer closed, or is lost.
    ByPeer,
    /// The peer sent what is not allowed: close with this code.
    Refused(u16, &'static str),
}

/// Sizes and patience of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketLimits {
    pub(super) max_frame_bytes: usize,
    pub(super) write_stall: Duration,
    pub(super) close_grace: Duration,
}

/// See the module.
pub(super) struct Socket<S> {
    /// `None` only while it is exchanged.
    ws: Option<WebSocketStream<Metered<S>>>,
    /// Whole frames not yet written. No room is kept between writes.
    out: Vec<u8>,
    limits: SocketLimits,
    /// A large frame came in: the codec's buffer is large.
    swollen: bool,
}

fn config(limits: &SocketLimits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(READ_BUFFER)
        .max_message_size(Some(limits.max_frame_bytes))
        .max_frame_size(Some(limits.max_frame_bytes))
}

thread_local! {
    /// Where texts are written before their length is known.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S: Transport> Socket<S> {
    /// Takes over an upgraded stream; `rest` was read from it already.
    pub(super) async fn new(stream: S, rest: Vec<u8>, limits: SocketLimits) -> Self {
        let stream = Metered::new(stream, rest.len());
        let ws = WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config(&limits))).await;
        Self { ws: Some(ws), out: Vec::new(), limits, swollen: false }
    }

    fn ws(&mut self) -> &mut WebSocketStream<Metered<S>> {
        self.ws.as_mut().expect("only empty inside `shrink`, which puts it back")
    }

    /// The next text. Pings are answered on the way. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<Utf8Bytes, Ended> {
        loop {
            let message = self.ws().next().await;
            if let Some(Ok(message)) = &message {
                self.ws().get_mut().consumed(message);
                self.swollen |= message.len() > READ_BUFFER;
            }
            match message {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Binary(_))) => {
                    return Err(Ended::Refused(CloseCode::Unsupported.code(), "binary frame"));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(Ended::ByPeer),
                Some(Err(error)) => return Err(ended(&error)),
            }
        }
    }

    /// Gives back what a large frame took, if nothing is buffered. Call when the text is dropped.
    pub(super) async fn shrink(&mut self) {
        if self.swollen && self.ws().get_ref().is_drained() {
            // Boxed: it is rare, and its memory would be part of every idle session's task.
            Box::pin(self.renew()).await;
        }
    }

    /// Exchanges the codec.
    async fn renew(&mut self) {
        // A pong not yet written would be lost with the codec.
        if self.ws().flush().await.is_err() {
            return;
        }
        if let Some(ws) = self.ws.take() {
            let mut stream = ws.into_inner();
            stream.restart();
            self.ws = Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config(&self.limits))).await);
        }
        self.swollen = false;
    }

    /// Adds a text frame to what [`Socket::flush`] will write.
    pub(super) fn feed(&mut self, write: impl FnOnce(&mut String)) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            write(scratch);
            self.feed_text(scratch);
            if scratch.capacity() > SCRATCH_KEPT {
                *scratch = String::new();
            }
        });
    }

    /// The same for a text that is there.
    pub(super) fn feed_text(&mut self, text: &str) {
        let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
        let length = text.len() as u64;
        self.out.reserve(header.len(length) + text.len());
        header.format(length, &mut self.out).expect("writing into memory cannot fail");
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Bytes that wait for [`Socket::flush`].
    pub(super) fn gathered(&self) -> usize {
        self.out.len()
    }

    /// Writes everything gathered. An error (also: no progress for too long) ends the connection.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let bytes = mem::take(&mut self.out);
        let stall = self.limits.write_stall;
        let ws = self.ws();
        match timeout(stall, ws.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        let stream = ws.get_mut();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written = timeout(stall, stream.write(rest)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(written..).unwrap_or_default();
        }
        timeout(stall, stream.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Writes what is gathered and a close frame, and waits for the peer's answer, not for long.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) {
        let deadline = Instant::now() + self.limits.close_grace;
        if !matches!(timeout_at(deadline, self.flush()).await, Ok(Ok(()))) {
            return;
        }
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        if !matches!(timeout_at(deadline, self.ws().close(Some(frame))).await, Ok(Ok(()))) {
            return;
        }
        loop {
            match timeout_at(deadline, self.ws().next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => break,
                Err(_) => return,
            }
        }
        // Bytes left unread would make the kernel reset the connection and the peer lose the reason.
        let _ = timeout_at(deadline, self.discard()).await;
    }

    /// Ends our direction and reads the peer's to its end, within bounds.
    async fn discard(&mut self) {
        let stream = self.ws().get_mut();
        let (mut trash, mut seen) = ([0_u8; 512], 0);
        if stream.shutdown().await.is_err() {
            return;
        }
        while let Ok(read @ 1..) = stream.read(&mut trash).await {
            seen += read;
            if seen > DISCARDED {
                return;
            }
        }
    }

    /// Answers the peer's close frame, if it sent one.
    pub(super) async fn closed_by_peer(mut self) {
        let _ = timeout(self.limits.close_grace, self.ws().flush()).await;
    }
}

fn ended(error: &Error) -> Ended {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        Error::Capacity(_) => Ended::Refused(CloseCode::TooBig.code(), "frame too large"),
        Error::Utf8(_) => Ended::Refused(CloseCode::InvalidUtf8.code(), "invalid UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::ByPeer,
        // 1002: the contract names no code for what is not WebSocket at all.
        Error::Protocol(_) => Ended::Refused(1002, "not WebSocket"),
        _ => Ended::ByPeer,
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests;
