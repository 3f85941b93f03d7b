//! Conducts a run of many devices: connect, warm up, measure, drain, judge; and kills on the way.
//!
//! Everything between the first and the last message counted is done by the devices (`peer`); this
//! only moves them from phase to phase and reads their counters.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::part::{Outcome, Part, Phase, Shared};
use crate::peer::Peer;
use crate::server::Usage;
use crate::stats::{Latency, Report, per_second};
use crate::target::{Target, progress};
use crate::wire::{Wire, allow_sockets};

/// Handshakes under way at a time.
const CONNECTING: usize = 64;
/// How long nothing may happen before a drain is given up.
const STALL: Duration = Duration::from_secs(20);

/// How long and how much.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Timing {
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds of the same load before, not measured.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) warmup: f64,
    /// Messages in all instead of a time; then there is no warm-up.
    #[arg(long)]
    pub(crate) messages: Option<u64>,
    /// Messages unanswered at a time and sender.
    #[arg(long, default_value_t = 1)]
    pub(crate) outstanding: usize,
    /// Open loop: messages a second in all, at fixed times whatever the answers; latency counts from
    /// those times.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    pub(crate) body: usize,
}

/// When the server is killed -9, and then started again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kill {
    /// So long after it was ready.
    Serving(Duration),
    /// So long after its process was started, in the middle of opening or recovery perhaps.
    Starting(Duration),
}

/// All kills of a run, in order.
pub(crate) type Kills = Vec<Kill>;

/// A run to be done.
pub(crate) struct Load {
    pub(crate) parts: Vec<Part>,
    pub(crate) senders: usize,
    pub(crate) timing: Timing,
    pub(crate) kills: Kills,
}

/// What came out.
pub(crate) struct Results {
    pub(crate) shared: Arc<Shared>,
    pub(crate) total: Outcome,
    pub(crate) kills: u64,
    measured: Measured,
}

/// Counters over the measured stretch.
struct Measured {
    time: Duration,
    acked: u64,
    delivered: u64,
    server: Option<(Usage, Usage)>,
    own: Option<(Usage, Usage)>,
}

/// A reading of all counters.
struct Reading {
    at: Instant,
    acked: u64,
    delivered: u64,
    server: Option<Usage>,
    own: Option<Usage>,
}

/// A message body: an object of exactly `size` bytes.
pub(crate) fn body_text(size: usize) -> Arc<str> {
    const FRAME: usize = r#"{"text":""}"#.len();
    let fill = "x".repeat(size.saturating_sub(FRAME));
    Arc::from(format!(r#"{{"text":"{fill}"}}"#))
}

impl Timing {
    /// Writes the settings into a report.
    pub(crate) fn note(&self, report: &mut Report) {
        report.setting("body", self.body);
        match self.rate {
            Some(rate) => report.setting("rate", rate),
            None => report.setting("outstanding", self.outstanding),
        }
        match self.messages {
            Some(messages) => report.setting("messages", messages),
            None => report.setting("seconds", self.seconds),
        }
    }

    /// Interval of one of `senders` in an open loop.
    pub(crate) fn every(&self, senders: usize) -> Option<Duration> {
        let senders = u32::try_from(senders).unwrap_or(u32::MAX);
        self.rate.map(|rate| Duration::from_secs_f64(f64::from(senders) / rate.max(0.001)))
    }

    /// Share of one of `senders` in the messages.
    pub(crate) fn limit(&self, sender: usize, senders: usize) -> Option<u64> {
        let (sender, senders) = (u64::try_from(sender).ok()?, u64::try_from(senders).ok()?);
        self.messages.map(|all| all / senders + u64::from(sender < all % senders))
    }
}

impl Load {
    pub(crate) async fn run(self, target: &mut Target) -> Result<Results> {
        allow_sockets(self.parts.len() * 2)?;
        let shared = Arc::new(Shared::new(self.senders));
        let peers = self.connect(target, &shared).await?;
        let (phase, phases) = watch::channel(Phase::Wait);
        let mut devices = JoinSet::new();
        for (peer, wire) in peers {
            devices.spawn(peer.run(wire, phases.clone()));
        }
        phase.send(Phase::Run)?;
        let measured = self.measure(target, &shared, &mut devices).await?;
        phase.send(Phase::Finish)?;
        drain(&shared, &mut devices).await?;
        phase.send(Phase::End)?;
        let total = judge(devices).await?;
        let kills = u64::try_from(self.kills.len())?;
        Ok(Results { shared, total, kills, measured })
    }

    /// Both at once.
    pub(crate) fn join(mut self, other: Self) -> Result<Self> {
        let (senders, devices) = (u32::try_from(self.senders)?, self.parts.len());
        self.senders += other.senders;
        self.parts.extend(other.parts.into_iter().map(|mut part| {
            part.index += devices;
            part.follows = part.follows.start + senders..part.follows.end + senders;
            if let Some(sending) = &mut part.sending {
                sending.sender += senders;
            }
            part
        }));
        Ok(self)
    }

    async fn connect(&self, target: &Target, shared: &Arc<Shared>) -> Result<Vec<(Peer, Wire)>> {
        let bar = progress(u64::try_from(self.parts.len())?, "connecting");
        let slots = Arc::new(Semaphore::new(CONNECTING));
        let mut connecting = JoinSet::new();
        for part in self.parts.clone() {
            let (door, shared, slots, bar) = (target.door(), Arc::clone(shared), Arc::clone(&slots), bar.clone());
            connecting.spawn(async move {
                let _slot = slots.acquire_owned().await?;
                let peer = Peer::connect(part, door, shared).await;
                bar.inc(1);
                peer
            });
        }
        let mut peers = Vec::with_capacity(self.parts.len());
        while let Some(peer) = connecting.join_next().await {
            peers.push(peer??);
        }
        bar.finish_and_clear();
        Ok(peers)
    }

    async fn measure(
        &self,
        target: &mut Target,
        shared: &Shared,
        devices: &mut JoinSet<Result<Outcome>>,
    ) -> Result<Measured> {
        let started = Instant::now();
        let mut ready = started;
        let mut kills = self.kills.iter().copied().peekable();
        let warmup = if self.timing.messages.is_some() { 0.0 } else { self.timing.warmup };
        let warm = started + Duration::from_secs_f64(warmup);
        let end = warm + Duration::from_secs_f64(self.timing.seconds);
        let bar = self.bar();
        let mut first = None;
        loop {
            if first.is_none() && Instant::now() >= warm {
                shared.window[0].store(shared.now(), Relaxed);
                first = Some(Reading::take(target, shared));
            }
            let acked = shared.acked.load(Relaxed);
            bar.set_position(self.position(started, acked));
            let over = match self.timing.messages {
                Some(messages) => acked >= messages,
                None => Instant::now() >= end && kills.peek().is_none(),
            };
            if over {
                break;
            }
            all_there(devices)?;
            let due = kills.next_if(|kill| matches!(kill, Kill::Serving(after) if ready.elapsed() >= *after));
            if due.is_some() {
                let server = target.server()?;
                server.kill9().await?;
                while let Some(Kill::Starting(after)) = kills.next_if(|kill| matches!(kill, Kill::Starting(_))) {
                    server.spawn_again()?;
                    sleep(after).await;
                    server.kill9().await?;
                }
                server.restart().await?;
                ready = Instant::now();
            }
            sleep(Duration::from_millis(5)).await;
        }
        shared.window[1].store(shared.now(), Relaxed);
        bar.finish_and_clear();
        let last = Reading::take(target, shared);
        Ok(first.context("the run ended before it was warm")?.until(last))
    }

    fn bar(&self) -> ProgressBar {
        let length = self
            .timing
            .messages
            .unwrap_or_else(|| Duration::from_secs_f64(self.timing.seconds + self.timing.warmup).as_secs());
        progress(length, if self.timing.messages.is_some() { "messages" } else { "seconds" })
    }

    fn position(&self, started: Instant, acked: u64) -> u64 {
        if self.timing.messages.is_some() { acked } else { started.elapsed().as_secs() }
    }
}

impl Reading {
    fn take(target: &Target, shared: &Shared) -> Self {
        Self {
            at: Instant::now(),
            acked: shared.acked.load(Relaxed),
            delivered: shared.delivered.load(Relaxed),
            server: target.usage(),
            own: Usage::of(None).ok(),
        }
    }

    fn until(self, last: Self) -> Measured {
        Measured {
            time: last.at - self.at,
            acked: last.acked - self.acked,
            delivered: last.delivered - self.delivered,
            server: self.server.zip(last.server),
            own: self.own.zip(last.own),
        }
    }
}

fn all_there(devices: &mut JoinSet<Result<Outcome>>) -> Result<()> {
    match devices.try_join_next() {
        None => Ok(()),
        Some(finished) => {
            finished??;
            bail!("a device stopped before the end")
        }
    }
}

/// Waits until every message is answered and has reached every receiver.
async fn drain(shared: &Shared, devices: &mut JoinSet<Result<Outcome>>) -> Result<()> {
    let mut last = (Instant::now(), 0);
    loop {
        let delivered = shared.delivered.load(Relaxed);
        let (open, acked) = (shared.open.load(Relaxed), shared.acked.load(Relaxed));
        if (open == 0 && delivered >= shared.expected.load(Relaxed)) || last.0.elapsed() > STALL {
            // A little longer, for a copy too many.
            sleep(Duration::from_millis(300)).await;
            return Ok(());
        }
        if delivered + acked != last.1 {
            last = (Instant::now(), delivered + acked);
        }
        all_there(devices)?;
        sleep(Duration::from_millis(5)).await;
    }
}

async fn judge(mut devices: JoinSet<Result<Outcome>>) -> Result<Outcome> {
    let mut total = Outcome::default();
    while let Some(outcome) = devices.join_next().await {
        total.add(&outcome??);
    }
    total.faults.out_of_order += total.unordered;
    Ok(total)
}

impl Results {
    /// Writes everything down; faults fail the report.
    pub(crate) fn into_report(self, report: &mut Report) {
        let m = &self.measured;
        report.figure("acked_per_second", per_second(m.acked, m.time), "messages/s");
        report.figure("delivered_per_second", per_second(m.delivered, m.time), "deliveries/s");
        for (name, latency) in [("ack", &self.shared.ack), ("delivery", &self.shared.delivery)] {
            if let Ok(latency) = latency.lock() {
                let latency: &Latency = &latency;
                report.latency(name, latency);
            }
        }
        if let Some((before, after)) = m.server {
            report.usage("server", before, after, m.acked, "message");
            report.usage("server", before, after, m.delivered, "delivery");
        }
        if let Some((before, after)) = m.own {
            report.usage("generator", before, after, m.acked, "message");
        }
        report.count("messages_acked", self.shared.acked.load(Relaxed));
        report.count("deliveries", self.shared.delivered.load(Relaxed));
        report.count("lost", self.total.faults.lost);
        report.count("duplicated", self.total.faults.duplicated);
        report.count("out_of_order", self.total.faults.out_of_order);
        self.write_rare(report);
        if self.total.faults.any() || self.total.holes > 0 {
            report.fail("messages lost, doubled or out of order");
        }
        let open = self.shared.open.load(Relaxed);
        if open > 0 {
            report.fail(format!("{open} messages were never answered"));
        }
    }

    /// What is worth a line only when it happened.
    fn write_rare(&self, report: &mut Report) {
        let rare = [
            ("kills", self.kills),
            ("reconnects", self.total.reconnects),
            ("duplicates_refused", self.total.duplicates_answered),
            ("retried", self.total.retried),
            ("gaps_asked_again", self.total.gaps),
            ("holes_in_sync_timeline", self.total.holes),
        ];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            report.count(name, count);
        }
    }
}
