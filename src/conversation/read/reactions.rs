//! Reactions to a message as one reader is told them: counted by key, he himself first.
//!
//! Mostly they stand in the message's row. The words themselves are read only where that does not say
//! enough: whether a reader not among those named is one of many, and for one who has left before the last.

use std::collections::BTreeMap;

use super::Reader;
use crate::conversation::decide::NotDecided;
use crate::conversation::rows::{self, Target, Word};
use crate::conversation::view::View;
use crate::protocol::limits::MAX_REACTION_USERS;
use crate::protocol::{ReactionCount, UserId};
use crate::store::Section;

type Result<T> = std::result::Result<T, NotDecided>;

const PAGE: usize = 512;

impl Reader<'_> {
    /// Those to the message at `seq`; none later than the reader may know of.
    pub(super) async fn reactions(&self, view: &View, seq: u64, target: &Target) -> Result<Vec<ReactionCount>> {
        if target.last_word > view.head_seq() {
            return self.reactions_then(view, seq).await;
        }
        let mut counts = Vec::with_capacity(target.reactions.len());
        for with in &target.reactions {
            let mut users = with.users.clone();
            let named = users.iter().position(|user| user == self.user);
            let his = match named {
                Some(_) => true,
                None if with.count <= users.len() as u64 => false,
                None => {
                    let word = rows::word_key(seq, &with.key, self.user);
                    let word: Option<Word> = rows::read(self.store, &view.timeline, &word).await?;
                    // One later than the head came after the message's row was read: before, it was the other way.
                    word.is_some_and(|word| word.add == (word.conv_seq <= view.head_seq()))
                }
            };
            if his {
                put_first(&mut users, named, self.user);
            }
            counts.push(ReactionCount { key: with.key.clone(), count: with.count, users });
        }
        Ok(counts)
    }

    /// Those up to the reader's head, from the words themselves.
    async fn reactions_then(&self, view: &View, seq: u64) -> Result<Vec<ReactionCount>> {
        let mut counts: BTreeMap<String, ReactionCount> = BTreeMap::new();
        let mut after = Some(rows::words_from(seq));
        loop {
            let page = self.store.rows(&view.timeline, Section::Word, after, seq, PAGE).await?;
            for (key, value) in &page {
                let word: Word = rows::unpack(&view.timeline, key, value)?;
                let Some((key, user)) = rows::of_word(key).filter(|_| word.add && word.conv_seq <= view.head_seq())
                else {
                    continue;
                };
                let none = || ReactionCount { key: key.to_owned(), count: 0, users: Vec::new() };
                let count = counts.entry(key.to_owned()).or_insert_with(none);
                count.count += 1;
                if user == *self.user {
                    put_first(&mut count.users, None, &user);
                } else if count.users.len() < MAX_REACTION_USERS {
                    count.users.push(user);
                }
            }
            match page.into_iter().nth(PAGE - 1) {
                Some((key, _)) => after = Some(key),
                None => return Ok(counts.into_values().collect()),
            }
        }
    }
}

fn put_first(users: &mut Vec<UserId>, at: Option<usize>, user: &UserId) {
    if let Some(at) = at {
        users.remove(at);
    }
    users.insert(0, user.clone());
    users.truncate(MAX_REACTION_USERS);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Clock, Policy};
    use crate::engine::{Caller, Engine};
    use crate::hub::Hub;
    use crate::protocol::{AnswerBody, DeviceId, HistoryMode, MsgId, Request};
    use crate::store::sim::{Faults, Sim, SimOptions};

    async fn ask(engine: &Engine, user: &UserId, request: Request) -> AnswerBody {
        let caller = Caller { user: user.clone(), device: DeviceId::parse("phone").unwrap() };
        engine.submit(&caller, request).await.unwrap()
    }

    /// One of many, not among those named, changes his mind while his page is being read.
    #[tokio::test]
    async fn a_reaction_made_while_a_page_is_read_is_not_told_yet() {
        let clock = Clock::simulated(1_795_000_000_000);
        let sim = Sim::new(SimOptions { seed: 1, clock: clock.clone(), together: true, faults: Faults::none() });
        let store = Arc::new(sim.handle());
        let engine = Engine::new(store.clone(), Arc::new(Hub::default()), clock, Policy::default(), 1);
        let users: Vec<_> = (0..30).map(|n| UserId::parse(&format!("u{n:02}")).unwrap()).collect();
        let create = Request::Create {
            members: users[1..].to_vec(),
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("op").unwrap(),
        };
        let AnswerBody::Ok { conv_id: Some(conv), .. } = ask(&engine, &users[0], create).await else { panic!() };
        let body = crate::protocol::Body::parse("{}").unwrap();
        let send = crate::protocol::Send {
            to: crate::protocol::SendTo::Conv(conv.clone()),
            client_msg_id: MsgId::parse("m").unwrap(),
            body,
            reply_to: None,
            mentions: Vec::new(),
        };
        ask(&engine, &users[0], Request::Send(send)).await;
        let react = |add| Request::React { conv_id: conv.clone(), target: 2, key: "+1".into(), add };
        for user in &users[..25] {
            ask(&engine, user, react(true)).await;
        }
        let told = async |user: &UserId, before: bool| {
            let view = View::load(&*store, &conv, user).await.unwrap().unwrap();
            let target = view.target(&*store, 2).await.unwrap().unwrap();
            ask(&engine, user, react(!before)).await;
            let counts = Reader { store: &*store, user }.reactions(&view, 2, &target).await.unwrap();
            (counts[0].count, counts[0].users.first() == Some(user))
        };
        assert_eq!(told(&users[29], false).await, (25, false));
        assert_eq!(told(&users[24], true).await, (26, true));
    }
}
