//! What is done to several nodes while chat logs are replayed: at moments the seed chooses, one after the
//! other, a node is killed or stopped, NATS is stopped, a database node is killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::stats::Report;

/// A killed node is started again after so long; the others finish what it left before.
const DEAD: Duration = Duration::from_secs(20);
/// A stopped node, or NATS, goes on after so long.
const STOPPED: Duration = Duration::from_secs(20);

/// How often what happens.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TroubleArgs {
    /// With --nodes: how often a node is killed -9, and started again 20 s later.
    #[arg(long, default_value_t = 0)]
    node_kills: usize,
    /// With --nodes: how often a node is stopped (SIGSTOP) for 20 s.
    #[arg(long, default_value_t = 0)]
    node_stops: usize,
    /// With --nodes: how often NATS is away for 20 s.
    #[arg(long, default_value_t = 0)]
    nats_stops: usize,
    /// With --nodes: how often the last of three Cassandra nodes is killed, and started again 20 s later.
    #[arg(long, default_value_t = 0)]
    cassandra_kills: usize,
    /// How Cassandra was started: the script and its options, with blanks between.
    #[arg(long, default_value = "scripts/cassandra")]
    cassandra: String,
}

impl TroubleArgs {
    pub(crate) fn count(&self) -> usize {
        self.node_kills + self.node_stops + self.nats_stops + self.cassandra_kills
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    NodeKill(usize),
    NodeStop(usize),
    NatsStop,
    CassandraKill,
}

/// The events to come.
pub(crate) struct Trouble {
    cassandra: String,
    /// After so many messages; the next one last.
    events: Vec<(u64, Event)>,
    happened: Vec<String>,
    /// Longest time from a node's death until the others had finished what it left.
    finished: Duration,
    marks: u64,
}

impl Trouble {
    pub(crate) fn new(args: &TroubleArgs, nodes: usize, seed: u64, messages: usize) -> Result<Self> {
        ensure!(args.count() == 0 || nodes > 1, "troubles of nodes need --nodes 2 or more");
        let mut random = StdRng::seed_from_u64(seed ^ 0x74_726f_7562);
        let mut kinds = Vec::new();
        kinds.extend((0..args.node_kills).map(|_| Event::NodeKill(random.random_range(0..nodes))));
        kinds.extend((0..args.node_stops).map(|_| Event::NodeStop(random.random_range(0..nodes))));
        kinds.extend((0..args.nats_stops).map(|_| Event::NatsStop));
        kinds.extend((0..args.cassandra_kills).map(|_| Event::CassandraKill));
        kinds.shuffle(&mut random);
        let messages = u64::try_from(messages)?.max(100);
        // Each in its own part of the replay, the last one first.
        let part = (messages * 9 / 10 / u64::try_from(kinds.len().max(1))?).max(1);
        let moments = (0..u64::try_from(kinds.len())?).rev();
        let moments: Vec<u64> = moments.map(|n| n * part + random.random_range(part / 4..part)).collect();
        Ok(Self {
            cassandra: args.cassandra.clone(),
            events: moments.into_iter().zip(kinds).collect(),
            happened: Vec::new(),
            finished: Duration::ZERO,
            marks: 0,
        })
    }

    /// Whether the next event is due.
    pub(crate) fn is_due(&self, messages: u64) -> bool {
        self.events.last().is_some_and(|(at, _)| *at <= messages)
    }

    /// While the next event passes, the replay waits where the one after it is due, so each gets its share.
    pub(crate) fn hold_at(&self) -> u64 {
        self.events.len().checked_sub(2).and_then(|next| self.events.get(next)).map_or(0, |(at, _)| *at)
    }

    /// Lets the next event happen, and pass.
    pub(crate) async fn happen(&mut self, cluster: &mut Cluster) -> Result<()> {
        let Some((at, event)) = self.events.pop() else { return Ok(()) };
        self.happened.push(format!("{event:?} after {at} messages"));
        match event {
            Event::NodeKill(node) => self.kill(cluster, node).await,
            Event::NodeStop(node) => {
                let node = cluster.nodes.get(node).context("no such node")?;
                node.signal(rustix::process::Signal::STOP)?;
                sleep(STOPPED).await;
                node.signal(rustix::process::Signal::CONT)
            }
            Event::NatsStop => {
                cluster.nats.stop().await?;
                sleep(STOPPED).await;
                cluster.nats.go_on().await
            }
            Event::CassandraKill => {
                self.cassandra("kill").await?;
                sleep(DEAD).await;
                self.cassandra("start").await
            }
        }
    }

    /// Kills a node, watches how long the others take to finish what it left, and starts it again.
    async fn kill(&mut self, cluster: &mut Cluster, number: usize) -> Result<()> {
        cluster.nodes.get_mut(number).context("no such node")?.kill9().await?;
        let (began, mut taken) = (Instant::now(), cluster.taken_over().await);
        while began.elapsed() < DEAD {
            let now = cluster.taken_over().await;
            if now > taken {
                self.marks += now - taken;
                self.finished = self.finished.max(began.elapsed());
                taken = now;
            }
            sleep(Duration::from_millis(100)).await;
        }
        cluster.nodes.get_mut(number).context("no such node")?.restart().await?;
        Ok(())
    }

    async fn cassandra(&self, what: &str) -> Result<()> {
        let mut words = self.cassandra.split_whitespace();
        let script = words.next().context("--cassandra names no script")?;
        let status = Command::new(script).args(words).args([what, "3"]).status().await;
        let status = status.with_context(|| format!("{} {what} 3", self.cassandra))?;
        ensure!(status.success(), "{} {what} 3: {status}", self.cassandra);
        Ok(())
    }

    pub(crate) fn write(&self, report: &mut Report) {
        if self.happened.is_empty() {
            return;
        }
        report.setting("troubles", self.happened.join("; "));
        report.count("marks_of_dead_nodes_finished", self.marks);
        if self.marks > 0 {
            report.figure("dead_nodes_fan_outs_finished_after_at_most", self.finished.as_secs_f64(), "s");
        }
        if !self.events.is_empty() {
            report.fail(format!("{} troubles did not happen: the replay was over", self.events.len()));
        }
    }
}
