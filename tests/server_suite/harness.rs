//! A server of one test, and a client that speaks the protocol by hand.

use std::sync::Arc;
use std::time::Duration;

use everline::auth::Minter;
use everline::config::{Clock, Secret, Settings, TokenKey};
use everline::engine::{Caller, Engine};
use everline::protocol::{AnswerBody, ClientFrame, DeviceId, Envelope, UserId};
use everline::server::{self, Handle, Parts, Server};
use everline::store::sim::{Faults, Sim, SimOptions};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// Nothing in these tests takes so long, unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const SECRET: &str = "a secret of the tests";
/// When the tests' clock begins.
pub(crate) const NOW_MS: u64 = 1_795_174_000_000;

pub(crate) struct House {
    pub(crate) handle: Handle,
    pub(crate) engine: Engine,
    pub(crate) store: Sim,
    pub(crate) clock: Clock,
}

/// Defaults without rates, which tests would run into.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings { token_key: Some(TokenKey::Secret(Secret::new(SECRET))), ..Settings::default() };
    settings.rate_connects = 0;
    settings.session.rate_messages = 0;
    settings.session.rate_requests = 0;
    settings.drain_spread = Duration::ZERO;
    settings
}

impl House {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        Self::try_start(&settings).await.unwrap()
    }

    pub(crate) async fn try_start(settings: &Settings) -> Result<Self, server::Error> {
        let clock = Clock::simulated(NOW_MS);
        let options = SimOptions { seed: 7, clock: clock.clone(), together: true, faults: Faults::none() };
        let store = Sim::new(options);
        let verifier = server::verifier(settings, clock.clone())?;
        let parts = Parts::assemble(settings, Arc::new(store.clone()), verifier, clock.clone(), 1).await?;
        let engine = parts.engine.clone();
        let listener = server::bind("127.0.0.1:0").await?;
        let handle = Server::start(settings, parts, listener).await?;
        Ok(Self { handle, engine, store, clock })
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.token_for(user, None, Duration::from_secs(3600))
    }

    pub(crate) fn token_for(&self, user: &str, device: Option<&str>, ttl: Duration) -> String {
        let device = device.map(|device| DeviceId::parse(device).unwrap());
        Minter::new(SECRET, self.clock.clone()).mint(&UserId::parse(user).unwrap(), device.as_ref(), ttl)
    }

    /// An upgraded socket that has not said hello.
    pub(crate) async fn socket(&self) -> Client {
        self.socket_with(&[]).await.unwrap()
    }

    pub(crate) async fn socket_with(&self, headers: &[(&str, &str)]) -> Result<Client, Error> {
        let stream = TcpStream::connect(self.handle.addr()).await.unwrap();
        let (ws, _) = tokio_tungstenite::client_async(self.request(headers), stream).await?;
        Ok(Client { ws, seq: 0 })
    }

    /// The upgrade request; a header with an empty value is taken out.
    pub(crate) fn request(&self, headers: &[(&str, &str)]) -> Request {
        let mut request = format!("ws://{}/v1/ws", self.handle.addr()).into_client_request().unwrap();
        let mut set = |name: &str, value: &str| {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().remove(&name);
            if !value.is_empty() {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        };
        set("sec-websocket-protocol", "everline.v1.json");
        headers.iter().for_each(|(name, value)| set(name, value));
        request
    }

    /// A device that has said hello, with more fields if there are any.
    pub(crate) async fn device(&self, user: &str, device: &str, more: Value) -> (Client, Value) {
        let mut client = self.socket().await;
        let welcome = client.hello(&self.token(user), device, more).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        (client, welcome)
    }

    /// A fresh device that has reached the head.
    pub(crate) async fn live(&self, user: &str, device: &str) -> Client {
        let (mut client, _) = self.device(user, device, json!({})).await;
        let frame = client.next().await;
        assert_eq!((&frame["type"], &frame["live"]), (&json!("sync"), &json!(true)), "{frame}");
        client
    }

    /// `from` sends `count` messages to `to`, past any session.
    pub(crate) async fn post(&self, from: &str, to: &str, count: usize) {
        let caller = Caller { user: UserId::parse(from).unwrap(), device: DeviceId::parse("none").unwrap() };
        let mut answers = Vec::new();
        for n in 0..count {
            let text =
                json!({"type":"send","id":"1","to":to,"client_msg_id":format!("{}-{n}", fresh()),"body":{"n":n}});
            let Ok(ClientFrame::Request(Envelope { request, .. })) = ClientFrame::parse(&text.to_string()) else {
                panic!("not a request")
            };
            answers.push(self.engine.submit(&caller, request));
        }
        for answer in answers {
            assert!(matches!(answer.await, Ok(AnswerBody::Sent { .. })));
        }
    }
}

fn fresh() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) struct Client {
    pub(crate) ws: WebSocketStream<TcpStream>,
    /// The cursor: `to_seq` of the last sync frame, or the position told.
    pub(crate) seq: u64,
}

impl Client {
    pub(crate) async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.ws.send(Message::Text(Utf8Bytes::from(text))).await.unwrap();
    }

    /// Says hello and returns the first answer.
    pub(crate) async fn hello(&mut self, token: &str, device: &str, more: Value) -> Value {
        let mut hello = json!({"type":"hello","id":"h","token":token,"device_id":device});
        for (name, value) in more.as_object().unwrap() {
            hello[name] = value.clone();
        }
        self.send(hello).await;
        self.next().await
    }

    /// The next frame; a close is a failure here.
    pub(crate) async fn next(&mut self) -> Value {
        match self.next_or_close().await {
            Ok(frame) => frame,
            Err(code) => panic!("closed with {code}"),
        }
    }

    /// The next frame, or the code of the close (0: the connection is lost).
    pub(crate) async fn next_or_close(&mut self) -> Result<Value, u16> {
        loop {
            match timeout(PATIENCE, self.ws.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    self.note(&frame);
                    return Ok(frame);
                }
                Some(Ok(Message::Close(Some(close)))) => return Err(close.code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(0),
                Some(Ok(other)) => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Every `sync` frame must continue the cursor.
    fn note(&mut self, frame: &Value) {
        match frame["type"].as_str() {
            Some("welcome") if frame["sync"] == "fresh" => self.seq = frame["head_seq"].as_u64().unwrap(),
            Some("reset") => self.seq = frame["head_seq"].as_u64().unwrap(),
            Some("sync") if frame["id"].is_null() => {
                assert_eq!(frame["from_seq"], self.seq, "a gap: {frame}");
                self.seq = frame["to_seq"].as_u64().unwrap();
            }
            Some("sync") => self.seq = frame["to_seq"].as_u64().unwrap(),
            _ => {}
        }
    }

    /// The next frame of this type; others are skipped.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Asks and returns the answer (or error) with the same id; sync frames on the way are taken in.
    pub(crate) async fn ask(&mut self, mut request: Value) -> Value {
        let id = format!("r{}", fresh());
        request["id"] = json!(id);
        self.send(request).await;
        loop {
            let frame = self.next().await;
            if frame["id"] == id {
                return frame;
            }
        }
    }

    /// All frames until the close, and its code.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, u16) {
        let mut frames = Vec::new();
        loop {
            match self.next_or_close().await {
                Ok(frame) => frames.push(frame),
                Err(code) => return (frames, code),
            }
        }
    }

    /// Expects an error of this code and then the close.
    pub(crate) async fn fails(&mut self, code: &str, close: u16) -> Value {
        let (frames, closed) = self.rest().await;
        let error = frames.last().cloned().unwrap_or_default();
        assert_eq!((error["code"].as_str(), closed), (Some(code), close), "{frames:?}");
        error
    }

    /// Reads sync frames up to `head`, acknowledging each; the numbers of the entries, in order.
    pub(crate) async fn read_to(&mut self, head: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        while self.seq < head {
            let frame = self.next_of("sync").await;
            seqs.extend(seqs_of(&frame));
            self.send(json!({"type":"ack","seq":self.seq})).await;
        }
        seqs
    }
}

/// The numbers of a sync frame's entries.
pub(crate) fn seqs_of(frame: &Value) -> Vec<u64> {
    frame["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
}
