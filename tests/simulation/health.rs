//! Whether nodes say that they are ready, asked when the answer is known: one of which the store has not heard for as
//! long as its word holds must not, nor one whose clock is far behind what it has read; all others must.
//!
//! `/readyz` also asks the store and the bus; those answers are not in here.

use std::time::Duration;

use everline::protocol::*;
use rand::Rng;

use crate::device::Act;
use crate::run::{Run, ms};

/// A node's word holds for so long.
const WORD: Duration = Duration::from_secs(10);
/// Within this it is renewed: a try of at most three seconds, three seconds, and the next.
const RENEWED: Duration = Duration::from_secs(7);
/// A clock may be so far behind what it reads.
const BEHIND_MS: u64 = 60_000;

impl Run {
    /// None of the nodes says that it is ready while the store has not heard of it for too long.
    pub fn none_silent(&self) -> Result<(), String> {
        for node in (0..self.house.nodes()).filter(|node| self.house.is_up(*node) && !self.house.setting().together) {
            let Some(time) = self.house.unheard_for(node).filter(|time| *time >= WORD) else { continue };
            self.tick("silent nodes asked");
            if self.house.engine(node).is_renewed() {
                return Err(format!("node {node} is ready, and the store has not heard of it for {time:?}"));
            }
        }
        Ok(())
    }

    /// All nodes say that they are ready, but those whose clock is behind what is in the store.
    pub fn all_ready(&self) -> Result<(), String> {
        (0..self.house.nodes()).filter(|node| self.house.is_up(*node)).try_for_each(|node| self.ready(node))
    }

    fn ready(&self, node: usize) -> Result<(), String> {
        let engine = self.house.engine(node);
        if !engine.is_renewed() {
            return Err(format!("node {node} does not say that it lives"));
        }
        if engine.is_behind() && self.newest_ms() <= self.house.now_ms() + BEHIND_MS {
            return Err(format!("node {node} says that its clock is behind, and it is not"));
        }
        Ok(())
    }

    /// The latest time of anything in the store.
    fn newest_ms(&self) -> u64 {
        let store = self.house.store();
        store.all_timelines().iter().map(|timeline| store.dump(timeline).head.at).max().unwrap_or(0)
    }

    /// A node does not reach the store for longer than its word holds, and then does again.
    pub async fn cut_off(&mut self) -> Result<(), String> {
        if self.house.setting().together {
            return Ok(());
        }
        let (node, hangs) = (self.rng.random_range(0..self.house.nodes()), self.rng.random_bool(0.5));
        self.restore(&[node]).await;
        self.house.trouble(false);
        tokio::time::sleep(RENEWED).await;
        self.ready(node)?;
        self.note(&format!("node {node} does not reach the store for long, its calls hang: {hangs}"));
        self.tick("cut off for long");
        if hangs {
            self.house.pause_store(node, true)
        } else {
            self.house.cut(node, true)
        }
        tokio::time::sleep(WORD + ms(self.rng.random_range(0..5_000))).await;
        self.none_silent()?;
        self.house.pause_store(node, false);
        self.house.cut(node, false);
        tokio::time::sleep(RENEWED).await;
        self.ready(node)
    }

    /// The clock of a node's machine is minutes behind, and something is sent there after what was sent before.
    pub async fn late_clock(&mut self) -> Result<(), String> {
        let Some(company) = self.company(1) else { return Ok(()) };
        let (conv, device, nodes) = (company.conv, company.devices[0], self.house.nodes());
        let (node, other) = (self.rng.random_range(0..nodes), self.rng.random_range(0..nodes));
        self.restore(&[node, other]).await;
        self.house.trouble(false);
        let user = self.raws[device].user.clone();
        let mut guest = self.guest(&user);
        guest.connect(&self.house, node, None, false);
        self.go_to(device, other);
        tokio::time::sleep(RENEWED).await;
        let (first, second) = (self.message(SendTo::Conv(conv.clone())), self.message(SendTo::Conv(conv.clone())));
        self.say(device, first.clone());
        tokio::time::sleep(ms(1_000)).await;
        let behind_by = self.rng.random_range(70_000..300_000);
        self.note(&format!("the clock of node {node} goes {behind_by} ms back, alone"));
        self.house.skew(node, -behind_by);
        guest.act(Act::Ask(Request::Send(second.clone())));
        tokio::time::sleep(ms(1_000)).await;
        let sent = [first, second].iter().all(|send| {
            let key = (user.clone(), conv.clone(), send.client_msg_id.clone());
            self.house.model().sent.get(&key).is_some_and(|sent| sent.told.is_some())
        });
        let believed = !self.house.engine(node).is_behind();
        if node != other {
            self.ready(other)?;
        }
        self.house.skew(node, behind_by);
        guest.kill();
        if sent {
            self.tick("late clocks");
            if believed {
                return Err(format!("node {node} is ready, and its clock is {behind_by} ms behind what it has read"));
            }
        }
        self.ready(node)
    }
}
