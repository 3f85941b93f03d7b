//! Whether answers, pushes and instructions are right by what the logs have turned out to be.

use everline::engine::Answer;
use everline::hub::Live;
use everline::protocol::*;

use crate::absorb::{Check, Model, Sub, alike};
use crate::decide::Decision;
use crate::model::Conv;
use crate::user::{Item, User};

impl Model {
    /// Whether a request explains an instruction in this user's timeline.
    pub fn asked_for(&self, sub: &Sub, user: &UserId, event: &Event, before: &User) -> bool {
        if sub.request.conv_id() != event.conv_id() || matches!(sub.answer, Some(Err(_))) {
            return false;
        }
        let Some(conv) = sub.request.conv_id().and_then(|id| self.convs.get(id)) else { return false };
        let Some(member) = conv.members.get(&sub.user) else { return false };
        let cap = member.cap(conv.head());
        let clamped = |asked: u64, found: u64| found <= cap && (asked == found || (asked > found && found >= sub.cap));
        match (&sub.request, event) {
            (Request::Read { read_seq, .. }, Event::Read { read_seq: found, .. }) => {
                sub.user == *user && clamped(*read_seq, *found)
            }
            (Request::Read { read_seq, .. }, Event::Receipt { user_id, read_seq: found, .. }) => {
                sub.user == *user_id && conv.direct && user != user_id && clamped(*read_seq, *found)
            }
            (Request::Clear { up_to, .. }, Event::Clear { up_to: found, .. }) => {
                sub.user == *user && clamped(*up_to, *found)
            }
            (Request::Delete { ranges, .. }, Event::Delete { ranges: found, .. }) => {
                let asked = |seq: u64| ranges.iter().any(|range| (range.from..=range.to).contains(&seq));
                let all = found.iter().flat_map(|range| range.from..=range.to);
                let own = before.own(&conv.id);
                let told = |seq: u64| found.iter().any(|range| (range.from..=range.to).contains(&seq));
                sub.user == *user
                    && all.into_iter().all(|seq| asked(seq) && conv.sees(user, seq) && seq <= cap)
                    && (1..=sub.cap).all(|seq| !asked(seq) || !conv.sees(user, seq) || told(seq) || own.hides(seq))
            }
            (
                Request::Settings { muted, pinned, hidden, .. },
                Event::Settings { muted: m, pinned: p, hidden: h, .. },
            ) => {
                let own = before.own(&conv.id).settings;
                sub.user == *user
                    && (muted.unwrap_or(own.muted), pinned.unwrap_or(own.pinned), hidden.unwrap_or(own.hidden))
                        == (*m, *p, *h)
            }
            _ => false,
        }
    }

    /// Requests of a user's own that were answered with his present head: their effect must be there.
    pub fn check_own_effects(&self, id: &UserId, user: &User) -> Check {
        for sub in self.subs.iter().filter(|sub| sub.fresh && sub.user == *id) {
            let Some(Ok(AnswerBody::Ok { seq: Some(seq), .. })) = &sub.answer else { continue };
            let Some(conv) = sub.request.conv_id().and_then(|conv| self.convs.get(conv)) else { continue };
            if *seq != user.head() {
                continue;
            }
            let own = user.own(&conv.id);
            let there = match &sub.request {
                Request::Read { read_seq, .. } => own.read_seq >= (*read_seq).min(sub.cap),
                Request::Clear { up_to, .. } => own.cleared >= (*up_to).min(sub.cap),
                Request::Delete { ranges, .. } => ranges
                    .iter()
                    .all(|range| (range.from..=range.to.min(sub.cap)).all(|n| !conv.sees(id, n) || own.hides(n))),
                Request::Settings { muted, pinned, hidden, .. } => {
                    muted.is_none_or(|muted| own.settings.muted == muted)
                        && pinned.is_none_or(|pinned| own.settings.pinned == pinned)
                        && hidden.is_none_or(|hidden| own.settings.hidden == hidden)
                }
                _ => true,
            };
            if !there {
                return Err(format!(
                    "{id} was answered seq {seq} to {:?}, but there his state is {own:?}",
                    sub.request
                ));
            }
        }
        Ok(())
    }

    /// Whether an answer is right.
    pub fn check_answer(&self, sub: &Sub) -> Check {
        let Some(answer) = &sub.answer else { return Ok(()) };
        if let Some((conv, from, to)) = &sub.made {
            return self.check_own_entries(sub, &self.convs[conv], *from, *to);
        }
        let conv = self.conv_of(&sub.user, &sub.request);
        let known = conv.as_ref().and_then(|id| self.convs.get(id));
        if matches!(
            sub.request,
            Request::Read { .. } | Request::Clear { .. } | Request::Delete { .. } | Request::Settings { .. }
        ) {
            let member = known.is_some_and(|conv| conv.members.contains_key(&sub.user));
            return match answer {
                Ok(AnswerBody::Ok { conv_id: None, conv_seq: None, seq: Some(seq) }) => {
                    if !member {
                        Err("answered, and he never was a member".into())
                    } else if *seq < sub.sync || *seq > sub.seen {
                        Err(format!("answered seq {seq}, his head was {} to {}", sub.sync, sub.seen))
                    } else {
                        Ok(())
                    }
                }
                Err(refusal) if refusal.code == ErrorCode::NotFound && sub.cap == 0 => Ok(()),
                other => Err(format!("answered {other:?}")),
            };
        }
        let none;
        let points = match conv.as_ref().and_then(|id| self.points.get(id)) {
            Some(points) => points.as_slice(),
            None => {
                none = [known.cloned().unwrap_or_else(|| Conv::new(conv.clone().unwrap_or_else(ConvId::everybody)))];
                &none
            }
        };
        let right = |point: &Conv, at: u64| {
            let at = at.max(point.log.last().map_or(0, |entry| entry.at));
            fits(answer, point, &point.decide(&self.rules, &sub.user, &sub.request, at, &[]))
        };
        let window = || points.iter().filter(|point| point.head() >= sub.head);
        if window().any(|point| right(point, sub.asked_at) || right(point, sub.answered_at)) {
            return Ok(());
        }
        let due: Vec<_> = window()
            .map(|point| (point.head(), point.decide(&self.rules, &sub.user, &sub.request, sub.asked_at, &[])))
            .collect();
        Err(format!("answered {answer:?}; at no point of the log is that right: {due:?}"))
    }

    /// An entry pushed to a live session: durable, and as the log has it.
    pub fn pushed(&self, user: &UserId, live: &Live) -> Check {
        let state = self.user(user);
        let item = usize::try_from(live.seq - 1).ok().and_then(|index| state.sync.get(index));
        let Some((_, item)) = item else { return Err(format!("{user} was pushed {live:?}, which is not there")) };
        let right = match (item, &live.text) {
            (Item::Own(due), Some(text)) => Event::decode(text).is_ok_and(|found| *due == found),
            (Item::Own(_), None) => false,
            (Item::Log(conv, seq), Some(text)) => {
                let due = &self.convs[conv].entry(*seq).expect("in the log").event;
                Event::decode(text).is_ok_and(|found| alike(due, &found))
            }
            (Item::Log(conv, seq), None) => state.shows(user, &self.convs[conv], *seq).is_none(),
        };
        if right { Ok(()) } else { Err(format!("{user} was pushed {live:?}, due is {item:?}")) }
    }

    /// What he made was in his own timeline when he was answered.
    fn check_own_entries(&self, sub: &Sub, conv: &Conv, from: u64, to: u64) -> Check {
        let sync = &self.users.get(&sub.user).ok_or("his timeline is empty")?.sync;
        for seq in (from..=to).filter(|seq| conv.addressed(&sub.user, *seq)) {
            let place =
                sync.iter().position(|(_, item)| matches!(item, Item::Log(id, n) if *id == conv.id && *n == seq));
            if place.is_none_or(|place| place as u64 + 1 > sub.seen) {
                let seen = sub.seen;
                return Err(format!("entry {seq} was not in his own timeline (then at {seen}) when he was answered"));
            }
        }
        Ok(())
    }
}

/// Whether this answers a request that appended entries.
pub fn fits_entries(answer: &Answer, conv: &Conv, last: u64, at: u64) -> bool {
    match answer {
        Ok(AnswerBody::Sent { conv_id, conv_seq, sent_at, duplicate }) => {
            *conv_id == conv.id && (*conv_seq, *sent_at, *duplicate) == (last, at, false)
        }
        Ok(AnswerBody::Ok { conv_id, conv_seq: Some(seq), seq: None }) => {
            *seq == last && conv_id.as_ref().is_none_or(|id| *id == conv.id)
        }
        _ => false,
    }
}

/// Whether this answers a request that changed nothing.
fn fits(answer: &Answer, point: &Conv, decision: &Decision) -> bool {
    match (decision, answer) {
        (Decision::Again(seq, at), Ok(AnswerBody::Sent { conv_id, conv_seq, sent_at, duplicate })) => {
            *conv_id == point.id && (conv_seq, sent_at, *duplicate) == (seq, at, true)
        }
        (Decision::Same(due), Ok(AnswerBody::Ok { conv_seq: Some(seq), seq: None, .. })) => {
            due.map_or(*seq <= point.head(), |due| due == *seq)
        }
        (Decision::Refused(code, field), Err(refusal)) => (*code, *field) == (refusal.code, refusal.field),
        _ => false,
    }
}
