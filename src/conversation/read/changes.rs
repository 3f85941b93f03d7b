//! `changes`: what became of messages since a conv_seq. Its cost grows with changes, not messages.

use super::{Reader, Seen};
use crate::conversation::decide::NotDecided;
use crate::conversation::rows::{self, Change, ChangeKind, Target};
use crate::protocol::{AnswerBody, ConvId, EditChange, ReactionChange, RecallChange};
use crate::store::{RowKey, Section};

type Result<T> = std::result::Result<T, NotDecided>;

/// Changes looked at for one answer.
const AT_ONCE: usize = 500;
/// Edit bodies in one answer.
const MOST_BYTES: usize = 512 * 1024;

#[derive(Default)]
struct Found {
    recalled: Vec<RecallChange>,
    edited: Vec<EditChange>,
    reacted: Vec<ReactionChange>,
    bytes: usize,
}

impl Reader<'_> {
    pub(super) async fn read_changes(&self, conv: &ConvId, since: u64) -> Result<AnswerBody> {
        let seen = self.must_see(conv).await?;
        let head = seen.view.head_seq();
        let after = RowKey { n: since, ..rows::change_key(since) };
        let page = self.store.rows(&seen.view.timeline, Section::Change, Some(after), head, AT_ONCE).await?;
        let mut more = page.len() == AT_ONCE;
        let mut up_to = if more { page.last().map_or(head, |(key, _)| key.n) } else { head };
        let mut found = Found::default();
        for (key, value) in &page {
            if found.bytes > MOST_BYTES {
                (more, up_to) = (true, key.n - 1);
                break;
            }
            let change: Change = rows::unpack(&seen.view.timeline, key, value)?;
            if seen.view.sees(change.target) {
                self.take_in(&seen, key.n, change, &mut found).await?;
            }
        }
        let deleted = seen.hidden.to_wire();
        Ok(AnswerBody::Changes {
            recalled: found.recalled,
            edited: found.edited,
            reacted: found.reacted,
            // What a leaver asks beyond his leave is of his leave; never back behind the question.
            up_to: up_to.max(since.min(head)),
            more,
            deleted,
            cleared_up_to: seen.row.cleared_up_to,
        })
    }

    /// Adds the change at `seq` if it is the last word about its target.
    async fn take_in(&self, seen: &Seen, seq: u64, change: Change, found: &mut Found) -> Result<()> {
        let target: Target = seen.view.target(self.store, change.target).await?.unwrap_or_default();
        if let Some((conv_seq, by)) = &target.recall {
            if change.kind == ChangeKind::Recall {
                found.recalled.push(RecallChange { target: change.target, conv_seq: *conv_seq, by: by.clone() });
            }
            // Edits and reactions of what is gone are gone with it.
            return Ok(());
        }
        match change.kind {
            ChangeKind::Recall => {}
            ChangeKind::Edit => {
                let last = target.edits.iter().rfind(|edit| **edit <= seen.view.head_seq()) == Some(&seq);
                if let Some((body, edited_at, by)) = if last { self.edit_at(seen, seq).await? } else { None } {
                    found.bytes += body.len();
                    found.edited.push(EditChange { target: change.target, conv_seq: seq, by, body, edited_at });
                }
            }
            ChangeKind::Reaction => {
                found.reacted.extend(target.reactions.iter().filter(|word| word.conv_seq == seq).map(|word| {
                    ReactionChange {
                        target: change.target,
                        conv_seq: seq,
                        user_id: word.user_id.clone(),
                        key: word.key.clone(),
                        add: word.add,
                    }
                }));
            }
        }
        Ok(())
    }
}
