//! Opening the store a command is about.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use everline::config::{Clock, CqlTarget, Options, Policy, Settings, StoreChoice, options};
use everline::server::Observer;
use everline::store::Store;
use everline::store::cql::{self, Cql};
use everline::store::embedded::{self, Embedded, OpenError};
use everline::store::sim::{Faults, Sim, SimOptions};
use tokio::task::spawn_blocking;

use super::{Failure, settings};

/// The store the configuration names, and what only some stores have.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    pub(super) embedded: Option<Arc<Embedded>>,
    cql: Option<Arc<Cql>>,
}

impl Opened {
    /// Opens what a server serves; a directory is made if it is not there.
    pub(super) async fn open(settings: &Settings, clock: &Clock) -> Result<Self, Failure> {
        let clock = clock.clone();
        match &settings.store {
            StoreChoice::Memory => {
                let options = SimOptions { seed: rand::random(), clock, together: true, faults: Faults::none() };
                Ok(Self { store: Arc::new(Sim::new(options)), embedded: None, cql: None })
            }
            StoreChoice::Embedded(dir) => {
                let dir = dir.clone();
                let buffer = settings.store_buffer_kib as usize * 1024;
                let options = embedded::Options::new(dir, clock).with_buffer(buffer);
                let embedded = spawn_blocking(move || open_dir(options)).await.map_err(Failure::failed)??;
                Ok(Self::of_dir(embedded))
            }
            StoreChoice::Cql(target) => Ok(Self::of_cql(open_cql(target, &settings.policy).await?)),
        }
    }

    fn of_dir(embedded: Arc<Embedded>) -> Self {
        Self { store: embedded.clone(), embedded: Some(embedded), cql: None }
    }

    fn of_cql(cql: Arc<Cql>) -> Self {
        Self { store: cql.clone(), embedded: None, cql: Some(cql) }
    }

    /// Shows the store's own counters in `/metrics`.
    pub(super) fn observer(&self) -> Option<Observer> {
        if let Some(cql) = self.cql.clone() {
            return Some(Arc::new(move || show(&counters_of_cql(&cql))));
        }
        let embedded = self.embedded.clone()?;
        Some(Arc::new(move || {
            let seen = embedded.counters();
            show(&[
                ("everline_store_group_commits_total", seen.group_commits),
                ("everline_store_commits_total", seen.commits),
                ("everline_store_fsyncs_total", seen.fsyncs),
                ("everline_store_engine_reads_total", seen.engine_reads),
                ("everline_store_engine_writes_total", seen.engine_writes),
                ("everline_store_written_bytes_total", seen.engine_bytes),
                ("everline_store_checkpoints_total", seen.checkpoints),
                ("everline_store_stalls_total", seen.stalls),
            ]);
        }))
    }

    /// Why the store has failed for good; never returns for one that cannot.
    pub(super) async fn failed(&self) -> Arc<str> {
        let Some(embedded) = &self.embedded else { return pending().await };
        let mut failure = embedded.failed();
        loop {
            if let Some(why) = failure.borrow_and_update().clone() {
                return why;
            }
            if failure.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Puts everything in its place, so that the next start is quick.
    pub(super) async fn close(&self) -> Result<(), Failure> {
        let Some(embedded) = self.embedded.clone() else { return Ok(()) };
        spawn_blocking(move || embedded.close()).await.map_err(Failure::failed)?.map_err(Failure::failed)
    }
}

fn show(counters: &[(&'static str, u64)]) {
    for (name, value) in counters {
        metrics::counter!(*name).absolute(*value);
    }
}

fn counters_of_cql(cql: &Cql) -> [(&'static str, u64); 10] {
    let seen = cql.counters();
    [
        ("everline_store_conversation_rounds_total", seen.conversation_rounds),
        ("everline_store_user_rounds_total", seen.user_rounds),
        ("everline_store_erasure_rounds_total", seen.erasure_rounds),
        ("everline_store_refused_total", seen.refused),
        ("everline_store_unknown_total", seen.unknown),
        ("everline_store_entries_total", seen.entries),
        ("everline_store_written_bytes_total", seen.bytes),
        ("everline_store_reads_total", seen.reads),
        ("everline_store_serial_reads_total", seen.serial_reads),
        ("everline_store_plain_writes_total", seen.writes),
    ]
}

/// A database that is not there may come; everything else is the operator's to change.
pub(super) async fn open_cql(target: &CqlTarget, policy: &Policy) -> Result<Arc<Cql>, Failure> {
    let options = cql::Options::new(target.clone(), Clock::system(), policy);
    Cql::open(options).await.map_err(cql_failure)
}

/// What stops a command that needs a CQL store.
pub(super) fn cql_failure(error: cql::OpenError) -> Failure {
    match error {
        cql::OpenError::Unreachable { .. } | cql::OpenError::TooFewNodes { .. } | cql::OpenError::Refused(_) => {
            Failure::failed(error)
        }
        _ => Failure::Usage(error.to_string()),
    }
}

/// A directory in use is the operator's to free; everything else is a failure.
fn open_dir(options: embedded::Options) -> Result<Arc<Embedded>, Failure> {
    Embedded::open(options).map_err(|error| match error {
        OpenError::Locked(_) => Failure::Usage(error.to_string()),
        _ => Failure::failed(error),
    })
}

/// Adds `--store` and `--config` to a command about a store.
pub(super) fn add_to(command: Command) -> Command {
    command
        .arg(
            Arg::new("store")
                .long("store")
                .value_name("STORE")
                .help("The store [default: that of the configuration] [env: EVERLINE_STORE]"),
        )
        .arg(Arg::new("config").long("config").value_name("FILE").help("Configuration file, TOML"))
}

/// The configuration of a command with `--store` and `--config`.
pub(super) fn settings_of(matches: &ArgMatches) -> Result<Settings, Failure> {
    let given = ["store", "config"]
        .into_iter()
        .filter_map(|name| matches.get_one::<String>(name).map(|value| [format!("--{name}"), value.clone()]));
    let flags = options::add_to(Command::new("everline").no_binary_name(true));
    let flags = flags.try_get_matches_from(given.flatten()).map_err(|error| Failure::Usage(error.to_string()))?;
    settings(Options::defaults(), &flags)
}

/// The directory a command is about, of the flag or the configuration.
pub(super) fn dir_of(matches: &ArgMatches) -> Result<PathBuf, Failure> {
    match settings_of(matches)?.store {
        StoreChoice::Embedded(dir) => Ok(dir),
        StoreChoice::Memory | StoreChoice::Cql(_) => Err(Failure::Usage("--store: embedded:DIR is needed".to_owned())),
    }
}

/// The store a command only reads: a directory nobody has open, or a CQL keyspace, in use or not. To be
/// closed: an opened directory is sealed no more.
pub(super) async fn open_to_read(matches: &ArgMatches) -> Result<Opened, Failure> {
    let settings = settings_of(matches)?;
    match settings.store {
        StoreChoice::Embedded(dir) => open_existing(&dir).map(Opened::of_dir),
        StoreChoice::Cql(target) => open_cql(&target, &settings.policy).await.map(Opened::of_cql),
        StoreChoice::Memory => Err(Failure::Usage("--store: embedded:DIR or cql://... is needed".to_owned())),
    }
}

/// Opens a directory that must be there already.
pub(super) fn open_existing(dir: &Path) -> Result<Arc<Embedded>, Failure> {
    let is_empty = std::fs::read_dir(dir).map(|mut inside| inside.next().is_none());
    match is_empty {
        Ok(false) => open_dir(embedded::Options::new(dir, Clock::system())),
        Ok(true) => Err(Failure::Failed(format!("{} holds no store", dir.display()))),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", dir.display()))),
    }
}

/// Waits for a future that needs no runtime of several threads.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    Ok(runtime.block_on(future))
}
