//! A session of its own over the real engine, for tests of the client: as simple as the contract
//! allows, and as nasty as it allows (frames lost, doubled, cut connections, `unavailable`).

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use everline::engine::{Caller, Engine, PageRead, Refusal};
use everline::protocol::*;
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Upgrade, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Chances in a thousand, for devices whose name begins with `flaky`.
#[derive(Debug, Default)]
pub struct Faults {
    pub cut: AtomicU32,
    pub lose: AtomicU32,
    pub double: AtomicU32,
    pub unavailable: AtomicU32,
    /// Not a fault: how often a reset was sent.
    pub resets: AtomicU32,
}

impl Faults {
    pub fn set(&self, cut: u32, lose: u32, double: u32, unavailable: u32) {
        self.cut.store(cut, Ordering::Relaxed);
        self.lose.store(lose, Ordering::Relaxed);
        self.double.store(double, Ordering::Relaxed);
        self.unavailable.store(unavailable, Ordering::Relaxed);
    }
}

pub struct Shim {
    pub engine: Engine,
    pub faults: Faults,
    pub seed: u64,
}

/// Takes the upgrade of a client.
#[allow(clippy::result_large_err)]
pub async fn accept(stream: TcpStream) -> Option<WebSocketStream<TcpStream>> {
    let echo = |_: &Upgrade, mut response: Response| -> Result<Response, ErrorResponse> {
        response.headers_mut().insert("Sec-WebSocket-Protocol", SUBPROTOCOL.parse().unwrap());
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async(stream, echo).await.ok()
}

/// Serves on a free port; the address as a client wants it.
pub async fn serve(shim: Arc<Shim>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}{WS_PATH}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let shim = Arc::clone(&shim);
            tokio::spawn(async move {
                if let Some(socket) = accept(stream).await {
                    Session::run(shim, socket, number).await;
                }
            });
        }
    });
    url
}

struct Session {
    shim: Arc<Shim>,
    caller: Caller,
    out: mpsc::UnboundedSender<String>,
    rng: SmallRng,
    flaky: bool,
    at: u64,
    acked: u64,
    live: bool,
    answers: Option<MsgId>,
    /// Polls for which a flaky session pushes nothing: it may fall below the floor meanwhile.
    stalled: u32,
}

/// The connection ends.
struct Cut;

impl Session {
    async fn run(shim: Arc<Shim>, socket: WebSocketStream<TcpStream>, number: u64) {
        let (mut sink, mut frames) = socket.split();
        let Some(Ok(WsMessage::Text(text))) = frames.next().await else { return };
        let Ok(ClientFrame::Hello(hello)) = ClientFrame::parse(&text) else { panic!("{text}") };
        // Tokens are the server's business, not of these tests.
        let user = UserId::parse("alice").unwrap();
        let caller = Caller { user, device: hello.device_id.clone() };
        let (out, mut queue) = mpsc::unbounded_channel::<String>();
        let flaky = hello.device_id.starts_with("flaky");
        let rng = SmallRng::seed_from_u64(shim.seed ^ (number << 32));
        let mut session =
            Self { shim, caller, out, rng, flaky, at: 0, acked: 0, live: false, answers: None, stalled: 0 };
        if session.hello(hello).await.is_err() {
            return;
        }
        let mut poll = tokio::time::interval(Duration::from_millis(2));
        loop {
            tokio::select! {
                text = queue.recv() => {
                    let Some(text) = text else { return };
                    if session.chance(&session.shim.faults.cut.load(Ordering::Relaxed).clone()) {
                        let close = CloseFrame { code: 4408.into(), reason: "".into() };
                        let _ = sink.send(WsMessage::Close(Some(close))).await;
                        return;
                    }
                    if sink.send(WsMessage::text(text)).await.is_err() { return }
                }
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return };
                    if let WsMessage::Text(text) = frame && session.frame(&text).is_err() { return }
                }
                _ = poll.tick() => if session.push().await.is_err() { return },
            }
        }
    }

    fn chance(&mut self, per_mille: &u32) -> bool {
        self.flaky && self.rng.random_range(0..1000) < *per_mille
    }

    fn send(&self, frame: &ServerFrame) -> Result<(), Cut> {
        self.out.send(frame.to_json()).map_err(|_| Cut)
    }

    async fn hello(&mut self, hello: Hello) -> Result<(), Cut> {
        let standing = self.shim.engine.hello(&self.caller, None).await.map_err(|_| Cut)?;
        let epoch = self.shim.engine.epoch();
        let reason = match &hello.cursor {
            None => None,
            Some(cursor) if cursor.epoch != epoch => Some(ResetReason::EpochMismatch),
            Some(cursor) if cursor.seq > standing.head => Some(ResetReason::Ahead),
            Some(cursor) if cursor.seq < standing.floor => Some(ResetReason::TooOld),
            Some(_) => None,
        };
        let sync = match (&hello.cursor, reason) {
            (None, _) => SyncMode::Fresh,
            (Some(_), None) => SyncMode::Resumed,
            (Some(_), Some(_)) => SyncMode::Reset,
        };
        self.at = hello.cursor.map_or(standing.head, |cursor| cursor.seq);
        self.acked = self.at;
        self.send(&ServerFrame::Welcome(Welcome {
            id: hello.id,
            user_id: self.caller.user.clone(),
            device_id: self.caller.device.clone(),
            session_id: "s".into(),
            epoch,
            head_seq: standing.head,
            floor_seq: standing.floor,
            sync,
            server_at: 1,
            heartbeat_ms: 25_000,
            limits: Limits { window_entries: 40, ..Limits::default() },
        }))?;
        if let Some(reason) = reason {
            self.reset(reason, standing.head, standing.floor)?;
        }
        Ok(())
    }

    fn reset(&mut self, reason: ResetReason, head_seq: u64, floor_seq: u64) -> Result<(), Cut> {
        assert!(self.flaky, "a device that is never behind was reset");
        self.shim.faults.resets.fetch_add(1, Ordering::Relaxed);
        (self.at, self.acked, self.live) = (head_seq, head_seq, false);
        let (id, epoch) = (self.answers.take(), self.shim.engine.epoch());
        self.send(&ServerFrame::Reset(Reset { id, reason, epoch, head_seq, floor_seq }))
    }

    async fn push(&mut self) -> Result<(), Cut> {
        let most = usize::try_from(self.rng.random_range(1..8_u32)).unwrap();
        if self.at >= self.acked + 40 || self.stalled > 0 {
            self.stalled = self.stalled.saturating_sub(1);
            return Ok(());
        }
        if self.chance(&self.shim.faults.lose.load(Ordering::Relaxed).clone()) {
            self.stalled = self.rng.random_range(0..20);
        }
        let page = match self.shim.engine.page(&self.caller.user, self.at, most, 1 << 20).await {
            Ok(PageRead::Page(page)) => page,
            Ok(PageRead::BelowFloor(standing)) => {
                return self.reset(ResetReason::TooOld, standing.head, standing.floor);
            }
            Ok(PageRead::AboveHead(standing)) => return self.reset(ResetReason::Ahead, standing.head, standing.floor),
            Err(_) => return Ok(()),
        };
        let live = page.to == page.standing.head;
        if page.to == page.from && self.live && self.answers.is_none() {
            return Ok(());
        }
        self.live = live;
        let entries = page.entries.iter().map(|(seq, text)| (*seq, &**text));
        let mut text = String::new();
        let id = self.answers.take();
        write_sync_frame(&mut text, id.as_ref(), page.from, page.to, live, entries);
        self.at = page.to;
        // The last frame is never lost: nothing would show that it is missing before the next ping.
        if self.chance(&self.shim.faults.lose.load(Ordering::Relaxed).clone()) && id.is_none() && !live {
            return Ok(());
        }
        if self.chance(&self.shim.faults.double.load(Ordering::Relaxed).clone()) && id.is_none() {
            self.out.send(text.clone()).map_err(|_| Cut)?;
        }
        self.out.send(text).map_err(|_| Cut)
    }

    fn frame(&mut self, text: &str) -> Result<(), Cut> {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Ack { seq } | ClientFrame::Pong { seq }) => {
                assert!(seq <= self.at, "ack {seq} above what was sent, {}", self.at);
                self.acked = self.acked.max(seq);
                Ok(())
            }
            Ok(ClientFrame::Request(Envelope { id, request: Request::Sync { after_seq } })) => {
                assert!(self.answers.is_none(), "asked twice");
                self.answers = Some(id);
                (self.at, self.live) = (after_seq, false);
                Ok(())
            }
            Ok(ClientFrame::Request(Envelope { id, request })) => {
                self.answer(id, request);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => panic!("{text}: {error:?}"),
        }
    }

    /// Answers come when they come: before or after the entries they made.
    fn answer(&mut self, id: MsgId, request: Request) {
        let out = self.out.clone();
        if self.chance(&self.shim.faults.unavailable.load(Ordering::Relaxed).clone()) {
            let error = ErrorFrame::new(Some(id), ErrorCode::Unavailable).with_retry_after(3);
            let _ = out.send(ServerFrame::Error(error).to_json());
            return;
        }
        let late = Duration::from_micros(self.rng.random_range(0..4_000));
        let answer = self.shim.engine.submit(&self.caller, request);
        tokio::spawn(async move {
            let answer = answer.await;
            tokio::time::sleep(late).await;
            let frame = match answer {
                Ok(body) => ServerFrame::Answer(Answer { id, body }),
                Err(Refusal { code, .. }) => ServerFrame::Error(ErrorFrame::new(Some(id), code)),
            };
            let _ = out.send(frame.to_json());
        });
    }
}

/// A line to a server that breaks by the same chance as a flaky session, and counts the resets it sees.
pub async fn breaking_line(shim: Arc<Shim>, server: std::net::SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}{WS_PATH}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(server).await.unwrap();
            let shim = Arc::clone(&shim);
            let mut rng = SmallRng::seed_from_u64(shim.seed ^ (number << 32));
            tokio::spawn(async move {
                let (mut up, mut down) = ([0; 4096], [0; 4096]);
                loop {
                    let done = tokio::select! {
                        read = near.read(&mut up) => match read {
                            Ok(n) if n > 0 => far.write_all(&up[..n]).await,
                            _ => return,
                        },
                        read = far.read(&mut down) => match read {
                            Ok(n) if n > 0 => {
                                let resets = String::from_utf8_lossy(&down[..n]).matches(r#"{"type":"reset""#).count();
                                shim.faults.resets.fetch_add(u32::try_from(resets).unwrap(), Ordering::Relaxed);
                                near.write_all(&down[..n]).await
                            }
                            _ => return,
                        },
                    };
                    if done.is_err() || rng.random_range(0..1000) < shim.faults.cut.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
    });
    url
}
