//! Answers that only read: history, changes, conversations, members. Each takes the head first and is
//! judged by the conversation's own log; whoever never was a member is told what one is told of a
//! conversation that does not exist.

mod changes;
mod history;
mod list;
mod reactions;
pub mod whole;

use super::Refusal;
use super::decide::NotDecided;
use super::inbox::{hidden_of, read_row};
use super::ranges::Ranges;
use super::user_row::UserRow;
use super::view::View;
use crate::protocol::limits::MAX_SERVER_FRAME;
use crate::protocol::{AnswerBody, ConvId, ErrorCode, HistoryFrom, UserId, encoded_len};
use crate::store::{Error, Result, Store, TimelineId};

/// Reads on behalf of one user.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// Where timelines are.
    pub store: &'a dyn Store,
    /// Who reads.
    pub user: &'a UserId,
}

type Answer = std::result::Result<AnswerBody, Refusal>;

/// Bytes of one answer; well below what a frame may hold, for what stands beside the parts counted.
const MOST_BYTES: usize = MAX_SERVER_FRAME / 2;

/// How full an answer is, counted in what is really written: an answer that outgrows a frame never arrives,
/// and who asks for it would ask the same for ever.
#[derive(Default)]
struct Filled(usize);

impl Filled {
    /// Whether an answer has room for this part, which is counted if so. The first always has.
    fn takes<T: serde::Serialize>(&mut self, part: &T) -> bool {
        let after = self.0 + encoded_len(part) + 1;
        let takes = self.0 == 0 || after <= MOST_BYTES;
        if takes {
            self.0 = after;
        }
        takes
    }
}

fn refused(error: NotDecided) -> Refusal {
    match error {
        NotDecided::Refused(refusal) => refusal,
        NotDecided::Store(error) => {
            tracing::warn!(%error, "read failed");
            Refusal::new(ErrorCode::Unavailable)
        }
    }
}

/// A conversation and what this user did with it for himself.
struct Seen {
    view: View,
    row: UserRow,
    hidden: Ranges,
}

impl Seen {
    /// Whether the user is shown the message at `seq`.
    fn shows(&self, seq: u64) -> bool {
        self.view.sees(seq) && seq > self.row.cleared_up_to && !self.hidden.contains(seq)
    }
}

impl Reader<'_> {
    fn timeline(&self) -> TimelineId {
        TimelineId::User(self.user.clone())
    }

    async fn seen(&self, conv: &ConvId) -> Result<Option<Seen>> {
        let Some(view) = View::load(self.store, conv, self.user).await? else { return Ok(None) };
        let row = read_row(self.store, &self.timeline(), conv).await?.unwrap_or_default();
        let hidden = hidden_of(self.store, &self.timeline(), conv, &row).await?;
        Ok(Some(Seen { view, row, hidden }))
    }

    async fn must_see(&self, conv: &ConvId) -> std::result::Result<Seen, NotDecided> {
        self.seen(conv).await?.ok_or(NotDecided::from(ErrorCode::NotFound))
    }

    /// `history`.
    ///
    /// # Errors
    /// `not_found`, `unavailable`.
    pub async fn history(&self, conv: &ConvId, from: HistoryFrom, limit: u32) -> Answer {
        self.read_history(conv, from, limit as usize).await.map_err(refused)
    }

    /// `changes`.
    ///
    /// # Errors
    /// `not_found`, `unavailable`.
    pub async fn changes(&self, conv: &ConvId, since: u64) -> Answer {
        self.read_changes(conv, since).await.map_err(refused)
    }

    /// `conversations`.
    ///
    /// # Errors
    /// `invalid_field` for a page that was not ours, `unavailable`.
    pub async fn conversations(&self, active_after: Option<u64>, page: Option<&str>, limit: u32) -> Answer {
        self.list_conversations(active_after, page, limit as usize).await.map_err(refused)
    }

    /// `members`.
    ///
    /// # Errors
    /// `not_found`, `unavailable`.
    pub async fn members(&self, conv: &ConvId, page: Option<&str>, limit: u32) -> Answer {
        self.list_members(conv, page, limit as usize).await.map_err(refused)
    }
}

fn damaged(view: &View, seq: u64) -> NotDecided {
    NotDecided::Store(Error::Damaged(format!("entry {seq} of {}", view.id)))
}
