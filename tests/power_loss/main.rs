//! Power loss, and disks that fail: the program on a file system that forgets what was not synced.
//!
//! `EVERLINE_POWER_LOSSES` (default 6) and `EVERLINE_DISK_FAULTS` (default 3 of each kind) say how often;
//! `EVERLINE_SEED` is the first seed. Each seed is printed with what came of it; one seed alone is
//! `EVERLINE_SEED=n EVERLINE_POWER_LOSSES=1`. Where FUSE cannot be mounted this is said, and skipped.
#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a failure is a panic")]

mod disk;
mod house;
mod mount;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

use disk::{Disk, Fault};
use house::{PATIENCE, Program, Promised, check, load, verify};
use mount::Shared;

/// A load ends after so long if nothing struck.
const LOAD: Duration = Duration::from_secs(3);
/// Power losses one store lives through.
const LIVES: u64 = 5;

/// Past the capture of the test harness: a skipped test must be seen.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Whether FUSE works here.
fn can_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    match Shared::new(Disk::new()).mount(dir.path()) {
        Ok(session) => {
            drop(session);
            true
        }
        Err(error) => {
            say(&format!("SKIPPED: power loss and disk faults: FUSE cannot be mounted here ({error})"));
            false
        }
    }
}

/// From 1 to `most`, small numbers as often as large ones.
fn moment(rng: &mut StdRng, most: f64) -> u64 {
    rng.random_range(0.0..most.ln()).exp() as u64 + 1
}

/// One life: check what the last one left, write under load until the fault strikes. Tells how it ended.
async fn live(
    at: &Path,
    disk: &Shared,
    fault: Fault,
    arm_first: bool,
    promised: &Arc<Mutex<Promised>>,
) -> Result<Option<Program>, String> {
    let dir = at.join("data");
    if arm_first {
        disk.lock().arm(fault);
    } else if disk.lock().look_up(disk::ROOT, "data".as_ref()).is_ok() {
        let nothing_promised = promised.lock().unwrap().count() == 0;
        match verify(&dir).await {
            // Power was cut while it was created: the start below goes on with that.
            Err(said) if nothing_promised && said.trim_end().ends_with(" holds no store") => {}
            verified => verified.map_err(|said| format!("verify: {said}"))?,
        }
    }
    let program = match Program::serve(&dir).await {
        Ok(program) => program,
        Err(_) if disk.lock().struck => return Ok(None),
        Err(said) => return Err(format!("it does not start: {said}")),
    };
    if !arm_first {
        let seen = std::mem::take(&mut *promised.lock().unwrap());
        let checked = check(&program, &seen).await;
        *promised.lock().unwrap() = seen;
        checked?;
        disk.lock().arm(fault);
    }
    let (began, watched) = (Instant::now(), disk.clone());
    // Who must end by itself gets work until it does: a failure in the background shows at the next commit.
    let ends_itself = !matches!(fault, Fault::Cut(_));
    let enough = move || match ends_itself {
        true => began.elapsed() > PATIENCE,
        false => began.elapsed() > LOAD || watched.lock().struck,
    };
    // A disk without power does not answer, so neither does the program: it is not waited for.
    let watched = disk.clone();
    let cut = async {
        while !watched.lock().is_cut() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = load(&program, promised, enough) => {}
        () = cut => {
            // Answers under way still count: they were given.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Some(program))
}

/// `lives` power losses of one store. Tells how many messages were acknowledged.
async fn power_losses(seed: u64, lives: u64) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let promised = Arc::new(Mutex::new(Promised::default()));
    let mut disk = Disk::new();
    for life in 0..=lives {
        let shared = Shared::new(disk);
        let session = shared.mount(home.path()).map_err(|error| format!("mount: {error}"))?;
        let is_last = life == lives;
        let arm_first = !is_last && rng.random_range(0..4) == 0;
        let fault = Fault::Cut(if is_last { u64::MAX } else { moment(&mut rng, 4000.0) });
        let lived = live(home.path(), &shared, fault, arm_first, &promised).await;
        shared.lock().cut();
        if let Some(program) = lived.map_err(|why| format!("life {life} of {lives}: {why}"))? {
            program.kill().await;
        }
        disk = shared.lock().survivor(&mut rng);
        drop(session);
    }
    Ok(promised.lock().unwrap().count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_power_loss() {
    if !can_mount() {
        return;
    }
    let (first, losses) = (from_env("EVERLINE_SEED", 1), from_env("EVERLINE_POWER_LOSSES", 6));
    let (mut left, mut messages, mut seed) = (losses, 0, first);
    while left > 0 {
        let lives = left.min(LIVES);
        match power_losses(seed, lives).await {
            Ok(acked) => {
                say(&format!("seed {seed}: {lives} power losses, {acked} messages acknowledged, none lost"));
                messages += acked;
            }
            Err(why) => {
                panic!("{why}\nreplay: EVERLINE_SEED={seed} EVERLINE_POWER_LOSSES={lives} cargo test --test power_loss")
            }
        }
        (left, seed) = (left - lives, seed + 1);
    }
    say(&format!("{losses} power losses, {messages} acknowledged messages, 0 lost"));
    assert!(messages > 0, "the load does nothing");
}

/// A disk that fails: the program stops with one line; then power is cut, too, and nothing is lost.
async fn disk_fault(seed: u64, fault: Fault) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let promised = Arc::new(Mutex::new(Promised::default()));
    let shared = Shared::new(Disk::new());
    let session = shared.mount(home.path()).map_err(|error| format!("mount: {error}"))?;
    let program = live(home.path(), &shared, fault, false, &promised).await?.ok_or("it did not start")?;
    if !shared.lock().struck {
        return Err("nothing struck".to_owned());
    }
    let (code, said) = program.ended().await;
    let last = said.lines().last().unwrap_or_default();
    if code != Some(1) || !last.starts_with("everline: the store failed: ") {
        return Err(format!("exit code {code:?}: {said}"));
    }
    shared.lock().cut();
    let disk = shared.lock().survivor(&mut rng);
    drop(session);
    let shared = Shared::new(disk);
    let session = shared.mount(home.path()).map_err(|error| format!("mount: {error}"))?;
    let lived = timeout(PATIENCE, live(home.path(), &shared, Fault::Cut(500), false, &promised)).await;
    shared.lock().cut();
    if let Some(program) = lived.map_err(|_| "it stands still")?? {
        program.kill().await;
    }
    drop(session);
    let acked = promised.lock().unwrap().count();
    Ok(acked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_stops_the_program_and_loses_nothing_acknowledged() {
    if !can_mount() {
        return;
    }
    let (first, each) = (from_env("EVERLINE_SEED", 1), from_env("EVERLINE_DISK_FAULTS", 3));
    for seed in first..first + each {
        let after = moment(&mut StdRng::seed_from_u64(seed), 300.0);
        for fault in [Fault::Sync(after), Fault::Write(after), Fault::Full(after)] {
            match disk_fault(seed, fault).await {
                Ok(acked) => say(&format!("seed {seed}: {fault:?}: stopped, {acked} acknowledged, none lost")),
                Err(why) => panic!(
                    "{fault:?}: {why}\nreplay: EVERLINE_SEED={seed} EVERLINE_DISK_FAULTS=1 cargo test --test power_loss"
                ),
            }
        }
    }
}

/// The oracle's own ground: what the disk says reaches the program that writes.
#[test]
fn a_write_that_fails_is_told_to_the_writer() {
    if !can_mount() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let shared = Shared::new(Disk::new());
    let session = shared.mount(home.path()).unwrap();
    let mut file = std::fs::File::create(home.path().join("x")).unwrap();
    shared.lock().arm(Fault::Write(3));
    let written: Vec<bool> = (0..4).map(|_| file.write_all(&[7; 5000]).is_ok()).collect();
    assert_eq!(written, [true, true, false, true]);
    shared.lock().arm(Fault::Full(2));
    let written: Vec<bool> = (0..3).map(|_| file.write_all(&[7; 5000]).is_ok()).collect();
    assert_eq!(written, [true, false, false]);
    shared.lock().arm(Fault::Sync(1));
    assert!(file.sync_data().is_err() && file.sync_data().is_ok());
    drop(session);
}
