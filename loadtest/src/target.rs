//! What is tested: a server of our own, or one that runs already; and the tokens for it.
//!
//! Options common to all commands are here. Killing and restarting work on a server of our own only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jsonwebtoken::{EncodingKey, Header, encode};
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::server::{Options, Server, Usage};

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// Use the server at this address instead of starting one; its secret must be in
    /// EVERLINE_JWT_SECRET and its rate limits off.
    #[arg(long, global = true, value_name = "ADDR")]
    connect: Option<SocketAddr>,
    /// With --connect: process id of that server, for its CPU, memory and bytes written.
    #[arg(long, global = true, requires = "connect")]
    pid: Option<u32>,
    /// Secret of the server at --connect.
    #[arg(long, global = true, env = "EVERLINE_JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// The everline binary; default: the one beside this program.
    #[arg(long, global = true)]
    server_bin: Option<PathBuf>,
    /// Directory for the server's data and log, kept afterwards; default: a temporary one.
    #[arg(long, global = true)]
    data: Option<PathBuf>,
    /// Nodes behind a balancer, with a NATS server of their own; more than one need
    /// --server-arg=--store=cql://HOST:PORT/KEYSPACE.
    #[arg(long, global = true, default_value_t = 1, conflicts_with = "connect")]
    pub(crate) nodes: usize,
    /// One more flag for `everline serve`, such as --server-arg=--sync-max-entries=200.
    #[arg(long, global = true, allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// Everything random follows from it; default: a new one, printed.
    #[arg(long, global = true)]
    pub(crate) seed: Option<u64>,
    /// Threads of the generator (it shares the machine with the server).
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) threads: usize,
}

/// The server under test.
pub(crate) struct Target {
    addr: SocketAddr,
    secret: String,
    pid: Option<u32>,
    server: Option<Server>,
    cluster: Option<Cluster>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a str,
    exp: u64,
}

/// What clients need of a [`Target`]; cheap to clone into tasks.
#[derive(Clone)]
pub(crate) struct Door {
    /// Where the server listens.
    pub(crate) addr: SocketAddr,
    key: EncodingKey,
}

impl Door {
    /// A token for a user, good for a day.
    pub(crate) fn token(&self, user: &str) -> Result<String> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let exp = since_1970.as_secs() + 24 * 60 * 60;
        let claims = Claims { sub: user, aud: "everline", exp };
        encode(&Header::default(), &claims, &self.key).context("signing a token")
    }
}

impl Target {
    /// Connects to the given server, or starts one with `flags` added to those of the command line.
    pub(crate) async fn new(common: &Common, flags: &[String]) -> Result<Self> {
        if let Some(addr) = common.connect {
            let secret = common.jwt_secret.clone();
            let secret = secret.context("--connect needs the server's secret in EVERLINE_JWT_SECRET")?;
            return Ok(Self { addr, secret, pid: common.pid, server: None, cluster: None });
        }
        let mut random = rand::rngs::StdRng::from_os_rng();
        let secret: String = (0..8).map(|_| format!("{:08x}", random.random::<u32>())).collect();
        let bin = match &common.server_bin {
            Some(bin) => bin.clone(),
            None => std::env::current_exe()?.with_file_name("everline"),
        };
        let bin = std::path::absolute(bin)?;
        let data = common.data.as_ref().map(std::path::absolute).transpose()?;
        let extra = flags.iter().chain(&common.server_arg).cloned().collect();
        let options = Options { bin, data, secret: secret.clone(), extra };
        if common.nodes > 1 {
            let cluster = Cluster::start(common.nodes, &options).await?;
            return Ok(Self { addr: cluster.addr(), secret, pid: None, server: None, cluster: Some(cluster) });
        }
        let server = Server::start(options).await?;
        Ok(Self { addr: server.addr(), secret, pid: None, server: Some(server), cluster: None })
    }

    pub(crate) fn door(&self) -> Door {
        Door { addr: self.addr, key: EncodingKey::from_secret(self.secret.as_bytes()) }
    }

    /// The server, when it is ours to kill.
    pub(crate) fn server(&mut self) -> Result<&mut Server> {
        self.server.as_mut().context("this needs a server of its own: leave --connect out")
    }

    /// The nodes, when there are several.
    pub(crate) fn cluster(&mut self) -> Option<&mut Cluster> {
        self.cluster.as_mut()
    }

    pub(crate) fn is_own(&self) -> bool {
        self.server.is_some()
    }

    /// What the server has used so far; `None` when its process is not known.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let pid = self.pid.or_else(|| self.server.as_ref()?.pid())?;
        Usage::of(Some(pid)).ok()
    }

    /// Conversations whose fan-out a crash had interrupted and a start of our own server finished; by
    /// what its log says, since counters of a killed process are gone.
    pub(crate) fn recovered_fan_outs(&self) -> Option<u64> {
        let server = self.server.as_ref()?;
        Some(server.logged("finished deliveries left undone", "conversations"))
    }

    /// Ends our own server: by SIGTERM and exit status 0, or, after a failed run, keeping its data.
    pub(crate) async fn finish(mut self, failed: bool) -> Result<Option<PathBuf>> {
        if let Some(cluster) = self.cluster.take() {
            return finish_nodes(cluster.nodes, failed).await;
        }
        let Some(server) = self.server.as_mut() else {
            return Ok(None);
        };
        let stopped = server.stop().await;
        let kept = (failed || stopped.is_err()).then(|| self.server.take().map(Server::keep));
        let kept = kept.flatten();
        match (stopped, kept) {
            (Err(error), Some(kept)) => Err(error.context(format!("data and log are kept in {}", kept.display()))),
            (stopped, kept) => stopped.map(|()| kept),
        }
    }
}

/// [`Target::finish`] of several nodes, which end one after the other.
async fn finish_nodes(nodes: Vec<Server>, failed: bool) -> Result<Option<PathBuf>> {
    let mut kept = None;
    for mut node in nodes {
        let stopped = node.stop().await;
        if failed || stopped.is_err() {
            kept = Some(node.keep());
        }
        stopped?;
    }
    Ok(kept)
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{msg:28} {wide_bar} {pos}/{len} {per_sec} {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar.with_message(what)
}
