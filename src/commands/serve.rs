//! `everline serve`: builds the rooms in their order and runs until it is told to stop.

use std::sync::Arc;

use clap::{ArgMatches, Command};
use everline::config::{Clock, Options, Settings, StoreChoice, options};
use everline::server::{self, Handle, Parts, Server};
use everline::store::Store;
use everline::store::sim::{Faults, Sim, SimOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    let store = open_store(settings, &clock)?;
    let parts =
        Parts::assemble(settings, store, verifier, clock, rand::random()).await.map_err(start_failure)?;
    let listener = server::bind(&settings.listen).await.map_err(start_failure)?;
    let server = Server::start(settings, parts, listener).await.map_err(start_failure)?;
    announce(&server, settings);
    signals.next().await;
    tokio::select! {
        biased;
        // Whoever asks twice does not want to wait.
        () = signals.next() => Err(Failure::Failed("stopped at once".to_owned())),
        finished = server.stop() => {
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

/// Opens the store the configuration names.
fn open_store(settings: &Settings, clock: &Clock) -> Result<Arc<dyn Store>, Failure> {
    match &settings.store {
        StoreChoice::Memory => {
            let (clock, faults) = (clock.clone(), Faults::none());
            Ok(Arc::new(Sim::new(SimOptions { seed: rand::random(), clock, together: true, faults })))
        }
        StoreChoice::Embedded(dir) => {
            Err(Failure::Usage(format!("the store embedded:{} is not in this build yet", dir.display())))
        }
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
