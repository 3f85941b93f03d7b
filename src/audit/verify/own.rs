//! Instructions of the user's own: each must also be state, so that a reset brings nothing back.

use crate::conversation::pointer::Own;
use crate::conversation::ranges::Ranges;
use crate::conversation::user_row::{SettingsBits, UserRow};
use crate::protocol::{ConvId, Event};

/// What the instructions kept for one conversation come to.
#[derive(Debug, Default)]
pub(super) struct Owns {
    read_seq: u64,
    cleared: u64,
    receipt: u64,
    settings: Option<SettingsBits>,
}

impl Owns {
    /// Takes in the next instruction; tells what is wrong with it.
    pub(super) fn take(
        &mut self,
        own: Own,
        conv: &ConvId,
        text: &str,
        row: Option<&UserRow>,
        hidden: &Ranges,
    ) -> Option<String> {
        let event = Event::decode(text).ok().filter(|event| event.conv_id() == Some(conv));
        match (own, event) {
            (Own::Read, Some(Event::Read { read_seq, .. })) => self.read_seq = self.read_seq.max(read_seq),
            (Own::Clear, Some(Event::Clear { up_to, .. })) => self.cleared = self.cleared.max(up_to),
            (Own::Receipt, Some(Event::Receipt { read_seq, .. })) => self.receipt = self.receipt.max(read_seq),
            (Own::Settings, Some(Event::Settings { muted, pinned, hidden, .. })) => {
                self.settings = Some(SettingsBits { muted, pinned, hidden });
            }
            (Own::Delete, Some(Event::Delete { ranges, .. })) => {
                let cleared = row.map_or(0, |row| row.cleared_up_to);
                let kept =
                    |range: &crate::protocol::Range| hidden.contains_all(range.from, range.to) || range.to <= cleared;
                if !ranges.iter().all(kept) {
                    return Some(format!("what was deleted in {conv} is not deleted"));
                }
            }
            _ => return Some(format!("an instruction about {conv} is unreadable")),
        }
        None
    }

    /// What the row says otherwise.
    pub(super) fn compare(&self, row: &UserRow) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut at_least = |name: &str, stored: u64, told: u64| {
            if stored < told {
                wrong.push(format!("{name} is {stored}, the timeline told {told}"));
            }
        };
        at_least("read_seq", row.read_seq, self.read_seq);
        at_least("cleared_up_to", row.cleared_up_to, self.cleared);
        at_least("receipt_seq", row.receipt_seq, self.receipt);
        if self.settings.is_some_and(|settings| settings != row.settings) {
            wrong.push("settings are not those the timeline told last".to_owned());
        }
        wrong
    }
}
