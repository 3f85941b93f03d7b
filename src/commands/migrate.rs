//! `everline migrate`: an embedded store into a CQL keyspace, when one machine is outgrown.
//!
//! The epoch goes along, so devices go on with the cursors they have.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use everline::config::{Clock, CqlTarget, Options, Policy, Settings, StoreChoice, options};
use everline::migrate::{Progress, Terms, migrate};
use everline::store::Store;
use everline::store::cql::schema;
use everline::store::embedded::Embedded;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::{Failure, print, settings, stores};

/// A line of progress so often, where there is no terminal.
const TELL: Duration = Duration::from_secs(5);
/// The bar moves so often.
const REDRAW: Duration = Duration::from_millis(200);
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
    let copied = into(keyspace, &to.policy, &source).await;
    // Sealed again, also when it came to nothing.
    source.close().map_err(Failure::failed)?;
    copied
}

async fn into(keyspace: &CqlTarget, policy: &Policy, source: &Embedded) -> Result<(), Failure> {
    let target: Arc<dyn Store> = stores::open_cql(keyspace, policy).await?;
    if target.epoch() != source.epoch() {
        if !target.timelines(None, 1).await.map_err(Failure::failed)?.is_empty() {
            let why = format!("--to: keyspace {} holds other data; give an empty one", keyspace.keyspace);
            return Err(Failure::Usage(why));
        }
        schema::set_epoch(keyspace, &source.epoch()).await.map_err(stores::cql_failure)?;
    }
    let keep_until = Clock::system().now_ms().saturating_add(policy.dedupe_ms);
    let (terms, progress) = (Terms { keep_until, node: rand::random() }, Progress::default());
    let shown = Shown::new(count(source).await?)?;
    let copying = migrate(source, &target, terms, &progress);
    tokio::pin!(copying);
    loop {
        tokio::select! {
            done = &mut copying => break done.map_err(Failure::failed)?,
            () = sleep(shown.pause()) => shown.tell(&progress),
        }
    }
    shown.tell(&progress);
    shown.bar.abandon();
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    print::table(&[
        ("timelines", number(&progress.timelines)),
        ("found done", number(&progress.found_done)),
        ("entries", number(&progress.entries)),
        ("rows", number(&progress.rows)),
    ])?;
    print::line(format_args!("verified; keyspace {} has epoch {}", keyspace.keyspace, source.epoch()))
}

/// Timelines, and the entries they hold.
async fn count(store: &dyn Store) -> Result<(u64, u64), Failure> {
    let (mut timelines, mut entries, mut after) = (0, 0, None);
    loop {
        let page = store.timelines(after, COUNT).await.map_err(Failure::failed)?;
        let Some(last) = page.last().cloned() else { return Ok((timelines, entries)) };
        for id in &page {
            let head = store.head(id).await.map_err(Failure::failed)?;
            entries += head.position.seq.saturating_sub(head.floor);
        }
        timelines += page.len() as u64;
        after = Some(last);
    }
}

/// How far it is, on stderr: a bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: ProgressBar,
    timelines: u64,
    began: Instant,
}

impl Shown {
    fn new((timelines, entries): (u64, u64)) -> Result<Self, Failure> {
        // Nothing is drawn where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(entries), ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} entries {per_sec} {eta} {msg}");
        bar.set_style(style.map_err(Failure::failed)?);
        Ok(Self { bar, timelines, began: Instant::now() })
    }

    fn pause(&self) -> Duration {
        if self.bar.is_hidden() { TELL } else { REDRAW }
    }

    fn tell(&self, progress: &Progress) {
        let entries = progress.entries.load(Ordering::Relaxed);
        let timelines = format!("{}/{} timelines", progress.timelines.load(Ordering::Relaxed), self.timelines);
        if self.bar.is_hidden() {
            let all = self.bar.length().unwrap_or_default();
            let seconds = self.began.elapsed().as_secs();
            // Nobody may be reading.
            let _ = writeln!(std::io::stderr(), "{entries}/{all} entries, {timelines}, {seconds} s");
        } else {
            self.bar.set_message(timelines);
            self.bar.set_position(entries);
        }
    }
}
