//! A user's sync timeline as its lane holds it between commits: head, and the rows used lately.

use std::collections::HashMap;

use bytes::Bytes;

use super::ranges::Ranges;
use super::rows;
use super::user_row::UserRow;
use crate::protocol::{ConvId, UserId};
use crate::store::{Error, Head, Result, Section, Store, TimelineId};
use crate::timeline::{Draft, Weigh};

/// Rows kept for one user; beyond, all are dropped and read again on demand.
const ROWS_IN_MEMORY: usize = 2048;
const LARGE_PAGE: usize = 1000;

/// The folded state of one sync timeline.
#[derive(Debug)]
pub struct Inbox {
    /// Whose.
    pub user: UserId,
    /// His timeline.
    pub timeline: TimelineId,
    /// Where it stands.
    pub head: Head,
    rows: HashMap<ConvId, Option<UserRow>>,
    hidden: HashMap<ConvId, Ranges>,
}

impl Weigh for Inbox {
    fn bytes(&self) -> usize {
        const SELF: usize = 512;
        const ROW: usize = 200;
        SELF + (self.rows.len() + self.hidden.len()) * ROW
    }
}

impl Inbox {
    /// Reads the head; rows come on demand.
    pub async fn load(store: &dyn Store, user: &UserId) -> Result<Self> {
        let timeline = TimelineId::User(user.clone());
        let head = store.head(&timeline).await?;
        Ok(Self { user: user.clone(), timeline, head, rows: HashMap::new(), hidden: HashMap::new() })
    }

    /// The row of a conversation, if there is one.
    pub async fn row(&mut self, store: &dyn Store, conv: &ConvId) -> Result<Option<UserRow>> {
        if let Some(row) = self.rows.get(conv) {
            return Ok(row.clone());
        }
        if self.rows.len() >= ROWS_IN_MEMORY {
            self.rows.clear();
            self.hidden.clear();
        }
        let row = read_row(store, &self.timeline, conv).await?;
        self.rows.insert(conv.clone(), row.clone());
        Ok(row)
    }

    /// What the user deleted there; `row` says whether there is anything to read.
    pub async fn hidden(&mut self, store: &dyn Store, conv: &ConvId, row: &UserRow) -> Result<Ranges> {
        if !row.has_hidden {
            return Ok(Ranges::default());
        }
        if let Some(ranges) = self.hidden.get(conv) {
            return Ok(ranges.clone());
        }
        let ranges = read_hidden(store, &self.timeline, conv).await?;
        self.hidden.insert(conv.clone(), ranges.clone());
        Ok(ranges)
    }

    /// Writes a row, here and in the draft.
    pub fn set_row(&mut self, draft: &mut Draft, conv: &ConvId, row: UserRow) {
        draft.row(rows::conv_key(conv), Some(row.store()), None);
        self.rows.insert(conv.clone(), Some(row));
    }

    /// Removes a row and what was deleted there, here and in the draft.
    pub fn forget(&mut self, draft: &mut Draft, conv: &ConvId) {
        draft.row(rows::conv_key(conv), None, None);
        draft.row(rows::hidden_key(conv), None, None);
        draft.row(rows::large_key(conv), None, None);
        self.rows.insert(conv.clone(), None);
        self.hidden.insert(conv.clone(), Ranges::default());
    }

    /// Notes in the draft that the user is (or is no longer) in a large conversation.
    pub fn set_large(&self, draft: &mut Draft, conv: &ConvId, member: bool) {
        draft.row(rows::large_key(conv), member.then(|| Bytes::from_static(b"1")), None);
    }

    /// Writes the deleted ranges, here and in the draft.
    pub fn set_hidden(&mut self, draft: &mut Draft, conv: &ConvId, ranges: Ranges) {
        draft.row(rows::hidden_key(conv), Some(ranges.store()), None);
        self.hidden.insert(conv.clone(), ranges);
    }
}

/// The next conversations a user has rows of, after the given one.
pub async fn conversations_of(
    store: &dyn Store,
    user: &UserId,
    after: Option<&ConvId>,
    limit: usize,
) -> Result<Vec<ConvId>> {
    let timeline = TimelineId::User(user.clone());
    let page = store.rows(&timeline, Section::Conv, after.map(rows::conv_key), u64::MAX, limit).await?;
    let name = |id: &str| ConvId::parse(id).map_err(|_| Error::Damaged(format!("row {id} of {timeline:?}")));
    page.iter().map(|(key, _)| name(&key.id)).collect()
}

/// The large conversations a user is in.
pub async fn large_of(store: &dyn Store, user: &UserId) -> Result<Vec<ConvId>> {
    let timeline = TimelineId::User(user.clone());
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.rows(&timeline, Section::Large, after, u64::MAX, LARGE_PAGE).await?;
        for (key, _) in &page {
            found.push(ConvId::parse(&key.id).map_err(|_| Error::Damaged(format!("row {key:?} of {timeline:?}")))?);
        }
        match page.into_iter().nth(LARGE_PAGE - 1) {
            Some((key, _)) => after = Some(key),
            None => return Ok(found),
        }
    }
}

/// A user's row of a conversation, from the store.
pub async fn read_row(store: &dyn Store, timeline: &TimelineId, conv: &ConvId) -> Result<Option<UserRow>> {
    let Some(value) = store.row(timeline, &rows::conv_key(conv)).await? else { return Ok(None) };
    let damaged = || Error::Damaged(format!("row of {conv} in {timeline:?}"));
    UserRow::load(&value).ok_or_else(damaged).map(Some)
}

/// What a user deleted in a conversation, from the store; `row` says whether there is anything to read.
pub async fn hidden_of(store: &dyn Store, timeline: &TimelineId, conv: &ConvId, row: &UserRow) -> Result<Ranges> {
    if row.has_hidden { read_hidden(store, timeline, conv).await } else { Ok(Ranges::default()) }
}

/// What a user deleted in a conversation, whatever his row says.
pub async fn read_hidden(store: &dyn Store, timeline: &TimelineId, conv: &ConvId) -> Result<Ranges> {
    let Some(value) = store.row(timeline, &rows::hidden_key(conv)).await? else { return Ok(Ranges::default()) };
    Ranges::load(&value).ok_or_else(|| Error::Damaged(format!("deleted ranges of {conv} in {timeline:?}")))
}
