//! A stream that counts what was read from it, to know when a codec above it holds nothing.
//!
//! What the codec has used up is computed from the messages it gave: each took at least its payload, its
//! mask and the shortest header. So the count can only be too low (a client that splits messages or
//! writes long headers), and then the codec is never taken for empty: it just stays large.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

pub(super) struct Metered<S> {
    inner: S,
    /// Bytes given to the codec.
    read: usize,
    /// Bytes the codec surely used up.
    used: usize,
}

impl<S> Metered<S> {
    /// `already`: bytes the codec is given besides.
    pub(super) fn new(inner: S, already: usize) -> Self {
        Self { inner, read: already, used: 0 }
    }

    /// The codec gave this message.
    pub(super) fn consumed(&mut self, message: &Message) {
        let payload = match message {
            // Its length counts without the code, which is 2 bytes when there is a close frame.
            Message::Close(frame) => frame.as_ref().map_or(0, |frame| frame.reason.len() + 2),
            other => other.len(),
        };
        let extended = match payload {
            0..126 => 0,
            126..65_536 => 2,
            _ => 8,
        };
        self.used = self.used.saturating_add(2 + extended + 4 + payload);
    }

    /// Surely nothing read waits in the codec.
    pub(super) fn is_drained(&self) -> bool {
        self.read == self.used
    }

    /// The codec is a new one.
    pub(super) fn restart(&mut self) {
        (self.read, self.used) = (0, 0);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.read = self.read.saturating_add(buf.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
