//! The model's ears for what is pushed: welcome, resets, sync frames; and what any read may show.
//!
//! Imports nothing of the service but the frames. What only the end can show is judged in `judge`.

use everline::protocol::*;

use crate::model::{ConnId, Model, covers, hold, same};

impl Model {
    pub fn welcomed(&mut self, conn: ConnId, welcome: Welcome) {
        let at = &self.conns[conn];
        let Some((_, hello)) = at.hello.clone() else {
            return self.blame(format!("conn {conn}: welcomed without a hello"));
        };
        let (known, name) = (at.known, format!("conn {conn} ({} {})", at.user, at.device));
        let again = at.welcome.is_some();
        let named = welcome.user_id == at.user && welcome.device_id == at.device && welcome.id == hello.id;
        hold!(self, named && !again, "{name}: welcomed as another, or twice");
        let (head, floor) = (welcome.head_seq, welcome.floor_seq);
        let epoch = self.epoch.get_or_insert(welcome.epoch.clone()).clone();
        hold!(self, epoch == welcome.epoch, "{name}: epoch {} after {epoch}", welcome.epoch);
        hold!(self, head >= known.0, "{name}: head {head}, but {} was told before", known.0);
        hold!(self, floor >= known.1, "{name}: floor {floor}, but {} was told before", known.1);
        let least = head.saturating_sub(self.rules.max_entries);
        hold!(self, least <= floor && floor <= head, "{name}: floor {floor} of head {head}");
        let wanted = match &hello.cursor {
            None => SyncMode::Fresh,
            Some(cursor) if cursor.epoch != epoch || cursor.seq > head || cursor.seq < floor => SyncMode::Reset,
            Some(_) => SyncMode::Resumed,
        };
        let cursor = hello.cursor.as_ref().map(|cursor| cursor.seq);
        hold!(self, wanted == welcome.sync, "{name}: {:?} at {cursor:?} with floor {floor}, head {head}", welcome.sync);
        self.count(match welcome.sync {
            SyncMode::Fresh => "fresh",
            SyncMode::Resumed => "resumed",
            SyncMode::Reset => "resets",
        });
        self.heard(conn, head, floor);
        self.begins_at(conn, welcome.sync, head);
        self.person(conn).welcomes.push((known.2, head));
        let conn = &mut self.conns[conn];
        conn.position = if welcome.sync == SyncMode::Resumed { cursor.unwrap_or(head) } else { head };
        conn.acked = conn.position;
        conn.owes_reset = welcome.sync == SyncMode::Reset;
        if hello.cursor.as_ref().is_some_and(|cursor| cursor.epoch == welcome.epoch) {
            conn.heads = hello.conversations;
        }
        conn.welcome = Some(welcome);
    }

    pub fn reset(&mut self, conn: ConnId, reset: &Reset) {
        let at = &self.conns[conn];
        let name = format!("conn {conn} ({} {})", at.user, at.device);
        let Some(welcome) = &at.welcome else { return self.blame(format!("{name}: a reset before the welcome")) };
        let (head, position, owed) = (welcome.head_seq, at.position, at.owes_reset);
        let moved = at.moved;
        if owed {
            hold!(self, reset.head_seq == head, "{name}: a reset to {} of welcome's {head}", reset.head_seq);
        } else {
            let from = match &reset.id {
                Some(id) => match self.conns[conn].syncs.pop_front() {
                    Some((asked, after)) if asked == *id => after,
                    _ => return self.blame(format!("{name}: a reset answers a sync that was not asked")),
                },
                None => moved.map_or(position, |moved| moved.min(position)),
            };
            let right = match reset.reason {
                ResetReason::TooOld => from < reset.floor_seq,
                ResetReason::Ahead => from > reset.head_seq,
                ResetReason::EpochMismatch => false,
            };
            hold!(self, right, "{name}: {reset:?} at {from}");
            self.count("resets in mid-session");
        }
        let told = self.person(conn).head;
        hold!(self, owed || reset.head_seq >= position.min(told), "{name}: a reset goes back to {}", reset.head_seq);
        self.heard(conn, reset.head_seq, reset.floor_seq);
        self.begins_at(conn, SyncMode::Reset, reset.head_seq);
        let conn = &mut self.conns[conn];
        (conn.position, conn.acked, conn.owes_reset) = (reset.head_seq, reset.head_seq, false);
        conn.moved = None;
    }

    pub fn synced(&mut self, conn: ConnId, frame: SyncFrame) {
        let at = &self.conns[conn];
        let name = format!("conn {conn} ({} {})", at.user, at.device);
        let Some(welcome) = &at.welcome else { return self.blame(format!("{name}: a sync frame before the welcome")) };
        let (from, to, head) = (frame.from_seq, frame.to_seq, welcome.head_seq);
        let mut position = at.moved.filter(|moved| *moved == frame.from_seq).unwrap_or(at.position);
        hold!(self, !self.conns[conn].owes_reset, "{name}: a sync frame before the reset that was announced");
        if let Some(id) = &frame.id {
            match self.conns[conn].syncs.pop_front() {
                Some((asked, after)) if asked == *id => {
                    position = after;
                    self.conns[conn].acked = self.conns[conn].acked.max(after);
                    self.count("syncs answered");
                }
                _ => return self.blame(format!("{name}: a frame answers a sync that was not asked")),
            }
        }
        hold!(self, from == position && to >= from, "{name}: a frame ({from}, {to}] does not continue {position}");
        let limit = self.conns[conn].acked + self.rules.window;
        hold!(self, to <= limit, "{name}: a frame up to {to}, the window ends at {limit}");
        hold!(self, !frame.live || to >= head, "{name}: live at {to}, though welcome told {head}");
        let mut last = from;
        for entry in &frame.entries {
            let seq = entry.seq;
            hold!(self, seq > last && seq <= to, "{name}: entry {seq} behind {last} in ({from}, {to}]");
            last = seq;
            self.shows(conn, seq, &entry.event);
        }
        if from == position {
            let shown: Vec<u64> = frame.entries.iter().map(|entry| entry.seq).collect();
            let left_out = (from + 1..=to).filter(|seq| shown.binary_search(seq).is_err()).map(|seq| (seq, conn));
            self.person(conn).left_out.extend(left_out);
        }
        self.heard(conn, to, 0);
        let conn = &mut self.conns[conn];
        (conn.position, conn.moved) = (to, None);
        conn.live |= frame.live;
    }

    /// An entry of the sync timeline is shown.
    fn shows(&mut self, conn: ConnId, seq: u64, event: &Event) {
        let user = self.conns[conn].user.clone();
        let since = self.conns[conn].hello.as_ref().map_or(0, |(at, _)| *at);
        let name = format!("conn {conn} ({user} {})", self.conns[conn].device);
        let before = self.person(conn).seen.get(&seq).cloned();
        match before {
            Some(before) if !same(&before, event) => {
                self.blame(format!("{name}: {seq} was {before:?} and is {event:?}"));
            }
            Some(_) => {}
            None => {
                let now = self.now;
                let person = self.person(conn);
                person.seen_at.insert(seq, now);
                person.seen.insert(seq, event.clone());
            }
        }
        if matches!(event, Event::Notification { .. }) {
            self.count("notifications shown");
        }
        self.learns(&name, event);
        self.judge_shown(&name, &user, since, event);
    }

    /// Somebody was shown an entry of a conversation.
    pub fn learns(&mut self, name: &str, event: &Event) {
        let (Some(conv), Some(conv_seq)) = (event.conv_id(), event.conv_seq()) else { return };
        let log = self.logs.entry(conv.clone()).or_default();
        match log.get(&conv_seq) {
            Some(before) if !same(before, event) => {
                let before = before.clone();
                self.blame(format!("{name}: {conv} {conv_seq} was {before:?} and is {event:?}"));
            }
            Some(_) => {}
            None => drop(log.insert(conv_seq, event.clone())),
        }
        let now = self.now;
        match event {
            Event::Recall { target, .. } => {
                self.recalled.entry((conv.clone(), *target)).or_insert(now);
                self.count("recalls shown");
            }
            Event::Conversation { change: ConversationChange::Large, .. } => self.count("large conversations"),
            Event::Notification { .. } => self.count("broadcasts shown"),
            Event::Message(message) if message.recalled => {
                self.recalled.entry((conv.clone(), conv_seq)).or_insert(now);
                self.count("stubs shown");
            }
            _ => {}
        }
    }

    /// Whether a body may be shown by a read asked for at `since`.
    pub fn judge_shown(&mut self, name: &str, user: &UserId, since: u64, event: &Event) {
        let (conv, target, body) = match event {
            Event::Message(message) => (&message.conv_id, message.conv_seq, message.body.is_some()),
            Event::Edit { conv_id, target, .. } => (conv_id, *target, true),
            _ => return,
        };
        let recalled = self.recalled.get(&(conv.clone(), target)).copied();
        let late = body && recalled.is_some_and(|at| at < since);
        if body && recalled.is_some_and(|at| at >= since) {
            self.count("older answers");
        }
        hold!(self, !late, "{name}: the body of {conv} {target} is served after its recall: {event:?}");
        if matches!(event, Event::Message(_)) {
            let hidden = self.people[user].hidden.iter();
            let mut hits = hidden.filter(|(at, of, range)| *at < since && of == conv && covers(*range, target));
            let hit = hits.next().is_some();
            hold!(self, !hit, "{name}: {conv} {target} is shown after its delete");
        }
    }
}
