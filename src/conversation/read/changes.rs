//! `changes`: what became of messages since a conv_seq. Its cost grows with changes, not messages.

use serde::Serialize;

use super::{Filled, Reader, Seen, damaged};
use crate::conversation::decide::NotDecided;
use crate::conversation::rows::{self, Change, ChangeKind, Target, Word};
use crate::protocol::{AnswerBody, ConvId, EditChange, Event, ReactionChange, RecallChange};
use crate::store::{RowKey, Section};

type Result<T> = std::result::Result<T, NotDecided>;

/// Changes looked at for one answer.
const AT_ONCE: usize = 500;

/// What a change comes to.
#[derive(Serialize)]
#[serde(untagged)]
enum Told {
    Recall(RecallChange),
    Edit(EditChange),
    Reaction(ReactionChange),
}

impl Reader<'_> {
    pub(super) async fn read_changes(&self, conv: &ConvId, since: u64) -> Result<AnswerBody> {
        let seen = self.must_see(conv).await?;
        let head = seen.view.head_seq();
        let after = RowKey { n: since, ..rows::change_key(since) };
        let page = self.store.rows(&seen.view.timeline, Section::Change, Some(after), head, AT_ONCE).await?;
        let mut more = page.len() == AT_ONCE;
        let mut up_to = if more { page.last().map_or(head, |(key, _)| key.n) } else { head };
        let deleted = seen.hidden.to_wire();
        let mut filled = Filled::default();
        // These are told whole, with whatever else there is room for.
        filled.takes(&deleted);
        let (mut recalled, mut edited, mut reacted) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (key, value)) in page.iter().enumerate() {
            let change: Change = rows::unpack(&seen.view.timeline, key, value)?;
            let told = if seen.view.sees(change.target) { self.told(&seen, key.n, change).await? } else { None };
            let Some(told) = told else { continue };
            if !filled.takes(&told) && index > 0 {
                (more, up_to) = (true, key.n - 1);
                break;
            }
            match told {
                Told::Recall(change) => recalled.push(change),
                Told::Edit(change) => edited.push(change),
                Told::Reaction(change) => reacted.push(change),
            }
        }
        Ok(AnswerBody::Changes {
            recalled,
            edited,
            reacted,
            // What a leaver asks beyond his leave is of his leave; never back behind the question.
            up_to: up_to.max(since.min(head)),
            more,
            deleted,
            cleared_up_to: seen.row.cleared_up_to,
        })
    }

    /// The change at `seq`, if it is the last word about its target.
    async fn told(&self, seen: &Seen, seq: u64, change: Change) -> Result<Option<Told>> {
        let target: Target = seen.view.target(self.store, change.target).await?.unwrap_or_default();
        if let Some((conv_seq, by)) = target.recall {
            // Edits and reactions of what is gone are gone with it.
            let recall = RecallChange { target: change.target, conv_seq, by };
            return Ok((change.kind == ChangeKind::Recall).then_some(Told::Recall(recall)));
        }
        match change.kind {
            ChangeKind::Recall => Ok(None),
            ChangeKind::Edit => {
                let last = target.edits.iter().rfind(|edit| **edit <= seen.view.head_seq()) == Some(&seq);
                let edit = if last { self.edit_at(seen, seq).await? } else { None };
                Ok(edit.map(|(body, edited_at, by)| {
                    Told::Edit(EditChange { target: change.target, conv_seq: seq, by, body, edited_at })
                }))
            }
            ChangeKind::Reaction => {
                let Event::Reaction { target, user_id, key, add, .. } = self.event_at(seen, seq).await? else {
                    return Err(damaged(&seen.view, seq));
                };
                let word = rows::word_key(target, &key, &user_id);
                let word: Option<Word> = rows::read(self.store, &seen.view.timeline, &word).await?;
                let last = word.is_some_and(|word| word.conv_seq == seq);
                Ok(last.then_some(Told::Reaction(ReactionChange { target, conv_seq: seq, user_id, key, add })))
            }
        }
    }
}
