//! The model's ears for large conversations: what `heads` frames tell each connection, judged at once as far
//! as that can be, and by the logs when everything is quiet.
//!
//! Imports nothing of the service but the frames.

use everline::protocol::*;

use crate::judge::Stored;
use crate::log::Log;
use crate::model::{ConnId, Model, hold};

/// Entries a frame gave of one conversation.
#[derive(Debug)]
pub struct Given {
    conn: ConnId,
    pub user: UserId,
    pub conv: ConvId,
    /// Told before.
    before: Option<u64>,
    pub from: u64,
    head: u64,
    seqs: Vec<u64>,
}

impl Model {
    /// A `heads` frame.
    pub fn heads(&mut self, conn: ConnId, items: Vec<HeadsItem>) {
        let at = &self.conns[conn];
        let (user, name) = (at.user.clone(), format!("conn {conn} ({} {})", at.user, at.device));
        hold!(self, at.welcome.is_some(), "{name}: heads before the welcome");
        for item in items {
            let (conv, head) = (item.conv_id.clone(), item.head_seq);
            let before = self.conns[conn].heads.insert(conv.clone(), head);
            if conv.is_everybody() {
                self.follows_everybody(conn);
            }
            let newer = before.is_none_or(|before| head > before);
            hold!(self, newer, "{name}: {conv} is told to be at {head}, and was at {before:?}");
            let told = self.person(conn).heads.entry(conv.clone()).or_default();
            *told = (*told).max(head);
            self.count("heads");
            let Some(entries) = item.entries else { continue };
            self.count("heads with entries");
            let Some(from) = item.from_seq else {
                self.blame(format!("{name}: entries of {conv} that continue nothing"));
                continue;
            };
            let seqs = self.given(conn, &name, &conv, &entries);
            self.given.push(Given { conn, user: user.clone(), conv, before, from, head, seqs });
        }
    }

    fn given(&mut self, conn: ConnId, name: &str, conv: &ConvId, entries: &[Event]) -> Vec<u64> {
        let user = self.conns[conn].user.clone();
        let since = self.conns[conn].hello.as_ref().map_or(0, |(at, _)| *at);
        let mut seqs = Vec::new();
        for event in entries {
            let seq = event.conv_seq().unwrap_or_default();
            let right = event.conv_id() == Some(conv) && seqs.last().is_none_or(|last| seq > *last);
            hold!(self, right, "{name}: {event:?} behind {seqs:?} of {conv}");
            seqs.push(seq);
            self.learns(name, event);
            self.judge_shown(name, &user, since, event);
            if matches!(event, Event::Message(_)) {
                let now = self.now;
                self.person(conn).shown.entry((conv.clone(), seq)).or_insert(now);
            }
        }
        seqs
    }

    /// What a frame gave is all the user may see of the stretch it names, and nothing else.
    pub fn judge_given(&self, stored: &Stored, wrong: &mut Vec<String>) {
        for given in &self.given {
            let Some(log) = stored.logs.get(&given.conv) else { continue };
            let his = |seq: &u64| {
                // Who came or went is told those whom it is about, by their own timelines.
                let his = !matches!(log.at(*seq), Some(Event::Member { .. })) && log.covered(&given.user, *seq);
                his || given.conv.is_everybody()
            };
            let should: Vec<u64> = (given.from + 1..=given.head).filter(his).collect();
            // One who came back goes on from there; so does who is there at the crossing.
            let begins = |from: u64| {
                let stays = log.stays.get(&given.user);
                log.large_at == Some(from) || stays.is_some_and(|stays| stays.iter().any(|stay| stay.0 == from))
            };
            let continues = given.before.is_none_or(|before| given.from == before) || begins(given.from);
            if should != given.seqs || !continues {
                let Given { conn, user, conv, before, from, head, seqs } = given;
                let text = format!("conn {conn} ({user}), told {before:?} of {conv}");
                wrong.push(format!("{text}: ({from}, {head}] gave {seqs:?}, should be {should:?}"));
            }
        }
    }

    /// A large conversation of this user's whose head the connection was not told. `all`: also one of which it
    /// was told nothing at all, as while it is being made.
    pub fn untold(&self, conn: ConnId, stored: &Stored, all: bool) -> Option<String> {
        let at = &self.conns[conn];
        let everybody = ConvId::everybody();
        if let Some(log) = stored.logs.get(&everybody).filter(|_| at.welcome.is_some()) {
            let told = at.heads.get(&everybody).copied().unwrap_or_default();
            if told < log.head() {
                return Some(format!("told {told} of {everybody}, which is at {}", log.head()));
            }
        }
        let is_his = |log: &Log| log.large_at.is_some() && log.stays.contains_key(&at.user);
        stored.logs.iter().filter(|(_, log)| is_his(log) && log.left(&at.user).is_none()).find_map(|(conv, log)| {
            let by_heads = at.heads.get(conv).copied().unwrap_or_default();
            let told = by_heads.max(self.told_by_sync(&at.user, conv));
            (told < log.head() && (told > 0 || all))
                .then(|| format!("told {told} of {conv}, which is at {}", log.head()))
        })
    }

    /// Up to here a user's own timeline tells of a large conversation.
    fn told_by_sync(&self, user: &UserId, conv: &ConvId) -> u64 {
        let seen = self.people[user].seen.values();
        let tells = |event: &&Event| match event {
            Event::Conversation { change: ConversationChange::Large, .. } => true,
            Event::Member { change: MemberChange::Joined, user_id, .. } => user_id == user,
            _ => false,
        };
        let told = seen.filter(|event| event.conv_id() == Some(conv)).filter(tells);
        told.filter_map(Event::conv_seq).max().unwrap_or_default()
    }
}
