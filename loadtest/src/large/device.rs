//! A device that follows one large conversation, and holds it to its word: every message once, in order.
//!
//! How it can hurt: it shares its thread with thousands of others, so what it reads late it calls late.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::target::Door;
use crate::wire::{ANSWER_DEADLINE, Wire};

/// `heads`, `history`, `ping` and `error`, as far as they are looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    head_seq: u64,
    #[serde(borrow)]
    conversations: Vec<Item<'a>>,
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
    next: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    conv_id: &'a str,
    from_seq: Option<u64>,
    head_seq: u64,
    #[serde(borrow)]
    entries: Option<Vec<Entry<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry<'a> {
    op: &'a str,
    conv_seq: u64,
    client_msg_id: &'a str,
}

/// What all devices on line share.
pub(super) struct Board {
    pub(super) began: Instant,
    /// When each message came to the last one so far: microseconds.
    pub(super) last: Vec<AtomicU64>,
    /// Devices that have all of those.
    pub(super) complete: watch::Sender<usize>,
}

impl Board {
    pub(super) fn new(messages: u64) -> Self {
        let last = (0..messages).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), last, complete: watch::Sender::new(0) }
    }

    /// Microseconds since it began.
    pub(super) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }
}

/// The id of a message by its number.
pub(super) fn message_id(number: u64) -> String {
    format!("town-{number}")
}

/// What a device kept when it went.
pub(super) struct Kept {
    pub(super) user: String,
    epoch: String,
    seq: u64,
    held: u64,
}

/// A connected device.
pub(super) struct Device {
    wire: Wire,
    conv_id: String,
    /// conv_seq it holds.
    held: u64,
    /// Messages it has.
    messages: u64,
    /// `history` asked so far.
    pub(super) asked: u64,
    /// An answer is awaited.
    asking: bool,
    /// The largest head it was told.
    head: u64,
}

impl Device {
    fn new(wire: Wire, conv_id: &str, held: u64) -> Self {
        Self { wire, conv_id: conv_id.to_owned(), held, messages: 0, asked: 0, asking: false, head: held }
    }

    /// A device nobody knows yet; what it would keep if it went now.
    pub(super) async fn enter(door: &Door, index: usize, user: &str, conv_id: &str) -> Result<(Self, Kept)> {
        let mut wire = Wire::open(door.addr, index).await?;
        let welcome = wire.hello(&door.token(user)?, "phone", None).await?;
        let mut device = Self::new(wire, conv_id, 0);
        // Of what it does not name it is told where it stands.
        let told = async {
            while device.held == 0 {
                let text = device.wire.next().await?;
                let told: Told<'_> = serde_json::from_str(&text)?;
                let item = told.conversations.iter().find(|item| item.conv_id == conv_id);
                device.held = item.map_or(0, |item| item.head_seq);
            }
            anyhow::Ok(())
        };
        timeout(ANSWER_DEADLINE, told).await.context("no heads in time")??;
        device.head = device.held;
        let kept = Kept { user: user.to_owned(), epoch: welcome.epoch, seq: welcome.head_seq, held: device.held };
        Ok((device, kept))
    }

    /// Comes back, follows up to `head` and must have found exactly `messages`; how often it had to ask.
    pub(super) async fn come_back(
        door: &Door,
        kept: &Kept,
        conv_id: &str,
        (head, messages): (u64, u64),
    ) -> Result<u64> {
        let wire = Wire::open(door.addr, 0).await?;
        let mut device = Self::new(wire, conv_id, kept.held);
        let hello = json!({
            "type": "hello", "id": "hello", "token": door.token(&kept.user)?, "device_id": "phone",
            "cursor": {"epoch": kept.epoch, "seq": kept.seq}, "conversations": {conv_id: kept.held},
        });
        device.write(&hello).await?;
        let caught = async {
            while device.held < head {
                device.step(None).await?;
            }
            anyhow::Ok(())
        };
        let caught = timeout(ANSWER_DEADLINE, caught).await;
        caught.with_context(|| format!("stands at {} of {head} after {ANSWER_DEADLINE:?}", device.held))??;
        ensure!(device.messages == messages, "has {} messages of {messages}", device.messages);
        device.wire.close().await;
        Ok(device.asked)
    }

    pub(super) async fn close(self) {
        self.wire.close().await;
    }

    /// Follows until the connection ends, which is an error; says when it has all of the board's.
    pub(super) async fn follow(mut self, board: &Board) -> Result<()> {
        let messages = u64::try_from(board.last.len())?;
        loop {
            let had = self.messages;
            self.step(Some(board)).await?;
            if had < messages && self.messages >= messages {
                board.complete.send_modify(|complete| *complete += 1);
            }
        }
    }

    /// The next frame.
    async fn step(&mut self, board: Option<&Board>) -> Result<()> {
        let text = self.wire.next().await?;
        let told: Told<'_> = serde_json::from_str(&text)?;
        match told.kind {
            "heads" => {
                for item in &told.conversations {
                    self.heads(item, board)?;
                }
            }
            "history" => {
                self.take_all(&told.entries, board)?;
                self.asking = false;
                self.head = self.head.max(told.head_seq);
                self.held = self.held.max(told.next.unwrap_or(told.head_seq));
            }
            "ping" => self.write(&json!({"type": "pong", "seq": told.head_seq})).await?,
            "error" => bail!("{text}"),
            _ => {}
        }
        if self.head > self.held && !self.asking {
            self.asking = true;
            self.asked += 1;
            let (id, after) = (format!("h{}", self.asked), self.held);
            let conv_id = &self.conv_id;
            let request = json!({"type":"history","id":id,"conv_id":conv_id,"after":after,"limit":200});
            self.write(&request).await?;
        }
        Ok(())
    }

    /// Applied if it continues what is held; else the log is asked, once what was asked is here.
    fn heads(&mut self, item: &Item<'_>, board: Option<&Board>) -> Result<()> {
        if item.conv_id != self.conv_id {
            return Ok(());
        }
        self.head = self.head.max(item.head_seq);
        if let Some(entries) = &item.entries
            && item.from_seq == Some(self.held)
            && !self.asking
        {
            self.take_all(entries, board)?;
            self.held = item.head_seq;
        }
        Ok(())
    }

    /// The next message must be the next of those sent.
    fn take_all(&mut self, entries: &[Entry<'_>], board: Option<&Board>) -> Result<()> {
        for entry in entries {
            ensure!(entry.conv_seq > self.held, "entry {} again, {} is held", entry.conv_seq, self.held);
            self.held = entry.conv_seq;
            if entry.op != "message" {
                continue;
            }
            let (expected, came) = (message_id(self.messages), entry.client_msg_id);
            ensure!(came == expected, "{came} came, not {expected}");
            let last = usize::try_from(self.messages).ok().and_then(|number| board?.last.get(number));
            if let (Some(board), Some(last)) = (board, last) {
                last.fetch_max(board.micros(Instant::now()), Ordering::Relaxed);
            }
            self.messages += 1;
        }
        Ok(())
    }

    async fn write(&mut self, frame: &Value) -> Result<()> {
        self.wire.feed(frame.to_string()).await?;
        self.wire.flush().await
    }
}
