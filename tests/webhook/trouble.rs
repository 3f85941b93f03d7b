//! 10,000 messages while the receiver dies and comes back at random, and the program is killed.
//! `EVERLINE_SEED=N cargo test --test webhook every_message` plays a seed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::program::{Program, send_all};
use crate::receiver::{Manner, PATIENCE, Receiver, SECRET};

const SENDERS: usize = 8;
const EACH: usize = 1250;
const KILLS: usize = 3;

/// Kills and restarts the receiver at random until told to stop; then it is alive and good.
fn trouble(mut receiver: Receiver, mut rng: SmallRng, over: Arc<AtomicBool>) -> Receiver {
    while !over.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(rng.random_range(30..300)));
        let manner = if rng.random_bool(0.2) { Manner::Fails } else { Manner::Good };
        receiver.behave(manner);
        if rng.random_bool(0.7) {
            receiver.die();
            std::thread::sleep(Duration::from_millis(rng.random_range(1..300)));
            receiver.rise();
        }
    }
    receiver.behave(Manner::Good);
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_told_at_least_once_in_order_whoever_is_killed() {
    let seed: u64 = std::env::var("EVERLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("EVERLINE_SEED={seed}");
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let args = [
        "--store".to_owned(),
        format!("embedded:{}", path("data")),
        "--webhook-url".to_owned(),
        receiver.url(),
        "--webhook-secret".to_owned(),
        SECRET.to_owned(),
        "--webhook-queue".to_owned(),
        path("queue"),
    ];
    let mut program = Program::start(&args);
    let (over, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (rng, told) = (SmallRng::seed_from_u64(seed), Arc::clone(&over));
    let troubled = std::thread::spawn(move || trouble(receiver, rng, told));

    let senders: Vec<_> = (0..SENDERS)
        .map(|n| {
            let acked = Arc::clone(&acked);
            let tell = move || {
                acked.fetch_add(1, Ordering::AcqRel);
            };
            tokio::spawn(send_all(program.addr(), format!("a{n}"), format!("b{n}"), EACH, tell))
        })
        .collect();
    let deadline = Instant::now() + 3 * PATIENCE;
    for kill in 1..=KILLS {
        while acked.load(Ordering::Acquire) < SENDERS * EACH * kill / (KILLS + 1) {
            assert!(Instant::now() < deadline, "senders stand still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        program.kill();
        program.rise();
    }
    let mut given = Vec::new();
    for sender in senders {
        given.push(tokio::time::timeout(3 * PATIENCE, sender).await.expect("all acknowledged").unwrap());
    }
    over.store(true, Ordering::Release);
    let receiver = tokio::task::spawn_blocking(|| troubled.join().unwrap()).await.unwrap();

    // Everything acknowledged is told, each in its place, with what was sent.
    let complete =
        |heard: &crate::receiver::Heard| heard.sent().values().map(Vec::len).sum::<usize>() >= SENDERS * EACH;
    receiver.until(complete).await;
    let heard = receiver.heard();
    assert_eq!((heard.forged, heard.astray), (0, 0));
    let sent = heard.sent();
    for (n, given) in given.iter().enumerate() {
        assert_eq!(given.len(), EACH, "each message once");
        let told = &sent[&format!("d:a{n}:b{n}")];
        assert!(told.is_sorted(), "told first in order");
        assert_eq!(told, &given.keys().copied().collect::<Vec<_>>());
    }
    for event in heard.of("message.sent") {
        let message = &event["message"];
        let n: usize = message["conv_id"].as_str().unwrap().split_once(":b").unwrap().1.parse().unwrap();
        assert_eq!(message["body"]["n"], given[n][&message["conv_seq"].as_u64().unwrap()]);
    }
    // The peers were never here.
    let offline: std::collections::HashSet<_> =
        heard.of("message.offline").iter().map(|event| event["id"].to_string()).collect();
    assert!(offline.len() >= SENDERS * EACH);
}
