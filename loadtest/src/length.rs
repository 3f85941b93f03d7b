//! What appending and reading cost against the length of a conversation's log: it must not grow.
//!
//! One writer fills a conversation; at each length messages are sent one at a time, and pages of 100 are
//! asked at the head, in the middle and at the beginning, each checked number by number.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::load::body_text;
use crate::stats::{Latency, Report, per_second};
use crate::target::{Door, Target, progress};
use crate::wire::{ANSWER_DEADLINE, Frame, Wire};

const WRITER: &str = "longa";
const CONVERSATION: &str = "d:longa:longb";
/// Messages under way while it is filled.
const BATCH: u64 = 256;
/// Entries of a page.
const PAGE: u64 = 100;

/// `length`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Lengths, ascending, each above 2,000 more than the one before but the first.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000, 100_000, 1_000_000])]
    lengths: Vec<u64>,
    /// Messages and pages of each sort that are measured at each length.
    #[arg(long, default_value_t = 500)]
    samples: u64,
    /// Size of a message body: bytes.
    #[arg(long, default_value_t = 128)]
    body: usize,
}

/// The one who writes and reads.
struct Writer {
    wire: Wire,
    body: Arc<str>,
    /// Messages of the log.
    length: u64,
    asked: u64,
}

/// Where a page is read.
#[derive(Clone, Copy)]
enum Place {
    Head,
    Middle,
    Beginning,
}

impl Writer {
    async fn connect(door: &Door, body: &Arc<str>, length: u64) -> Result<Self> {
        let mut wire = Wire::open(door.addr, 0).await?;
        wire.hello(&door.token(WRITER)?, "phone", None).await?;
        Ok(Self { wire, body: Arc::clone(body), length, asked: 0 })
    }

    /// Sends `count` messages at once, and acknowledges what comes.
    async fn send(&mut self, count: u64) -> Result<()> {
        for number in self.length + 1..=self.length + count {
            let text = format!(
                r#"{{"type":"send","id":"{number}","conv_id":"{CONVERSATION}","client_msg_id":"{number}","body":{}}}"#,
                self.body
            );
            self.wire.feed(text).await?;
        }
        self.wire.flush().await?;
        let (mut sent, mut seq) = (0, 0);
        let answers = async {
            while sent < count {
                let text = self.wire.next().await?;
                let frame = Frame::scan(&text)?;
                match frame.kind {
                    "sent" => sent += 1,
                    "sync" => seq = frame.to_seq,
                    "error" => anyhow::bail!("refused: {text}"),
                    _ => {}
                }
            }
            anyhow::Ok(())
        };
        timeout(ANSWER_DEADLINE, answers).await.context("no answers in time")??;
        if seq > 0 {
            self.wire.feed(format!(r#"{{"type":"ack","seq":{seq}}}"#)).await?;
        }
        self.length += count;
        Ok(())
    }

    async fn fill(&mut self, length: u64) -> Result<()> {
        let bar = progress(length - self.length, "messages");
        while self.length < length {
            let count = BATCH.min(length - self.length);
            self.send(count).await?;
            bar.inc(count);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Asks for a page and checks it.
    async fn page(&mut self, place: Place) -> Result<()> {
        self.asked += 1;
        let (id, last) = (format!("h{}", self.asked), self.length);
        let mut request = json!({"type":"history","id":id,"conv_id":CONVERSATION,"limit":PAGE});
        let first = match place {
            Place::Head => last - PAGE + 1,
            Place::Middle => {
                request["before"] = (last / 2 + PAGE).into();
                last / 2
            }
            Place::Beginning => {
                request["after"] = 0.into();
                1
            }
        };
        let text = self.wire.ask(&id, request.to_string()).await?;
        let page = Frame::scan(&text)?;
        let right = page.entries.iter().map(|entry| entry.conv_seq).eq(first..first + PAGE);
        ensure!(right, "a page from {first} of {last} begins with {:?}", page.entries.first());
        Ok(())
    }
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    let rises = args.lengths.windows(2).all(|two| matches!(two, [a, b] if b > &(a + 2 * args.samples)));
    ensure!(rises && args.lengths.first().is_some_and(|first| *first >= 2 * PAGE), "--lengths: ascending");
    let mut report = Report::new("length");
    report.setting("lengths", args.lengths.clone());
    report.setting("samples", args.samples);
    report.setting("body", args.body);
    let (door, body) = (target.door(), body_text(args.body));
    let mut writer = Writer::connect(&door, &body, 0).await?;
    for length in &args.lengths {
        let (began, before) = (Instant::now(), writer.length);
        writer.fill(*length).await?;
        report.figure(&format!("filled_per_second_to_{length}"), per_second(length - before, began.elapsed()), "");
        if target.is_own() && target.cluster().is_none() {
            writer = reopened(target, &door, &body, writer, *length, &mut report).await?;
        }
        rest(target).await;
        measure(args, &mut writer, *length, &mut report).await?;
    }
    Ok(report)
}

/// What filling and starting left to do is done first: until the server's processor time stands still.
async fn rest(target: &Target) {
    let used = || target.usage().map_or(0, |usage| usage.cpu_us);
    for _ in 0..60 {
        let before = used();
        sleep(Duration::from_secs(1)).await;
        if used() - before < 20_000 {
            return;
        }
    }
}

/// One message, or one page of each sort, after the other.
async fn measure(args: &Args, writer: &mut Writer, length: u64, report: &mut Report) -> Result<()> {
    let mut append = Latency::new();
    for _ in 0..args.samples {
        let began = Instant::now();
        writer.send(1).await?;
        append.record(began.elapsed());
    }
    report.latency(&format!("append_at_{length}"), &append);
    let places = [("head", Place::Head), ("middle", Place::Middle), ("beginning", Place::Beginning)];
    for (name, place) in places {
        let mut latency = Latency::new();
        for _ in 0..args.samples {
            let began = Instant::now();
            writer.page(place).await?;
            latency.record(began.elapsed());
        }
        report.latency(&format!("page_of_{PAGE}_{name}_at_{length}"), &latency);
    }
    Ok(())
}

/// Kills the server, and measures what comes first after its start.
async fn reopened(
    target: &mut Target,
    door: &Door,
    body: &Arc<str>,
    writer: Writer,
    length: u64,
    report: &mut Report,
) -> Result<Writer> {
    writer.wire.close().await;
    let memory = target.usage().map_or(0, |usage| usage.anonymous >> 20);
    report.count(&format!("server_memory_mib_at_{length}"), memory);
    let took = target.server()?.restart().await?;
    report.figure(&format!("restart_after_kill_at_{length}"), millis(took), "ms");
    let mut writer = Writer::connect(door, body, writer.length).await?;
    let began = Instant::now();
    writer.page(Place::Beginning).await?;
    report.figure(&format!("first_page_after_restart_at_{length}"), millis(began.elapsed()), "ms");
    let began = Instant::now();
    writer.send(1).await?;
    report.figure(&format!("first_append_after_restart_at_{length}"), millis(began.elapsed()), "ms");
    Ok(writer)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
