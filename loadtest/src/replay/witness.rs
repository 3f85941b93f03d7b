//! A device that believes nothing: a raw connection that checks every number of the sync stream.
//!
//! It follows one user over drops, kills and restarts, resuming from its cursor, and keeps the
//! conv_seq of every message entry. Its stream must be without holes, without copies and in order,
//! whatever a client library would forgive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::sleep;

use super::oracle::Oracle;
use crate::target::Door;
use crate::wire::{Frame, Wire};

/// After how many entries an ack goes out.
const ACK_EVERY: u64 = 125;

/// What has been seen so far.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    epoch: Option<String>,
    pub(crate) cursor: u64,
    live: bool,
    /// It was away too long: what it missed is no fault, its order still counts.
    pub(crate) resets: u64,
    pub(crate) entries: u64,
    seen: BTreeMap<String, Log>,
    /// In words.
    pub(crate) faults: Vec<String>,
}

/// What has been seen of one conversation.
#[derive(Debug, Default)]
struct Log {
    last: u64,
    messages: BTreeSet<u64>,
}

fn lock(witness: &Mutex<Witness>) -> MutexGuard<'_, Witness> {
    witness.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witness {
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Connects again and again; ends only when aborted.
    pub(crate) async fn follow(witness: Arc<Mutex<Self>>, door: Door, token: String, device: String) {
        loop {
            // How a connection ends is of no interest here: the next must continue it.
            let _ = Self::connection(&witness, &door, &token, &device).await;
            lock(&witness).live = false;
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn connection(witness: &Mutex<Self>, door: &Door, token: &str, device: &str) -> Result<()> {
        let mut wire = Wire::open(door.addr, 0).await?;
        let cursor = {
            let held = lock(witness);
            held.epoch.clone().map(|epoch| (epoch, held.cursor))
        };
        let cursor = cursor.as_ref().map(|(epoch, seq)| (epoch.as_str(), *seq));
        let welcome = wire.hello(token, device, cursor).await?;
        let mut acked = {
            let mut held = lock(witness);
            held.welcomed(&welcome.epoch, &welcome.sync, welcome.head_seq);
            held.cursor
        };
        loop {
            let text = wire.next().await?;
            let cursor = lock(witness).take(&text)?;
            let frame_is_ping = text.starts_with(r#"{"type":"ping""#);
            if frame_is_ping {
                acked = cursor;
                wire.feed(format!(r#"{{"type":"pong","seq":{cursor}}}"#)).await?;
                wire.flush().await?;
            } else if cursor >= acked + ACK_EVERY {
                acked = cursor;
                wire.feed(format!(r#"{{"type":"ack","seq":{cursor}}}"#)).await?;
                wire.flush().await?;
            }
        }
    }

    fn welcomed(&mut self, epoch: &str, sync: &str, head_seq: u64) {
        match (&self.epoch, sync) {
            (None, "fresh") => self.cursor = head_seq,
            (Some(held), "resumed") if held == epoch => {}
            (Some(held), "reset") if held == epoch => {}
            (held, sync) => self.faults.push(format!("{sync} at {epoch}, the device held {held:?}")),
        }
        self.epoch = Some(epoch.to_owned());
    }

    /// Takes a frame in; the cursor after it.
    fn take(&mut self, text: &str) -> Result<u64> {
        let frame = Frame::scan(text)?;
        match frame.kind {
            "sync" => self.take_sync(&frame),
            "reset" => {
                self.resets += 1;
                self.cursor = frame.head_seq;
            }
            "error" => {
                self.faults.push(format!("error: {text}"));
                bail!("error");
            }
            _ => {}
        }
        Ok(self.cursor)
    }

    fn take_sync(&mut self, frame: &Frame<'_>) {
        let (from, to) = (frame.from_seq, frame.to_seq);
        if from != self.cursor || to < from {
            self.faults.push(format!("a frame ({from}, {to}] came while the cursor was {}", self.cursor));
            return;
        }
        let mut last = from;
        for entry in &frame.entries {
            if entry.seq <= last || entry.seq > to {
                self.faults.push(format!("seq {} in the frame ({from}, {to}] after {last}", entry.seq));
            }
            last = entry.seq;
            self.entries += 1;
            let Some(conv_id) = entry.conv_id.filter(|_| entry.conv_seq > 0) else { continue };
            let log = self.seen.entry(conv_id.to_owned()).or_default();
            if entry.conv_seq <= log.last {
                let (seq, last) = (entry.conv_seq, log.last);
                self.faults.push(format!("{conv_id}: conv_seq {seq} came after {last}"));
            }
            log.last = log.last.max(entry.conv_seq);
            if entry.op == "message" {
                log.messages.insert(entry.conv_seq);
            }
        }
        self.cursor = to;
        self.live = frame.live;
    }

    /// Faults in words: order, copies, and against what `oracle` says of `user`.
    pub(crate) fn judge(&self, oracle: &Oracle, user: &everline::protocol::UserId) -> Vec<String> {
        let mut faults = Vec::new();
        let (Some(expected), none) = (oracle.expected(user), BTreeSet::new()) else { return faults };
        let seen = self.seen.get(oracle.conv_id.as_str()).map_or(&none, |log| &log.messages);
        let stream = oracle.stream(user);
        let strange: Vec<_> = seen.difference(&stream).collect();
        if !strange.is_empty() {
            faults.push(format!("got messages {strange:?} that were not for this user"));
        }
        let hidden = |seq: &u64| *seq <= expected.cleared || expected.hidden.contains(seq);
        let missing: Vec<_> = stream.difference(seen).filter(|seq| !hidden(seq)).collect();
        if self.resets == 0 && !missing.is_empty() {
            faults.push(format!("never got messages {missing:?}"));
        }
        faults
    }
}

/// Waits until the witness stands at `head`.
pub(crate) async fn reached(witness: &Mutex<Witness>, head: u64, deadline: Duration) -> Result<()> {
    let reach = async {
        while lock(witness).cursor < head {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let reached = tokio::time::timeout(deadline, reach).await;
    reached.with_context(|| format!("its cursor is {} and not {head} after {deadline:?}", lock(witness).cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(from: u64, to: u64, entries: &[(u64, u64)]) -> String {
        let entry = |(seq, conv_seq): &(u64, u64)| serde_json::json!({"seq": seq, "op": "message", "conv_id": "g:1", "conv_seq": conv_seq});
        let entries: Vec<_> = entries.iter().map(entry).collect();
        serde_json::json!({"type": "sync", "from_seq": from, "to_seq": to, "live": true, "entries": entries})
            .to_string()
    }

    #[test]
    fn holes_copies_and_disorder_are_noticed() -> Result<()> {
        let mut witness = Witness::default();
        witness.welcomed("e", "fresh", 0);
        assert_eq!(witness.take(&sync(0, 2, &[(1, 1), (2, 2)]))?, 2);
        assert!(witness.is_live() && witness.faults.is_empty());
        witness.take(&sync(3, 4, &[(4, 4)]))?;
        assert_eq!(witness.faults.len(), 1);
        witness.take(&sync(2, 4, &[(3, 2), (3, 3)]))?;
        assert_eq!(witness.faults.len(), 3, "{:?}", witness.faults);
        witness.welcomed("other", "resumed", 4);
        assert_eq!(witness.faults.len(), 4);
        Ok(())
    }
}
