//! `everline serve`: builds the rooms in their order and runs until it is told to stop.

use std::future::pending;
use std::sync::Arc;

use clap::{ArgMatches, Command};
use everline::config::{Clock, Options, Settings, StoreChoice, options};
use everline::server::{self, Handle, Observer, Parts, Server};
use everline::store::Store;
use everline::store::embedded::{self, Embedded};
use everline::store::sim::{Faults, Sim, SimOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

use super::{Failure, settings, start_logging};

pub(super) fn command() -> Command {
    options::add_to(Command::new("serve").about("Runs the server"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let settings = settings(Options::defaults(), matches)?;
    start_logging();
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    runtime.block_on(serve(&settings))
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    // Before anything is opened: a signal during the start must not be missed.
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let clock = Clock::system();
    let verifier = server::verifier(settings, clock.clone()).map_err(start_failure)?;
    let opened = Opened::open(&settings.store, &clock).await?;
    let mut parts = Parts::assemble(settings, opened.store.clone(), verifier, clock, rand::random())
        .await
        .map_err(start_failure)?;
    parts.observe = opened.observer();
    let listener = server::bind(&settings.listen).await.map_err(start_failure)?;
    let server = Server::start(settings, parts, listener).await.map_err(start_failure)?;
    announce(&server, settings);
    tokio::select! {
        biased;
        // A store that cannot promise durability any more must not serve on.
        why = opened.failed() => return Err(Failure::Failed(format!("the store failed: {why}"))),
        () = signals.next() => {}
    }
    tokio::select! {
        biased;
        // Whoever asks twice does not want to wait.
        () = signals.next() => Err(Failure::Failed("stopped at once".to_owned())),
        finished = server.stop() => {
            opened.close().await?;
            tracing::info!(finished, "stopped");
            Ok(())
        }
    }
}

fn announce(server: &Handle, settings: &Settings) {
    let scheme = if settings.tls.is_some() { "wss" } else { "ws" };
    tracing::info!(addr = %server.addr(), scheme, "listening");
    if let Some(addr) = server.metrics_addr() {
        tracing::info!(%addr, "metrics");
    }
}

/// The store the configuration names, and what only some stores have.
struct Opened {
    store: Arc<dyn Store>,
    embedded: Option<Arc<Embedded>>,
}

impl Opened {
    async fn open(choice: &StoreChoice, clock: &Clock) -> Result<Self, Failure> {
        let clock = clock.clone();
        match choice {
            StoreChoice::Memory => {
                let options = SimOptions { seed: rand::random(), clock, together: true, faults: Faults::none() };
                Ok(Self { store: Arc::new(Sim::new(options)), embedded: None })
            }
            StoreChoice::Embedded(dir) => {
                let options = embedded::Options::new(dir, clock);
                let opened = spawn_blocking(move || Embedded::open(options)).await.map_err(Failure::failed)?;
                let embedded = opened.map_err(Failure::failed)?;
                Ok(Self { store: embedded.clone(), embedded: Some(embedded) })
            }
        }
    }

    /// Shows the store's own counters in `/metrics`.
    fn observer(&self) -> Option<Observer> {
        let embedded = self.embedded.clone()?;
        Some(Arc::new(move || {
            let seen = embedded.counters();
            for (name, value) in [
                ("everline_store_group_commits_total", seen.group_commits),
                ("everline_store_commits_total", seen.commits),
                ("everline_store_fsyncs_total", seen.fsyncs),
                ("everline_store_written_bytes_total", seen.engine_bytes),
                ("everline_store_checkpoints_total", seen.checkpoints),
                ("everline_store_stalls_total", seen.stalls),
            ] {
                metrics::counter!(name).absolute(value);
            }
        }))
    }

    /// Why the store has failed for good; never returns for one that cannot.
    async fn failed(&self) -> Arc<str> {
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
    async fn close(&self) -> Result<(), Failure> {
        let Some(embedded) = self.embedded.clone() else { return Ok(()) };
        spawn_blocking(move || embedded.close()).await.map_err(Failure::failed)?.map_err(Failure::failed)
    }
}

/// What the configuration is to blame for is a usage error.
fn start_failure(error: server::Error) -> Failure {
    match error {
        server::Error::Listen(..) | server::Error::Store(_) => Failure::failed(error),
        _ => Failure::Usage(error.to_string()),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
