//! The program as a child process that ends with the test, and a client of a few lines.

#![allow(unreachable_pub, dead_code, reason = "shared by tests that use parts of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub const SECRET: &str = "a secret of the tests";

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

fn everline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everline"));
    // Nothing of the machine the test runs on.
    command.env_clear().env("NO_COLOR", "1").current_dir(std::env::temp_dir());
    command
}

/// A command under way, to be killed.
pub fn start(args: &[&str]) -> Child {
    everline().args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Ended {
    let output = everline().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Whether it said what is wrong in one line.
pub fn one_line(ended: &Ended) -> bool {
    ended.stderr.trim_end().lines().count() == 1 && ended.stderr.starts_with("everline: ")
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A server that runs until it is told to stop, or the test ends.
pub struct Program {
    child: Child,
    pub addr: String,
    logs: JoinHandle<String>,
}

impl Program {
    /// `everline serve` on a directory.
    pub fn serve(dir: &str) -> Self {
        Self::serve_store(&format!("embedded:{dir}"))
    }

    /// `everline serve` on any store.
    pub fn serve_store(store: &str) -> Self {
        Self::serve_as(store, |_| ())
    }

    /// `everline serve` with more arguments or another environment.
    pub fn serve_as(store: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = everline();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", store, "--jwt-secret", SECRET]);
        change(&mut command);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (addr, logs) = read_until(child.stderr.take().unwrap(), "addr=");
        Self { child, addr, logs }
    }

    /// `everline demo` on a directory.
    pub fn demo(dir: &str) -> Self {
        let mut command = everline();
        command.args(["demo", "--listen", "127.0.0.1:0", "--dir", dir]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (addr, logs) = read_until(child.stdout.take().unwrap(), "open http://");
        Self { child, addr, logs }
    }

    /// SIGTERM, and waits for a good end. Gives everything it has told.
    pub fn stop(mut self) -> String {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
        std::mem::replace(&mut self.logs, std::thread::spawn(String::new)).join().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What follows `mark`, up to a blank; and all of the stream, once it has ended.
fn read_until(stream: impl Read + Send + 'static, mark: &str) -> (String, JoinHandle<String>) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let (mut told, mut found) = (String::new(), None);
    while found.is_none() {
        let line = lines.next().expect("the program tells its address");
        let rest = line.split_once(mark).map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_owned());
        told += &line;
        told.push('\n');
        found = rest;
    }
    let logs = std::thread::spawn(move || {
        lines.for_each(|line| told += &(line + "\n"));
        told
    });
    (found.unwrap_or_default(), logs)
}

/// Head and content of an answer to GET.
pub fn get(addr: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, content) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), content.to_owned())
}

/// One device of a user.
pub struct Peer {
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    pub epoch: String,
}

impl Peer {
    /// With a token of the `token` command.
    pub async fn connect(addr: &str, user: &str) -> Self {
        let token = run(&["token", "--jwt-secret", SECRET, "--user", user]);
        Self::hello(addr, user, token.stdout.trim()).await
    }

    pub async fn hello(addr: &str, user: &str, token: &str) -> Self {
        let (this, welcome) = Self::resume(addr, token, json!({})).await;
        assert_eq!(welcome["user_id"], user, "{welcome}");
        this
    }

    /// With more fields of the hello, such as a cursor. Gives the welcome, too.
    pub async fn resume(addr: &str, token: &str, more: Value) -> (Self, Value) {
        let mut request = format!("ws://{addr}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "everline.v1.json".parse().unwrap());
        let (socket, _) = connect_async(request).await.unwrap();
        let mut this = Self { socket, epoch: String::new() };
        let mut hello = json!({"type": "hello", "id": "hello", "token": token, "device_id": "phone"});
        more.as_object().unwrap().iter().for_each(|(name, value)| hello[name] = value.clone());
        let welcome = this.ask(hello).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        this.epoch = welcome["epoch"].as_str().unwrap().to_owned();
        (this, welcome)
    }

    /// The next frame of the server's own.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Message::Text(frame) = self.socket.next().await.unwrap().unwrap() {
                return serde_json::from_str(&frame).unwrap();
            }
        }
    }

    /// Sends a request and waits for its answer; acknowledges what comes meanwhile.
    pub async fn ask(&mut self, request: Value) -> Value {
        self.write(&request).await;
        loop {
            let frame = self.socket.next().await.unwrap().unwrap();
            let Message::Text(frame) = frame else { continue };
            let frame: Value = serde_json::from_str(&frame).unwrap();
            if frame["type"] == "sync" {
                self.write(&json!({"type": "ack", "seq": frame["to_seq"]})).await;
            } else if frame["id"] == request["id"] {
                return frame;
            }
        }
    }

    async fn write(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Sends a message until the server takes it. Gives its conv_seq.
    pub async fn send(&mut self, conv_id: &str, id: &str, text: &str) -> u64 {
        loop {
            let send =
                json!({"type": "send", "id": id, "conv_id": conv_id, "client_msg_id": id, "body": {"text": text}});
            let answer = self.ask(send).await;
            match answer["retry_after_ms"].as_u64() {
                Some(pause) if answer["code"] == "rate_limited" => {
                    tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                }
                _ => {
                    assert_eq!(answer["type"], "sent", "{answer}");
                    return answer["conv_seq"].as_u64().unwrap();
                }
            }
        }
    }
}

/// Overwrites the middle of every larger file of the store.
pub fn damage(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else if path.metadata().unwrap().len() > 256 {
            let mut bytes = std::fs::read(&path).unwrap();
            let end = bytes.len().min(64 * 1024);
            bytes[end / 4..end / 2].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
        }
    }
}
