//! The loop of a session: what it attends to, and in which order.
//!
//! Everything that takes time runs beside the loop (pages, answers, heads) and comes back as a [`Done`];
//! only writing is awaited in place, because a client that does not read must stop us from doing more
//! for it. Frames are gathered and written when nothing else is ready, so a burst costs one write.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::{Span, info_span};

use super::cursor::Cursor;
use super::feed::Feed;
use super::hello::{Guest, Presence};
use super::large::Heads;
use super::order::Order;
use super::socket::{Ended, Socket, Transport};
use super::{End, Shared, finish, rate};
use crate::engine::{Answer, Followed, PageRead, Refusal, Standing};
use crate::hub::Live;
use crate::planted::{Bug, planted};
use crate::presence::Ears;
use crate::protocol::{AnswerBody, CloseCode, ConvId, ErrorCode, ErrorFrame, MsgId, ServerFrame};

/// Gathered bytes above this are written even though more is ready.
const WRITE_AT: usize = 64 * 1024;
/// So many events are taken before what is gathered is written even though more is ready.
const EVENTS_A_WRITE: u32 = 64;
/// Pings without a pong; the next one due ends the session.
const MISSED_PONGS: u32 = 2;

/// Work that ran beside the loop and is done.
pub(super) enum Done {
    /// A request was answered.
    Answer { id: MsgId, conv: Option<ConvId>, answer: Answer },
    /// A page was read; of an older generation it is of no use any more.
    Page { generation: u32, result: Result<PageRead, Refusal> },
    /// The head for a heartbeat.
    Head(Result<Standing, Refusal>),
    /// It was looked which large conversations there are.
    Large(Result<Vec<Followed>, Refusal>),
    /// Whoever is to know that this user types was told.
    Typing,
    /// Another token was checked against revocations.
    Renewed { id: MsgId, token: TokenTimes, checked: Result<(), Refusal> },
}

/// When a token was issued and until when it is good.
pub(super) struct TokenTimes {
    pub(super) valid_until_ms: u64,
    pub(super) issued_at_ms: Option<u64>,
}

enum Event {
    Signal,
    Done(Done),
    Due,
    Text(Result<Utf8Bytes, Ended>),
    /// Presence or typing of somebody this session watches.
    Ephemeral(Arc<str>),
    Quiet,
}

/// What of an event needs waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// The hub's news may be more than is written at once.
    Signal,
    /// A text was taken, and may have been large.
    Shrink,
    /// Nothing else is ready.
    Write,
}

/// One welcomed device on one socket.
pub(super) struct Session<S> {
    pub(super) socket: Socket<S>,
    pub(super) presence: Presence,
    pub(super) cursor: Cursor,
    pub(super) feed: Feed,
    pub(super) heads: Box<Heads>,
    pub(super) order: Order,
    pub(super) work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Emptied between batches; keeps little room.
    pub(super) batch: Vec<Live>,
    /// Looked up at the first request.
    pub(super) buckets: Option<rate::Shared>,
    /// Made by the first `presence`.
    pub(super) ears: Option<Arc<Ears>>,
    /// The last `typing` that was told.
    pub(super) typed: Option<(ConvId, Instant)>,
    pub(super) valid_until_ms: u64,
    issued_at_ms: Option<u64>,
    pub(super) bad_json: u32,
    pub(super) unanswered_pings: u32,
    pinging: bool,
    last_write: Instant,
    /// When the head was last asked for because the bus may be silent.
    last_look: Instant,
    events: u32,
    /// A due time moved forward: the timer must be set anew.
    pub(super) rearm: bool,
}

impl<S: Transport> Session<S> {
    pub(super) fn new(guest: Guest, socket: Socket<S>) -> Self {
        Self {
            socket,
            presence: guest.presence,
            cursor: guest.cursor,
            feed: Feed::new(guest.head),
            heads: Box::new(guest.heads),
            order: Order::default(),
            work: FuturesUnordered::new(),
            batch: Vec::new(),
            buckets: None,
            ears: None,
            typed: None,
            valid_until_ms: guest.valid_until_ms,
            issued_at_ms: guest.issued_at_ms,
            bad_json: guest.bad_json,
            unanswered_pings: 0,
            pinging: false,
            last_write: Instant::now(),
            last_look: Instant::now(),
            events: 0,
            rearm: false,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.presence.shared
    }

    /// Tells whose logs these are.
    pub(super) fn span(&self) -> Span {
        let Presence { shared, caller, number, .. } = &self.presence;
        let session = shared.session_id(*number);
        info_span!("session", user = %caller.user, device = %caller.device, session)
    }

    /// Serves until the end, and closes.
    pub(super) async fn run(mut self: Box<Self>) {
        tracing::debug!(position = self.cursor.sent(), "session begins");
        let end = self.attend().await;
        // Boxed: its memory is only needed now.
        Box::pin(self.conclude(end)).await;
    }

    async fn conclude(mut self: Box<Self>, end: End) {
        let revoked = end == End::from(CloseCode::Revoked);
        if revoked || end == End::from(CloseCode::Restart) {
            self.finish_requests().await;
        }
        if revoked {
            self.tell(ErrorFrame::new(None, ErrorCode::Revoked));
        }
        let Self { socket, presence, work, heads, .. } = *self;
        // The device is gone for everybody before the peer is given time to answer.
        drop(presence);
        drop(work);
        drop(heads);
        finish(socket, end).await;
    }

    async fn attend(&mut self) -> End {
        self.catch_up();
        self.look_at_large();
        let timer = sleep_until(self.next_due());
        tokio::pin!(timer);
        loop {
            let event = self.next_event(timer.as_mut()).await;
            // An event is large, so it is taken apart before the next await: it must not be in the task.
            let settled = match self.handle(event) {
                Ok(rest) => self.settle(rest, timer.as_mut()).await,
                Err(end) => Err(end),
            };
            if let Err(end) = settled {
                return end;
            }
        }
    }

    async fn next_event(&mut self, timer: Pin<&mut Sleep>) -> Event {
        let reading = self.order.open() < self.presence.shared.limits.requests_in_flight;
        let Self { socket, presence, work, ears, .. } = self;
        let gathered = socket.gathered() > 0;
        tokio::select! {
            biased;
            // The hub first: a close must not wait behind a busy client, and pushing is what we are for.
            () = poll_fn(|cx| presence.seat.poll_signal(cx)) => Event::Signal,
            // Then what is done, which makes room for more; it is bounded by what was asked.
            Some(done) = work.next(), if !work.is_empty() => Event::Done(done),
            // Time before the client, who could otherwise keep an expired token alive by talking.
            () = timer => Event::Due,
            // The client, unless it has asked for too much already.
            text = socket.read(), if reading => Event::Text(text),
            // What may be lost comes after all that may not.
            frame = poll_fn(|cx| ears.as_ref().map_or(Poll::Pending, |ears| ears.poll(cx))), if ears.is_some() =>
                Event::Ephemeral(frame),
            // Nothing is ready: the moment to write.
            () = ready(()), if gathered => Event::Quiet,
        }
    }

    /// All of an event that needs no waiting.
    fn handle(&mut self, event: Event) -> Result<Rest, End> {
        match event {
            Event::Signal => return Ok(Rest::Signal),
            Event::Quiet => return Ok(Rest::Write),
            Event::Done(Done::Answer { id, conv, answer }) => self.answered(id, conv.as_ref(), answer)?,
            Event::Done(Done::Page { generation, result }) => self.page_read(generation, result),
            Event::Done(Done::Typing) => {}
            Event::Ephemeral(frame) => {
                self.shared().meters.ephemeral_out.increment(1);
                self.socket.feed_text(&frame);
            }
            Event::Done(Done::Head(result)) => self.ping(result)?,
            Event::Done(Done::Large(found)) => self.looked_at_large(found),
            Event::Done(Done::Renewed { id, token, checked }) => self.renewed(id, &token, checked)?,
            Event::Due => self.due()?,
            Event::Text(text) => {
                self.take_text(&text?)?;
                return Ok(Rest::Shrink);
            }
        }
        Ok(Rest::Nothing)
    }

    /// The rest of an event, and what is due after any.
    async fn settle(&mut self, rest: Rest, timer: Pin<&mut Sleep>) -> Result<(), End> {
        match rest {
            Rest::Signal => self.signalled().await?,
            Rest::Shrink => self.socket.shrink().await,
            Rest::Write | Rest::Nothing => {}
        }
        self.events += 1;
        if rest == Rest::Write || self.socket.gathered() > WRITE_AT || self.events > EVENTS_A_WRITE {
            self.write().await?;
        }
        if std::mem::take(&mut self.rearm) {
            timer.reset(self.next_due());
        }
        Ok(())
    }

    /// Writes what is gathered.
    pub(super) async fn write(&mut self) -> Result<(), End> {
        self.events = 0;
        if self.socket.gathered() == 0 {
            return Ok(());
        }
        let written = self.socket.flush().await;
        self.last_write = Instant::now();
        written.map_err(|error| {
            tracing::debug!(%error, "write failed");
            End::ByPeer
        })
    }

    /// When the timer must look again at the latest.
    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let left = self.valid_until_ms.saturating_sub(self.shared().clock.now_ms());
        let heartbeat = self.shared().limits.heartbeat;
        let look = if self.shared().hub.bus().is_alone() { self.last_write } else { self.last_look };
        let mut due = (self.last_write.min(look) + heartbeat).max(now + Duration::from_millis(1));
        if self.pinging {
            due = now + heartbeat;
        }
        // Bounded by the heartbeat, so the addition cannot overflow and a moved clock is noticed.
        due = due.min(now + Duration::from_millis(left.saturating_add(1)).min(heartbeat));
        [self.feed.retry_at(), self.heads.due_at()].into_iter().flatten().fold(due, Instant::min)
    }

    /// Something is due: the token's end, another try to read, a heartbeat.
    fn due(&mut self) -> Result<(), End> {
        self.rearm = true;
        if self.shared().clock.now_ms() > self.valid_until_ms {
            self.tell(ErrorFrame::new(None, ErrorCode::TokenExpired));
            return Err(CloseCode::TokenExpired.into());
        }
        self.retry_page();
        self.large_moved();
        let quiet = self.is_quiet();
        // With other nodes the head is asked for even while answers flow: a silent bus hides entries.
        let heartbeat = self.shared().limits.heartbeat;
        let blind = !self.shared().hub.bus().is_alone() && self.last_look.elapsed() >= heartbeat;
        if self.pinging || !(quiet || blind) {
            return Ok(());
        }
        if quiet && self.unanswered_pings >= MISSED_PONGS {
            return Err(CloseCode::HeartbeatMissed.into());
        }
        self.pinging = true;
        let (engine, caller) = (self.shared().engine.clone(), self.presence.caller.clone());
        let issued_at_ms = self.issued_at_ms;
        self.work.push(Box::pin(async move {
            // Another node may have revoked it; here the hub would have told.
            if engine.shares_store()
                && let Err(refusal) = engine.check_token(&caller, issued_at_ms).await
            {
                return Done::Head(Err(refusal));
            }
            Done::Head(engine.standing(&caller.user).await)
        }));
        Ok(())
    }

    /// Nothing was written for a heartbeat.
    fn is_quiet(&self) -> bool {
        self.last_write.elapsed() >= self.shared().limits.heartbeat
    }

    /// The head for a heartbeat is known, or at least what we have seen of it.
    fn ping(&mut self, result: Result<Standing, Refusal>) -> Result<(), End> {
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::Revoked) {
            return Err(CloseCode::Revoked.into());
        }
        self.pinging = false;
        self.rearm = true;
        self.last_look = Instant::now();
        // A device that has asked from further back is not told of less than it was before.
        let seen = self.cursor.sent().max(self.presence.seat.newest()).max(self.feed.known_head());
        let known = result.ok().filter(|_| !planted(Bug::HeartbeatWithoutHead));
        let head_seq = known.map_or(seen, |standing| standing.head.max(seen));
        if self.is_quiet() {
            self.unanswered_pings += 1;
            self.shared().meters.pings_out.increment(1);
            self.socket.feed_text(&ServerFrame::Ping { head_seq }.to_json());
        }
        // Nothing may be missed for longer than a heartbeat, even if no push arrived at all.
        self.noticed_head(head_seq);
        Ok(())
    }

    /// A new token is good, or the session ends with the old one.
    fn renewed(&mut self, id: MsgId, token: &TokenTimes, checked: Result<(), Refusal>) -> Result<(), End> {
        match checked {
            Ok(()) => {
                self.valid_until_ms = token.valid_until_ms;
                self.issued_at_ms = token.issued_at_ms;
                self.rearm = true;
                self.reply(id, Ok(AnswerBody::Ok { conv_id: None, conv_seq: None, seq: None }))
            }
            Err(refusal) => self.reply(id, Err(refusal)),
        }
    }

    /// Adds an error frame.
    pub(super) fn tell(&mut self, error: ErrorFrame) {
        self.shared().meters.error_out(error.code);
        self.socket.feed_text(&ServerFrame::Error(error).to_json());
    }

    /// Gives requests under way a moment to be answered, before a close that is not their fault.
    async fn finish_requests(&mut self) {
        let deadline = Instant::now() + self.shared().limits.close_grace;
        while self.order.open() > 0 {
            let Ok(Some(done)) = timeout_at(deadline, self.work.next()).await else { return };
            if let Done::Answer { id, conv, answer } = done
                && (self.answered(id, conv.as_ref(), answer).is_err() || self.write().await.is_err())
            {
                return;
            }
        }
    }
}
