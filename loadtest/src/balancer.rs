//! A load balancer of the simplest kind in front of several nodes: each new connection goes to the next
//! node that is ready, so the devices of one user are spread over all.
//!
//! When none is ready (the bus is away) every node that answers will do. A node that does not answer for
//! a while loses its connections, as one does that is killed: its devices come back and land elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::server::{free_address, get};

/// Nodes are asked so often whether they are ready.
const LOOK: Duration = Duration::from_millis(500);
/// A node that does not answer in this time is not ready.
const ANSWER: Duration = Duration::from_secs(2);
/// After so many looks without an answer its connections are cut.
const CUT_AFTER: u64 = 4;

/// Listens until dropped.
pub(crate) struct Balancer {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

struct Node {
    addr: SocketAddr,
    /// The last look was answered with yes.
    ready: AtomicBool,
    /// Looks in a row that were not answered at all.
    misses: AtomicU64,
    /// Counts the times its connections were cut.
    cuts: watch::Sender<u64>,
}

impl Balancer {
    /// In front of nodes that are ready now.
    pub(crate) async fn start(nodes: &[SocketAddr]) -> Result<Self> {
        let addr = free_address()?;
        let listener = TcpListener::bind(addr).await.with_context(|| format!("balancer on {addr}"))?;
        let node = |addr: &SocketAddr| {
            Arc::new(Node { addr: *addr, ready: true.into(), misses: AtomicU64::new(0), cuts: watch::Sender::new(0) })
        };
        let nodes: Arc<[Arc<Node>]> = nodes.iter().map(node).collect();
        let mut tasks = JoinSet::new();
        for node in nodes.iter() {
            tasks.spawn(watch_node(Arc::clone(node)));
        }
        tasks.spawn(accept(listener, nodes));
        Ok(Self { addr, _tasks: tasks })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn watch_node(node: Arc<Node>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = timeout(ANSWER, get(node.addr, "/readyz")).await;
        node.ready.store(matches!(answer, Ok(Ok((200, _)))), Relaxed);
        if let Ok(Ok(_)) = answer {
            node.misses.store(0, Relaxed);
        } else if node.misses.fetch_add(1, Relaxed) + 1 == CUT_AFTER {
            node.cuts.send_modify(|cuts| *cuts += 1);
        }
    }
}

async fn accept(listener: TcpListener, nodes: Arc<[Arc<Node>]>) {
    let next = AtomicUsize::new(0);
    let mut open = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let first = next.fetch_add(1, Relaxed);
        open.spawn(pass(client, Arc::clone(&nodes), first));
        while open.try_join_next().is_some() {}
    }
}

/// Joins a client with the first node from `first` on that takes it, ready ones first.
async fn pass(mut client: TcpStream, nodes: Arc<[Arc<Node>]>, first: usize) {
    let turn = || nodes.iter().cycle().skip(first % nodes.len().max(1)).take(nodes.len());
    let ready = turn().filter(|node| node.ready.load(Relaxed));
    let alive = turn().filter(|node| !node.ready.load(Relaxed) && node.misses.load(Relaxed) == 0);
    for node in ready.chain(alive) {
        let mut cuts = node.cuts.subscribe();
        let Ok(Ok(mut server)) = timeout(ANSWER, TcpStream::connect(node.addr)).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = cuts.changed() => {}
        }
        return;
    }
}
