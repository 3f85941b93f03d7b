//! One connection: hello, then frames in and requests out until it ends.
//!
//! One loop owns the socket. What is to be sent waits in `out`, which stays short because commands,
//! outbox and loader are only looked at while it is. A connection on which nothing is heard for over
//! two heartbeats is given up, so that nothing old is called live.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::backoff::End;
use super::core::{Command, Core, now_ms};
use super::error::{RequestError, SendError, StopReason};
use super::event::ConnectionState;
use super::loader::{Job, Loader};
use super::outbox::{OutboxItem, Sender};
use super::state::Loading;
use super::transport::Wire;
use crate::protocol::{AnswerBody, ClientFrame, ClientInfo, ConvId, DeviceId, Envelope, Hello, MsgId, Request, UserId};

/// Frames that wait for the writer before commands have to.
const OUT: usize = 64;
/// A frame applied is acknowledged within this when no other follows.
const IDLE: Duration = Duration::from_millis(50);
/// For `welcome`, and for the answer to any request.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Who says hello.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) device_id: DeviceId,
    pub(super) client: ClientInfo,
}

/// What an answer is for.
pub(super) enum Waiting {
    User(Request, oneshot::Sender<Result<AnswerBody, RequestError>>, u64),
    Outbox { conv_id: ConvId, id: MsgId },
    Load(Job),
    Sync,
}

/// See the module.
pub(super) struct Session<'a> {
    pub(super) core: &'a mut Core,
    pub(super) wire: Wire,
    pub(super) loader: Loader,
    pub(super) sender: Sender,
    pub(super) out: VecDeque<String>,
    pub(super) pending: BTreeMap<u64, (Instant, Waiting)>,
    last_id: u64,
    /// Set by `welcome`.
    pub(super) me: Option<UserId>,
    pub(super) window: u64,
    pub(super) heartbeat: Duration,
    /// The last `seq` told to the server.
    pub(super) acked: u64,
    pub(super) ack_at: Option<Instant>,
    /// It began without a cursor of this epoch.
    pub(super) fresh: bool,
    /// The last frame applied reached the head.
    pub(super) at_head: bool,
    /// A `sync` request is under way.
    pub(super) asks_sync: bool,
    pub(super) ask_sync_at: Option<Instant>,
    pub(super) load_at: Option<Instant>,
    pub(super) load_attempt: u32,
    pub(super) heard: Instant,
}

/// Runs a connection to its end.
pub(super) async fn run(
    core: &mut Core,
    wire: Wire,
    commands: &mut mpsc::Receiver<Command>,
    identity: &Identity,
    token: String,
) -> End {
    let mut session = Session::new(core, wire);
    session.say_hello(identity, token);
    let end = loop {
        match session.turn(commands).await {
            Ok(()) => {}
            Err(end) => break end,
        }
    };
    if matches!(end, End::Stop(_)) {
        session.wire.close().await;
    }
    end
}

impl<'a> Session<'a> {
    fn new(core: &'a mut Core, wire: Wire) -> Self {
        Self {
            core,
            wire,
            loader: Loader::default(),
            sender: Sender::default(),
            out: VecDeque::new(),
            pending: BTreeMap::new(),
            last_id: 0,
            me: None,
            window: 4,
            heartbeat: ANSWER_WITHIN,
            acked: 0,
            ack_at: None,
            fresh: false,
            at_head: false,
            asks_sync: false,
            ask_sync_at: None,
            load_at: None,
            load_attempt: 0,
            heard: Instant::now(),
        }
    }

    fn say_hello(&mut self, identity: &Identity, token: String) {
        let hello = ClientFrame::Hello(Hello {
            id: self.new_id().1,
            token: Some(token),
            device_id: identity.device_id.clone(),
            cursor: self.core.state.cursor.clone(),
            conversations: self.core.state.large_positions(),
            client: Some(identity.client.clone()),
        });
        self.out.push_back(hello.to_json());
    }

    /// One turn of the loop. `biased`: what is ready to go goes first, as it makes room; commands
    /// come next, few and bounded by `out`; frames before timers, so that a timer sees what came.
    async fn turn(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), End> {
        self.fill_out().await?;
        let silence = self.heard + self.heartbeat * 2 + Duration::from_secs(5);
        let deadline = self.deadline().min(silence);
        tokio::select! {
            biased;
            permit = self.wire.out.clone().reserve_owned(), if !self.out.is_empty() => {
                let permit = permit.map_err(|_| End::Lost("connection lost"))?;
                if let Some(text) = self.out.pop_front() {
                    permit.send(Message::text(text));
                }
            }
            command = commands.recv(), if self.out.len() < OUT => return self.command(command).await,
            text = self.wire.next() => {
                let text = text?;
                self.heard = Instant::now();
                return self.frame(&text).await;
            }
            () = self.core.events.report_missed() => {}
            () = tokio::time::sleep_until(deadline) => self.timers(silence)?,
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let answer = self.pending.values().next().map(|(asked, _)| *asked + ANSWER_WITHIN);
        let timers = [self.ack_at, self.ask_sync_at, self.load_at, self.sender.next_at(), answer];
        let far = Instant::now() + ANSWER_WITHIN;
        timers.into_iter().flatten().fold(far, Instant::min)
    }

    fn timers(&mut self, silence: Instant) -> Result<(), End> {
        let now = Instant::now();
        if now >= silence || (self.me.is_none() && now >= self.heard + ANSWER_WITHIN) {
            return Err(End::Lost("silence"));
        }
        if self.pending.values().next().is_some_and(|(asked, _)| now >= *asked + ANSWER_WITHIN) {
            return Err(End::Lost("no answer"));
        }
        if self.ack_at.is_some_and(|at| now >= at) {
            self.ack();
        }
        if self.ask_sync_at.is_some_and(|at| now >= at) {
            self.ask_sync_at = None;
            self.ask_sync();
        }
        if self.load_at.is_some_and(|at| now >= at) {
            self.load_at = None;
        }
        self.sender.lift(now);
        Ok(())
    }

    /// Outbox and loader, as far as there is room.
    async fn fill_out(&mut self) -> Result<(), End> {
        let Some(me) = self.me.clone() else { return Ok(()) };
        if !self.core.outbox.is_empty() && self.out.len() < OUT {
            let room = OUT - self.out.len();
            for item in self.sender.ready(&self.core.outbox, &me, Instant::now(), room) {
                self.send_item(item, &me).await?;
            }
        }
        while self.load_at.is_none() && self.out.len() < OUT {
            let Some((request, job)) = self.loader.next(&self.core.state) else { break };
            self.request(request, Waiting::Load(job));
        }
        Ok(())
    }

    async fn send_item(&mut self, item: OutboxItem, me: &UserId) -> Result<(), End> {
        let (conv_id, id) = (item.conv_id(me), item.client_msg_id.clone());
        let now = now_ms();
        let forgotten = self.core.limits.dedupe_seconds.saturating_mul(1_000);
        if item.tried_at.is_some_and(|at| now.saturating_sub(at) > forgotten) {
            self.sender.release(&conv_id);
            return self.core.give_up(&id, SendError::OutcomeUnknown).await;
        }
        if item.tried_at.is_none() {
            self.core.outbox.mark_tried(&id, now);
            self.core.save(Some(&std::collections::BTreeSet::new()), true).await?;
        }
        self.request(item.request(), Waiting::Outbox { conv_id, id });
        Ok(())
    }

    async fn command(&mut self, command: Option<Command>) -> Result<(), End> {
        match command {
            Some(Command::Queue(message, reply)) => self.core.queue(message, reply, true).await?,
            Some(Command::Request(_, reply)) if self.me.is_none() => {
                let _ = reply.send(Err(RequestError::Disconnected));
            }
            Some(Command::Request(request, reply)) => {
                let seq = self.core.state.seq();
                self.request(request.clone(), Waiting::User(request, reply, seq));
            }
            Some(Command::Typing(conv_id)) if self.me.is_some() => {
                self.out.push_back(ClientFrame::Typing { conv_id }.to_json());
            }
            Some(Command::Typing(_)) => {}
            Some(Command::Look(look)) => look(&self.core.state, &self.core.outbox),
            Some(Command::Close) | None => return Err(End::Stop(StopReason::Closed)),
        }
        Ok(())
    }

    fn new_id(&mut self) -> (u64, MsgId) {
        self.last_id += 1;
        let id = MsgId::parse(&self.last_id.to_string()).expect("digits are a valid id");
        (self.last_id, id)
    }

    pub(super) fn request(&mut self, request: Request, waiting: Waiting) {
        let (number, id) = self.new_id();
        self.out.push_back(ClientFrame::Request(Envelope { id, request }).to_json());
        self.pending.insert(number, (Instant::now(), waiting));
    }

    /// Asks for the timeline from the cursor; once, until it is answered.
    pub(super) fn ask_sync(&mut self) {
        if !self.asks_sync {
            self.asks_sync = true;
            let after_seq = self.core.state.seq();
            self.request(Request::Sync { after_seq }, Waiting::Sync);
        }
    }

    /// Acknowledges the cursor, which is saved.
    pub(super) fn ack(&mut self) {
        self.ack_at = None;
        let seq = self.core.state.seq();
        if seq > self.acked {
            self.acked = seq;
            self.out.push_back(ClientFrame::Ack { seq }.to_json());
        }
    }

    /// After a save: at once from a quarter of the window on, else when it gets quiet.
    pub(super) fn ack_soon(&mut self) {
        let open = self.core.state.seq().saturating_sub(self.acked);
        if open >= (self.window / 4).max(1) {
            self.ack();
        } else if open > 0 {
            self.ack_at.get_or_insert_with(|| Instant::now() + IDLE);
        }
    }

    pub(super) fn publish(&mut self) {
        let current = self.at_head && !self.asks_sync && self.ask_sync_at.is_none();
        let complete = self.core.state.loading == Loading::No && !self.loader.is_behind(&self.core.state);
        let live = current && complete;
        self.core.publish(if live { ConnectionState::Live } else { ConnectionState::Syncing });
    }
}
