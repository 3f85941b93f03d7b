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
                    rows::read::<Word>(self.store, &view.timeline, &word).await?.is_some_and(|word| word.add)
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
