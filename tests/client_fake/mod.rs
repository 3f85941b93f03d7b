//! A scripted server on a real loopback socket: a test says what it sends and sees what it gets.
//! Everything waits at most [`DEADLINE`].

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::future::Future;
use std::time::Duration;

use everline::client::{Client, ConnectionState, Event, Events, MemoryCache, Options, Preload};
use everline::protocol::{Body, ConvId, DeviceId, SUBPROTOCOL, UserId};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

pub const DEADLINE: Duration = Duration::from_secs(20);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

pub struct Fake {
    listener: TcpListener,
    pub url: String,
}

pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// What the client said first.
    pub hello: Value,
}

/// The server's side of the upgrade.
#[allow(clippy::result_large_err)]
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let echo = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let asked = request.headers().get("Sec-WebSocket-Protocol").unwrap();
        assert_eq!(asked, SUBPROTOCOL);
        response.headers_mut().insert("Sec-WebSocket-Protocol", asked.clone());
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async(stream, echo).await.unwrap()
}

impl Fake {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The next connection, up to its hello.
    pub async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        let socket = upgrade(stream).await;
        let mut peer = Peer { socket, hello: Value::Null };
        peer.hello = peer.next().await;
        assert_eq!(peer.hello["type"], "hello");
        peer
    }

    /// The next connection, welcomed as one that goes on from its cursor, or fresh at 0; not yet live.
    pub async fn welcome(&self) -> Peer {
        let mut peer = self.accept().await;
        let sync = if peer.hello["cursor"].is_null() { "fresh" } else { "resumed" };
        let head = peer.hello["cursor"]["seq"].as_u64().unwrap_or(0);
        peer.send(welcome(&peer.hello, sync, head)).await;
        peer
    }

    /// The same, and live at once.
    pub async fn live(&self) -> Peer {
        let mut peer = self.welcome().await;
        let at = peer.hello["cursor"]["seq"].as_u64().unwrap_or(0);
        peer.send(sync(at, at, true, json!([]))).await;
        peer
    }
}

impl Peer {
    pub async fn send(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame of the client.
    pub async fn next(&mut self) -> Value {
        match within("a frame of the client", self.socket.next()).await {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} instead of a frame"),
        }
    }

    /// The next frame, which is of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.next().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Nothing was sent up to now: a ping is answered by a pong and nothing before. Gives its seq.
    pub async fn expect_nothing(&mut self) -> u64 {
        self.send(json!({"type":"ping","head_seq":0})).await;
        self.expect("pong").await["seq"].as_u64().unwrap()
    }

    pub async fn error(&mut self, request: &Value, code: &str, retry_after_ms: Value) {
        let retryable = matches!(code, "unavailable" | "rate_limited" | "overloaded");
        self.send(json!({"type":"error","id":request["id"],"code":code,"message":"","retryable":retryable,
            "retry_after_ms":retry_after_ms,"field":null}))
            .await;
    }

    pub async fn sent(&mut self, request: &Value, conv_seq: u64) {
        self.send(json!({"type":"sent","id":request["id"],"conv_id":"d:alice:bob","conv_seq":conv_seq,
            "sent_at":5,"duplicate":false}))
            .await;
    }

    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "why".into() };
        self.socket.send(Message::Close(Some(frame))).await.unwrap();
    }

    /// The client closes.
    pub async fn expect_close(mut self) {
        loop {
            match within("the close", self.socket.next()).await {
                Some(Ok(Message::Text(_))) => {}
                _ => return,
            }
        }
    }
}

pub fn welcome(hello: &Value, sync: &str, head: u64) -> Value {
    json!({"type":"welcome","id":hello["id"],"user_id":"alice","device_id":"phone","session_id":"s","epoch":"e1",
        "head_seq":head,"floor_seq":0,"sync":sync,"server_at":1,"heartbeat_ms":25000,
        "limits":{"max_frame_bytes":65536,"max_body_bytes":32768,"max_server_frame_bytes":1048576,
        "window_entries":40,"dedupe_seconds":604800}})
}

pub fn sync(from: u64, to: u64, live: bool, entries: Value) -> Value {
    json!({"type":"sync","from_seq":from,"to_seq":to,"live":live,"entries":entries})
}

pub fn reset(reason: &str, epoch: &str, head: u64) -> Value {
    json!({"type":"reset","reason":reason,"epoch":epoch,"head_seq":head,"floor_seq":head.saturating_sub(10)})
}

/// A `message` entry of bob in the direct conversation with alice; conv_seq is seq.
pub fn entry(seq: u64) -> Value {
    json!({"seq":seq,"op":"message","conv_id":"d:alice:bob","conv_seq":seq,"sender_id":"bob",
        "client_msg_id":format!("b{seq}"),"sent_at":seq,"body":{"n":seq}})
}

/// The same as `history` tells it.
pub fn stored(seq: u64) -> Value {
    let mut told = entry(seq);
    let fields = told.as_object_mut().unwrap();
    fields.remove("seq");
    fields.insert("reactions".into(), json!([]));
    told
}

pub fn entries(from: u64, to: u64) -> Value {
    (from..=to).map(entry).collect()
}

/// A row of the list for the direct conversation.
pub fn row(head: u64, unread: u64) -> Value {
    json!({"conv_id":"d:alice:bob","kind":"direct","head_seq":head,"last_at":1,"read_seq":0,"unread":unread,
        "join_seq":1,"large":false,"members_count":2,"settings":{"muted":false,"pinned":false,"hidden":false}})
}

pub fn bob() -> UserId {
    UserId::parse("bob").unwrap()
}

pub fn conv() -> ConvId {
    ConvId::parse("d:alice:bob").unwrap()
}

pub fn body(n: u64) -> Body {
    Body::from_value(&json!({ "n": n })).unwrap()
}

pub fn options(fake: &Fake) -> Options {
    Options::new(&fake.url, "secret", DeviceId::parse("phone").unwrap()).seed(1)
}

pub fn connect(fake: &Fake, cache: &MemoryCache, preload: Preload) -> (Client, Events) {
    Client::connect(options(fake).cache(cache.clone()).preload(preload)).unwrap()
}

pub async fn until(events: &mut Events, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = events.next().await.unwrap_or_else(|| panic!("{what}: events ended"));
            if wanted(&event) {
                return event;
            }
        }
    };
    within(what, search).await
}

pub async fn until_live(client: &Client) {
    assert!(within("live", client.wait_live()).await, "{:?}", client.status());
}

pub async fn until_stopped(client: &Client) -> ConnectionState {
    let mut status = client.watch_status();
    let stopped = status.wait_for(|status| matches!(status, ConnectionState::Disconnected(Some(_))));
    within("the stop", stopped).await.unwrap().clone()
}
