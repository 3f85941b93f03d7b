//! What comes from the client: acknowledgements, requests, and what is wrong with them.
//!
//! Nothing is awaited here: a request is submitted and its answer comes back through the loop. It must
//! not log what a client sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::End;
use super::hello::MAX_BAD_JSON;
use super::order::conversation;
use super::rate::{Kind, Refused};
use super::run::{Done, Session, TokenTimes};
use super::socket::Transport;
use crate::auth::{Identity, Rejected};
use crate::config::duration::millis;
use crate::engine;
use crate::protocol::{
    Answer, AnswerBody, ClientFrame, CloseCode, ConvId, Envelope, ErrorCode, ErrorFrame, MsgId, Reject, Request,
    ServerFrame, UserId,
};

/// Typing in one conversation is told so often at most.
const TYPING_EVERY: Duration = Duration::from_secs(1);

impl<S: Transport> Session<S> {
    /// One text frame.
    pub(super) fn take_text(&mut self, text: &str) -> Result<(), End> {
        let parsed = ClientFrame::parse_with(text, &self.shared().parse);
        self.shared().meters.frame_in(parsed.as_ref().ok());
        match parsed {
            Ok(ClientFrame::Ack { seq }) => self.acknowledged(seq),
            Ok(ClientFrame::Pong { seq }) => {
                self.unanswered_pings = 0;
                self.acknowledged(seq)
            }
            Ok(ClientFrame::Request(envelope)) => self.request(envelope),
            Ok(ClientFrame::Hello(hello)) => {
                let error = ErrorFrame::new(Some(hello.id), ErrorCode::AlreadyConnected);
                self.objection(error)
            }
            Ok(ClientFrame::Typing { conv_id }) => self.typing(conv_id),
            Err(reject) => self.rejected(reject),
        }
    }

    fn acknowledged(&mut self, seq: u64) -> Result<(), End> {
        match self.cursor.ack(seq) {
            Ok(true) => {
                self.presence.seat.set_acked(seq);
                self.catch_up();
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(_) => {
                self.tell(ErrorFrame::new(None, ErrorCode::AckAhead));
                Err(CloseCode::ProtocolViolation.into())
            }
        }
    }

    /// A frame that cannot be read.
    fn rejected(&mut self, reject: Reject) -> Result<(), End> {
        if reject.code != ErrorCode::BadJson {
            return self.objection(reject.into_frame());
        }
        self.bad_json += 1;
        self.tell(reject.into_frame());
        if self.bad_json >= MAX_BAD_JSON { Err(CloseCode::ProtocolViolation.into()) } else { Ok(()) }
    }

    /// An error frame for something that is counted like a request.
    fn objection(&mut self, error: ErrorFrame) -> Result<(), End> {
        if self.allowed(Kind::Request, error.id.as_ref())? {
            self.tell(error);
        }
        Ok(())
    }

    fn request(&mut self, envelope: Envelope) -> Result<(), End> {
        let kind = if matches!(envelope.request, Request::Send(_)) { Kind::Message } else { Kind::Request };
        if !self.allowed(kind, Some(&envelope.id))? {
            return Ok(());
        }
        match envelope.request {
            Request::Sync { after_seq } => {
                // As with all requests, only so many may be under way; these cost no place in the order.
                if self.feed.open_syncs() < self.shared().limits.requests_in_flight {
                    self.sync_from(envelope.id, after_seq);
                } else {
                    self.tell(ErrorFrame::new(Some(envelope.id), ErrorCode::Overloaded));
                }
                Ok(())
            }
            Request::Auth { token } => self.renew(envelope.id, &token),
            _ => {
                let conv = conversation(&self.presence.caller.user, &envelope.request);
                if let Some(ready) = self.order.admit(conv.as_ref(), envelope) {
                    self.submit(conv, ready);
                }
                Ok(())
            }
        }
    }

    fn submit(&mut self, conv: Option<ConvId>, envelope: Envelope) {
        let Envelope { id, request } = envelope;
        if matches!(request, Request::Send(_)) {
            self.shared().meters.messages.increment(1);
        }
        if let Request::Presence { users } = request {
            return self.ask_presence(id, users);
        }
        let answer = self.shared().engine.submit(&self.presence.caller, request);
        self.work.push(Box::pin(async move { Done::Answer { id, conv, answer: answer.await } }));
    }

    fn ask_presence(&mut self, id: MsgId, users: Vec<UserId>) {
        let (board, user) = (Arc::clone(&self.shared().board), &self.presence.caller.user);
        let ears = Arc::clone(self.ears.get_or_insert_with(|| board.ears(user)));
        self.work.push(Box::pin(async move {
            let users = board.ask(&ears, users).await;
            Done::Answer { id, conv: None, answer: Ok(AnswerBody::Presence { users }) }
        }));
    }

    /// Told to those who watch this user, at most once a second for the same conversation.
    fn typing(&mut self, conv: ConvId) -> Result<(), End> {
        let now = Instant::now();
        let again = self.typed.as_ref().is_some_and(|(last, at)| *last == conv && now - *at < TYPING_EVERY);
        let busy = self.work.len() > 2 * self.shared().limits.requests_in_flight;
        if self.allowed(Kind::Request, None)? && !again && !busy {
            self.typed = Some((conv.clone(), now));
            let (board, user) = (Arc::clone(&self.shared().board), self.presence.caller.user.clone());
            self.work.push(Box::pin(async move {
                board.typing(&user, &conv).await;
                Done::Typing
            }));
        }
        Ok(())
    }

    /// A request was answered; what waited behind it goes on.
    pub(super) fn answered(&mut self, id: MsgId, conv: Option<&ConvId>, answer: engine::Answer) -> Result<(), End> {
        for ready in self.order.answered(conv) {
            self.submit(conv.cloned(), ready);
        }
        self.reply(id, answer)
    }

    /// Tells what a request came to.
    pub(super) fn reply(&mut self, id: MsgId, answer: engine::Answer) -> Result<(), End> {
        match answer {
            Ok(body) => {
                self.answer(id, body);
                Ok(())
            }
            Err(refusal) => {
                let mut error = ErrorFrame::new(Some(id), refusal.code);
                error.retry_after_ms = refusal.retry_after_ms;
                self.tell(match refusal.field {
                    Some(field) => error.with_field(field),
                    None => error,
                });
                refusal.code.close().map_or(Ok(()), |code| Err(code.into()))
            }
        }
    }

    fn answer(&mut self, id: MsgId, body: AnswerBody) {
        let text = ServerFrame::Answer(Answer { id: id.clone(), body }).to_json();
        if text.len() > self.shared().limits.max_server_frame_bytes {
            tracing::error!(bytes = text.len(), "an answer is larger than a frame may be");
            return self.tell(ErrorFrame::new(Some(id), ErrorCode::Unavailable));
        }
        self.shared().meters.answers_out.increment(1);
        self.socket.feed_text(&text);
    }

    /// `auth`: another token for the same user and device.
    fn renew(&mut self, id: MsgId, token: &str) -> Result<(), End> {
        let caller = &self.presence.caller;
        let verified = self.shared().verifier.verify(token).and_then(|identity| {
            let same_device = identity.device.as_ref().is_none_or(|device| *device == caller.device);
            if identity.user == caller.user && same_device { Ok(identity) } else { Err(Rejected::Invalid) }
        });
        match verified {
            // Bounded like requests, though it takes no place in their order.
            Ok(_) if self.work.len() > 2 * self.shared().limits.requests_in_flight => {
                self.tell(ErrorFrame::new(Some(id), ErrorCode::Overloaded));
                Ok(())
            }
            Ok(identity) => {
                let (engine, caller) = (self.shared().engine.clone(), caller.clone());
                let Identity { valid_until_ms, issued_at_ms, .. } = identity;
                self.work.push(Box::pin(async move {
                    let checked = engine.check_token(&caller, issued_at_ms).await;
                    Done::Renewed { id, token: TokenTimes { valid_until_ms, issued_at_ms }, checked }
                }));
                Ok(())
            }
            Err(rejected) => {
                let code = rejected.code();
                self.tell(ErrorFrame::new(Some(id), code));
                Err(code.close().unwrap_or(CloseCode::InvalidToken).into())
            }
        }
    }

    /// Counts a frame against the device's rates. False: refused, and the client told.
    fn allowed(&mut self, kind: Kind, id: Option<&MsgId>) -> Result<bool, End> {
        let limits = &self.shared().limits;
        if limits.rate_messages == 0 && limits.rate_requests == 0 {
            return Ok(true);
        }
        let now = Instant::now();
        let buckets = self.buckets.take().unwrap_or_else(|| {
            let caller = &self.presence.caller;
            self.shared().rates.of(&caller.user, &caller.device, now)
        });
        let taken = self.shared().rates.take(&buckets, kind, now);
        self.buckets = Some(buckets);
        let Err(refused) = taken else { return Ok(true) };
        let (Refused::Wait(wait) | Refused::FarBeyond(wait)) = refused;
        // Rounded up: a client that waits exactly so long must be let through.
        let wait_ms = millis(wait + Duration::from_micros(999)).max(1);
        self.tell(ErrorFrame::new(id.cloned(), ErrorCode::RateLimited).with_retry_after(wait_ms));
        match refused {
            Refused::Wait(_) => Ok(false),
            Refused::FarBeyond(_) => Err(CloseCode::RateExceeded.into()),
        }
    }
}
