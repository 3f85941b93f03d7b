//! The program on a mounted directory, users who write to each other, and what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everline::auth::Minter;
use everline::config::Clock;
use everline::protocol::UserId;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const SECRET: &str = "a secret of the tests";
/// Nothing takes so long, unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pairs that write to each other, each a conversation.
const PAIRS: usize = 4;
/// Messages unanswered at a time and sender.
const OUTSTANDING: usize = 8;

/// The program, serving.
pub(crate) struct Program {
    child: Child,
    addr: String,
    said: Arc<Mutex<String>>,
}

fn everline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everline"));
    command.env_clear().env("NO_COLOR", "1").current_dir(std::env::temp_dir()).kill_on_drop(true);
    command
}

fn store(dir: &Path) -> String {
    format!("embedded:{}", dir.display())
}

impl Program {
    /// Starts it; an error with what it said if it ends before it listens.
    pub(crate) async fn serve(dir: &Path) -> Result<Self, String> {
        let mut command = everline();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", &store(dir), "--jwt-secret", SECRET]);
        // Small buffers: checkpoints, flushes and compactions are cut too.
        command.args(["--store-buffer", "64", "--sync-max-entries", "1000000"]);
        command.args(["--rate-messages", "0", "--rate-requests", "0", "--rate-connects", "0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let reading = async {
            while let Ok(Some(line)) = lines.next_line().await {
                said.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, rest)) = line.split_once("listening addr=") {
                    return rest.split_whitespace().next().map(str::to_owned);
                }
            }
            None
        };
        let Some(addr) = timeout(PATIENCE, reading).await.map_err(|_| "it neither listens nor ends")? else {
            let status = child.wait().await.unwrap();
            return Err(format!("{status}: {}", said.lock().unwrap()));
        };
        let rest = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Ok(Self { child, addr, said })
    }

    /// SIGKILL, and waits for the corpse.
    pub(crate) async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Waits for its own end: exit code and what it said.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            let said = self.said.lock().unwrap().clone();
            panic!("the program does not end by itself: {said}");
        };
        let status = status.unwrap();
        // What it said last is read by a task of its own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        (status.code(), self.said.lock().unwrap().clone())
    }
}

/// `everline verify`: what it said if it found anything.
pub(crate) async fn verify(dir: &Path) -> Result<(), String> {
    let output = everline().args(["verify", "--store", &store(dir)]).output();
    let output = timeout(PATIENCE, output).await.map_err(|_| "verify does not end")?.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

/// What was acknowledged, over all lives of a store.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    epoch: Option<String>,
    /// By conversation: conv_seq and client_msg_id.
    sent: BTreeMap<String, BTreeMap<u64, String>>,
    /// Sent and not answered: to be sent again under the same id.
    open: BTreeMap<String, BTreeSet<String>>,
    next: u64,
}

impl Promised {
    pub(crate) fn count(&self) -> usize {
        self.sent.values().map(BTreeMap::len).sum()
    }
}

type Socket = WebSocketStream<TcpStream>;

fn names(pair: usize) -> [String; 2] {
    [format!("a{pair}"), format!("b{pair}")]
}

fn conversation(pair: usize) -> String {
    let [a, b] = names(pair);
    format!("d:{a}:{b}")
}

async fn hello(addr: &str, user: &str, cursor: Option<&str>) -> Option<(Socket, Value)> {
    let mut request = format!("ws://{addr}/v1/ws").into_client_request().ok()?;
    request.headers_mut().insert("sec-websocket-protocol", "everline.v1.json".parse().ok()?);
    let stream = TcpStream::connect(addr).await.ok()?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
    let hour = Duration::from_secs(3600);
    let token = Minter::new(SECRET, Clock::system()).mint(&UserId::parse(user).unwrap(), None, hour);
    let mut hello = json!({"type":"hello","id":"h","token":token,"device_id":"phone"});
    if let Some(epoch) = cursor {
        hello["cursor"] = json!({"epoch": epoch, "seq": 0});
    }
    socket.send(Message::text(hello.to_string())).await.ok()?;
    let welcome = next(&mut socket).await?;
    (welcome["type"] == "welcome").then_some((socket, welcome))
}

/// The next frame; `None` when the connection is lost.
async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("a frame in time")? {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Writes until the connection is lost or `enough` says so.
pub(crate) async fn load(program: &Program, promised: &Arc<Mutex<Promised>>, enough: impl Fn() -> bool + Clone) {
    let senders = (0..PAIRS).map(|pair| send(program.addr.clone(), pair, Arc::clone(promised), enough.clone()));
    let senders: Vec<_> = senders.collect();
    futures::future::join_all(senders).await;
}

async fn send(addr: String, pair: usize, promised: Arc<Mutex<Promised>>, enough: impl Fn() -> bool) {
    let conv = conversation(pair);
    let [user, _] = names(pair);
    let Some((mut socket, welcome)) = hello(&addr, &user, None).await else { return };
    let mut under_way = BTreeMap::new();
    {
        let mut promised = promised.lock().unwrap();
        let epoch = welcome["epoch"].as_str().unwrap().to_owned();
        promised.epoch.get_or_insert(epoch);
        for id in promised.open.entry(conv.clone()).or_default().iter() {
            under_way.insert(id.clone(), false);
        }
    }
    loop {
        while under_way.len() < OUTSTANDING && !enough() {
            let mut promised = promised.lock().unwrap();
            promised.next += 1;
            let id = format!("m{}", promised.next);
            promised.open.entry(conv.clone()).or_default().insert(id.clone());
            under_way.insert(id, false);
        }
        if under_way.is_empty() {
            return;
        }
        for (id, is_sent) in under_way.iter_mut().filter(|(_, is_sent)| !**is_sent) {
            // Some within a sector, some over several: a write is torn in the middle, too.
            let long = id.len() + id.bytes().map(usize::from).sum::<usize>() % 8 * 400;
            let body = json!({"text": format!("{id} {}", "x".repeat(long))});
            let send = json!({"type":"send","id":id,"conv_id":conv,"client_msg_id":id,"body":body});
            if socket.send(Message::text(send.to_string())).await.is_err() {
                return;
            }
            *is_sent = true;
        }
        let Some(frame) = next(&mut socket).await else { return };
        let id = frame["id"].as_str().unwrap_or_default();
        match frame["type"].as_str() {
            Some("sent") => {
                under_way.remove(id);
                let mut promised = promised.lock().unwrap();
                promised.open.entry(conv.clone()).or_default().remove(id);
                let seq = frame["conv_seq"].as_u64().unwrap();
                let before = promised.sent.entry(conv.clone()).or_default().insert(seq, id.to_owned());
                assert!(before.is_none_or(|before| before == id), "conv_seq {seq} of {conv} was given twice");
            }
            Some("sync") => {
                let ack = json!({"type":"ack","seq":frame["to_seq"]});
                if socket.send(Message::text(ack.to_string())).await.is_err() {
                    return;
                }
            }
            // The store has failed; the program is about to end.
            Some("error") if frame["retryable"] == true => return,
            _ => {}
        }
    }
}

/// Reads every user's timeline from its beginning and compares it with what was promised. What was sent and
/// not answered may be there too, once.
pub(crate) async fn check(program: &Program, promised: &Promised) -> Result<(), String> {
    let Some(epoch) = &promised.epoch else { return Ok(()) };
    for pair in 0..PAIRS {
        let conv = conversation(pair);
        for user in names(pair) {
            let found = read(&program.addr, &user, epoch).await?;
            let empty = BTreeMap::new();
            let sent = promised.sent.get(&conv).unwrap_or(&empty);
            let wrong = |what: String| Err(format!("{user}: {what}"));
            let mut last = 0;
            let mut seen = BTreeSet::new();
            for (seq, id) in &found {
                if *seq <= last || !seen.insert(id) {
                    return wrong(format!("message {id} (conv_seq {seq}) comes after {last} or twice"));
                }
                last = *seq;
            }
            let found: BTreeMap<u64, String> = found.into_iter().collect();
            for (seq, id) in sent {
                if found.get(seq) != Some(id) {
                    return wrong(format!("acknowledged {id} (conv_seq {seq}) is lost; there: {:?}", found.get(seq)));
                }
            }
            let empty = BTreeSet::new();
            let open = promised.open.get(&conv).unwrap_or(&empty);
            for (seq, id) in &found {
                if !sent.contains_key(seq) && !open.contains(id) {
                    return wrong(format!("{id} (conv_seq {seq}) was never sent so"));
                }
            }
        }
    }
    Ok(())
}

/// Messages of a user's sync timeline, from 0 to the head.
async fn read(addr: &str, user: &str, epoch: &str) -> Result<Vec<(u64, String)>, String> {
    let (mut socket, welcome) = hello(addr, user, Some(epoch)).await.ok_or("no welcome")?;
    if welcome["sync"] != "resumed" {
        return Err(format!("{user}: the store came back with other data: {welcome}"));
    }
    let mut found = Vec::new();
    loop {
        let frame = next(&mut socket).await.ok_or("the connection was lost")?;
        if frame["type"] != "sync" {
            return Err(format!("{user}: {frame}"));
        }
        for entry in frame["entries"].as_array().unwrap() {
            if entry["op"] == "message" {
                let id = entry["client_msg_id"].as_str().unwrap();
                found.push((entry["conv_seq"].as_u64().unwrap(), id.to_owned()));
            }
        }
        let ack = json!({"type":"ack","seq":frame["to_seq"]});
        socket.send(Message::text(ack.to_string())).await.map_err(|error| error.to_string())?;
        if frame["live"] == true {
            return Ok(found);
        }
    }
}
