//! What a session does with each frame of the server.
//!
//! The order in every case: apply, save, then acknowledge and tell. A frame that makes no sense ends
//! the connection: going on without it could miss what was in it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{End, jittered};
use super::error::{RequestError, SendError, StopReason};
use super::event::{Event, Sent};
use super::loader::Loader;
use super::session::{Session, Waiting};
use super::state::{
    self, ChangesAnswer, HistoryAnswer, Loading, State, apply_changes, apply_conversations, apply_frame, apply_heads,
    apply_history,
};
use crate::protocol::{
    AnswerBody, ClientFrame, ConvId, Cursor, ErrorFrame, Event as LogEvent, HeadsItem, MsgId, Request, Reset,
    ResetReason, ServerFrame, SyncFrame, SyncMode, Welcome,
};

impl Session<'_> {
    pub(super) async fn frame(&mut self, text: &str) -> Result<(), End> {
        let frame = ServerFrame::parse(text).map_err(|error| {
            tracing::warn!(%error, "a frame of the server makes no sense");
            End::Lost("bad frame")
        })?;
        match frame {
            ServerFrame::Welcome(welcome) => self.welcome(welcome).await,
            ServerFrame::Sync(frame) => self.sync(frame).await,
            ServerFrame::Reset(reset) => self.reset(&reset).await,
            ServerFrame::Ping { .. } => {
                let seq = self.core.state.seq();
                (self.acked, self.ack_at) = (self.acked.max(seq), None);
                self.out.push_back(ClientFrame::Pong { seq }.to_json());
                Ok(())
            }
            ServerFrame::Heads { conversations } => self.heads(conversations).await,
            ServerFrame::Typing { conv_id, user_id } => {
                self.core.events.send(Event::Typing { conv_id, user_id });
                Ok(())
            }
            ServerFrame::Presence { users } => {
                self.core.events.send(Event::Presence(users));
                Ok(())
            }
            ServerFrame::Error(error) => self.error(error).await,
            ServerFrame::Answer(answer) => self.answer(&answer.id, answer.body).await,
            ServerFrame::Unknown => Ok(()),
        }
    }

    async fn welcome(&mut self, welcome: Welcome) -> Result<(), End> {
        let Welcome { user_id, epoch, head_seq, sync, heartbeat_ms, limits, .. } = welcome;
        let core = &mut *self.core;
        if core.state.user_id.as_ref().is_some_and(|known| *known != user_id) {
            return Err(End::Stop(StopReason::OtherUser));
        }
        core.limits = limits;
        core.state.user_id = Some(user_id.clone());
        if sync == SyncMode::Fresh {
            state::first_start(&mut core.state, Cursor { epoch, seq: head_seq });
        }
        core.save(None, false).await?;
        self.me = Some(user_id);
        self.fresh = sync == SyncMode::Fresh;
        self.window = limits.window_entries;
        self.heartbeat = Duration::from_millis(heartbeat_ms.max(100));
        self.acked = self.core.state.seq();
        if sync != SyncMode::Reset {
            self.loader = Loader::new(&self.core.state);
        }
        self.publish();
        Ok(())
    }

    async fn sync(&mut self, frame: SyncFrame) -> Result<(), End> {
        let answers = frame.id.as_ref().and_then(number).and_then(|id| self.pending.remove(&id));
        if answers.is_some() {
            self.asks_sync = false;
        }
        let seq = self.core.state.seq();
        if frame.from_seq != seq || frame.to_seq < frame.from_seq {
            if frame.to_seq > seq {
                self.at_head = false;
                self.ask_sync();
            }
            self.publish();
            return Ok(());
        }
        apply_frame(&mut self.core.state, &frame);
        let sent = self.own_messages(&frame);
        let touched = touched_by(&frame);
        self.settle(&touched, !sent.is_empty()).await?;
        self.at_head = frame.live;
        self.ack_soon();
        if !frame.entries.is_empty() {
            let entries: Arc<[_]> = frame.entries.into();
            self.core.events.send(Event::Applied { entries, live: frame.live });
        }
        for (id, sent) in sent {
            self.sender.release(&sent.conv_id);
            self.core.tell_sent(id, sent);
        }
        self.publish();
        Ok(())
    }

    /// Own messages that were waiting: their entry proves them as well as `sent` does.
    fn own_messages(&mut self, frame: &SyncFrame) -> Vec<(MsgId, Sent)> {
        let me = self.me.as_ref();
        let mut sent = Vec::new();
        for entry in &frame.entries {
            let LogEvent::Message(message) = &entry.event else { continue };
            let waits = |item: &super::outbox::OutboxItem| me.is_some_and(|me| item.conv_id(me) == message.conv_id);
            if me == Some(&message.sender_id)
                && self.core.outbox.get(&message.client_msg_id).is_some_and(waits)
                && self.core.accept(&message.client_msg_id)
            {
                let (conv_id, conv_seq, sent_at) = (message.conv_id.clone(), message.conv_seq, message.sent_at);
                sent.push((message.client_msg_id.clone(), Sent { conv_id, conv_seq, sent_at, duplicate: false }));
            }
        }
        sent
    }

    /// After any change of the state: closes a finished reset, saves, looks at new marks.
    async fn settle(&mut self, touched: &BTreeSet<ConvId>, outbox: bool) -> Result<(), End> {
        let was = self.core.state.loading;
        let closed = state::close_if_done(&mut self.core.state);
        self.core.save(Some(touched), outbox).await?;
        self.loader.look_at(&self.core.state, touched);
        if closed && was == Loading::Reset {
            self.core.events.send(Event::Reconciled);
        }
        Ok(())
    }

    async fn reset(&mut self, reset: &Reset) -> Result<(), End> {
        if let Some(id) = reset.id.as_ref().and_then(number) {
            self.pending.remove(&id);
        }
        (self.asks_sync, self.ask_sync_at) = (false, None);
        state::reset(&mut self.core.state, reset);
        state::close_if_done(&mut self.core.state);
        self.core.save(None, false).await?;
        self.acked = reset.head_seq;
        self.ack_at = None;
        self.at_head = false;
        if reset.reason != ResetReason::TooOld {
            self.fresh = true;
            // Answers under way are about what was dropped.
            self.pending.retain(|_, (_, waiting)| !matches!(waiting, Waiting::Load(_)));
            self.loader = Loader::default();
        }
        self.loader.restart(&self.core.state);
        self.core.events.send(Event::Reset(reset.reason));
        self.publish();
        Ok(())
    }

    async fn heads(&mut self, items: Vec<HeadsItem>) -> Result<(), End> {
        let mut touched = BTreeSet::new();
        let mut news = Vec::new();
        for item in items {
            let continues = apply_heads(&mut self.core.state, &item, self.fresh);
            touched.insert(item.conv_id.clone());
            if let (true, Some(events)) = (continues, item.entries) {
                news.push(Event::Log { conv_id: item.conv_id, events: events.into() });
            }
        }
        self.settle(&touched, false).await?;
        for event in news {
            self.core.events.send(event);
        }
        self.publish();
        Ok(())
    }

    async fn answer(&mut self, id: &MsgId, body: AnswerBody) -> Result<(), End> {
        let Some((_, waiting)) = number(id).and_then(|id| self.pending.remove(&id)) else {
            return Ok(());
        };
        match waiting {
            Waiting::User(request, reply, asked_at) => {
                let touched = take_answer(&mut self.core.state, &request, &body, asked_at);
                if !touched.is_empty() {
                    self.settle(&touched, false).await?;
                }
                let _ = reply.send(Ok(body));
            }
            Waiting::Outbox { conv_id: held, id } => {
                let AnswerBody::Sent { conv_id, conv_seq, sent_at, duplicate } = body else {
                    return Err(End::Lost("bad answer"));
                };
                if self.core.accept(&id) {
                    self.sender.release(&held);
                    self.core.save(Some(&BTreeSet::new()), true).await?;
                    self.core.tell_sent(id, Sent { conv_id, conv_seq, sent_at, duplicate });
                }
            }
            Waiting::Load(job) => {
                self.load_attempt = 0;
                let touched = self.loader.answered(&mut self.core.state, job, body);
                self.loaded(touched).await?;
            }
            Waiting::Sync => self.asks_sync = false,
        }
        Ok(())
    }

    async fn loaded(&mut self, touched: BTreeSet<ConvId>) -> Result<(), End> {
        self.settle(&touched, false).await?;
        self.core.events.send(Event::Updated(touched.into_iter().collect()));
        self.publish();
        Ok(())
    }

    async fn error(&mut self, error: ErrorFrame) -> Result<(), End> {
        let waiting = error.id.as_ref().and_then(number).and_then(|id| self.pending.remove(&id));
        let Some((_, waiting)) = waiting else {
            tracing::debug!(code = %error.code, "error of the server");
            return Ok(());
        };
        // A fatal error is followed by the close: it says nothing about the request.
        let later = error.retryable || error.code.retryable() || error.code.close().is_some();
        match waiting {
            Waiting::User(_, reply, _) => {
                let _ = reply.send(Err(RequestError::Refused(error)));
            }
            // Its entry was here first: the next message may be under way, and must neither wait nor go twice.
            Waiting::Outbox { id, .. } if self.core.outbox.get(&id).is_none() => {}
            Waiting::Outbox { conv_id, .. } if later => {
                let attempt = self.sender.attempt(&conv_id);
                let wait = self.wait(&error, attempt);
                self.sender.hold(conv_id, Instant::now() + wait);
            }
            Waiting::Outbox { conv_id, id } => {
                self.sender.release(&conv_id);
                self.core.give_up(&id, SendError::Refused(error)).await?;
            }
            Waiting::Load(job) if later => {
                self.loader.postponed(&job);
                self.load_attempt += 1;
                self.load_at = Some(Instant::now() + self.wait(&error, self.load_attempt));
            }
            Waiting::Load(job) => {
                let touched = self.loader.refused(&mut self.core.state, &job, error.code);
                self.loaded(touched).await?;
            }
            Waiting::Sync => {
                self.asks_sync = false;
                self.ask_sync_at = Some(Instant::now() + self.wait(&error, 0));
            }
        }
        Ok(())
    }

    fn wait(&mut self, error: &ErrorFrame, attempt: u32) -> Duration {
        error.retry_after_ms.map_or_else(|| jittered(attempt, &mut self.core.rng), Duration::from_millis)
    }
}

fn number(id: &MsgId) -> Option<u64> {
    id.as_str().parse().ok()
}

fn touched_by(frame: &SyncFrame) -> BTreeSet<ConvId> {
    frame.entries.iter().filter_map(|entry| entry.event.conv_id().cloned()).collect()
}

/// Answers to the application's own requests are good for the state too.
fn take_answer(state: &mut State, request: &Request, body: &AnswerBody, asked_at: u64) -> BTreeSet<ConvId> {
    let mut touched = BTreeSet::new();
    match (request, body) {
        (Request::History { conv_id, from, .. }, AnswerBody::History { entries, next, complete, head_seq }) => {
            let (entries, next, complete, head_seq) = (entries.clone(), *next, *complete, *head_seq);
            let answer = HistoryAnswer { entries, next, complete, head_seq };
            apply_history(state, conv_id, *from, &answer, false);
            touched.insert(conv_id.clone());
        }
        (
            Request::Changes { conv_id, since },
            AnswerBody::Changes { recalled, edited, reacted, up_to, more, deleted, cleared_up_to },
        ) => {
            let answer = ChangesAnswer {
                recalled: recalled.clone(),
                edited: edited.clone(),
                reacted: reacted.clone(),
                up_to: *up_to,
                more: *more,
                deleted: deleted.clone(),
                cleared_up_to: *cleared_up_to,
            };
            apply_changes(state, conv_id, *since, &answer, false);
            touched.insert(conv_id.clone());
        }
        (Request::Conversations { .. }, AnswerBody::Conversations { conversations, .. }) => {
            apply_conversations(state, conversations, asked_at);
            touched.extend(conversations.iter().map(|row| row.conv_id.clone()));
        }
        _ => {}
    }
    touched
}
