//! Opening the store a command is about.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use everline::config::{Clock, Options, StoreChoice, options};
use everline::store::Store;
use everline::store::embedded::{self, Embedded, OpenError};
use everline::store::sim::{Faults, Sim, SimOptions};

use super::{Failure, settings};

/// An open store; some things only the embedded one can do.
pub(super) enum Opened {
    /// In a directory.
    Embedded(Arc<Embedded>),
    /// In memory.
    Memory(Arc<Sim>),
}

impl Opened {
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Memory(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    pub(super) fn embedded(&self) -> Option<&Arc<Embedded>> {
        match self {
            Self::Embedded(store) => Some(store),
            Self::Memory(_) => None,
        }
    }

    /// Waits until the store has failed for good; tells why.
    pub(super) async fn failed(&self) -> String {
        let Self::Embedded(store) = self else { return std::future::pending().await };
        let mut failed = store.failed();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.as_deref().unwrap_or("the store has failed").to_owned(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Finishes what is queued and syncs.
    pub(super) async fn close(self) -> Result<(), Failure> {
        let Self::Embedded(store) = self else { return Ok(()) };
        let closed = tokio::task::spawn_blocking(move || store.close()).await.map_err(Failure::failed)?;
        closed.map_err(Failure::failed)
    }
}

/// Opens what a server serves; a directory is made if it is not there.
pub(super) fn open(choice: &StoreChoice, clock: &Clock) -> Result<Opened, Failure> {
    match choice {
        StoreChoice::Memory => {
            let (clock, faults) = (clock.clone(), Faults::none());
            Ok(Opened::Memory(Arc::new(Sim::new(SimOptions { seed: rand::random(), clock, together: true, faults }))))
        }
        StoreChoice::Embedded(dir) => open_dir(dir, clock).map(Opened::Embedded),
    }
}

fn open_dir(dir: &Path, clock: &Clock) -> Result<Arc<Embedded>, Failure> {
    Embedded::open(embedded::Options::new(dir, clock.clone())).map_err(open_failure)
}

/// A directory in use is the operator's to free; everything else is a failure.
pub(super) fn open_failure(error: OpenError) -> Failure {
    match error {
        OpenError::Locked(_) => Failure::Usage(error.to_string()),
        _ => Failure::failed(error),
    }
}

/// Adds `--store` and `--config` to a command about a directory.
pub(super) fn add_to(command: Command) -> Command {
    command
        .arg(Arg::new("store").long("store").value_name("STORE").help(
            "The store, embedded:DIR [default: that of the configuration] [env: EVERLINE_STORE]",
        ))
        .arg(Arg::new("config").long("config").value_name("FILE").help("Configuration file, TOML"))
}

/// The directory a command is about, of the flag or the configuration.
pub(super) fn dir_of(matches: &ArgMatches) -> Result<PathBuf, Failure> {
    let given = ["store", "config"].into_iter().filter_map(|name| {
        matches.get_one::<String>(name).map(|value| [format!("--{name}"), value.clone()])
    });
    let flags = options::add_to(Command::new("everline").no_binary_name(true));
    let flags = flags.try_get_matches_from(given.flatten()).map_err(|error| Failure::Usage(error.to_string()))?;
    match settings(Options::defaults(), &flags)?.store {
        StoreChoice::Embedded(dir) => Ok(dir),
        StoreChoice::Memory => Err(Failure::Usage("--store: embedded:DIR is needed".to_owned())),
    }
}

/// Opens a directory that must be there already.
pub(super) fn open_existing(dir: &Path) -> Result<Arc<Embedded>, Failure> {
    let is_empty = std::fs::read_dir(dir).map(|mut inside| inside.next().is_none());
    match is_empty {
        Ok(false) => open_dir(dir, &Clock::system()),
        Ok(true) => Err(Failure::Failed(format!("{} holds no store", dir.display()))),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", dir.display()))),
    }
}

/// Waits for a future that needs no runtime of several threads.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    Ok(runtime.block_on(future))
}
