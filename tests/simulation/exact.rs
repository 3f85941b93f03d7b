//! Scenes that hold one commit, so that something else happens exactly in between.

use std::time::Duration;

use everline::protocol::*;
use everline::store::TimelineId;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::device::Act;
use crate::run::{Run, ms};
use crate::trap::Ailment;

impl Run {
    /// Two raw devices of different members of a conversation, both at one node that is well.
    async fn at_one_node(&mut self) -> Option<(ConvId, usize, usize, usize)> {
        let company = self.company(2)?;
        let node = self.rng.random_range(0..self.house.nodes());
        self.restore(&[node]).await;
        let (one, other) = (company.devices[0], company.devices[1]);
        self.go_to(one, node);
        self.go_to(other, node);
        tokio::time::sleep(ms(1_500)).await;
        Some((company.conv, one, other, node))
    }

    /// The newest messages of this device's user in the conversation, as far as anybody was shown them.
    fn own_messages(&self, conv: &ConvId, device: usize) -> Vec<u64> {
        let (user, model) = (&self.raws[device].user, self.house.model());
        let log = model.logs.get(conv).into_iter().flatten();
        let mine = log.filter(|(_, event)| matches!(event, Event::Message(message) if message.sender_id == *user));
        mine.map(|(seq, _)| *seq).collect()
    }

    fn ask(&self, device: usize, request: Request) {
        self.raws[device].act(Act::Ask(request));
    }

    /// A message or its recall stands in the log and is delivered to nobody yet: one who looks there acts on it.
    pub async fn ahead_of_delivery(&mut self) {
        let Some((conv_id, author, reader, node)) = self.at_one_node().await else { return };
        for _ in 0..3 {
            let send = self.message(SendTo::Conv(conv_id.clone()));
            self.say(author, send);
        }
        tokio::time::sleep(ms(1_500)).await;
        let mine = self.own_messages(&conv_id, author);
        let [.., before, target, _] = mine[..] else { return };
        self.tick("ahead of delivery");
        let trap = self.house.trap(node);
        trap.ail(TimelineId::Conversation(conv_id.clone()), Ailment::Withheld);
        let recalls = self.rng.random_bool(0.5);
        if recalls {
            self.ask(author, Request::Recall { conv_id: conv_id.clone(), target });
        } else {
            let send = self.message(SendTo::Conv(conv_id.clone()));
            self.say(author, send);
        }
        let trip = self.house.setting().faults.latency.end * 2 + ms(20);
        tokio::time::sleep(trip * 2).await;
        if recalls {
            self.ask(reader, Request::Read { conv_id, read_seq: before });
        } else {
            self.raws[reader].act(Act::Snatch(conv_id));
        }
        tokio::time::sleep(trip * 4).await;
        trap.release();
    }

    /// A member leaves, something he has seen is changed, and he comes back.
    pub async fn parting(&mut self) {
        let Some((conv_id, author, guest, _)) = self.at_one_node().await else { return };
        if conv_id.is_direct() {
            return;
        }
        self.tick("partings");
        let send = self.message(SendTo::Conv(conv_id.clone()));
        self.say(author, send);
        tokio::time::sleep(ms(1_500)).await;
        let Some(target) = self.own_messages(&conv_id, author).last().copied() else { return };
        self.ask(guest, Request::Leave { conv_id: conv_id.clone() });
        tokio::time::sleep(ms(1_500)).await;
        let (body, conv) = (self.body(), conv_id.clone());
        let change = match self.rng.random_range(0..3) {
            0 => Request::Recall { conv_id: conv, target },
            1 => Request::Edit { conv_id: conv, target, body },
            _ => Request::React { conv_id: conv, target, key: "ok".to_owned(), add: true },
        };
        self.ask(author, change);
        tokio::time::sleep(ms(1_500)).await;
        let users = vec![self.raws[guest].user.clone()];
        self.ask(author, Request::Invite { conv_id, users });
        tokio::time::sleep(ms(1_500)).await;
    }

    /// A message is edited and recalled, or recalled when an earlier one was read only, and a device goes back to
    /// before all that.
    pub async fn looking_back(&mut self) {
        let Some((conv_id, author, reader, _)) = self.at_one_node().await else { return };
        self.tick("looking back");
        for _ in 0..2 {
            let send = self.message(SendTo::Conv(conv_id.clone()));
            self.say(author, send);
        }
        tokio::time::sleep(ms(1_500)).await;
        let mine = self.own_messages(&conv_id, author);
        let [.., first, second] = mine[..] else { return };
        let target = if self.rng.random_bool(0.5) { first } else { second };
        if self.rng.random_bool(0.7) {
            let body = self.body();
            self.ask(author, Request::Edit { conv_id: conv_id.clone(), target, body });
        }
        if self.rng.random_bool(0.5) {
            self.ask(reader, Request::Read { conv_id: conv_id.clone(), read_seq: first });
            tokio::time::sleep(ms(500)).await;
        }
        self.ask(author, Request::Recall { conv_id, target });
        tokio::time::sleep(ms(1_500)).await;
        if let Some(cursor) = self.raws[reader].cursor() {
            let back = self.rng.random_range(1..8);
            self.raws[reader].act(Act::Sync(cursor.seq.saturating_sub(back)));
        }
    }

    /// What a connected device has not acknowledged in time is too old when it does.
    pub async fn outlived(&mut self) {
        let (rules, hours) = (self.house.setting().rules.clone(), 200);
        let lives = self.house.setting().token_ttl > Duration::from_secs(hours * 3600);
        if rules.window > 40 || rules.max_entries < rules.window + 20 || !lives {
            return;
        }
        let Some((conv_id, author, reader, node)) = self.at_one_node().await else { return };
        let cursor = self.raws[reader].cursor();
        self.raws[reader].connect(&self.house, node, cursor, true);
        tokio::time::sleep(ms(1_500)).await;
        self.tick("outlived");
        self.raws[reader].stall(ms(4_000));
        for _ in 0..rules.window + 6 {
            let send = self.message(SendTo::Conv(conv_id.clone()));
            self.say(author, send);
        }
        tokio::time::sleep(ms(2_500)).await;
        self.note(&format!("{hours} hours pass"));
        self.tick("jumps ahead");
        self.house.jump(hours as i64 * 3_600_000);
        self.house.expire();
        let send = self.message(SendTo::Conv(conv_id));
        self.say(author, send);
        tokio::time::sleep(ms(2_500)).await;
    }

    /// A client's answer is under way while what it tells of is taken back or edited.
    pub async fn older_answer(&mut self) {
        let Some(company) = self.company(1) else { return };
        let (conv_id, author) = (company.conv, company.devices[0]);
        let able = self.reals.iter().filter(|device| company.members.contains(&device.user));
        let able = able.filter_map(|device| Some((device.client()?.clone(), device.wired.get()?.2)));
        let able: Vec<_> = able.filter(|(_, node)| self.house.is_up(*node)).collect();
        let Some((client, node)) = able.choose(&mut self.rng).cloned() else { return };
        self.restore(&[node]).await;
        self.go_to(author, node);
        tokio::time::sleep(ms(1_500)).await;
        let send = self.message(SendTo::Conv(conv_id.clone()));
        self.say(author, send);
        tokio::time::sleep(ms(1_500)).await;
        let Some(target) = self.own_messages(&conv_id, author).last().copied() else { return };
        self.tick("older answers asked for");
        let (trap, trip) = (self.house.trap(node), self.house.setting().faults.latency.end * 2 + ms(20));
        trap.withhold_read(TimelineId::Conversation(conv_id.clone()), self.rng.random_range(1..=6));
        let history = Request::History { conv_id: conv_id.clone(), from: HistoryFrom::Newest, limit: 200 };
        tokio::spawn(async move { drop(client.request(history).await) });
        tokio::time::sleep(trip * 4).await;
        let body = self.body();
        let recalls = self.rng.random_bool(0.6);
        let change =
            if recalls { Request::Recall { conv_id, target } } else { Request::Edit { conv_id, target, body } };
        self.ask(author, change);
        tokio::time::sleep(trip * 4 + ms(500)).await;
        trap.release();
    }
}
