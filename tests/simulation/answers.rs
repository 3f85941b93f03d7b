//! The model's ears for answers and refusals: each request is answered once, and the answer is one of its kind and
//! not older than what the same user was told before.
//!
//! Imports nothing of the service but the frames. What only the end can show is judged in `judge`.

use everline::protocol::*;

use crate::model::{Asked, ConnId, Model, Refused, covers, hold, place};

impl Model {
    /// The model of a request's answer.
    pub fn answered(&mut self, conn: ConnId, answer: &Answer) {
        let user = self.conns[conn].user.clone();
        let name = format!("conn {conn} ({user} {})", self.conns[conn].device);
        let Some(asked) = self.conns[conn].asked.get_mut(&answer.id) else {
            return self.blame(format!("{name}: an answer to nothing: {answer:?}"));
        };
        if std::mem::replace(&mut asked.answered, true) {
            return self.blame(format!("{name}: {} is answered twice", answer.id));
        }
        let asked = asked.clone();
        self.judge_reserved(&name, &asked, None);
        match (&answer.body, &asked.request) {
            (AnswerBody::Sent { conv_id, conv_seq, duplicate, .. }, Request::Send(send)) => {
                hold!(self, place(&user, send) == *conv_id, "{name}: sent to another conversation");
                self.acks_send(&name, conn, send, &asked, (*conv_seq, *duplicate));
            }
            (AnswerBody::Ok { conv_id, conv_seq, seq }, request) => {
                self.acks_change(&name, conn, &asked, request, (conv_id.clone(), *conv_seq, *seq));
            }
            (AnswerBody::History { entries, head_seq, .. }, Request::History { conv_id, .. }) => {
                self.tells_history(&name, &user, &asked, conv_id, entries, *head_seq);
            }
            (AnswerBody::Changes { .. }, Request::Changes { conv_id, .. }) => {
                self.tells_changes(&name, &user, &asked, conv_id, &answer.body);
            }
            (AnswerBody::Conversations { conversations, .. }, Request::Conversations { .. }) => {
                for line in conversations {
                    let last = line.last.as_ref().map(|last| Event::Message(last.message.clone()));
                    if let Some(event) = &last {
                        self.judge_shown(&name, &user, asked.at, event);
                    }
                    let told =
                        self.people.get_mut(&user).expect("opened").heads.entry(line.conv_id.clone()).or_default();
                    *told = (*told).max(line.head_seq);
                }
            }
            (AnswerBody::Members { .. }, Request::Members { .. }) | (AnswerBody::Devices { .. }, Request::Devices) => {}
            (body, request) => self.blame(format!("{name}: {request:?} is answered {body:?}")),
        }
    }

    fn acks_change(
        &mut self,
        name: &str,
        conn: ConnId,
        asked: &Asked,
        request: &Request,
        told: (Option<ConvId>, Option<u64>, Option<u64>),
    ) {
        let (conv_id, conv_seq, seq) = told;
        let (now, user) = (self.now, self.conns[conn].user.clone());
        if let Some(seq) = seq {
            self.heard(conn, seq, 0);
        }
        let person = self.people.get_mut(&user).expect("opened before");
        match request {
            Request::Delete { conv_id, ranges } => {
                person.hidden.extend(ranges.iter().map(|range| (now, conv_id.clone(), *range)));
                self.count("deletes");
            }
            Request::Clear { conv_id, up_to } => {
                person.hidden.push((now, conv_id.clone(), Range { from: 1, to: *up_to }));
                self.count("clears");
            }
            Request::Read { conv_id, read_seq } => {
                let read = person.read.entry(conv_id.clone()).or_default();
                *read = (*read).max(*read_seq);
                self.count("reads");
            }
            Request::Create { title: Some(title), .. } => {
                let Some(made) = conv_id.clone() else {
                    return self.blame(format!("{name}: create is answered without a name"));
                };
                if let Some((_, _, known)) = self.creates.get_mut(title) {
                    let before = known.get_or_insert(made.clone()).clone();
                    hold!(self, before == made, "{name}: the same create made {before} and {made}");
                }
                self.count("creates");
            }
            Request::Recall { conv_id, target } => {
                self.recalled.entry((conv_id.clone(), *target)).or_insert(now);
                self.count("recalls");
            }
            _ => {}
        }
        if let (Some(conv), Some(conv_seq)) = (conv_id.or_else(|| request.conv_id().cloned()), conv_seq) {
            // Who takes himself out along with others sees no further than his own end.
            let beyond = matches!(request, Request::Remove { users, .. } if users.contains(&user));
            if !beyond {
                self.people.get_mut(&user).expect("opened before").duties.push((now, conv.clone(), conv_seq));
            }
            self.acked.push((user, asked.request.clone(), conv, conv_seq));
        }
    }

    fn tells_history(
        &mut self,
        name: &str,
        user: &UserId,
        asked: &Asked,
        conv: &ConvId,
        entries: &[HistoryEntry],
        head: u64,
    ) {
        let mut last = 0;
        for entry in entries {
            let seq = entry.event.conv_seq().unwrap_or_default();
            hold!(self, seq > last && seq <= head, "{name}: history shows {seq} behind {last}, head {head}");
            last = seq;
            self.learns(name, &entry.event);
            self.judge_shown(name, user, asked.at, &entry.event);
            let person = self.people.get_mut(user).expect("opened before");
            person.shown.entry((conv.clone(), seq)).or_insert(asked.at);
        }
        self.tells_head(name, user, asked, conv, head);
        self.count("history");
    }

    /// Rule: after an answer the same user sees its effect.
    fn tells_head(&mut self, name: &str, user: &UserId, asked: &Asked, conv: &ConvId, head: u64) {
        let person = self.people.get_mut(user).expect("opened before");
        let due = person.duties.iter().filter(|(at, of, _)| *at < asked.at && of == conv).map(|(_, _, seq)| *seq).max();
        let told = person.heads.entry(conv.clone()).or_default();
        *told = (*told).max(head);
        let due = due.unwrap_or_default();
        hold!(self, head >= due, "{name}: {conv} has head {head}, but {due} was answered before");
    }

    fn tells_changes(&mut self, name: &str, user: &UserId, asked: &Asked, conv: &ConvId, body: &AnswerBody) {
        let AnswerBody::Changes { recalled, edited, up_to, deleted, cleared_up_to, more, .. } = body else { return };
        for change in recalled {
            let now = self.now;
            self.recalled.entry((conv.clone(), change.target)).or_insert(now);
        }
        for edit in edited {
            let at = self.recalled.get(&(conv.clone(), edit.target)).copied();
            let late = at.is_some_and(|at| at < asked.at);
            hold!(self, !late, "{name}: the edit of {conv} {} is told after its recall", edit.target);
        }
        if !more {
            self.tells_head(name, user, asked, conv, *up_to);
        }
        let hidden: Vec<Range> = self.people[user]
            .hidden
            .iter()
            .filter(|(at, of, _)| *at < asked.at && of == conv)
            .map(|(_, _, range)| *range)
            .collect();
        for range in hidden {
            // Only messages seen before are deleted by the generator, so nothing is clamped away but what
            // the user may not see.
            let gone = |seq: u64| seq <= *cleared_up_to || deleted.iter().any(|range| covers(*range, seq));
            let shown = |seq: u64| self.people[user].shown.contains_key(&(conv.clone(), seq));
            let kept = (range.from..=range.to.min(*up_to)).find(|seq| shown(*seq) && !gone(*seq));
            hold!(
                self,
                kept.is_none(),
                "{name}: {conv} {kept:?} was deleted, changes tell {deleted:?} {cleared_up_to}"
            );
        }
        self.count("changes");
    }

    pub fn refused(&mut self, conn: ConnId, error: &ErrorFrame) {
        let Some(id) = &error.id else {
            if error.code == ErrorCode::TokenExpired {
                self.count("tokens expired in session");
            }
            return;
        };
        let at = &mut self.conns[conn];
        let (user, name) = (at.user.clone(), format!("conn {conn} ({} {})", at.user, at.device));
        if at.hello.as_ref().is_some_and(|(_, hello)| hello.id == *id) && at.welcome.is_none() {
            return;
        }
        let Some(asked) = at.asked.get_mut(id) else {
            return self.blame(format!("{name}: an error answers nothing: {error:?}"));
        };
        if std::mem::replace(&mut asked.answered, true) {
            return self.blame(format!("{name}: {id} is answered twice"));
        }
        let asked = asked.clone();
        if matches!(asked.request, Request::Sync { .. }) {
            let conn = &mut self.conns[conn];
            conn.moved = conn.syncs.iter().find(|(open, _)| open == id).map(|(_, after)| *after);
            conn.syncs.retain(|(open, _)| open != id);
        }
        if matches!(error.code, ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::RateLimited) {
            if let Request::Send(send) = &asked.request
                && error.code != ErrorCode::Unavailable
            {
                self.refuses_send(&name, conn, send, &asked, error.code);
            }
            self.count(if error.code == ErrorCode::Unavailable { "unavailable" } else { "overloaded" });
            return;
        }
        self.count("refused");
        self.judge_reserved(&name, &asked, Some(error.code));
        if let Request::Send(send) = &asked.request {
            self.refuses_send(&name, conn, send, &asked, error.code);
        }
        let member_since = asked.request.conv_id().and_then(|conv| self.joined(&user, conv, asked.at));
        self.refusals.push(Refused { user, asked, code: error.code, member_since });
    }

    /// The last `joined` (or `created`) of this user he has been shown, when no end of it was shown.
    fn joined(&self, user: &UserId, conv: &ConvId, before: u64) -> Option<u64> {
        let (mut since, person) = (None, &self.people[user]);
        let early = person.seen.iter().filter(|(seq, _)| person.seen_at.get(seq).is_some_and(|at| *at < before));
        for event in early.map(|(_, event)| event).filter(|event| event.conv_id() == Some(conv)) {
            match event {
                Event::Member { change: MemberChange::Joined, user_id, conv_seq, .. } if user_id == user => {
                    since = Some(*conv_seq);
                }
                Event::Member { change: MemberChange::Left | MemberChange::Removed, user_id, .. }
                    if user_id == user =>
                {
                    since = None;
                }
                Event::Conversation { change: ConversationChange::Created { .. }, conv_seq, .. } => {
                    since = Some(*conv_seq);
                }
                _ => {}
            }
        }
        since
    }
}
