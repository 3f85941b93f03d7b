//! A line-based chat.
//!
//! ```text
//! cargo run --example chat -- ws://127.0.0.1:7700/v1/ws TOKEN [DEVICE] [CACHE-FILE]
//!
//!   /to USER            talk to a user; or /to CONV_ID
//!   any other line      send it there
//!   /delete N           message N is gone for me, on all my devices
//!   /recall N           message N is gone for everybody
//!   /edit N TEXT        another text for my message N
//!   /react N KEY        react to message N
//!   /read N             I have read up to N
//!   /group TITLE A B C  make a group
//!   /list  /show  /quit
//! ```
//!
//! With a cache file it goes on where it was, and sends what it could not send before.

#![allow(clippy::print_stdout)]

use std::error::Error;

use everline::client::{Client, ConnectionState, Event, Events, FileCache, NewGroup, Options, Outgoing, Preload, To};
use everline::protocol::{Body, ConvId, DeviceId, Event as Op, MsgId, Range, UserId};
use tokio::io::{AsyncBufReadExt, BufReader};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(token)) = (args.next(), args.next()) else {
        return Err("usage: chat URL TOKEN [DEVICE] [CACHE-FILE]".into());
    };
    let device = DeviceId::parse(&args.next().unwrap_or_else(|| "chat".to_owned()))?;
    let mut options = Options::new(url, token, device).preload(Preload::History(1));
    if let Some(file) = args.next() {
        options = options.cache(FileCache::new(file));
    }
    let (client, events) = Client::connect(options)?;
    let shown = tokio::spawn(show(events));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut to = None;
    while let Some(line) = lines.next_line().await? {
        if line == "/quit" {
            break;
        }
        if let Err(error) = obey(&client, &mut to, &line).await {
            println!("! {error}");
        }
    }
    client.close().await;
    shown.await?;
    Ok(())
}

/// Prints what happens until the client stops.
async fn show(mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::StateChanged(ConnectionState::Disconnected(Some(reason))) => println!("* stopped: {reason}"),
            Event::StateChanged(state) => println!("* {state:?}"),
            Event::Applied { entries, .. } => entries.iter().for_each(|entry| show_op(&entry.event)),
            Event::Log { events, .. } => events.iter().for_each(show_op),
            Event::Sent { sent, .. } => println!("* sent as {} in {}", sent.conv_seq, sent.conv_id),
            Event::Failed { error, .. } => println!("! not sent: {error}"),
            Event::Reset(reason) => println!("* reset: {reason:?}"),
            Event::Reconciled => println!("* reconciled"),
            Event::Typing { user_id, .. } => println!("* {user_id} is typing"),
            Event::Lagged(missed) => println!("* {missed} events missed, /show"),
            Event::Updated(_) | Event::Presence(_) => {}
        }
    }
}

fn show_op(op: &Op) {
    match op {
        Op::Message(message) => {
            let text = message.body.as_ref().map_or_else(|| "(recalled)".to_owned(), text_of);
            println!("[{}] {} {}: {text}", message.conv_id, message.conv_seq, message.sender_id);
        }
        Op::Edit { conv_id, target, body, .. } => println!("[{conv_id}] {target} is now: {}", text_of(body)),
        Op::Recall { conv_id, target, by, .. } => println!("[{conv_id}] {by} recalled {target}"),
        Op::Reaction { conv_id, target, user_id, key, add, .. } => {
            println!("[{conv_id}] {user_id} {}{key} on {target}", if *add { "" } else { "no more " });
        }
        Op::Member { conv_id, user_id, change, .. } => println!("[{conv_id}] {user_id}: {change:?}"),
        Op::Receipt { conv_id, user_id, read_seq } => println!("[{conv_id}] {user_id} has read up to {read_seq}"),
        other => println!("* {}", other.op()),
    }
}

/// `text` of a body, or all of it.
fn text_of(body: &Body) -> String {
    let value = body.to_value();
    value.get("text").and_then(|text| text.as_str()).map_or_else(|| body.as_str().to_owned(), str::to_owned)
}

fn body(text: &str) -> Result<Body> {
    Ok(Body::from_value(&serde_json::json!({ "text": text }))?)
}

/// The conversation talked to, by the id the commands need.
async fn here(client: &Client, to: &Option<To>) -> Result<ConvId> {
    match to {
        Some(To::Conversation(conv_id)) => Ok(conv_id.clone()),
        Some(To::User(user)) => {
            let me = client.look(|state| state.user_id.clone()).await.flatten();
            Ok(ConvId::direct(&me.ok_or("not connected yet")?, user))
        }
        None => Err("say /to somebody first".into()),
    }
}

async fn obey(client: &Client, to: &mut Option<To>, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (number, text) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "" => {}
        "/to" if rest.contains(':') => *to = Some(ConvId::parse(rest)?.into()),
        "/to" => *to = Some(UserId::parse(rest)?.into()),
        "/delete" => {
            let at = number.parse()?;
            client.delete(here(client, to).await?, vec![Range { from: at, to: at }]).await?;
        }
        "/recall" => drop(client.recall(here(client, to).await?, number.parse()?).await?),
        "/edit" => drop(client.edit(here(client, to).await?, number.parse()?, body(text)?).await?),
        "/react" => drop(client.react(here(client, to).await?, number.parse()?, text, true).await?),
        "/read" => drop(client.read(here(client, to).await?, number.parse()?).await?),
        "/group" => {
            let members = text.split_whitespace().map(UserId::parse).collect::<std::result::Result<_, _>>()?;
            let group = NewGroup { members, title: Some(number.to_owned()), ..NewGroup::default() };
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis();
            let conv_id = client.create(group, MsgId::parse(&now.to_string())?).await?;
            println!("* {conv_id}");
            *to = Some(conv_id.into());
        }
        "/list" => list(client).await,
        "/show" => show_held(client, &here(client, to).await?).await,
        _ if word.starts_with('/') => return Err("no such command".into()),
        // In the outbox, whatever happens to the connection.
        _ => drop(client.queue(Outgoing::new(to.clone().ok_or("say /to somebody first")?, body(line)?)).await?),
    }
    Ok(())
}

async fn list(client: &Client) {
    let Some(state) = client.state().await else { return };
    for (conv_id, held) in &state.conversations {
        let title = held.title.as_deref().unwrap_or_default();
        println!("{conv_id} {title} unread {}", state.unread(conv_id));
    }
}

async fn show_held(client: &Client, conv_id: &ConvId) {
    let Some(held) = client.conversation(conv_id.clone()).await else { return };
    for (seq, message) in &held.messages {
        let text = message.body.as_ref().map_or_else(|| "(recalled)".to_owned(), text_of);
        println!("{seq} {}: {text}", message.sender_id);
    }
}
