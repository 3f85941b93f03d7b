//! Last blows: what happens to a node at an exact write, right before everything is mended. Nothing that comes
//! later, a message or another reading, heals what they leave behind, but what is meant to heal it.

use everline::protocol::*;
use everline::store::TimelineId;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::device::Act;
use crate::run::{Run, ms};
use crate::trap::{Ailment, When};

/// A conversation with raw devices of different members, and all its members.
pub struct Company {
    pub conv: ConvId,
    pub members: Vec<UserId>,
    pub devices: Vec<usize>,
}

pub fn random_when(rng: &mut impl Rng) -> When {
    if rng.random_bool(0.5) { When::Before } else { When::After }
}

impl Run {
    /// See the module.
    pub async fn last_blow(&mut self) {
        if self.house.setting().notices && self.rng.random_bool(0.3) {
            return self.last_telling().await;
        }
        match self.rng.random_range(0..10) {
            0..4 => self.feud().await,
            4..6 => self.last_reading().await,
            6 => self.begun_anew().await,
            _ => {}
        }
    }

    /// A conversation with raw devices of at least so many members.
    pub fn company(&mut self, at_least: usize) -> Option<Company> {
        let mut raws: Vec<usize> = (0..self.raws.len()).collect();
        raws.shuffle(&mut self.rng);
        let of = |members: &[UserId]| {
            let mut devices: Vec<usize> = Vec::new();
            for index in &raws {
                let user = &self.raws[*index].user;
                let twice = devices.iter().any(|other| self.raws[*other].user == *user);
                if members.contains(user) && !twice {
                    devices.push(*index);
                }
            }
            devices
        };
        let known = self.conversations().into_iter().map(|known| {
            let devices = of(&known.members);
            Company { conv: known.id, members: known.members, devices }
        });
        let able: Vec<Company> =
            known.filter(|company| company.devices.len() >= at_least && company.members.len() >= 2).collect();
        let index = (0..able.len()).collect::<Vec<_>>().choose(&mut self.rng).copied()?;
        able.into_iter().nth(index)
    }

    /// These nodes are up and well.
    pub async fn restore(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.house.pause(*node, false);
            self.house.cut(*node, false);
            self.house.restart(*node).await;
        }
    }

    /// A raw device goes on at this node.
    pub fn go_to(&mut self, device: usize, node: usize) {
        let cursor = self.raws[device].cursor();
        self.raws[device].connect(&self.house, node, cursor, false);
    }

    /// A node is taken for dead, or another's mark raises the term, while a delivery of its waits; it goes on, and
    /// dies at one of the writes of its next message.
    async fn feud(&mut self) {
        let nodes = self.house.nodes();
        if nodes < 2 {
            return;
        }
        let a = self.rng.random_range(0..nodes);
        let b = (a + self.rng.random_range(1..nodes)) % nodes;
        let Some(company) = self.company(1) else { return };
        self.restore(&[a, b]).await;
        if self.rng.random_bool(0.7) {
            self.house.trouble(false);
        }
        let (device, Some(victim)) = (company.devices[0], self.goes_for_another(&company, a).await) else { return };
        self.note(&format!("nodes {a} and {b} are at odds over {} and {victim}", company.conv));
        self.tick("feuds");
        let trap = self.house.trap(a);
        if self.rng.random_bool(0.6) {
            trap.ail(TimelineId::User(victim), Ailment::Waits);
        }
        if self.rng.random_bool(0.35) {
            trap.delay_deletion(ms(self.rng.random_range(20..400)));
        }
        for _ in 0..self.rng.random_range(1..=2) {
            let send = self.message(SendTo::Conv(company.conv.clone()));
            self.say(device, send);
        }
        tokio::time::sleep(ms(60)).await;
        self.moments(3).await;
        match (self.rng.random_range(0..4), company.devices.get(1).copied()) {
            (2 | 3, Some(other)) => {
                // Behind the mark, or behind the message too.
                let writes = [(1, When::After), (2, When::Before), (2, When::After)];
                let at = writes[self.rng.random_range(0..3)];
                self.die_with_a_mark(other, b, &company.conv, at).await;
            }
            (0..=2, _) => drop(self.house.take_over(b, Some(a)).await),
            _ => {}
        }
        let (write, when) = (self.rng.random_range(1..=5), random_when(&mut self.rng));
        trap.stop_at(write, when);
        let last = self.message(SendTo::Conv(company.conv));
        self.say(device, last.clone());
        trap.stopped(ms(3_000)).await;
        self.note(&format!("node {a} dies {when:?} its write {write}"));
        self.tick("kills");
        self.house.crash(a, false);
        if self.rng.random_bool(0.5) {
            self.go_to(device, b);
            tokio::time::sleep(ms(self.rng.random_range(1..1_000))).await;
            self.say(device, last);
            self.moments(3).await;
            if self.rng.random_bool(0.5) {
                self.go_to(device, b);
                tokio::time::sleep(ms(500)).await;
            }
        }
    }

    /// Its device goes to this node; gives another of its members, whose timeline the node is to deliver to.
    async fn goes_for_another(&mut self, company: &Company, node: usize) -> Option<UserId> {
        let device = company.devices[0];
        let others = company.members.iter().filter(|member| **member != self.raws[device].user);
        let other = others.collect::<Vec<_>>().choose(&mut self.rng).map(|user| (*user).clone())?;
        self.go_to(device, node);
        tokio::time::sleep(ms(1_500)).await;
        Some(other)
    }

    /// A delivery waits; another node's mark raises the term, so that the next message needs a new mark, and the node
    /// dies when it has just deleted the older one. What waits is known by the new one alone.
    async fn begun_anew(&mut self) {
        let nodes = self.house.nodes();
        let Some(company) = self.company(1).filter(|_| nodes >= 2) else { return };
        let a = self.rng.random_range(0..nodes);
        let b = (a + self.rng.random_range(1..nodes)) % nodes;
        self.restore(&[a, b]).await;
        self.house.trouble(false);
        let (device, Some(victim)) = (company.devices[0], self.goes_for_another(&company, a).await) else { return };
        self.note(&format!("node {a} begins its mark of {} anew while {victim} is not told", company.conv));
        self.tick("begun anew");
        let trap = self.house.trap(a);
        trap.ail(TimelineId::User(victim), Ailment::Waits);
        let first = self.message(SendTo::Conv(company.conv.clone()));
        self.say(device, first);
        tokio::time::sleep(ms(500)).await;
        self.die_with_a_mark(device, b, &company.conv, (1, When::After)).await;
        self.go_to(device, a);
        tokio::time::sleep(ms(1_500)).await;
        // Its writes: the commit that is refused, the mark, the deletion of the older, the commit.
        let (write, when) = [(3, When::After), (4, When::Before)][self.rng.random_range(0..2)];
        trap.stop_at(write, when);
        let second = self.message(SendTo::Conv(company.conv));
        self.say(device, second);
        trap.stopped(ms(3_000)).await;
        self.note(&format!("node {a} dies {when:?} its write {write}"));
        self.tick("kills");
        self.house.crash(a, false);
    }

    /// A node dies with a mark in this conversation, comes back and finishes what it left.
    async fn die_with_a_mark(&mut self, device: usize, node: usize, conv: &ConvId, at: (usize, When)) {
        self.go_to(device, node);
        tokio::time::sleep(ms(1_000)).await;
        let trap = self.house.trap(node);
        trap.stop_at(at.0, at.1);
        let send = self.message(SendTo::Conv(conv.clone()));
        self.say(device, send);
        trap.stopped(ms(2_000)).await;
        self.tick("kills");
        self.house.crash(node, false);
        self.house.restart(node).await;
        if self.house.take_over(node, None).await {
            self.tick("takeovers");
        }
    }

    /// Somebody reads in a direct conversation, his node dies at a write of it, and he never tries again.
    async fn last_reading(&mut self) {
        let Some(company) = self.company(1).filter(|company| company.conv.is_direct()) else { return };
        let node = self.rng.random_range(0..self.house.nodes());
        self.restore(&[node]).await;
        self.house.trouble(false);
        for device in company.devices.clone() {
            self.go_to(device, node);
        }
        tokio::time::sleep(ms(1_500)).await;
        if let Some(peer) = company.devices.get(1).copied() {
            let send = self.message(SendTo::Conv(company.conv.clone()));
            self.say(peer, send);
            tokio::time::sleep(ms(1_500)).await;
        }
        let conv_id = company.conv;
        let newest = self.house.model().logs.get(&conv_id).and_then(|log| log.keys().next_back().copied());
        let Some(read_seq) = newest else { return };
        self.tick("last readings");
        let (trap, write, when) = (self.house.trap(node), self.rng.random_range(1..=3), random_when(&mut self.rng));
        trap.stop_at(write, when);
        self.raws[company.devices[0]].act(Act::Ask(Request::Read { conv_id, read_seq }));
        trap.stopped(ms(2_000)).await;
        self.note(&format!("node {node} dies {when:?} its write {write}"));
        self.tick("kills");
        self.house.crash(node, false);
    }
}
