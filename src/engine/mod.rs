//! The engine: the one door through which sessions (and later the server API) reach timelines.
//!
//! It owns the lanes, decides requests by the rules of `conversation`, commits, fans out, answers.
//! It knows no sockets.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::config::{Clock, Policy};
use crate::hub::Hub;
use crate::protocol::{AnswerBody, ClientInfo, DeviceId, ErrorCode, Request, UserId};
use crate::store::Store;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The authenticated user.
    pub user: UserId,
    /// The device the session belongs to.
    pub device: DeviceId,
}

/// Why a request was refused; becomes an error frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Code of the contract, section 7.
    pub code: ErrorCode,
    /// The offending field, where the contract names one.
    pub field: Option<&'static str>,
    /// When to try again, where that is known.
    pub retry_after_ms: Option<u64>,
}

/// What a request comes to.
pub type Answer = Result<AnswerBody, Refusal>;

/// Where a user's sync timeline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Last seq given.
    pub head: u64,
    /// Entries up to here are not kept any more.
    pub floor: u64,
}

/// A page of a user's sync timeline, ready to be written into a `sync` frame.
#[derive(Debug, Clone)]
pub struct Page {
    /// The page covers (from, to].
    pub from: u64,
    /// Last seq covered; entries left out count.
    pub to: u64,
    /// seq and the text after `{"seq":N,`; ascending, superseded and hidden ones left out.
    pub entries: Vec<(u64, Arc<str>)>,
    /// Where the timeline stood when the page was read; `to == standing.head` means caught up.
    pub standing: Standing,
}

/// Result of asking for a page.
#[derive(Debug, Clone)]
pub enum PageRead {
    /// Here it is (possibly empty, when `after` is the head).
    Page(Page),
    /// `after` is below the floor: reset `too_old`.
    BelowFloor(Standing),
    /// `after` is above the head: reset `ahead`.
    AboveHead(Standing),
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    _inner: Arc<()>,
}

impl Engine {
    /// Builds an engine over a store. `incarnation` must never have been used before with this store.
    pub fn new(_store: Arc<dyn Store>, _hub: Arc<Hub>, _clock: Clock, _policy: Policy, _incarnation: u64) -> Self {
        Self { _inner: Arc::new(()) }
    }

    /// Finishes fan-outs that a crash left undone. Serve nobody before it has returned.
    pub async fn recover(&self) -> crate::store::Result<()> {
        Ok(())
    }

    /// The epoch of the data.
    pub fn epoch(&self) -> String {
        String::new()
    }

    /// A device says hello: registers it (`too_many_connections` beyond the limit of devices) and tells
    /// where its user's timeline stands. Register the session in the hub before calling this.
    pub async fn hello(&self, _caller: &Caller, _client: Option<ClientInfo>) -> Result<Standing, Refusal> {
        Ok(Standing { head: 0, floor: 0 })
    }

    /// A device is gone (socket closed): keeps what it acknowledged, for `devices`. Never fails.
    pub fn goodbye(&self, _caller: &Caller, _acked: u64) {}

    /// Where the user's timeline stands now.
    pub async fn standing(&self, _user: &UserId) -> Result<Standing, Refusal> {
        Ok(Standing { head: 0, floor: 0 })
    }

    /// Reads at most `max_entries` numbers after `after`, at most about `max_bytes` of text (at least one
    /// entry). Judged as of now: deletes, recalls and edits committed since are respected.
    pub async fn page(
        &self,
        _user: &UserId,
        _after: u64,
        _max_entries: usize,
        _max_bytes: usize,
    ) -> Result<PageRead, Refusal> {
        Err(Refusal { code: ErrorCode::Unavailable, field: None, retry_after_ms: None })
    }

    /// Takes a request. It is queued in its lane before this returns, so requests submitted one after
    /// the other to the same lane take effect in that order; the future only waits for the answer, and
    /// dropping it takes nothing back. `sync` and `auth` are the session's own and refused here.
    ///
    /// Lanes: send, recall, edit, react, create, invite, remove, leave, update, role go through the
    /// conversation's lane; delete, clear, read, settings through the caller's; the rest only read.
    pub fn submit(&self, _caller: &Caller, _request: Request) -> BoxFuture<'static, Answer> {
        Box::pin(async { Err(Refusal { code: ErrorCode::Unavailable, field: None, retry_after_ms: None }) })
    }
}
