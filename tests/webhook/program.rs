//! The program as a child process that can be killed, and senders that keep what was not acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everline::auth::Minter;
use everline::config::Clock;
use everline::protocol::UserId;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const JWT: &str = "a secret of the tests";
/// Messages of a sender under way.
const AHEAD: usize = 32;

/// `everline serve`, killed and started again on the same data.
pub(crate) struct Program {
    args: Vec<String>,
    child: Option<Child>,
    addr: Arc<Mutex<String>>,
}

impl Program {
    pub(crate) fn start(args: &[String]) -> Self {
        let mut this = Self { args: args.to_vec(), child: None, addr: Arc::default() };
        this.rise();
        this
    }

    pub(crate) fn addr(&self) -> Arc<Mutex<String>> {
        Arc::clone(&self.addr)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn rise(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everline"));
        command.env_clear().env("NO_COLOR", "1").current_dir(std::env::temp_dir());
        command.args(["serve", "--listen", "127.0.0.1:0", "--jwt-secret", JWT]).args(&self.args);
        command.args(["--rate-messages", "0", "--rate-requests", "0", "--rate-connects", "0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let addr = lines.by_ref().find_map(|line| {
            let rest = line.split_once("listening addr=").map(|(_, rest)| rest.to_owned());
            rest.map(|rest| rest.split_whitespace().next().unwrap_or_default().to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        *self.addr.lock().unwrap() = addr.expect("the program tells its address");
        self.child = Some(child);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends messages `0..count` to a peer who is never there, until all are acknowledged; which number each
/// was given. `acked` is told of every one.
pub(crate) async fn send_all(
    addr: Arc<Mutex<String>>,
    user: String,
    to: String,
    count: usize,
    acked: impl Fn(),
) -> BTreeMap<u64, usize> {
    let mut given = BTreeMap::new();
    let mut open: Vec<usize> = (0..count).collect();
    let token = Minter::new(JWT, Clock::system()).mint(&UserId::parse(&user).unwrap(), None, Duration::from_secs(3600));
    while !open.is_empty() {
        let url = format!("ws://{}/v1/ws", addr.lock().unwrap());
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "everline.v1.json".parse().unwrap());
        let Ok(Ok((mut socket, _))) = timeout(Duration::from_secs(5), tokio_tungstenite::connect_async(request)).await
        else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let hello = json!({"type":"hello","id":"h","token":token,"device_id":"phone"});
        let _ = socket.send(Message::text(hello.to_string())).await;
        let mut waiting = open.clone().into_iter();
        let send = |n: usize| {
            let id = format!("m{n}");
            json!({"type":"send","id":id,"to":to,"client_msg_id":id,"body":{"n":n}}).to_string()
        };
        let mut first: Vec<String> = waiting.by_ref().take(AHEAD).map(send).collect();
        // A connection that says nothing for so long is lost.
        while let Ok(Some(Ok(frame))) = timeout(Duration::from_secs(20), socket.next()).await {
            let Message::Text(text) = frame else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let mut out = Vec::new();
            match frame["type"].as_str() {
                Some("welcome") => out = std::mem::take(&mut first),
                Some("sync") => out.push(json!({"type":"ack","seq":frame["to_seq"]}).to_string()),
                Some("sent") => {
                    let n: usize = frame["id"].as_str().unwrap()[1..].parse().unwrap();
                    given.insert(frame["conv_seq"].as_u64().unwrap(), n);
                    open.retain(|waiting| *waiting != n);
                    acked();
                    out.extend(waiting.next().map(send));
                }
                Some("error") => {
                    assert_eq!(frame["retryable"], true, "{frame}");
                    break;
                }
                _ => {}
            }
            let mut lost = false;
            for text in out {
                lost |= socket.send(Message::text(text)).await.is_err();
            }
            if lost || open.is_empty() {
                break;
            }
        }
    }
    given
}
