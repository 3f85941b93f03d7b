//! The raw client: one WebSocket, text in and out, as cheap as it can be.
//!
//! The generator shares its cores with the server it measures, so frames are scanned for a few
//! fields ([`Frame`]) instead of parsed into the protocol's types, and written frames wait for one
//! flush. It keeps no state of the protocol: cursor and acknowledgement are its user's business.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use everline::protocol::{SUBPROTOCOL, WS_PATH};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How long connecting, `welcome` and other single answers may take.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Connections from one source address; the kernel has about 28,000 ports for each.
const PER_SOURCE: usize = 20_000;

/// One open connection.
pub(crate) struct Wire(WebSocketStream<TcpStream>);

/// The fields of a server frame a load generator looks at; all others are skipped unread.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Frame<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    pub(crate) id: Option<&'a str>,
    pub(crate) epoch: Option<&'a str>,
    pub(crate) head_seq: u64,
    pub(crate) floor_seq: u64,
    pub(crate) sync: Option<&'a str>,
    pub(crate) from_seq: u64,
    pub(crate) to_seq: u64,
    pub(crate) live: bool,
    #[serde(borrow)]
    pub(crate) entries: Vec<Scanned<'a>>,
    pub(crate) conv_id: Option<&'a str>,
    pub(crate) conv_seq: u64,
    pub(crate) duplicate: bool,
    pub(crate) code: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
}

/// The same for an entry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Scanned<'a> {
    pub(crate) seq: u64,
    pub(crate) op: &'a str,
    pub(crate) conv_id: Option<&'a str>,
    pub(crate) conv_seq: u64,
    pub(crate) client_msg_id: Option<&'a str>,
}

impl<'a> Frame<'a> {
    pub(crate) fn scan(text: &'a str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| {
            let start: String = text.chars().take(200).collect();
            format!("unreadable server frame: {start}")
        })
    }
}

/// `welcome`, as far as it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Welcome {
    pub(crate) epoch: String,
    pub(crate) head_seq: u64,
    /// `fresh`, `resumed` or `reset`.
    pub(crate) sync: String,
}

impl Wire {
    /// Connects; `index` spreads many connections over source addresses 127.0.0.x.
    pub(crate) async fn open(addr: SocketAddr, index: usize) -> Result<Self> {
        let connect = async {
            let stream = dial(addr, index).await?;
            stream.set_nodelay(true)?;
            let mut request = format!("ws://{addr}{WS_PATH}").into_client_request()?;
            let protocol = HeaderValue::from_static(SUBPROTOCOL);
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            let config = WebSocketConfig::default().read_buffer_size(8192).write_buffer_size(16_384);
            let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
            anyhow::Ok(Self(socket))
        };
        let opened = timeout(ANSWER_DEADLINE, connect).await;
        opened.with_context(|| format!("connecting to {addr} took over {ANSWER_DEADLINE:?}"))?
    }

    /// Says hello and waits for `welcome`. `cursor` is (epoch, seq).
    pub(crate) async fn hello(&mut self, token: &str, device: &str, cursor: Option<(&str, u64)>) -> Result<Welcome> {
        self.feed(hello_text(token, device, cursor)).await?;
        self.flush().await?;
        let text = timeout(ANSWER_DEADLINE, self.next()).await.context("no welcome in time")??;
        let frame = Frame::scan(&text)?;
        ensure!(frame.kind == "welcome", "instead of welcome: {text}");
        Ok(Welcome {
            epoch: frame.epoch.unwrap_or_default().to_owned(),
            head_seq: frame.head_seq,
            sync: frame.sync.unwrap_or_default().to_owned(),
        })
    }

    /// The next text frame. The end of the connection is an error that says how it ended.
    pub(crate) async fn next(&mut self) -> Result<Utf8Bytes> {
        loop {
            let message = self.0.next().await;
            if let Some(text) = text_of(message)? {
                return Ok(text);
            }
        }
    }

    /// A text frame that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<Utf8Bytes>> {
        loop {
            match text_of(self.0.next().now_or_never()?) {
                Ok(Some(text)) => return Some(Ok(text)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Queues a frame for the next flush.
    pub(crate) async fn feed(&mut self, text: String) -> Result<()> {
        self.0.feed(Message::text(text)).await.context("writing")
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.0.flush().await.context("writing")
    }

    /// Sends a request and waits for the answer with its id; other frames are dropped, so this is for
    /// setting up only.
    pub(crate) async fn ask(&mut self, id: &str, request: String) -> Result<Utf8Bytes> {
        self.feed(request).await?;
        self.flush().await?;
        let answer = async {
            loop {
                let text = self.next().await?;
                let frame = Frame::scan(&text)?;
                if frame.id == Some(id) {
                    ensure!(frame.kind != "error", "refused: {text}");
                    return Ok(text);
                }
            }
        };
        timeout(ANSWER_DEADLINE, answer).await.with_context(|| format!("no answer to {id} in time"))?
    }

    /// Closes politely, waiting at most a second.
    pub(crate) async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.0.close(None)).await;
    }
}

pub(crate) fn hello_text(token: &str, device: &str, cursor: Option<(&str, u64)>) -> String {
    let cursor = cursor.map(|(epoch, seq)| serde_json::json!({"epoch": epoch, "seq": seq}));
    let mut hello = serde_json::json!({
        "type": "hello", "id": "hello", "token": token, "device_id": device,
        "client": {"name": "loadtest", "version": env!("CARGO_PKG_VERSION")},
    });
    if let (Some(cursor), Some(object)) = (cursor, hello.as_object_mut()) {
        object.insert("cursor".into(), cursor);
    }
    hello.to_string()
}

type Received = Option<Result<Message, tokio_tungstenite::tungstenite::Error>>;

fn text_of(message: Received) -> Result<Option<Utf8Bytes>> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Close(Some(close)))) => bail!("closed by the server: {close}"),
        Some(Ok(Message::Close(None))) => bail!("closed by the server without a code"),
        Some(Ok(Message::Binary(_))) => bail!("a binary frame from the server"),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error).context("reading"),
        None => bail!("connection ended"),
    }
}

async fn dial(addr: SocketAddr, index: usize) -> Result<TcpStream> {
    if !addr.ip().is_loopback() || index < PER_SOURCE {
        return TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"));
    }
    let last = u8::try_from(1 + index / PER_SOURCE).context("too many connections for 127.0.0.x")?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    Ok(socket.connect(addr).await?)
}

/// Makes room for `connections` sockets in this process and its children.
pub(crate) fn allow_sockets(connections: usize) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let needed = u64::try_from(connections)? + 500;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let hard = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        hard >= needed,
        "{connections} connections need {needed} open files, the limit is {hard}: raise it (ulimit -n {needed}, as root)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_frame_is_scanned_without_its_bodies() -> Result<()> {
        let text = r#"{"type":"sync","from_seq":4,"to_seq":6,"live":true,"entries":[
            {"seq":5,"op":"message","conv_id":"d:a:b","conv_seq":7,"sender_id":"b","client_msg_id":"0-1f",
             "sent_at":1,"body":{"text":"a \"quoted\" \\ word","entries":[{"seq":99}]}},
            {"seq":6,"op":"read","conv_id":"d:a:b","read_seq":7,"unread":0}]}"#;
        let frame = Frame::scan(text)?;
        assert_eq!((frame.from_seq, frame.to_seq, frame.live), (4, 6, true));
        let seen: Vec<_> = frame.entries.iter().map(|e| (e.seq, e.op, e.client_msg_id)).collect();
        assert_eq!(seen, [(5, "message", Some("0-1f")), (6, "read", None)]);
        Ok(())
    }

    #[test]
    fn other_frames_are_scanned_too() -> Result<()> {
        let sent = r#"{"type":"sent","id":"3","conv_id":"d:a:b","conv_seq":9,"sent_at":1,"duplicate":true}"#;
        let sent = Frame::scan(sent)?;
        assert_eq!((sent.kind, sent.id, sent.conv_seq, sent.duplicate), ("sent", Some("3"), 9, true));
        let error = r#"{"type":"error","id":null,"code":"bad_json","message":"a \"b\"","retryable":false,"retry_after_ms":null,"field":null}"#;
        let error = Frame::scan(error)?;
        assert_eq!((error.id, error.code), (None, Some("bad_json")));
        assert!(Frame::scan("{").is_err());
        Ok(())
    }
}
