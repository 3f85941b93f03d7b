//! The network: one connection as two byte pipes with somebody in the middle, who can delay, hold and
//! cut them, and who reads along.
//!
//! ```text
//!   client ══ duplex ══ forwarder (delay, hold, read along) ══ duplex ══ server
//! ```
//! What went to the server is told when the client has written it, what came from it when the client can
//! read it: both as seen from the client's edge, so the order of what is told is one of real time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;

/// Bytes a pipe holds. Small, so that a reader that stops is felt soon.
const PIPE: usize = 2048;

/// Something that can be shut: one way of a line, or everything of a node.
#[derive(Debug, Default)]
pub struct Gate {
    shut: AtomicBool,
    changed: Notify,
}

impl Gate {
    pub fn shut(&self, on: bool) {
        self.shut.store(on, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    pub async fn open(&self) {
        wait(&self.changed, || !self.is_shut()).await;
    }
}

async fn wait(changed: &Notify, done: impl Fn() -> bool) {
    loop {
        let notified = changed.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if done() {
            return;
        }
        notified.await;
    }
}

/// One connection's switches.
#[derive(Debug, Default)]
pub struct Line {
    /// From the client to the server.
    pub up: Gate,
    /// From the server to the client.
    pub down: Gate,
    delay_ms: AtomicU64,
    cut: AtomicBool,
    cut_now: Notify,
    /// The server has done with it.
    over: AtomicBool,
}

impl Line {
    /// Every piece of bytes takes so long.
    pub fn delay(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Both ends see the end of the stream; what is under way is lost.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.cut_now.notify_waiters();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// The session has ended, whether or not the client can know.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.is_cut()
    }

    /// Mends everything but a cut.
    pub fn mend(&self) {
        self.up.shut(false);
        self.down.shut(false);
        self.delay(0);
    }

    /// Whether nothing is wrong with it.
    pub fn is_sound(&self) -> bool {
        let late = self.delay_ms.load(Ordering::Relaxed) > 0;
        !self.is_cut() && !self.up.is_shut() && !self.down.is_shut() && !late
    }

    async fn until_cut(&self) {
        wait(&self.cut_now, || self.is_cut()).await;
    }

    async fn pass(&self, way: &Gate, node: &Gate) {
        let ms = self.delay_ms.load(Ordering::Relaxed);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        way.open().await;
        node.open().await;
    }
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// A client's end and a server's end, with `reads_along` in the middle. `node`: shut while the server's
/// node stands still.
pub fn connect<F>(line: &Arc<Line>, node: &Arc<Gate>, reads_along: F) -> (DuplexStream, DuplexStream)
where
    F: Fn(Way, &[u8]) + Clone + Send + Sync + 'static,
{
    let (client, near) = tokio::io::duplex(PIPE);
    let (far, server) = tokio::io::duplex(PIPE);
    let (from_client, to_client) = tokio::io::split(near);
    let (from_server, to_server) = tokio::io::split(far);
    tokio::spawn(forward(Arc::clone(line), Arc::clone(node), Way::Up, from_client, to_server, reads_along.clone()));
    tokio::spawn(forward(Arc::clone(line), Arc::clone(node), Way::Down, from_server, to_client, reads_along));
    (client, server)
}

async fn forward<F: Fn(Way, &[u8]) + Sync>(
    line: Arc<Line>,
    node: Arc<Gate>,
    way: Way,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    reads_along: F,
) {
    let moving = async {
        let mut piece = vec![0; PIPE];
        let gate = if way == Way::Up { &line.up } else { &line.down };
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let Some(bytes) = piece.get(..count) else { break };
            if way == Way::Up {
                reads_along(way, bytes);
            }
            line.pass(gate, &node).await;
            if to.write_all(bytes).await.is_err() {
                break;
            }
            if way == Way::Down {
                reads_along(way, bytes);
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::select! {
        biased;
        () = line.until_cut() => {}
        () = moving => {}
    }
    // Both halves of an end must go for the peer to see it.
    line.cut();
}

/// The server's side of the upgrade: reads a request's head and agrees. Returns what came behind it.
pub async fn upgrade(stream: &mut DuplexStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > 4096 || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    let rest = head.split_off(end);
    let text = String::from_utf8_lossy(&head);
    let key = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let key = key.ok_or(io::ErrorKind::InvalidData)?;
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Protocol: {}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n",
        everline::protocol::SUBPROTOCOL
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(rest)
}

/// Reads one direction of a WebSocket along: after the HTTP head, whole frames.
#[derive(Debug, Default)]
pub struct Frames {
    upgraded: bool,
    bytes: Vec<u8>,
    /// A text that came in several frames.
    text: Vec<u8>,
}

/// A frame as far as the model cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Close(u16),
}

impl Frames {
    /// Takes bytes in and gives the frames completed by them.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.bytes.extend_from_slice(bytes);
        if !self.upgraded {
            let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Vec::new() };
            self.bytes.drain(..at + 4);
            self.upgraded = true;
        }
        let mut frames = Vec::new();
        while let Some((opcode, last, payload)) = self.next() {
            match opcode {
                0 | 1 => {
                    self.text.extend_from_slice(&payload);
                    if last {
                        frames.push(Frame::Text(String::from_utf8_lossy(&std::mem::take(&mut self.text)).into_owned()));
                    }
                }
                8 => {
                    let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                    frames.push(Frame::Close(code));
                }
                _ => {}
            }
        }
        frames
    }

    fn next(&mut self) -> Option<(u8, bool, Vec<u8>)> {
        let (first, second) = (*self.bytes.first()?, *self.bytes.get(1)?);
        let (mut at, mut length) = (2, usize::from(second & 0x7f));
        if length == 126 {
            length = usize::from(u16::from_be_bytes(*self.bytes.get(2..)?.first_chunk()?));
            at = 4;
        } else if length == 127 {
            length = usize::try_from(u64::from_be_bytes(*self.bytes.get(2..)?.first_chunk()?)).ok()?;
            at = 10;
        }
        let mask: Option<[u8; 4]> = if second & 0x80 == 0 {
            None
        } else {
            let mask = *self.bytes.get(at..)?.first_chunk()?;
            at += 4;
            Some(mask)
        };
        let mut payload = self.bytes.get(at..at + length)?.to_vec();
        if let Some(mask) = mask {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        self.bytes.drain(..at + length);
        Some((first & 0x0f, first & 0x80 != 0, payload))
    }
}
