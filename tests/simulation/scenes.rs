//! Scenes: short sequences in which somebody is hurt, or asks, in the very moment that matters. Chance alone
//! would find these moments too, but not in the time there is.

use std::time::Duration;

use everline::protocol::*;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::device::Act;
use crate::run::{Run, ms};

impl Run {
    /// Up to a few round trips of the store.
    pub async fn moments(&mut self, at_most: u32) {
        let trip = self.house.setting().faults.latency.end.max(ms(1)) * 2 * at_most;
        let wait = self.rng.random_range(0..trip.as_micros().max(1));
        tokio::time::sleep(Duration::from_micros(u64::try_from(wait).unwrap_or(0))).await;
    }

    /// Whether requests have a chance.
    fn is_calm(&self) -> bool {
        (0..self.house.nodes()).all(|node| self.house.is_up(node))
    }

    /// A raw device of this user that is connected, or is now.
    fn raw_of(&mut self, user: &UserId, node: usize) -> Option<usize> {
        let index = self.raws.iter().position(|device| device.user == *user)?;
        if !self.raws[index].is_connected() {
            let cursor = self.raws[index].cursor();
            self.raws[index].connect(&self.house, node, cursor, false);
        }
        Some(index)
    }

    /// A node is hurt while requests are under way.
    pub async fn strike(&mut self) {
        self.tick("strikes");
        for _ in 0..self.rng.random_range(1..=4) {
            self.someone_asks();
        }
        let (mut node, by) =
            (self.rng.random_range(0..self.house.nodes()), self.rng.random_range(0..self.house.nodes()));
        if self.rng.random_bool(0.4)
            && let Some(reader) = self.someone_reads()
        {
            node = reader;
        }
        self.moments(4).await;
        if !self.house.is_up(node) {
            return;
        }
        match self.rng.random_range(0..4) {
            0 if by != node && !self.house.setting().together => {
                self.bury_alive(node, by).await;
                for _ in 0..2 {
                    self.someone_asks();
                }
            }
            1 if !self.house.setting().together => {
                self.note(&format!("node {by} takes over from {node}, which lives"));
                if self.house.take_over(by, Some(node)).await {
                    self.tick("takeovers");
                }
            }
            _ => {
                self.note(&format!("node {node} is struck"));
                self.tick("kills");
                self.house.crash(node, false);
                if self.rng.random_bool(0.5) {
                    self.house.restart(node).await;
                }
            }
        }
    }

    /// Somebody reads in a direct conversation, which the other is to be told. Tells on which node.
    fn someone_reads(&mut self) -> Option<usize> {
        let user = self.person();
        let (conv_id, device) = (self.known_direct(&user)?, self.raw_of(&user, 0)?);
        let read_seq = self.shown(&conv_id, &user)?;
        self.raws[device].act(Act::Ask(Request::Read { conv_id, read_seq }));
        self.raws[device].wired.get().map(|(_, _, node)| node)
    }

    /// A node is taken for dead in the middle of a burst, goes on in the same conversation, and dies.
    pub async fn burial(&mut self) {
        let nodes = self.house.nodes();
        if nodes < 2 || !self.is_calm() {
            return;
        }
        let user = self.person();
        let Some((device, first)) = self.message_to(&user) else { return };
        let Some((_, _, node)) = self.raws[device].wired.get() else { return };
        let by = (node + self.rng.random_range(1..nodes)) % nodes;
        self.note(&format!("node {node} is buried in a burst by {by}"));
        self.tick("burials");
        for burst in 0..3 {
            for _ in 0..self.rng.random_range(1..=3) {
                let send = self.message(first.to.clone());
                self.say(device, send);
            }
            self.moments(3).await;
            if burst == 1 || self.rng.random_bool(0.3) {
                self.house.pause_store(node, true);
                if self.house.take_over(by, Some(node)).await {
                    self.tick("takeovers");
                }
                self.house.pause_store(node, false);
                self.moments(2).await;
            }
        }
        self.house.crash(node, false);
        self.tick("kills");
    }

    /// More messages for a device that does not read than are kept, or than the window takes; perhaps time
    /// passes meanwhile.
    pub async fn drown(&mut self) {
        let rules = self.house.setting().rules.clone();
        let (Some(index), true) =
            ((0..self.raws.len()).collect::<Vec<_>>().choose(&mut self.rng).copied(), self.is_calm())
        else {
            return;
        };
        let user = self.raws[index].user.clone();
        let Some((device, send)) = self.message_to(&user).filter(|(device, _)| *device != index) else { return };
        let late = rules.max_entries > 60;
        if late && rules.window > 40 {
            return;
        }
        let node = self.rng.random_range(0..self.house.nodes());
        let cursor = self.raws[index].cursor();
        self.raws[index].connect(&self.house, node, cursor, true);
        tokio::time::sleep(ms(1_500)).await;
        self.note(&format!("{user} {} is drowned", self.raws[index].id));
        self.tick("drowned");
        self.raws[index].stall(ms(4_000));
        let count = if late { rules.window + 6 } else { rules.max_entries + 6 };
        for _ in 0..count {
            let send = self.message(send.to.clone());
            self.say(device, send);
        }
        tokio::time::sleep(ms(3_000)).await;
        if late && self.rng.random_bool(0.7) {
            self.note("200 hours pass");
            self.tick("jumps ahead");
            self.house.jump(200 * 60 * 60 * 1000);
            self.house.expire();
            let send = self.message(send.to.clone());
            self.say(device, send);
            tokio::time::sleep(ms(1_500)).await;
        }
    }

    /// A user finds a message by history and deletes it at once, perhaps before it was delivered to him.
    pub async fn snatch(&mut self) {
        let user = self.person();
        let Some(index) = self.raw_of(&user, 0) else { return };
        let Some((device, send)) = self.message_to(&user).filter(|(device, _)| *device != index) else { return };
        let sender = self.raws[device].user.clone();
        if sender == user {
            return;
        }
        self.tick("snatches");
        self.say(device, send);
        self.moments(4).await;
        self.raws[index].act(Act::Snatch(ConvId::direct(&sender, &user)));
        self.moments(4).await;
    }

    /// Who was invited on one node asks on another, which knew him as a stranger.
    pub async fn elsewhere(&mut self) {
        let nodes = self.house.nodes();
        if nodes < 2 || !self.is_calm() {
            return;
        }
        let user = self.person();
        let known = self.conversations();
        let strange: Vec<_> =
            known.iter().filter(|known| !known.id.is_direct() && !known.members.contains(&user)).collect();
        let Some(place) = strange.choose(&mut self.rng) else { return };
        let Some(host) = place.members.choose(&mut self.rng).cloned() else { return };
        let here = self.rng.random_range(0..nodes);
        let there = (here + 1) % nodes;
        let conv_id = place.id.clone();
        let (Some(guest), Some(host)) = (self.raw_of(&user, there), self.raw_of(&host, here)) else { return };
        self.tick("elsewhere");
        let cursor = self.raws[guest].cursor();
        self.raws[guest].connect(&self.house, there, cursor, false);
        tokio::time::sleep(ms(500)).await;
        let send = self.message(SendTo::Conv(conv_id.clone()));
        self.say(guest, send);
        tokio::time::sleep(ms(1_500)).await;
        let cursor = self.raws[host].cursor();
        self.raws[host].connect(&self.house, here, cursor, false);
        self.raws[host].act(Act::Ask(Request::Invite { conv_id: conv_id.clone(), users: vec![user] }));
        tokio::time::sleep(ms(1_500)).await;
        for node in [here, there] {
            let cursor = self.raws[guest].cursor();
            self.raws[guest].connect(&self.house, node, cursor, false);
            tokio::time::sleep(ms(1_500)).await;
        }
        let send = self.message(SendTo::Conv(conv_id));
        self.say(guest, send);
        self.moments(4).await;
    }

    /// The store stands still until a request has been given up, and its sender tries again after a later
    /// one was accepted.
    pub async fn patience(&mut self) {
        if !self.is_calm() {
            return;
        }
        let user = self.person();
        let (Some((device, first)), node) = (self.message_to(&user), self.rng.random_range(0..self.house.nodes()))
        else {
            return;
        };
        let cursor = self.raws[device].cursor();
        self.raws[device].connect(&self.house, node, cursor, false);
        tokio::time::sleep(ms(1_500)).await;
        self.note(&format!("the store of node {node} stands still"));
        self.tick("patience");
        self.house.pause_store(node, true);
        let (second, third) = (self.message(first.to.clone()), self.message(first.to.clone()));
        self.say(device, first);
        tokio::time::sleep(ms(500)).await;
        self.say(device, second.clone());
        tokio::time::sleep(ms(5_000)).await;
        self.say(device, third);
        tokio::time::sleep(ms(5_500)).await;
        self.house.pause_store(node, false);
        tokio::time::sleep(ms(2_500)).await;
        self.say(device, second);
    }

    /// A message is recalled while others read: some by history, one moves his reading position over it.
    pub async fn during_recall(&mut self) {
        let user = self.person();
        let Some((conv_id, target, sender)) = self.recallable(&user) else { return };
        let Some(device) = self.raw_of(&sender, 0) else { return };
        self.tick("read during a recall");
        let reader = self.raws.iter().position(|device| device.user == user);
        let history = Request::History { conv_id: conv_id.clone(), from: HistoryFrom::Newest, limit: 30 };
        let clients: Vec<_> = self
            .reals
            .iter()
            .filter(|device| device.user == user)
            .filter_map(|device| device.client().cloned())
            .collect();
        self.raws[device].act(Act::Ask(Request::Recall { conv_id: conv_id.clone(), target }));
        for _ in 0..6 {
            self.moments(1).await;
            if let Some(reader) = reader.filter(|_| self.rng.random_bool(0.3)) {
                self.raws[reader].act(Act::Ask(Request::Read { conv_id: conv_id.clone(), read_seq: target }));
            }
            for client in clients.clone() {
                let history = history.clone();
                tokio::spawn(async move { drop(client.request(history).await) });
            }
        }
    }

    /// A message of somebody else that this user was shown, not the newest, not recalled as far as known.
    fn recallable(&mut self, user: &UserId) -> Option<(ConvId, u64, UserId)> {
        let found: Vec<(ConvId, u64, UserId)> = {
            let model = self.house.model();
            let seen = model.people.get(user)?.seen.values();
            let messages = seen.filter_map(|event| match event {
                Event::Message(message) if message.sender_id != *user && !message.recalled => {
                    Some((message.conv_id.clone(), message.conv_seq, message.sender_id.clone()))
                }
                _ => None,
            });
            messages.filter(|(conv, seq, _)| !model.recalled.contains_key(&(conv.clone(), *seq))).collect()
        };
        let newest = &found[found.len().saturating_sub(8)..];
        newest.choose(&mut self.rng).cloned()
    }
}
