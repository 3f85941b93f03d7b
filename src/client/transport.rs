//! One WebSocket: opened, text frames out through a bounded queue, frames in.
//!
//! A task of its own writes, so that a server that does not read never keeps this client from
//! reading; it ends with the [`Wire`]. Nothing here knows what the frames mean.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::backoff::End;
use super::error::InvalidUrl;
use super::options::{Dial, Stream};
use crate::protocol::SUBPROTOCOL;

/// Frames that wait for the socket.
const QUEUE: usize = 64;
/// To connect and to upgrade.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// Largest frame taken from a server, whatever it says of itself.
const MAX_FRAME: usize = 16 * 1024 * 1024;

type Socket = WebSocketStream<Box<dyn Stream>>;

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Address {
    request: Request,
    host: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(url.to_owned());
        let mut request = url.into_client_request().map_err(|_| invalid())?;
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let uri = request.uri();
        let port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            _ => return Err(invalid()),
        };
        let name = uri.host().ok_or_else(invalid)?;
        let host = format!("{name}:{}", uri.port_u16().unwrap_or(port));
        Ok(Self { request, host })
    }

    /// Whether the plain TCP of the default dial would do.
    pub(super) fn is_plain(&self) -> bool {
        self.request.uri().scheme_str() == Some("ws")
    }
}

/// An open WebSocket.
pub(super) struct Wire {
    frames: SplitStream<Socket>,
    pub(super) out: mpsc::Sender<Message>,
    writer: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Connects and upgrades.
pub(super) async fn open(address: &Address, dial: Option<&Dial>) -> Result<Wire, End> {
    let opening = async {
        let stream: Box<dyn Stream> = match dial {
            Some(dial) => dial(address.host.clone()).await,
            None => plain(&address.host).await,
        }
        .map_err(|_| End::Lost("no connection"))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * 1024 * 1024)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let request = address.request.clone();
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| match error {
            Error::Http(response) => End::Http(response.status().as_u16()),
            _ => End::Lost("no upgrade"),
        })?;
        Ok(socket)
    };
    let socket = tokio::time::timeout(OPEN_WITHIN, opening).await.map_err(|_| End::Lost("no upgrade in time"))??;
    let (sink, frames) = socket.split();
    let (out, queue) = mpsc::channel(QUEUE);
    Ok(Wire { frames, out, writer: tokio::spawn(write(sink, queue)) })
}

async fn plain(host: &str) -> std::io::Result<Box<dyn Stream>> {
    let stream = tokio::net::TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

async fn write(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Message>) {
    while let Some(frame) = queue.recv().await {
        let closes = matches!(frame, Message::Close(_));
        // A failure ends the queue, which its sender notices; the reading side says why.
        if sink.send(frame).await.is_err() || closes {
            return;
        }
    }
}

impl Wire {
    /// The next text frame, or how the connection ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Utf8Bytes, End> {
        loop {
            match self.frames.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(End::Lost("connection lost")),
            }
        }
    }

    /// Says good-bye and lets the writer finish; waits at most a second.
    pub(super) async fn close(mut self) {
        let _ = self.out.try_send(Message::Close(None));
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.writer).await;
    }
}

fn closed(frame: Option<CloseFrame>) -> End {
    match frame {
        Some(frame) => End::Closed { code: frame.code.into(), reason: frame.reason.as_str().to_owned() },
        None => End::Closed { code: 1005, reason: String::new() },
    }
}
