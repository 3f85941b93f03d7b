//! `everline serve`: opens the store, has the rooms built (`server::Parts::assemble`) and runs until it is told to stop.

use axum::Router;
use clap::{ArgMatches, Command};
use everline::bus;
use everline::config::{Clock, Options, Settings, options};
use everline::server::{self, Handle, Parts, Server};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::stores::Opened;
use super::{Failure, control, settings, start_logging};

pub(super) fn command() -> Command {
    options::add_to(Command::new("serve").about("Runs the server"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let settings = settings(Options::defaults(), matches)?;
    start_logging();
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    runtime.block_on(serve(&settings, None, |server| {
        announce(server, &settings);
        Ok(())
    }))
}

/// Runs a server until it is told to stop. `page`: what it shows instead of the ordinary page.
pub(super) async fn serve(
    settings: &Settings,
    page: Option<Router>,
    announce: impl FnOnce(&Handle) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Before anything is opened: a signal during the start must not be missed.
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let clock = Clock::system();
    let verifier = server::verifier(settings, clock.clone()).map_err(start_failure)?;
    let opened = Opened::open(settings, &clock).await?;
    let mut parts = Parts::assemble(settings, opened.store.clone(), verifier, clock, rand::random())
        .await
        .map_err(start_failure)?;
    parts.observe = opened.observer();
    parts.page = page.unwrap_or(parts.page);
    let engine = parts.engine.clone();
    let listener = server::bind(&settings.listen).await.map_err(start_failure)?;
    let server = Server::start(settings, parts, listener).await.map_err(start_failure)?;
    let control = opened.embedded.as_ref().and_then(control::listen);
    announce(&server)?;
    tokio::select! {
        biased;
        // A store that cannot promise durability any more must not serve on.
        why = opened.failed() => return Err(Failure::Failed(format!("the store failed: {why}"))),
        () = engine.broken() => return Err(Failure::Failed("a task of the engine panicked; see the log".to_owned())),
        () = signals.next() => {}
    }
    drop(control);
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

/// What the configuration is to blame for is a usage error. A bus that is not there may come, as a database may.
fn start_failure(error: server::Error) -> Failure {
    match error {
        server::Error::Listen(..)
        | server::Error::Store(_)
        | server::Error::Bus(bus::nats::Error::Unreachable { .. }) => Failure::failed(error),
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
