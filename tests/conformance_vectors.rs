//! The shared test vectors of docs/conformance: `client.json` for the client library against a scripted
//! server, `server.json` for the real server through sockets. README.md there says what a step means.
//!
//! Only what the files say is checked: a vector that is wrong has to be mended there, for everybody.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod client_fake;
#[allow(dead_code, reason = "shared with the server's own tests")]
#[path = "server_suite/harness.rs"]
mod harness;

use std::collections::HashMap;
use std::time::Duration;

use client_fake::{Fake, Peer, within};
use everline::client::state::ConversationView;
use everline::client::{Client, ConnectionState, MemoryCache, Outgoing, Preload, To};
use everline::protocol::{Body, MsgId, UserId};
use futures::SinkExt;
use harness::House;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

fn vectors(file: &str) -> Value {
    let path = format!("{}/docs/conformance/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What differs from the pattern; `None` when it is met.
fn difference(got: &Value, pattern: &Value, path: &str) -> Option<String> {
    match pattern {
        Value::Array(wanted) => {
            let items = got.as_array().filter(|items| items.len() == wanted.len());
            let Some(items) = items else { return Some(format!("{path}: {got}")) };
            let mut pairs = items.iter().zip(wanted).enumerate();
            pairs.find_map(|(at, (got, wanted))| difference(got, wanted, &format!("{path}[{at}]")))
        }
        Value::Object(wanted) if got.is_object() => {
            wanted.iter().find_map(|(name, wanted)| difference(&got[name], wanted, &format!("{path}.{name}")))
        }
        _ => (got != pattern).then(|| format!("{path}: {got} instead of {pattern}")),
    }
}

fn is_met(got: &Value, pattern: &Value) -> bool {
    difference(got, pattern, "").is_none()
}

// ---- client.json --------------------------------------------------------------------------------------

struct ClientRun {
    fake: Fake,
    client: Client,
    welcome: Value,
    peer: Option<Peer>,
    names: HashMap<String, Value>,
}

impl ClientRun {
    async fn step(&mut self, kind: &str, value: &Value) {
        match kind {
            "expect" => self.expect(value).await,
            "send" => {
                let mut frame = value.clone();
                if let Some(named) = frame["id"].as_str().and_then(|id| self.names.get(id)) {
                    frame["id"] = named.clone();
                }
                self.peer().send(frame).await;
            }
            "welcome" => {
                let mut frame = self.welcome.clone();
                frame["id"] = self.peer().hello["id"].clone();
                for (name, value) in value.as_object().unwrap() {
                    match value.as_object() {
                        Some(fields) => fields.iter().for_each(|(field, value)| frame[name][field] = value.clone()),
                        None => frame[name] = value.clone(),
                    }
                }
                self.peer().send(frame).await;
            }
            "close" => self.peer.take().unwrap().close(value.as_u64().unwrap().try_into().unwrap()).await,
            "queue" => self.queue(value).await,
            "status" => self.until(|status| status_name(status) == value).await,
            "stopped" => self.until(|status| matches!(status, ConnectionState::Disconnected(Some(_)))).await,
            "state" => self.shows(value).await,
            "outbox" => {
                let client = self.client.clone();
                let keys = async || {
                    let waiting = client.outbox().await;
                    waiting.iter().map(|item| json!(item.client_msg_id.as_str())).collect::<Value>()
                };
                eventually(keys, value).await;
            }
            "nothing" => {
                self.peer().send(json!({"type":"ping","head_seq":0})).await;
                let frame = self.next(false).await;
                assert_eq!(frame["type"], "pong", "{frame}");
            }
            other => panic!("unknown step {other}"),
        }
    }

    fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().unwrap()
    }

    async fn next(&mut self, acks: bool) -> Value {
        loop {
            let frame = self.peer().next().await;
            if acks || frame["type"] != "ack" {
                return frame;
            }
        }
    }

    async fn expect(&mut self, pattern: &Value) {
        let frame = if pattern["type"] == "hello" {
            let peer = self.fake.accept().await;
            self.peer.insert(peer).hello.clone()
        } else {
            self.next(pattern["type"] == "ack").await
        };
        let mut pattern = pattern.clone();
        if let Some(name) = pattern["id"].as_str() {
            self.names.insert(name.to_owned(), frame["id"].clone());
        }
        pattern.as_object_mut().unwrap().remove("id");
        assert_eq!(difference(&frame, &pattern, ""), None, "{frame}");
    }

    async fn queue(&mut self, message: &Value) {
        let to = To::User(UserId::parse(message["to"].as_str().unwrap()).unwrap());
        let id = MsgId::parse(message["client_msg_id"].as_str().unwrap()).unwrap();
        let message = Outgoing::new(to, Body::from_value(&message["body"]).unwrap()).client_msg_id(id);
        drop(self.client.queue(message).await.unwrap());
    }

    async fn until(&mut self, wanted: impl Fn(&ConnectionState) -> bool) {
        let mut status = self.client.watch_status();
        drop(within("the state of connection", status.wait_for(wanted)).await.unwrap());
    }

    async fn shows(&mut self, pattern: &Value) {
        let client = self.client.clone();
        let shown = async || {
            let view = client.state().await.unwrap().view();
            let all = view.conversations.iter().map(|(conv_id, shown)| (conv_id.to_string(), shown_as_json(shown)));
            Value::Object(all.collect())
        };
        if pattern.as_object().unwrap().is_empty() {
            assert_eq!(shown().await, json!({}));
        }
        eventually(shown, pattern).await;
    }
}

/// Waits until what is looked at meets the pattern.
async fn eventually(look: impl AsyncFn() -> Value, pattern: &Value) {
    let search = async {
        while !is_met(&look().await, pattern) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(client_fake::DEADLINE, search).await.is_err() {
        panic!("{:?}", difference(&look().await, pattern, ""));
    }
}

fn status_name(status: &ConnectionState) -> &'static str {
    match status {
        ConnectionState::Disconnected(_) => "disconnected",
        ConnectionState::Connecting => "connecting",
        ConnectionState::Syncing => "syncing",
        ConnectionState::Live => "live",
    }
}

/// A conversation as README.md names its fields.
fn shown_as_json(shown: &ConversationView) -> Value {
    let messages = shown.messages.iter().map(|(seq, message)| {
        let reactions = message.reactions.iter().map(|(key, reaction)| {
            let users: Vec<&str> = reaction.users.iter().map(UserId::as_str).collect();
            json!({"key": key, "count": reaction.count(), "users": users})
        });
        json!({
            "conv_seq": seq,
            "body": message.body.as_ref().map(|body| serde_json::to_value(body).unwrap()),
            "recalled": message.body.is_none().then_some(true),
            "edited_at": message.edited_at,
            "reactions": reactions.collect::<Vec<_>>(),
        })
    });
    let members = shown
        .members
        .as_ref()
        .map(|members| members.iter().map(|(user, role)| (user.to_string(), json!(role))).collect::<Map<_, _>>());
    json!({
        "messages": messages.collect::<Vec<_>>(),
        "deleted": shown.deleted,
        "cleared_up_to": shown.cleared_up_to,
        "unread": shown.unread,
        "read_up_to": shown.read_up_to,
        "peer_read_up_to": shown.peer_read_up_to,
        "title": shown.title,
        "settings": shown.settings,
        "members": members,
        "left": shown.left,
        "large": shown.large,
    })
}

#[tokio::test]
async fn the_client_does_what_the_vectors_say() {
    let file = vectors("client.json");
    for vector in file["vectors"].as_array().unwrap() {
        println!("{}", vector["name"]);
        let (fake, cache) = (Fake::new().await, MemoryCache::default());
        // Events are nobody's business here: a client works without.
        let (client, _) = client_fake::connect(&fake, &cache, Preload::None);
        let welcome = file["welcome"].clone();
        let mut run = ClientRun { fake, client, welcome, peer: None, names: HashMap::new() };
        for step in vector["steps"].as_array().unwrap() {
            println!("  {step}");
            let (kind, value) = step.as_object().unwrap().iter().next().unwrap();
            run.step(kind, value).await;
        }
        run.client.close().await;
    }
}

// ---- server.json --------------------------------------------------------------------------------------

/// The text with tokens and long strings put in.
fn filled(value: &Value, house: &House) -> Value {
    match value {
        Value::String(text) => match (text.strip_prefix("$TOKEN:"), text.strip_prefix("$X:")) {
            (Some(user), _) => json!(house.token(user)),
            (_, Some(length)) => json!("x".repeat(length.parse().unwrap())),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| filled(item, house)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), filled(value, house))).collect())
        }
        _ => value.clone(),
    }
}

async fn server_step(house: &House, sockets: &mut HashMap<String, harness::Client>, step: &Value) {
    let on = step["on"].as_str().unwrap_or("a").to_owned();
    if !step["open"].is_null() {
        sockets.insert(on, house.socket().await);
        return;
    }
    let socket = sockets.get_mut(&on).unwrap();
    let (kind, value) = step.as_object().unwrap().iter().find(|(name, _)| *name != "on").unwrap();
    match kind.as_str() {
        "say" => socket.send(filled(value, house)).await,
        "say_text" => socket.send_text(value.as_str().unwrap()).await,
        "say_binary" => {
            let bytes: Vec<u8> = serde_json::from_value(value.clone()).unwrap();
            socket.ws.send(Message::Binary(bytes.into())).await.unwrap();
        }
        "expect" => {
            let frame = socket.next().await;
            assert_eq!(difference(&frame, value, ""), None, "{frame}");
        }
        "expect_all" => {
            let mut wanted = value.as_array().unwrap().clone();
            while !wanted.is_empty() {
                let frame = socket.next().await;
                let at = wanted.iter().position(|pattern| is_met(&frame, pattern));
                wanted.remove(at.unwrap_or_else(|| panic!("{frame} is none of {wanted:?}")));
            }
        }
        "closed" => loop {
            match socket.next_or_close().await {
                Ok(_) => {}
                Err(code) => return assert_eq!(code, value.as_u64().unwrap() as u16),
            }
        },
        other => panic!("unknown step {other}"),
    }
}

#[tokio::test]
async fn the_server_answers_what_the_vectors_say() {
    for vector in vectors("server.json")["vectors"].as_array().unwrap() {
        println!("{}", vector["name"]);
        let house = House::start().await;
        let mut sockets = HashMap::new();
        for step in vector["steps"].as_array().unwrap() {
            println!("  {step}");
            server_step(&house, &mut sockets, step).await;
        }
    }
}
