//! What flows to the client: pages of the log until the head, then what is pushed.
//!
//! ```text
//!            follow() says nothing newer was pushed
//!   Behind ------------------------------------------> Live
//!   (pages) <----------------------------------------- (queue)
//!            overflow, gap, full window, `sync`, a batch that must be read whole
//! ```
//!
//! Every frame continues the one before. It must not keep entries that do not fit the window: they are
//! in the log.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::End;
use super::cursor::Cursor;
use super::large::begins_following;
use super::run::{Done, Session};
use super::socket::Transport;
use crate::engine::{Page, PageRead, Refusal, Standing};
use crate::hub::{Live, Signal};
use crate::planted::{Bug, planted};
use crate::protocol::{ErrorCode, ErrorFrame, MsgId, Reset, ResetReason, ServerFrame, write_sync_frame};

/// First and longest pause before a page that could not be read is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Empty pages in a row that are followed by another at once.
const MAX_FRUITLESS: u32 = 3;
/// What an entry costs in a frame beside its text.
const ENTRY_OVERHEAD: usize = 32;

/// State of the flow.
pub(super) struct Feed {
    /// Entries come through the queue; else pages are read.
    live: bool,
    /// The client waits for the frame that reaches the head, even an empty one.
    announce: bool,
    /// A page is being read.
    reading: bool,
    /// Pages asked for under an older number are of no use.
    generation: u32,
    /// The largest head this session has heard of.
    known_head: u64,
    retry_at: Option<Instant>,
    failures: u32,
    /// Pages in a row that held nothing although more was announced.
    fruitless: u32,
    /// The `sync` request the next frame answers.
    answers: Option<MsgId>,
    /// `sync` requests behind it.
    syncs: VecDeque<(MsgId, u64)>,
    /// The cursor before a `sync` whose number has not been found good yet.
    unproved: Option<Cursor>,
}

impl Feed {
    /// Behind, at a moment when the head is `head`.
    pub(super) fn new(head: u64) -> Self {
        Self {
            live: false,
            announce: true,
            reading: false,
            generation: 0,
            known_head: head,
            retry_at: None,
            failures: 0,
            fruitless: 0,
            answers: None,
            syncs: VecDeque::new(),
            unproved: None,
        }
    }

    /// The newest head heard of.
    pub(super) fn known_head(&self) -> u64 {
        self.known_head
    }

    /// When a page is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// `sync` requests not answered yet.
    pub(super) fn open_syncs(&self) -> usize {
        self.syncs.len() + usize::from(self.answers.is_some())
    }
}

impl<S: Transport> Session<S> {
    /// Goes on towards the head, as far as is possible now. Harmless at any time.
    pub(super) fn catch_up(&mut self) {
        if self.feed.live || self.feed.reading || self.feed.retry_at.is_some() {
            return;
        }
        if self.feed.answers.is_none()
            && let Some((id, after)) = self.feed.syncs.pop_front()
        {
            self.feed.unproved.get_or_insert(self.cursor);
            self.cursor.jump(after);
            self.feed.answers = Some(id);
            self.feed.announce = true;
            return self.read_page();
        }
        let position = self.cursor.sent();
        if self.feed.answers.is_none() && position >= self.feed.known_head && self.presence.seat.follow(position) {
            self.feed.live = true;
            if std::mem::take(&mut self.feed.announce) {
                self.sync_frame(position, position, true, std::iter::empty());
            }
            return;
        }
        // However little room there is: acknowledgements that come while a page is read add up to more.
        if self.cursor.room() > 0 {
            self.read_page();
        }
    }

    fn read_page(&mut self) {
        self.feed.reading = true;
        let shared = self.shared();
        let (engine, user) = (shared.engine.clone(), self.presence.caller.user.clone());
        let (after, bytes, generation) = (self.cursor.sent(), shared.limits.page_bytes, self.feed.generation);
        let entries = usize::try_from(self.cursor.room()).unwrap_or(usize::MAX);
        shared.meters.pages.increment(1);
        let seconds = shared.meters.page_seconds.clone();
        self.work.push(Box::pin(async move {
            let begun = Instant::now();
            let result = engine.page(&user, after, entries, bytes).await;
            seconds.record(begun.elapsed());
            Done::Page { generation, result }
        }));
    }

    /// A page is there, or why it is not.
    pub(super) fn page_read(&mut self, generation: u32, result: Result<PageRead, Refusal>) {
        if generation != self.feed.generation {
            return;
        }
        self.feed.reading = false;
        match result {
            Ok(PageRead::Page(page)) => self.send_page(&page),
            Ok(PageRead::BelowFloor(standing)) => self.reset(ResetReason::TooOld, standing),
            Ok(PageRead::AboveHead(standing)) => self.reset(ResetReason::Ahead, standing),
            Err(refusal) => self.page_failed(&refusal),
        }
        self.catch_up();
    }

    fn send_page(&mut self, page: &Page) {
        let position = self.cursor.sent();
        let live = page.to >= page.standing.head;
        let continues = page.from == position && page.to >= position && page.to <= self.cursor.limit();
        if !continues || (page.to == position && !live) {
            let (from, to, head) = (page.from, page.to, page.standing.head);
            tracing::error!(from, to, head, position, "a page does not continue the position");
            return self.page_failed(&unavailable());
        }
        // Now and then something is pushed just behind an empty page; not many times in a row.
        let fruitless = if page.to == position && !self.feed.announce { self.feed.fruitless + 1 } else { 0 };
        self.feed.fruitless = fruitless;
        if fruitless > MAX_FRUITLESS {
            return self.page_failed(&unavailable());
        }
        self.feed.failures = 0;
        if self.feed.unproved.take().is_some() {
            self.presence.seat.set_acked(self.cursor.acked());
        }
        self.feed.known_head = self.feed.known_head.max(page.standing.head);
        if page.to > position || self.feed.announce {
            let entries = page.entries.iter().map(|(seq, text)| (*seq, &**text));
            self.sync_frame(position, page.to, live, entries);
        }
        if live {
            self.feed.announce = false;
        }
    }

    /// Adds a `sync` frame, which carries the id of the request it answers, and moves the position.
    fn sync_frame<'a>(&mut self, from: u64, to: u64, live: bool, entries: impl Iterator<Item = (u64, &'a str)>) {
        let id = self.feed.answers.take();
        let mut follows = false;
        let me = &self.presence.caller.user;
        let entries = entries.inspect(|(_, text)| follows |= begins_following(text, me));
        self.socket.feed(|out| write_sync_frame(out, id.as_ref(), from, to, live, entries));
        self.cursor.advance(to);
        self.shared().meters.syncs_out.increment(1);
        if follows {
            self.look_at_large();
        }
    }

    /// Tries again later; who asked for it is told.
    fn page_failed(&mut self, refusal: &Refusal) {
        tracing::debug!(code = %refusal.code, "page not read");
        if let Some(id) = self.feed.answers.take() {
            let mut error = ErrorFrame::new(Some(id), refusal.code);
            error.retry_after_ms = refusal.retry_after_ms;
            self.tell(error);
        }
        let pause = RETRY.0.saturating_mul(1 << self.feed.failures.min(10)).min(RETRY.1);
        self.feed.failures = self.feed.failures.saturating_add(1);
        self.feed.retry_at = Some(Instant::now() + pause);
        self.rearm = true;
    }

    /// The pause after a failure may be over.
    pub(super) fn retry_page(&mut self) {
        if self.feed.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.feed.retry_at = None;
            self.catch_up();
        }
    }

    /// The cursor is of no use: position and acknowledgement become the head.
    fn reset(&mut self, reason: ResetReason, standing: Standing) {
        let reset = Reset {
            id: self.feed.answers.take(),
            reason,
            epoch: self.shared().engine.epoch(),
            head_seq: standing.head,
            floor_seq: standing.floor,
        };
        tracing::debug!(?reason, head = standing.head, "reset");
        self.shared().meters.reset_out(reason);
        self.socket.feed_text(&ServerFrame::Reset(reset).to_json());
        if let Some(before) = self.feed.unproved.take() {
            // What a wrong number claimed to have counts for nothing.
            self.cursor = before;
        }
        self.cursor.reset(standing.head);
        self.presence.seat.set_acked(standing.head);
        self.feed.known_head = standing.head;
        self.feed.announce = true;
        // An entry that began a following may have been skipped.
        self.skipped_to_large();
    }

    /// `sync`: goes on from `after`, answered by the frame that does.
    pub(super) fn sync_from(&mut self, id: MsgId, after: u64) {
        self.feed.syncs.push_back((id, after));
        if self.feed.answers.is_none() {
            self.feed.retry_at = None;
            self.fall_behind();
        }
    }

    /// Leaves the queue, and any page under way, for the log.
    fn fall_behind(&mut self) {
        self.presence.seat.unfollow();
        self.feed.live = false;
        self.feed.reading = false;
        self.feed.generation = self.feed.generation.wrapping_add(1);
        self.catch_up();
    }

    /// The head is at least this. If it should have been pushed long ago, the log has it.
    pub(super) fn noticed_head(&mut self, head: u64) {
        self.feed.known_head = self.feed.known_head.max(head);
        if self.feed.live && head > self.cursor.sent() {
            self.fall_behind();
        }
    }

    /// The hub has something: entries, the news of an overflow, or a request to close.
    pub(super) async fn signalled(&mut self) -> Result<(), End> {
        let mut batch = std::mem::take(&mut self.batch);
        match self.presence.seat.take(&mut batch) {
            Signal::Close(code) => return Err(code.into()),
            Signal::Behind if self.feed.live => self.fall_behind(),
            Signal::Behind => {}
            Signal::Entries => self.push(&batch).await?,
        }
        batch.clear();
        self.batch = batch;
        self.large_moved();
        Ok(())
    }

    /// Sends what was queued, unless the log must be read for it.
    async fn push(&mut self, batch: &[Live]) -> Result<(), End> {
        let position = self.cursor.sent();
        let known = batch.partition_point(|entry| entry.seq <= position);
        let fresh = batch.get(known..).unwrap_or_default();
        let Some(last) = fresh.last() else { return Ok(()) };
        let dense = (position + 1..).zip(fresh).all(|(seq, entry)| entry.seq == seq) || planted(Bug::HintTrusted);
        let read_whole = fresh.len() > 1 && fresh.iter().any(|entry| entry.changes_earlier);
        if !self.feed.live || !dense || read_whole || last.seq > self.cursor.limit() {
            self.fall_behind();
            return Ok(());
        }
        let page = self.shared().limits.page_bytes;
        let mut rest = fresh;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(fitting(rest, page));
            let to = part.last().map_or(self.cursor.sent(), |entry| entry.seq);
            let shown = part.iter().filter_map(|entry| Some((entry.seq, entry.text.as_deref()?)));
            self.sync_frame(self.cursor.sent(), to, true, shown);
            rest = later;
            if !rest.is_empty() {
                self.write().await?;
            }
        }
        Ok(())
    }
}

fn unavailable() -> Refusal {
    Refusal { code: ErrorCode::Unavailable, field: None, retry_after_ms: None }
}

/// How many of the entries fit into about `bytes`; at least one.
fn fitting(entries: &[Live], bytes: usize) -> usize {
    let mut sum = 0_usize;
    let over = entries.iter().position(|entry| {
        sum += ENTRY_OVERHEAD + entry.text.as_ref().map_or(0, |text| text.len());
        sum > bytes
    });
    over.unwrap_or(entries.len()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_what_fits_and_at_least_one() {
        let entry = |size: usize| Live { seq: 1, text: Some("x".repeat(size).into()), changes_earlier: false };
        let entries = [entry(100), entry(100), entry(100)];
        assert_eq!(fitting(&entries, 1000), 3);
        assert_eq!(fitting(&entries, 300), 2);
        assert_eq!(fitting(&entries, 1), 1);
    }
}
