//! Several nodes on one store, a NATS server of our own between them, a balancer in front; and what can
//! be done to each of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::balancer::Balancer;
use crate::server::{Options, Server, free_address};

/// How long `nats-server` may take to start.
const START: Duration = Duration::from_secs(20);

/// The nodes under test.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
    pub(crate) nats: Nats,
    balancer: Balancer,
}

impl Cluster {
    /// Starts NATS, `count` nodes and the balancer. `options.extra` names the store.
    pub(crate) async fn start(count: usize, options: &Options) -> Result<Self> {
        ensure!(
            options.extra.iter().any(|flag| flag.starts_with("cql://") || flag.contains("=cql://")),
            "several nodes need a store they share: --server-arg=--store=cql://HOST:PORT/KEYSPACE"
        );
        let nats = Nats::start().await?;
        let mut nodes = Vec::new();
        for number in 0..count {
            let mut options = options.clone();
            options.extra.extend(["--nats".to_owned(), nats.url()]);
            options.data = options.data.map(|dir| dir.join(format!("node{number}")));
            nodes.push(Server::start(options).await.with_context(|| format!("node {number}"))?);
        }
        let addrs: Vec<SocketAddr> = nodes.iter().map(Server::addr).collect();
        let balancer = Balancer::start(&addrs).await?;
        Ok(Self { nodes, nats, balancer })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.balancer.addr()
    }

    /// Marks of dead nodes that the living have finished so far, by their counters.
    pub(crate) async fn taken_over(&self) -> u64 {
        let mut sum = 0;
        for node in &self.nodes {
            sum += node.metric("everline_marks_taken_over_total").await.unwrap_or_default();
        }
        sum
    }
}

/// A `nats-server`, killed when dropped.
pub(crate) struct Nats {
    addr: SocketAddr,
    child: Option<Child>,
}

impl Nats {
    async fn start() -> Result<Self> {
        let mut nats = Self { addr: free_address()?, child: None };
        nats.go_on().await?;
        Ok(nats)
    }

    fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Kills it.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await.context("kill of nats-server"),
            None => Ok(()),
        }
    }

    /// Starts it (again) on its port.
    pub(crate) async fn go_on(&mut self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|dir| dir.join("nats-server"))
            .find(|program| program.is_file());
        let program = program.context("nats-server is needed: apt-get install nats-server")?;
        let child = Command::new(program)
            .args(["--addr", "127.0.0.1", "--port", &self.addr.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        self.child = Some(child);
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.addr).await.is_err() {
            ensure!(Instant::now() < deadline, "nats-server takes no connections on {}", self.addr);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
