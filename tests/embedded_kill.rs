//! Kill -9 in the middle of commits: what was acknowledged is there when the directory is opened again.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the child tells by printing; a test fails by an unwrap")]

mod embedded_support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use embedded_support::{all, apply, conversation, message, options, user};
use everline::store::Store;
use everline::store::embedded::{Embedded, Options};

const DIR: &str = "EVERLINE_KILL_DIR";
const PAIRS: u64 = 8;

/// Small enough that checkpoints and the cutting of the journal are killed too.
fn open(dir: &Path) -> std::sync::Arc<Embedded> {
    Embedded::open(Options { checkpoint_bytes: 40_000, overlay_bytes: 100_000, ..options(dir) }).unwrap()
}

fn names(pair: u64) -> [String; 2] {
    [format!("a{pair}"), format!("b{pair}")]
}

/// The victim: commits until it is killed, and says what is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(Path::new(&dir));
    let senders = (0..PAIRS).map(|pair| {
        let store = store.clone();
        tokio::spawn(async move {
            let conv = format!("d:{pair}");
            let first = store.head(&conversation(&conv)).await.unwrap().position.seq;
            for seq in first.. {
                apply(&store, message(&conv, &names(pair), seq, |_| seq, seq)).await;
                println!("acked {pair} {}", seq + 1);
            }
        })
    });
    futures::future::join_all(senders).await;
}

/// Lets a victim write until it has acknowledged so many, and kills it. Returns the last number by pair.
fn kill_after(dir: &Path, acks: usize) -> HashMap<u64, u64> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut acked = HashMap::new();
    let mut note = |line: &str| {
        let mut words = line.split(' ').skip_while(|word| !word.ends_with("acked")).skip(1);
        let mut number = || words.next()?.parse::<u64>().ok();
        if let (Some(pair), Some(seq)) = (number(), number()) {
            acked.insert(pair, seq);
            return true;
        }
        false
    };
    let mut seen = 0;
    while seen < acks {
        seen += usize::from(note(&lines.next().expect("the victim ended by itself").unwrap()));
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    // What it had said before it died counts; a line may be cut.
    for line in lines.map_while(Result::ok) {
        if line.split(' ').count() == 3 {
            note(&line);
        }
    }
    acked
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for round in 1..=6 {
        let acked = kill_after(&data, 150 * round);
        let store = open(&data);
        for pair in 0..PAIRS {
            let conv = conversation(&format!("d:{pair}"));
            let entries = all(&store, &conv).await;
            let head = store.head(&conv).await.unwrap().position.seq;
            assert_eq!(entries.len() as u64, head);
            // The last line may have been cut in its number; then it says less than was acknowledged.
            assert!(head >= acked.get(&pair).copied().unwrap_or(0), "round {round}, pair {pair}");
            for name in names(pair) {
                let delivered = all(&store, &user(&name)).await;
                assert_eq!(delivered.len() as u64, head, "a message is in all its timelines or in none");
                assert!(delivered.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
            }
        }
    }
}
