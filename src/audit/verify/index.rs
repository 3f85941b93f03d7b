//! The change index, the targets, the bodies that must be gone, and the dedupe rows.
//!
//! Both directions: every change in the log has its row and its place in its target, and every number
//! a row names is a change of that kind in the log.

use std::collections::BTreeMap;

use super::conversation::{Decoded, decode};
use super::{Audit, last_key};
use crate::conversation::entry::Kind;
use crate::conversation::rows::{self, Change, ChangeKind, SentAs, Target, Word};
use crate::protocol::{Event, UserId};
use crate::store::{Result, RowKey, Section, TimelineId};

/// Index rows that belong to one page of the log.
pub(super) struct Indexed {
    changes: BTreeMap<u64, Change>,
    targets: BTreeMap<u64, Target>,
    words: Words,
}

/// Who said last what with which key about the message at this number.
type Words = BTreeMap<u64, Vec<(String, UserId, Word)>>;

impl Indexed {
    /// Rows of the entries in (after, up_to].
    pub(super) async fn load(audit: &mut Audit<'_>, timeline: &TimelineId, after: u64, up_to: u64) -> Result<Self> {
        let changes = load(audit, timeline, rows::change_key(after), up_to).await?;
        let targets = load(audit, timeline, rows::target_key(after), up_to).await?;
        let words = load_words(audit, timeline, after, up_to).await?;
        Ok(Self { changes, targets, words })
    }

    /// Where the message at `seq` was recalled.
    pub(super) fn recalled_at(&self, seq: u64) -> Option<u64> {
        self.targets.get(&seq)?.recall.as_ref().map(|(recall, _)| *recall)
    }

    /// Compares the rows of one entry with it, and takes them out.
    pub(super) async fn check(&mut self, audit: &mut Audit<'_>, timeline: &TimelineId, at: &Decoded) -> Result<()> {
        let seq = at.entry.seq;
        if let Some(kind) = change_kind(at.header.kind) {
            let expected = Change { kind, target: at.header.target };
            match self.changes.remove(&seq) {
                Some(change) if change == expected => {}
                Some(_) => audit.differs(timeline, format!("change index at {seq} is not what the log has")),
                None => audit.differs(timeline, format!("change {seq} is not in the change index")),
            }
            let target = rows::read(audit.store, timeline, &rows::target_key(at.header.target)).await?;
            let word = match &at.event {
                Event::Reaction { target, user_id, key, .. } => {
                    rows::read(audit.store, timeline, &rows::word_key(*target, key, user_id)).await?
                }
                _ => None,
            };
            let wrong = check_change(&target.unwrap_or_default(), word, at);
            wrong.into_iter().for_each(|what| audit.differs(timeline, what));
        }
        let target = match at.header.kind {
            Kind::Message => self.targets.remove(&seq).unwrap_or_default(),
            _ => return Ok(()),
        };
        let words = self.words.remove(&seq).unwrap_or_default();
        if let Event::Message(message) = &at.event {
            let recalled = target.recall.is_some();
            if recalled != message.recalled || recalled == message.body.is_some() {
                let what = if recalled { "is recalled, but its body is there" } else { "has no body" };
                audit.differs(timeline, format!("message {seq} {what}"));
            }
        }
        check_counts(&target, &words)
            .into_iter()
            .for_each(|what| audit.differs(timeline, format!("message {seq}: {what}")));
        check_target(audit, timeline, at, &target, &words).await
    }

    /// Rows that no entry of the page accounts for.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let changes = self.changes.keys().map(|seq| format!("change index names {seq}, which is no change"));
        let targets = self.targets.keys().map(|seq| format!("target row of {seq}, which is no message"));
        let words = self.words.keys().map(|seq| format!("reactions to {seq}, which is no message"));
        changes.chain(targets).chain(words).collect()
    }
}

async fn load<T: serde::de::DeserializeOwned>(
    audit: &mut Audit<'_>,
    timeline: &TimelineId,
    after: RowKey,
    up_to: u64,
) -> Result<BTreeMap<u64, T>> {
    let (mut found, section, mut after) = (BTreeMap::new(), after.section, after);
    loop {
        let page = audit.rows(timeline, section, Some(after), up_to).await?;
        for (key, value) in &page {
            match rows::unpack(timeline, key, value) {
                Ok(row) => drop(found.insert(key.n, row)),
                Err(_) => audit.differs(timeline, format!("{section:?} row of {} is unreadable", key.n)),
            }
        }
        match last_key(page) {
            Some(key) => after = key,
            None => return Ok(found),
        }
    }
}

async fn load_words(audit: &mut Audit<'_>, timeline: &TimelineId, after: u64, up_to: u64) -> Result<Words> {
    let mut words = Words::new();
    let mut from = Some(rows::words_from(after + 1));
    loop {
        let page = audit.rows(timeline, Section::Word, from, up_to).await?;
        for (key, value) in &page {
            match (rows::of_word(key), rows::unpack(timeline, key, value)) {
                (Some((name, user)), Ok(word)) => words.entry(key.n).or_default().push((name.to_owned(), user, word)),
                _ => audit.differs(timeline, format!("word {:?} about {} is unreadable", key.id, key.n)),
            }
        }
        match last_key(page) {
            Some(key) => from = Some(key),
            None => return Ok(words),
        }
    }
}

fn change_kind(kind: Kind) -> Option<ChangeKind> {
    match kind {
        Kind::Recall => Some(ChangeKind::Recall),
        Kind::Edit => Some(ChangeKind::Edit),
        Kind::Reaction => Some(ChangeKind::Reaction),
        _ => None,
    }
}

/// A change in the log must be in its target's row.
fn check_change(target: &Target, word: Option<Word>, at: &Decoded) -> Option<String> {
    let seq = at.entry.seq;
    let is_there = match &at.event {
        Event::Recall { by, .. } => target.recall.as_ref() == Some(&(seq, by.clone())),
        Event::Edit { .. } => target.edits.contains(&seq),
        Event::Reaction { add, .. } => {
            word.is_some_and(|word| word.conv_seq > seq || (word.conv_seq == seq && word.add == *add))
                && target.last_word >= seq
        }
        _ => true,
    };
    let op = at.event.op();
    (!is_there).then(|| format!("{op} {seq} is not in the row of its target {}", at.header.target))
}

/// What a target's row says of reactions must be what the words come to.
fn check_counts(target: &Target, words: &[(String, UserId, Word)]) -> Option<String> {
    let mut users: BTreeMap<&str, Vec<&UserId>> = BTreeMap::new();
    for (key, user, _) in words.iter().filter(|(_, _, word)| word.add) {
        users.entry(key).or_default().push(user);
    }
    let last = words.iter().map(|(_, _, word)| word.conv_seq).max().unwrap_or(0);
    if last != target.last_word {
        return Some(format!("its row has {} as the last reaction, there is {last}", target.last_word));
    }
    for with in &target.reactions {
        let found = users.remove(&*with.key).unwrap_or_default();
        if with.count != found.len() as u64 || !with.users.iter().all(|user| found.contains(&user)) {
            return Some(format!(
                "its row has {} reactions with {:?}, there are {}",
                with.count,
                with.key,
                found.len()
            ));
        }
    }
    users.into_keys().next().map(|key| format!("its row has no reaction with {key:?}"))
}

/// Every number in a target's row, and in the words about it, must be such a change in the log, and of this message.
async fn check_target(
    audit: &mut Audit<'_>,
    timeline: &TimelineId,
    message: &Decoded,
    target: &Target,
    words: &[(String, UserId, Word)],
) -> Result<()> {
    let seq = message.entry.seq;
    let recall = target.recall.iter().map(|(at, _)| (*at, Kind::Recall));
    let edits = target.edits.iter().map(|at| (*at, Kind::Edit));
    let reactions = words.iter().map(|(_, _, word)| (word.conv_seq, Kind::Reaction));
    let recalled_at = target.recall.as_ref().map(|(at, _)| *at);
    if !target.edits.is_sorted() {
        audit.differs(timeline, format!("edits of {seq} are not in order"));
    }
    for (at, kind) in recall.chain(edits).chain(reactions) {
        let change = audit.entry(timeline, at).await?.and_then(decode);
        let header = change.as_ref().map(|change| &change.header);
        let real = header.is_some_and(|header| {
            header.kind == kind && header.target == seq && header.target_sender == message.header.by
        });
        if !real {
            audit.differs(timeline, format!("target row of {seq} names {at}, which is no {kind:?} of it"));
        }
        if recalled_at.is_some_and(|recall| at > recall) {
            audit.differs(timeline, format!("message {seq} was changed at {at}, after its recall"));
        }
        if let (Some(Event::Edit { body, .. }), Some(_)) = (change.map(|change| change.event), recalled_at)
            && body.as_str() != "{}"
        {
            audit.differs(timeline, format!("message {seq} is recalled, but the body of its edit {at} is there"));
        }
    }
    Ok(())
}

/// There must be no index rows above the head.
pub(super) async fn beyond(audit: &mut Audit<'_>, timeline: &TimelineId, head: u64) -> Result<()> {
    for after in [rows::change_key(head), rows::target_key(head), rows::words_from(head + 1)] {
        let section = after.section;
        let page = audit.rows(timeline, section, Some(after), u64::MAX).await?;
        if let Some((key, _)) = page.first() {
            audit.differs(timeline, format!("{section:?} row of {} is above the head, {head}", key.n));
        }
    }
    Ok(())
}

/// Every dedupe row names the message that was sent under its key.
pub(super) async fn dedupe(audit: &mut Audit<'_>, timeline: &TimelineId) -> Result<()> {
    let mut after = None;
    loop {
        let page = audit.rows(timeline, Section::Dedupe, after, u64::MAX).await?;
        for (key, value) in &page {
            let Ok(sent) = rows::unpack::<SentAs>(timeline, key, value) else {
                audit.differs(timeline, format!("dedupe row {:?} is unreadable", key.id));
                continue;
            };
            let message = audit.entry(timeline, sent.conv_seq).await?.and_then(decode);
            let is_it = match message.map(|message| message.event) {
                Some(Event::Message(message)) => {
                    rows::dedupe_key(&message.sender_id, &message.client_msg_id) == *key
                        && message.sent_at == sent.sent_at
                }
                Some(Event::Notification { .. }) => key.id.starts_with('\n'),
                _ => false,
            };
            if !is_it {
                let place = sent.conv_seq;
                audit.differs(timeline, format!("dedupe row {:?} names {place}, which is another entry", key.id));
            }
        }
        match last_key(page) {
            Some(key) => after = Some(key),
            None => return Ok(()),
        }
    }
}
