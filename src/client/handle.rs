//! The handle an application holds: cheap to clone, one method per request.
//!
//! Messages go through the outbox and survive everything; all other requests are answered on the
//! connection they were sent on or fail with [`RequestError::Disconnected`]. They are not repeated by
//! themselves: only the application knows whether a recall is still meant after an hour. Repeating one
//! is always safe, by its meaning or its `op_id`.

use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Command, Core, Outgoing, SentReply};
use super::error::{InvalidUrl, RequestError, SendError};
use super::event::{ConnectionState, EventSender, Events, Sent};
use super::options::Options;
use super::outbox::{OutboxItem, To};
use super::session::Identity;
use super::state::{ConversationState, State};
use super::task::Task;
use super::transport::Address;
use crate::protocol::{AnswerBody, Body, ConvId, MsgId, Request, UserId};

/// Commands that may wait for the task.
const COMMANDS: usize = 64;

/// A device of a user. The connection ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ConnectionState>,
}

/// A message in the outbox.
#[derive(Debug)]
pub struct Queued {
    /// Its key.
    pub client_msg_id: MsgId,
    sent: SentReply,
}

impl Queued {
    /// Waits until the server has it for good, however many connections that takes. Dropping the
    /// future takes nothing back.
    ///
    /// # Errors
    /// When it was given up, see [`SendError`].
    pub async fn sent(self) -> Result<Sent, SendError> {
        self.sent.await.unwrap_or(Err(SendError::Stopped))
    }
}

impl Client {
    /// Starts a client; must be called within a tokio runtime. Returns at once, connecting goes on
    /// behind it.
    ///
    /// # Errors
    /// When the address is none, or asks for encryption and no [`Options::dial`] brings it.
    pub fn connect(options: Options) -> Result<(Self, Events), InvalidUrl> {
        let Options { url, token, device_id, client, cache, preload, seed, event_capacity, dial } = options;
        let address = Address::parse(&url)?;
        if dial.is_none() && !address.is_plain() {
            return Err(InvalidUrl(url));
        }
        let (events, receiver) = mpsc::channel(event_capacity.max(1));
        let (status, watched) = watch::channel(ConnectionState::default());
        let core = Core::new(cache, seed, EventSender::new(events), status);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let identity = Identity { device_id, client };
        let task = Task { core, commands: queue, address, identity, token, dial, preload };
        tokio::spawn(task.run());
        Ok((Self { commands, status: watched }, Events(receiver)))
    }

    /// How the connection stands now.
    #[must_use]
    pub fn status(&self) -> ConnectionState {
        self.status.borrow().clone()
    }

    /// How the connection stands, to be waited on.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<ConnectionState> {
        self.status.clone()
    }

    /// Waits until the state is current. `false`: the client stopped before.
    pub async fn wait_live(&self) -> bool {
        let mut status = self.status.clone();
        let decided =
            |status: &ConnectionState| matches!(status, ConnectionState::Live | ConnectionState::Disconnected(Some(_)));
        let found = status.wait_for(decided).await;
        found.is_ok_and(|status| *status == ConnectionState::Live)
    }

    /// Ends the connection. The outbox is kept.
    pub async fn close(&self) {
        let _ = self.commands.send(Command::Close).await;
        let mut status = self.status.clone();
        // An error means that the task has ended, which is what is waited for.
        let _ = status.wait_for(|status| matches!(status, ConnectionState::Disconnected(Some(_)))).await;
    }

    /// Puts a message into the outbox and returns when it is saved there.
    ///
    /// # Errors
    /// When the outbox does not take it.
    pub async fn queue(&self, message: Outgoing) -> Result<Queued, SendError> {
        let (reply, queued) = oneshot::channel();
        self.commands.send(Command::Queue(message, reply)).await.map_err(|_| SendError::Stopped)?;
        let (client_msg_id, sent) = queued.await.unwrap_or(Err(SendError::Stopped))?;
        Ok(Queued { client_msg_id, sent })
    }

    /// Sends a message and waits until the server has it.
    ///
    /// # Errors
    /// As [`Client::queue`] and [`Queued::sent`].
    pub async fn send(
        &self,
        to: impl Into<To>,
        body: Body,
        reply_to: Option<u64>,
        mentions: Vec<UserId>,
    ) -> Result<Sent, SendError> {
        let mut message = Outgoing::new(to, body).mentions(mentions);
        message.reply_to = reply_to;
        self.queue(message).await?.sent().await
    }

    /// Sends any request and gives its answer as it came; history, changes and conversations are taken
    /// into the state too.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<AnswerBody, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Request(request, reply);
        self.commands.send(command).await.map_err(|_| RequestError::Stopped)?;
        answer.await.unwrap_or(Err(RequestError::Disconnected))
    }

    /// Tells the others that this user is typing; may be lost.
    pub async fn typing(&self, conv_id: ConvId) {
        let _ = self.commands.send(Command::Typing(conv_id)).await;
    }

    /// Reads from the state without copying it. `look` runs in the client's task: keep it short.
    /// `None`: the client has stopped.
    pub async fn look<T: std::marker::Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + std::marker::Send + 'static,
    ) -> Option<T> {
        self.look_all(move |state, _| look(state)).await
    }

    /// A copy of everything the device knows.
    pub async fn state(&self) -> Option<State> {
        self.look(State::clone).await
    }

    /// A copy of one conversation.
    pub async fn conversation(&self, conv_id: ConvId) -> Option<ConversationState> {
        self.look(move |state| state.conversations.get(&conv_id).cloned()).await.flatten()
    }

    /// What waits to be sent, oldest first.
    pub async fn outbox(&self) -> Vec<OutboxItem> {
        self.look_all(|_, outbox| outbox.iter().cloned().collect()).await.unwrap_or_default()
    }

    async fn look_all<T: std::marker::Send + 'static>(
        &self,
        look: impl FnOnce(&State, &super::outbox::Outbox) -> T + std::marker::Send + 'static,
    ) -> Option<T> {
        let (reply, seen) = oneshot::channel();
        let look = move |state: &State, outbox: &super::outbox::Outbox| {
            let _ = reply.send(look(state, outbox));
        };
        self.commands.send(Command::Look(Box::new(look))).await.ok()?;
        seen.await.ok()
    }
}
