//! What is pushed is there at once: scenes in which a push could be missed, and nothing else would tell
//! before the next heartbeat.
//!
//! Only where one node does it all: between nodes a heartbeat may be needed.

use std::time::Duration;

use everline::protocol::*;
use everline::store::TimelineId;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::device::{Act, Raw};
use crate::run::{Run, ms};
use crate::trap::Ailment;

/// Many round trips of the slowest store looked at.
const AT_ONCE: Duration = Duration::from_secs(6);

impl Run {
    /// Whether a push is all that brings news here within [`AT_ONCE`].
    fn can_tell(&self) -> bool {
        let setting = self.house.setting();
        let quick = setting.faults.latency.end <= ms(40);
        // A device that has fallen back to pages of one entry each takes longer.
        let wide = setting.page_bytes > 300;
        setting.together && quick && wide && setting.heartbeat > AT_ONCE && self.house.is_up(0)
    }

    /// A device comes back while messages arrive.
    pub async fn under_fire(&mut self) -> Result<(), String> {
        if !self.can_tell() || self.raws.is_empty() {
            return Ok(());
        }
        self.house.pause(0, false);
        let index = self.rng.random_range(0..self.raws.len());
        let cursor = self.raws[index].cursor();
        let user = self.raws[index].user.clone();
        self.note(&format!("{user} {} comes back under fire", self.raws[index].id));
        self.tick("under fire");
        let sends: Vec<_> = (0..self.rng.random_range(1..=3)).filter_map(|_| self.message_to(&user)).collect();
        self.raws[index].connect(&self.house, 0, cursor, false);
        let longest = self.house.setting().faults.latency.end.as_micros().max(1) as u64 * 10;
        for (device, send) in sends {
            let wait = self.rng.random_range(0..longest);
            tokio::time::sleep(Duration::from_micros(wait)).await;
            self.say(device, send);
        }
        self.all_told(None).await
    }

    /// A device that does not read for a while, and more messages than any queue holds.
    pub async fn flood(&mut self) -> Result<(), String> {
        if !self.can_tell() || !self.house.setting().flood || self.flooded {
            return Ok(());
        }
        self.house.pause(0, false);
        let index = self.rng.random_range(0..self.raws.len());
        let user = self.raws[index].user.clone();
        let Some((device, send)) = self.message_to(&user) else { return Ok(()) };
        if device == index {
            // Who writes and does not read blocks himself.
            return Ok(());
        }
        let cursor = self.raws[index].cursor();
        self.raws[index].connect(&self.house, 0, cursor, false);
        tokio::time::sleep(AT_ONCE).await;
        self.note(&format!("a flood for {user} {}", self.raws[index].id));
        self.tick("floods");
        self.flooded = true;
        self.raws[index].stall(ms(5_000));
        let place = send.to.clone();
        for _ in 0..self.rng.random_range(260..400) {
            let send = self.message(place.clone());
            self.say(device, send);
        }
        tokio::time::sleep(ms(8_000)).await;
        self.all_told(None).await
    }

    /// A message this user will get, and a device of somebody else (or his) that can send it.
    pub fn message_to(&mut self, user: &UserId) -> Option<(usize, Send)> {
        let able: Vec<usize> = (0..self.raws.len()).filter(|index| self.raws[*index].held().live).collect();
        let device = *able.choose(&mut self.rng)?;
        let from = self.raws[device].user.clone();
        if from == *user {
            let known = self.known_direct(user)?;
            return Some((device, self.message(SendTo::Conv(known))));
        }
        Some((device, self.message(SendTo::User(user.clone()))))
    }

    pub fn say(&self, device: usize, send: Send) {
        self.raws[device].act(Act::Ask(Request::Send(send)));
    }

    /// One node alone on a store that is not its own; one member's timeline is away, or an answer about it is lost:
    /// the others are told all the same, and so is he of what was there already.
    pub async fn one_ails(&mut self) -> Result<(), String> {
        let setting = self.house.setting();
        let quick = setting.faults.latency.end <= ms(40) && setting.heartbeat > AT_ONCE;
        if !setting.is_alone() || !quick {
            return Ok(());
        }
        let Some(company) = self.company(2) else { return Ok(()) };
        let (author, reader) = (company.devices[0], company.devices[1]);
        let (writes, reads) = (self.raws[author].user.clone(), self.raws[reader].user.clone());
        let third = company.members.iter().find(|member| **member != writes && **member != reads).cloned();
        let away = third.is_some() && self.rng.random_bool(0.6);
        let ails = third.filter(|_| away).unwrap_or(reads);
        self.restore(&[0]).await;
        self.house.trouble(false);
        self.go_to(author, 0);
        self.go_to(reader, 0);
        tokio::time::sleep(ms(3_000)).await;
        let is_behind = |device: &Raw| {
            let (head, held) = (self.house.sync_head(&device.user), device.held());
            held.live && held.cursor.as_ref().is_some_and(|cursor| cursor.seq < head)
        };
        if self.raws.iter().any(is_behind) {
            // A write of a node that died has landed late, which only the next heartbeat tells.
            return Ok(());
        }
        self.note(&format!("{ails}'s timeline ails, away {away}"));
        self.tick("one ails");
        let trap = self.house.trap(0);
        trap.ail(TimelineId::User(ails.clone()), if away { Ailment::Away } else { Ailment::AnswerLost });
        let send = self.message(SendTo::Conv(company.conv));
        self.say(author, send);
        let told = self.all_told(away.then_some(&ails)).await;
        trap.release();
        self.house.trouble(true);
        told
    }

    /// Every device that is connected and was told that it is live has everything, and soon.
    async fn all_told(&mut self, except: Option<&UserId>) -> Result<(), String> {
        tokio::time::sleep(ms(500)).await;
        let heads: Vec<u64> = self.raws.iter().map(|device| self.house.sync_head(&device.user)).collect();
        let stored = self.house.setting().large.map(|_| self.house.stored()).transpose()?;
        tokio::time::sleep(AT_ONCE).await;
        let (mut late, mut checked) = (Vec::new(), 0);
        for (device, head) in self.raws.iter().zip(heads) {
            let held = device.held();
            let seq = held.cursor.as_ref().map(|cursor| cursor.seq);
            let sound = device.wired.get().is_some_and(|(_, line, _)| line.is_sound());
            let asked = except != Some(&device.user) && !device.may_lag();
            if held.connected && held.live && sound && asked && self.house.is_up(0) {
                checked += 1;
                if seq.is_none_or(|seq| seq < head) {
                    late.push(format!("{} {} is at {seq:?} of {head}", device.user, device.id));
                }
                let untold = device.wired.get().zip(stored.as_ref());
                if let Some(text) =
                    untold.and_then(|((conn, ..), stored)| self.house.model().untold(conn, stored, false))
                {
                    late.push(format!("{} {}: {text}", device.user, device.id));
                }
            }
        }
        if checked > 0 {
            self.tick("told at once");
        }
        if late.is_empty() { Ok(()) } else { Err(format!("live, connected, and not told: {}", late.join("; "))) }
    }
}
