//! `everline migrate`: an embedded store into a CQL keyspace, when one machine is outgrown.
//!
//! The epoch goes along, so devices go on with the cursors they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use everline::config::{Clock, Options, Settings, StoreChoice, options};
use everline::migrate::{Progress, Terms, migrate};
use everline::store::Store;
use everline::store::cql::schema;
use tokio::time::{Instant, interval};

use super::{Failure, print, settings, stores};

/// A line of progress so often.
const TELL: Duration = Duration::from_secs(2);
/// Timelines counted at once.
const COUNT: usize = 5000;

pub(super) fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).required(true).help(help)
    };
    Command::new("migrate")
        .about("Copies an embedded store into an empty CQL keyspace and verifies it; run again, it goes on where it was interrupted")
        .arg(option("from", "STORE", "embedded:DIR, which no server has open"))
        .arg(option("to", "STORE", "cql://HOST:PORT,.../KEYSPACE, made by `everline schema` and served by nobody yet"))
        .arg(Arg::new("config").long("config").value_name("FILE").help("Configuration file, TOML"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    runtime.block_on(copy(matches))
}

/// The configuration with this store.
fn with_store(matches: &ArgMatches, name: &str) -> Result<Settings, Failure> {
    let store = matches.get_one::<String>(name).cloned().unwrap_or_default();
    let mut flags = vec!["--store".to_owned(), store];
    if let Some(config) = matches.get_one::<String>("config") {
        flags.extend(["--config".to_owned(), config.clone()]);
    }
    let command = options::add_to(Command::new("everline").no_binary_name(true));
    let flags = command.try_get_matches_from(flags).map_err(|error| Failure::Usage(error.to_string()))?;
    settings(Options::defaults(), &flags)
}

async fn copy(matches: &ArgMatches) -> Result<(), Failure> {
    let StoreChoice::Embedded(dir) = with_store(matches, "from")?.store else {
        return Err(Failure::Usage("--from: embedded:DIR is needed".to_owned()));
    };
    let to = with_store(matches, "to")?;
    let StoreChoice::Cql(keyspace) = &to.store else {
        return Err(Failure::Usage("--to: cql://HOST:PORT,.../KEYSPACE is needed".to_owned()));
    };
    let source = stores::open_existing(&dir)?;
    let target: Arc<dyn Store> = stores::open_cql(keyspace, &to.policy).await?;
    if target.epoch() != source.epoch() {
        if !target.timelines(None, 1).await.map_err(Failure::failed)?.is_empty() {
            let why = format!("--to: keyspace {} holds other data; give an empty one", keyspace.keyspace);
            return Err(Failure::Usage(why));
        }
        schema::set_epoch(keyspace, &source.epoch()).await.map_err(stores::cql_failure)?;
    }
    let keep_until = Clock::system().now_ms().saturating_add(to.policy.dedupe_ms);
    let (terms, progress) = (Terms { keep_until, node: rand::random() }, Progress::default());
    let total = count(&*source).await?;
    let began = Instant::now();
    {
        let copying = migrate(&*source, &target, terms, &progress);
        tokio::pin!(copying);
        let mut ticks = interval(TELL);
        loop {
            tokio::select! {
                done = &mut copying => break done.map_err(Failure::failed)?,
                _ = ticks.tick() => tell(&progress, total, began)?,
            }
        }
    }
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    print::table(&[
        ("timelines", number(&progress.timelines)),
        ("found done", number(&progress.found_done)),
        ("entries", number(&progress.entries)),
        ("rows", number(&progress.rows)),
    ])?;
    print::line(format_args!("verified; keyspace {} has epoch {}", keyspace.keyspace, source.epoch()))
}

async fn count(store: &dyn Store) -> Result<u64, Failure> {
    let (mut total, mut after) = (0, None);
    loop {
        let timelines = store.timelines(after, COUNT).await.map_err(Failure::failed)?;
        let Some(last) = timelines.last().cloned() else { return Ok(total) };
        total += timelines.len() as u64;
        after = Some(last);
    }
}

/// A bar as a line: it is read in terminals and in logs.
fn tell(progress: &Progress, total: u64, began: Instant) -> Result<(), Failure> {
    let (done, entries) = (progress.timelines.load(Ordering::Relaxed), progress.entries.load(Ordering::Relaxed));
    let filled = usize::try_from(done * 30 / total.max(1)).unwrap_or(30).min(30);
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(30 - filled));
    let seconds = began.elapsed().as_secs();
    print::line(format_args!("[{bar}] {done}/{total} timelines, {entries} entries, {seconds} s"))
}
