//! One device under load: sends numbered messages, follows its sync timeline, checks what it gets.
//!
//! It counts faults and never repairs them: a gap is asked for again as the contract says, and
//! counted. With `reconnect` it survives a killed server: it resumes from its cursor and resends what
//! was not answered, in order, under the same `client_msg_id`. All cost here is cost of the machine the
//! server is measured on, so no frame is parsed twice and one flush ends each turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::part::{Outcome, Part, Phase, Sending, Shared, micros};
use crate::target::Door;
use crate::timer::Timer;
use crate::tracker::Tracker;
use crate::wire::{Frame, Wire};

/// After how many entries an ack goes out: a quarter of the contract's default window.
const ACK_EVERY: u64 = 125;
/// How long one device tries to come back.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(90);

async fn until(timer: Option<&Timer>, due: Instant) -> Result<()> {
    match timer {
        Some(timer) => timer.until(due).await,
        None => std::future::pending().await,
    }
}

/// A device, running.
pub(crate) struct Peer {
    part: Part,
    door: Door,
    shared: Arc<Shared>,
    epoch: String,
    cursor: u64,
    acked: u64,
    /// Sent and not answered, oldest first; the front has number `first`.
    open: VecDeque<Open>,
    first: u64,
    /// When the next message is due, open loop: microseconds.
    due: Option<u64>,
    timer: Option<Timer>,
    /// Refused for now: to be sent again.
    again: Vec<u64>,
    last_conv_seq: Vec<(String, u64)>,
    trackers: HashMap<u32, Tracker>,
    outcome: Outcome,
}

struct Open {
    due: u64,
    answered: bool,
}

impl Peer {
    /// Connects a fresh device; returns when it has been welcomed.
    pub(crate) async fn connect(part: Part, door: Door, shared: Arc<Shared>) -> Result<(Self, Wire)> {
        let mut peer = Self {
            part,
            door,
            shared,
            epoch: String::new(),
            cursor: 0,
            acked: 0,
            open: VecDeque::new(),
            first: 0,
            due: None,
            timer: None,
            again: Vec::new(),
            last_conv_seq: Vec::new(),
            trackers: HashMap::new(),
            outcome: Outcome::default(),
        };
        if peer.part.sending.as_ref().is_some_and(|sending| sending.every.is_some()) {
            peer.timer = Some(Timer::new()?);
        }
        let wire = peer.dial(None).await.with_context(|| format!("user {}", peer.part.user))?;
        Ok((peer, wire))
    }

    /// Runs until the phase is [`Phase::End`].
    pub(crate) async fn run(mut self, mut wire: Wire, mut phase: watch::Receiver<Phase>) -> Result<Outcome> {
        loop {
            match self.session(&mut wire, &mut phase).await {
                Ok(()) => {
                    wire.close().await;
                    self.judge();
                    return Ok(self.outcome);
                }
                Err(mut error) if self.part.reconnect && *phase.borrow() != Phase::End => loop {
                    wire = self.come_back(error).await?;
                    // The server may be killed again before anything is resent.
                    match self.resend(&mut wire).await {
                        Ok(()) => break,
                        Err(lost) => error = lost,
                    }
                },
                Err(error) => return Err(error.context(format!("user {}", self.part.user))),
            }
        }
    }

    /// What was lost, by the acknowledgements the senders have got.
    fn judge(&mut self) {
        for sender in self.part.follows.clone() {
            let acked = usize::try_from(sender).ok().and_then(|s| self.shared.acked_by.get(s));
            let acked = acked.map(|acked| acked.load(Relaxed)).unwrap_or_default();
            self.outcome.faults += self.trackers.entry(sender).or_default().faults(acked);
        }
    }

    async fn dial(&mut self, cursor: Option<u64>) -> Result<Wire> {
        let token = self.door.token(&self.part.user)?;
        let mut wire = Wire::open(self.door.addr, self.part.index).await?;
        let cursor = cursor.map(|seq| (self.epoch.as_str(), seq));
        let resuming = cursor.is_some();
        let welcome = wire.hello(&token, "load", cursor).await?;
        if resuming {
            ensure!(welcome.epoch == self.epoch, "the server came back with other data");
            ensure!(welcome.sync == "resumed", "cursor {} was answered {}", self.cursor, welcome.sync);
        } else {
            self.cursor = welcome.head_seq;
        }
        self.acked = self.cursor;
        self.epoch = welcome.epoch;
        Ok(wire)
    }

    async fn come_back(&mut self, mut error: anyhow::Error) -> Result<Wire> {
        let deadline = Instant::now() + RECONNECT_DEADLINE;
        while Instant::now() < deadline {
            // Spread, so that not all knock at once, and the same in every run.
            let pause = 20 + self.part.index * 37 % 180;
            sleep(Duration::from_millis(u64::try_from(pause)?)).await;
            match self.dial(Some(self.cursor)).await {
                Ok(wire) => {
                    self.outcome.reconnects += 1;
                    return Ok(wire);
                }
                Err(refused) => error = refused,
            }
        }
        Err(error).with_context(|| format!("user {} did not get back within {RECONNECT_DEADLINE:?}", self.part.user))
    }

    async fn session(&mut self, wire: &mut Wire, phase: &mut watch::Receiver<Phase>) -> Result<()> {
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::End {
                return Ok(());
            }
            if now == Phase::Run {
                self.fill(wire).await?;
            }
            wire.flush().await?;
            let due = self.due.filter(|_| now == Phase::Run && self.may_send());
            let due = self.shared.origin + Duration::from_micros(due.unwrap_or(u64::MAX >> 24));
            let text = tokio::select! {
                biased;
                text = wire.next() => Some(text?),
                _ = phase.changed() => None,
                waited = until(self.timer.as_ref(), due) => {
                    waited?;
                    None
                }
            };
            if let Some(text) = text {
                self.take(wire, &text).await?;
                while let Some(text) = wire.ready() {
                    self.take(wire, &text?).await?;
                }
                self.acknowledge(wire).await?;
            }
        }
    }

    /// Sends what may be sent now.
    async fn fill(&mut self, wire: &mut Wire) -> Result<()> {
        for number in std::mem::take(&mut self.again) {
            self.write(wire, number).await?;
        }
        let Some(sending) = &self.part.sending else {
            return Ok(());
        };
        let (every, offset) = (sending.every.map(micros), micros(sending.offset));
        let now = self.shared.now();
        if every.is_some() && self.due.is_none() {
            self.due = Some(now + offset);
        }
        while self.may_send() {
            let due = match (every, self.due) {
                (Some(every), Some(due)) if due <= now => {
                    self.due = Some(due + every);
                    due
                }
                (Some(_), _) => return Ok(()),
                (None, _) => now,
            };
            let number = self.next_number();
            self.open.push_back(Open { due, answered: false });
            self.shared.open.fetch_add(1, Relaxed);
            self.write(wire, number).await?;
        }
        Ok(())
    }

    fn may_send(&self) -> bool {
        self.part.sending.as_ref().is_some_and(|sending| {
            let within = sending.limit.is_none_or(|limit| self.next_number() < limit);
            self.open.len() < sending.outstanding && within
        })
    }

    fn next_number(&self) -> u64 {
        self.first + u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    fn opened(&mut self, number: u64) -> Option<&mut Open> {
        let position = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.open.get_mut(position)
    }

    async fn write(&mut self, wire: &mut Wire, number: u64) -> Result<()> {
        let Some(Open { due, answered: false }) = self.opened(number) else {
            return Ok(());
        };
        let due = *due;
        let Some(Sending { sender, conv_id, body, .. }) = &self.part.sending else {
            return Ok(());
        };
        let text = format!(
            r#"{{"type":"send","id":"{number}","conv_id":"{conv_id}","client_msg_id":"{sender:x}-{number:x}-{due:x}","body":{body}}}"#
        );
        wire.feed(text).await
    }

    async fn resend(&mut self, wire: &mut Wire) -> Result<()> {
        for number in self.first..self.next_number() {
            self.write(wire, number).await?;
        }
        Ok(())
    }

    async fn take(&mut self, wire: &mut Wire, text: &str) -> Result<()> {
        let frame = Frame::scan(text)?;
        match frame.kind {
            "sync" => self.take_sync(wire, &frame).await,
            "sent" => self.take_sent(&frame),
            "error" => self.take_error(&frame).with_context(|| text.to_owned()),
            "ping" => {
                self.acked = self.cursor;
                wire.feed(format!(r#"{{"type":"pong","seq":{}}}"#, self.cursor)).await
            }
            "reset" => {
                self.outcome.resets += 1;
                bail!("reset ({}) though nothing expired", frame.reason.unwrap_or_default())
            }
            _ => Ok(()),
        }
    }

    fn take_sent(&mut self, frame: &Frame<'_>) -> Result<()> {
        let number = frame.id.and_then(|id| id.parse().ok());
        let number: u64 = number.context("sent without a known id")?;
        self.outcome.duplicates_answered += u64::from(frame.duplicate);
        let Some(open) = self.opened(number).filter(|open| !open.answered) else {
            return Ok(());
        };
        open.answered = true;
        let due = open.due;
        while self.open.front().is_some_and(|open| open.answered) {
            self.open.pop_front();
            self.first += 1;
        }
        let shared = &self.shared;
        let Some(sending) = &self.part.sending else {
            return Ok(());
        };
        if let Some(count) = shared.acked_by.get(usize::try_from(sending.sender)?) {
            count.fetch_add(1, Relaxed);
        }
        shared.expected.fetch_add(sending.fan_out, Relaxed);
        shared.acked.fetch_add(1, Relaxed);
        shared.open.fetch_sub(1, Relaxed);
        shared.record(&shared.ack, due);
        Ok(())
    }

    fn take_error(&mut self, frame: &Frame<'_>) -> Result<()> {
        let retryable = matches!(frame.code, Some("unavailable" | "overloaded" | "rate_limited"));
        let number = frame.id.and_then(|id| id.parse().ok());
        match number {
            Some(number) if retryable => {
                self.outcome.retried += 1;
                self.again.push(number);
                Ok(())
            }
            _ => bail!("refused: {}", frame.code.unwrap_or_default()),
        }
    }

    async fn take_sync(&mut self, wire: &mut Wire, frame: &Frame<'_>) -> Result<()> {
        if frame.from_seq != self.cursor {
            if frame.to_seq > self.cursor {
                self.outcome.gaps += 1;
                let ask = format!(r#"{{"type":"sync","id":"gap","after_seq":{}}}"#, self.cursor);
                wire.feed(ask).await?;
            }
            return Ok(());
        }
        let entries = u64::try_from(frame.entries.len())?;
        self.outcome.holes += (frame.to_seq - frame.from_seq).saturating_sub(entries);
        let mut last = frame.from_seq;
        for entry in &frame.entries {
            ensure!(
                entry.seq > last && entry.seq <= frame.to_seq,
                "entry {} follows {last} in a frame up to {}",
                entry.seq,
                frame.to_seq
            );
            last = entry.seq;
            self.rises(entry.conv_id.unwrap_or_default(), entry.conv_seq);
            if entry.op == "message" {
                self.arrived(entry.client_msg_id.unwrap_or_default());
            }
        }
        self.cursor = frame.to_seq;
        Ok(())
    }

    fn rises(&mut self, conv_id: &str, conv_seq: u64) {
        match self.last_conv_seq.iter_mut().find(|(known, _)| known == conv_id) {
            Some((_, last)) => {
                self.outcome.unordered += u64::from(conv_seq <= *last);
                *last = conv_seq;
            }
            None => self.last_conv_seq.push((conv_id.to_owned(), conv_seq)),
        }
    }

    /// `client_msg_id` is sender, number, time due, in hexadecimal.
    fn arrived(&mut self, client_msg_id: &str) {
        let mut parts = client_msg_id.split('-').map(|part| u64::from_str_radix(part, 16));
        let (Some(Ok(sender)), Some(Ok(number)), Some(Ok(due))) = (parts.next(), parts.next(), parts.next()) else {
            return;
        };
        let sender = u32::try_from(sender).unwrap_or(u32::MAX);
        let tracker = self.trackers.entry(sender).or_default();
        let before = tracker.seen();
        tracker.arrived(number);
        self.shared.delivered.fetch_add(tracker.seen() - before, Relaxed);
        self.shared.record(&self.shared.delivery, due);
    }

    async fn acknowledge(&mut self, wire: &mut Wire) -> Result<()> {
        if self.cursor - self.acked >= ACK_EVERY {
            self.acked = self.cursor;
            wire.feed(format!(r#"{{"type":"ack","seq":{}}}"#, self.cursor)).await?;
        }
        Ok(())
    }
}
