//! What outlives a connection: state, outbox, cache, and who listens.
//!
//! Every change goes in here and is saved before anybody hears of it or the server is told. One task
//! owns it; there is no lock.

use std::collections::{BTreeSet, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{oneshot, watch};

use super::backoff::End;
use super::cache::{Cache, Saved, Write};
use super::error::{RequestError, SendError, StopReason};
use super::event::{ConnectionState, Event, EventSender, Sent};
use super::outbox::{MAX_OUTBOX, Outbox, OutboxItem, To};
use super::state::State;
use crate::protocol::{AnswerBody, Body, ConvId, Limits, MsgId, Request, UserId};

/// A message given to a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Where.
    pub to: To,
    /// Content.
    pub body: Body,
    /// `conv_seq` of the message answered.
    pub reply_to: Option<u64>,
    /// Up to 50 users.
    pub mentions: Vec<UserId>,
    /// The key that makes it once; the client makes one when absent.
    pub client_msg_id: Option<MsgId>,
}

impl Outgoing {
    /// With nothing else set.
    #[must_use]
    pub fn new(to: impl Into<To>, body: Body) -> Self {
        Self { to: to.into(), body, reply_to: None, mentions: Vec::new(), client_msg_id: None }
    }

    /// As an answer to the message with this `conv_seq`.
    #[must_use]
    pub fn reply_to(mut self, conv_seq: u64) -> Self {
        self.reply_to = Some(conv_seq);
        self
    }

    /// Mentions these users.
    #[must_use]
    pub fn mentions(mut self, users: Vec<UserId>) -> Self {
        self.mentions = users;
        self
    }

    /// With this key.
    #[must_use]
    pub fn client_msg_id(mut self, id: MsgId) -> Self {
        self.client_msg_id = Some(id);
        self
    }
}

pub(super) type SentReply = oneshot::Receiver<Result<Sent, SendError>>;
pub(super) type QueueReply = oneshot::Sender<Result<(MsgId, SentReply), SendError>>;
type Look = Box<dyn FnOnce(&State, &Outbox) + std::marker::Send>;

/// What a handle asks of the task.
pub(super) enum Command {
    Queue(Outgoing, QueueReply),
    Request(Request, oneshot::Sender<Result<AnswerBody, RequestError>>),
    Typing(ConvId),
    Look(Look),
    Close,
}

/// See the module.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) outbox: Outbox,
    pub(super) events: EventSender,
    pub(super) limits: Limits,
    pub(super) rng: SmallRng,
    /// Connections in a row that did not get live.
    pub(super) attempt: u32,
    cache: Box<dyn Cache>,
    status: watch::Sender<ConnectionState>,
    waiters: HashMap<MsgId, oneshot::Sender<Result<Sent, SendError>>>,
}

impl Core {
    pub(super) fn new(
        cache: Box<dyn Cache>,
        seed: Option<u64>,
        events: EventSender,
        status: watch::Sender<ConnectionState>,
    ) -> Self {
        Self {
            state: State::default(),
            outbox: Outbox::default(),
            events,
            limits: Limits::default(),
            rng: seed.map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64),
            attempt: 0,
            cache,
            status,
            waiters: HashMap::new(),
        }
    }

    pub(super) async fn load(&mut self) -> Result<(), End> {
        let Saved { state, outbox } = self.cache.load().await.map_err(failed)?;
        (self.state, self.outbox) = (state, outbox);
        Ok(())
    }

    /// Saves the state, and the outbox with it when it changed. Nothing is told before.
    pub(super) async fn save(&mut self, touched: Option<&BTreeSet<ConvId>>, outbox: bool) -> Result<(), End> {
        let outbox = outbox.then_some(&self.outbox);
        let write = Write { state: &self.state, touched, outbox };
        self.cache.save(write).await.map_err(failed)
    }

    pub(super) fn publish(&mut self, status: ConnectionState) {
        if *self.status.borrow() == status {
            return;
        }
        if status == ConnectionState::Live {
            self.attempt = 0;
        }
        self.status.send_replace(status.clone());
        self.events.send(Event::StateChanged(status));
    }

    /// Puts a message into the outbox. `connected`: it will be tried at once.
    pub(super) async fn queue(&mut self, message: Outgoing, reply: QueueReply, connected: bool) -> Result<(), End> {
        if let Err(error) = self.check(&message) {
            let _ = reply.send(Err(error));
            return Ok(());
        }
        let Outgoing { to, body, reply_to, mentions, client_msg_id } = message;
        let id = client_msg_id.unwrap_or_else(|| self.new_key());
        let tried_at = connected.then(now_ms);
        self.outbox.push(OutboxItem { to, client_msg_id: id.clone(), body, reply_to, mentions, tried_at });
        self.save(Some(&BTreeSet::new()), true).await?;
        let (waiter, sent) = oneshot::channel();
        self.waiters.insert(id.clone(), waiter);
        // The asker may have gone; the message is in the outbox all the same.
        let _ = reply.send(Ok((id, sent)));
        Ok(())
    }

    fn check(&self, message: &Outgoing) -> Result<(), SendError> {
        if message.body.len() as u64 > self.limits.max_body_bytes {
            return Err(SendError::TooLarge);
        }
        if self.outbox.len() >= MAX_OUTBOX {
            return Err(SendError::OutboxFull);
        }
        match &message.client_msg_id {
            Some(id) if self.outbox.get(id).is_some() => Err(SendError::IdInUse),
            _ => Ok(()),
        }
    }

    /// A new idempotence key: 128 random bits.
    pub(super) fn new_key(&mut self) -> MsgId {
        let text = format!("{:032x}", self.rng.random::<u128>());
        MsgId::parse(&text).expect("32 hexadecimal digits are a valid key")
    }

    /// Takes a message out of the outbox: it was accepted. The caller saves, then tells.
    pub(super) fn accept(&mut self, id: &MsgId) -> bool {
        self.outbox.remove(id).is_some()
    }

    /// Tells that a message was accepted.
    pub(super) fn tell_sent(&mut self, client_msg_id: MsgId, sent: Sent) {
        if let Some(waiter) = self.waiters.remove(&client_msg_id) {
            let _ = waiter.send(Ok(sent.clone()));
        }
        self.events.send(Event::Sent { client_msg_id, sent });
    }

    /// Takes a message out of the outbox: it will not be accepted.
    pub(super) async fn give_up(&mut self, id: &MsgId, error: SendError) -> Result<(), End> {
        let Some(item) = self.outbox.remove(id) else { return Ok(()) };
        self.save(Some(&BTreeSet::new()), true).await?;
        if let Some(waiter) = self.waiters.remove(id) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.events.send(Event::Failed { item, error });
        Ok(())
    }

    /// A command while there is no connection. `false`: close.
    pub(super) async fn offline(&mut self, command: Option<Command>) -> Result<bool, End> {
        match command {
            Some(Command::Queue(message, reply)) => self.queue(message, reply, false).await?,
            Some(Command::Request(_, reply)) => {
                let _ = reply.send(Err(RequestError::Disconnected));
            }
            Some(Command::Look(look)) => look(&self.state, &self.outbox),
            Some(Command::Typing(_)) => {}
            Some(Command::Close) | None => return Ok(false),
        }
        Ok(true)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: super::error::BoxError) -> End {
    End::Stop(StopReason::Cache(error.to_string()))
}

/// Milliseconds since 1970, this device's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
