//! The large conversation itself: founded through the server's API, written to, and what that costs the
//! store by the server's own counters.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::device::{Board, message_id};
use crate::stats::{Latency, Report, per};
use crate::target::{Door, Target, progress};
use crate::wire::{ANSWER_DEADLINE, Frame, Wire};

/// Of the server this command starts.
pub(super) const API_KEY: &str = "loadtest";
/// Members of one call of the API.
const PAGE: usize = 1000;
/// Messages whose cost is counted.
pub(super) const COUNTED: u64 = 200;

/// Values the store has read from its engine.
const READS: &str = "everline_store_engine_reads_total";

/// The name of a member.
pub(super) fn member(number: usize) -> String {
    format!("town{number:06}")
}

/// One call of the API, a `GET` without content; its answer.
async fn call(addr: SocketAddr, path: &str, content: &Value) -> Result<Value> {
    let (method, content) = if content.is_null() { ("GET", String::new()) } else { ("POST", content.to_string()) };
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let head = format!(
            "{method} /v1/api/{path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(content.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(ANSWER_DEADLINE, exchange).await.with_context(|| format!("{path}: no answer in time"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    ensure!(head.contains(" 200 "), "{path}: {body}");
    Ok(serde_json::from_str(body)?)
}

/// Makes the conversation, its members in pages. What a message costs is counted whenever their number
/// has another digit, and at the end.
pub(super) async fn found(door: &Door, members: usize, target: &mut Target, report: &mut Report) -> Result<String> {
    let names: Vec<String> = (0..members).map(member).collect();
    let bar = progress(u64::try_from(members)?, "members");
    let (mut conv_id, mut took, mut are, mut count_at) = (String::new(), Duration::ZERO, 0, PAGE);
    let mut slowest = Duration::ZERO;
    for page in names.chunks(PAGE) {
        let began = Instant::now();
        if conv_id.is_empty() {
            let content = json!({"owner": member(0), "members": page, "title": "town"});
            let made = call(door.addr, "conversations", &content).await?;
            conv_id = made["conv_id"].as_str().context("no conv_id")?.to_owned();
        } else {
            call(door.addr, &format!("conversations/{conv_id}/members"), &json!({"users": page})).await?;
        }
        took += began.elapsed();
        slowest = slowest.max(began.elapsed());
        are += page.len();
        bar.inc(u64::try_from(page.len())?);
        if are >= count_at || are == members {
            count_at *= 10;
            let mut wire = Wire::open(door.addr, 0).await?;
            wire.hello(&door.token(&member(0))?, "desk", None).await?;
            let name = format!("at_{are}_members");
            count(target, &mut wire, &conv_id, &name, report, |number| format!("founding-{are}-{number}")).await?;
            wire.close().await;
        }
    }
    bar.finish_and_clear();
    let found = call(door.addr, &format!("conversations/{conv_id}"), &Value::Null).await?;
    ensure!(found["large"] == true && found["members_count"] == members, "not large with {members} members: {found}");
    report.figure("set_up", took.as_secs_f64(), "s");
    report.figure("set_up_slowest_page_of_1000", slowest.as_secs_f64() * 1000.0, "ms");
    Ok(conv_id)
}

/// Sends one message to the conversation; its number in the log.
pub(super) async fn send(wire: &mut Wire, conv_id: &str, id: &str) -> Result<u64> {
    let request =
        json!({"type":"send","id":id,"conv_id":conv_id,"client_msg_id":id,"body":{"text":"to all of the town"}});
    let answer = wire.ask(id, request.to_string()).await?;
    Ok(Frame::scan(&answer)?.conv_seq)
}

/// Sends messages of these numbers at a rate; when each was due, from the board's beginning.
pub(super) async fn write(
    wire: &mut Wire,
    conv_id: &str,
    rate: u64,
    span: (u64, u64),
    board: &Board,
) -> Result<Vec<u64>> {
    let every = Duration::from_secs(1) / u32::try_from(rate.max(1))?;
    let (began, mut due) = (Instant::now(), Vec::new());
    for (number, turn) in (span.0..span.1).zip(0..) {
        let at = began + every * turn;
        sleep_until(at).await;
        due.push(board.micros(at));
        send(wire, conv_id, &message_id(number)).await?;
    }
    Ok(due)
}

/// Timelines written by a message and its group commits, one message at a time with nothing else under
/// way; where the log stands afterwards.
pub(super) async fn count(
    target: &mut Target,
    wire: &mut Wire,
    conv_id: &str,
    name: &str,
    report: &mut Report,
    id: impl Fn(u64) -> String,
) -> Result<u64> {
    let countable = target.is_own() && target.cluster().is_none();
    let (mut head, mut before, mut reads) = (0, (0, 0), 0);
    if countable {
        settle(target).await?;
        before = written(target).await?;
        reads = target.server()?.metric(READS).await?;
    }
    let mut latency = Latency::new();
    for number in 0..COUNTED {
        let began = Instant::now();
        head = send(wire, conv_id, &id(number)).await?;
        latency.record(began.elapsed());
    }
    report.figure(&format!("ack_p50_{name}"), latency.millis(0.5), "ms");
    if countable {
        let after = written(target).await?;
        let reads = per(target.server()?.metric(READS).await? - reads, COUNTED);
        report.figure(&format!("values_read_per_message_{name}"), reads, "");
        let timelines = per(after.0 - before.0, COUNTED);
        report.figure(&format!("timelines_written_per_message_{name}"), timelines, "");
        let commits = per(after.1 - before.1, COUNTED);
        report.figure(&format!("group_commits_per_message_{name}"), commits, "");
        if timelines > 1.05 {
            report.fail(format!("{name}: {timelines:.2} timelines are written for a message, it must be 1"));
        }
    }
    Ok(head)
}

/// Commits and group commits so far.
async fn written(target: &mut Target) -> Result<(u64, u64)> {
    let server = target.server()?;
    let commits = server.metric("everline_store_commits_total").await?;
    Ok((commits, server.metric("everline_store_group_commits_total").await?))
}

/// Waits until what is written behind the answers (devices that have come and gone) is written.
async fn settle(target: &mut Target) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(1);
    let mut last = written(target).await?;
    for _ in 0..30 {
        tokio::time::sleep(QUIET).await;
        let now = written(target).await?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(())
}
