//! Figures of the embedded store. Ignored by default; run with
//! `cargo test --release --test embedded_bench -- --ignored --nocapture --test-threads=1`.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "figures are printed; a test fails by an unwrap")]

mod embedded_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use embedded_support::{apply, message, open};
use everline::store::embedded::{Counters, Embedded};

/// One caller: its own conversation and members, one call after the other; latencies in microseconds.
async fn caller(store: Arc<Embedded>, id: usize, members: usize, until: Instant) -> Vec<u32> {
    let names: Vec<String> = (0..members).map(|member| format!("user-{id}-{member}")).collect();
    let conv = format!("g:{id}");
    let mut latencies = Vec::new();
    for seq in 0.. {
        let call = message(&conv, &names, seq, |_| seq, seq);
        let start = Instant::now();
        apply(&store, call).await;
        latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
        if Instant::now() > until {
            break;
        }
    }
    latencies
}

/// Processor time of this process so far, callers included: what counts where others share the machine.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    fields.iter().sum::<f64>() / 100.0
}

async fn measure(what: &str, callers: usize, members: usize, seconds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let (start, before) = (Instant::now(), processor());
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..callers).map(|id| tokio::spawn(caller(store.clone(), id, members, until))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let (elapsed, processor) = (start.elapsed(), processor() - before);
    report(what, &mut latencies, elapsed, store.counters());
    println!("    processor {:.1} us a call", processor * 1e6 / store.counters().calls as f64);
    let start = Instant::now();
    tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.close().unwrap()
    })
    .await
    .unwrap();
    println!("    close {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    drop(store);
    let start = Instant::now();
    let store = open(&dir.path().join("data"));
    println!("    reopen {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    drop(store);
}

fn report(what: &str, latencies: &mut [u32], elapsed: Duration, counters: Counters) {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    let calls = counters.calls as f64;
    println!(
        "{what}: {:.0} calls/s, ms p50 {:.1} p99 {:.1} max {:.1}; a call: {:.2} engine writes, {:.0} bytes; \
         {:.0} calls a fsync, {} checkpoints, {} stalls",
        calls / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        counters.engine_writes as f64 / calls,
        counters.engine_bytes as f64 / calls,
        calls / counters.group_commits as f64,
        counters.checkpoints,
        counters.stalls,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures() {
    for (what, callers, members) in [
        ("1:1, 1 outstanding", 1, 2),
        ("1:1, 16 outstanding", 16, 2),
        ("1:1, 256 outstanding", 256, 2),
        ("1:1, 20000 outstanding", 20_000, 2),
        ("group of 100, 1 outstanding", 1, 100),
        ("group of 100, 128 outstanding", 128, 100),
    ] {
        if std::env::var("EVERLINE_BENCH").is_ok_and(|only| !what.contains(&only)) {
            continue;
        }
        measure(what, callers, members, 6).await;
    }
}
