//! Devices: the real client library over simulated lines, and raw ones that do what no good client does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use everline::client::{
    BoxError, Cache, Client, ConnectionState, Events, Options, Preload, Saved, Stream, Token, Write,
};
use everline::protocol::*;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::house::House;
use crate::line::Line;
use crate::model::ConnId;

/// A connection: its number, its switches, the node it goes to.
pub type Wire = (ConnId, Arc<Line>, usize);

/// What the outside may know of a device's newest connection.
#[derive(Debug, Default, Clone)]
pub struct Wired(Arc<Mutex<Option<Wire>>>);

impl Wired {
    fn set(&self, conn: ConnId, line: Arc<Line>, node: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((conn, line, node));
    }

    pub fn get(&self) -> Option<Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a device keeps over its lives. A life that is over saves nothing any more, however long its last
/// words take.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    life: u64,
    kept: Arc<Mutex<(u64, Saved)>>,
}

impl Disk {
    fn kept(&self) -> std::sync::MutexGuard<'_, (u64, Saved)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept now.
    pub fn saved(&self) -> Saved {
        self.kept().1.clone()
    }

    fn next_life(&mut self) -> Self {
        self.life += 1;
        self.kept().0 = self.life;
        self.clone()
    }
}

impl Cache for Disk {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        let saved = self.saved();
        async move { Ok(saved) }.boxed()
    }

    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        let mut kept = self.kept();
        let alive = kept.0 == self.life;
        if alive {
            kept.1.take(write);
        }
        drop(kept);
        async move { if alive { Ok(()) } else { Err("the process is gone".into()) } }.boxed()
    }
}

/// A device with the real client library.
pub struct Real {
    pub user: UserId,
    pub id: DeviceId,
    pub cache: Disk,
    pub running: Option<(Client, Events)>,
    pub wired: Wired,
    seed: u64,
}

impl Real {
    pub fn new(user: &UserId, id: &str, seed: u64) -> Self {
        let id = DeviceId::parse(id).expect("a name");
        let (cache, wired) = (Disk::default(), Wired::default());
        Self { user: user.clone(), id, cache, running: None, wired, seed }
    }

    pub fn start(&mut self, house: &House) {
        if self.running.is_some() {
            return;
        }
        // Another life of the device, other keys.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let tokens = {
            let (house, user) = (house.clone(), self.user.clone());
            Token::Provider(Arc::new(move |_| {
                let token = house.token(&user);
                async move { Ok::<_, BoxError>(token) }.boxed()
            }))
        };
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(self.seed)));
        let (house, user, id, wired) = (house.clone(), self.user.clone(), self.id.clone(), self.wired.clone());
        let dial = Arc::new(move |_| {
            let node = rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..house.nodes());
            let dialled = house.dial(node, &user, &id).map(|(stream, conn, line)| {
                wired.set(conn, line, node);
                Box::new(stream) as Box<dyn Stream>
            });
            async move { dialled }.boxed()
        });
        let options = Options::new("ws://everline.test/v1/ws", tokens, self.id.clone());
        let options =
            options.cache(self.cache.next_life()).preload(Preload::History(u32::MAX)).seed(self.seed).dial(dial);
        self.running = Some(Client::connect(options).expect("a good address"));
    }

    /// Its process dies: nothing is said to anybody.
    pub fn kill(&mut self) {
        self.running = None;
    }

    pub async fn close(&mut self) {
        if let Some((client, _)) = self.running.take() {
            client.close().await;
        }
    }

    /// Stopped by itself.
    pub fn has_stopped(&self) -> bool {
        self.client().is_some_and(|client| matches!(client.status(), ConnectionState::Disconnected(Some(_))))
    }

    pub fn client(&self) -> Option<&Client> {
        self.running.as_ref().map(|(client, _)| client)
    }
}

/// What a raw device is told to do.
#[derive(Debug)]
pub enum Act {
    Ask(Request),
    /// Goes back (or not) and asks for everything from there.
    Sync(u64),
    /// Asks for the newest message and deletes it as soon as it is there.
    Snatch(ConvId),
    /// Reads nothing for so long.
    Stall(Duration),
    /// Acknowledges all and from now on at once.
    Behave,
    Quit,
}

/// Where a raw device stands.
#[derive(Debug, Default)]
pub struct Held {
    pub cursor: Option<Cursor>,
    pub connected: bool,
    /// Said by the server since the last connect.
    pub live: bool,
    /// What it was told of large conversations.
    pub heads: BTreeMap<ConvId, u64>,
}

/// A device that speaks the protocol by hand.
pub struct Raw {
    pub user: UserId,
    pub id: DeviceId,
    pub held: Arc<Mutex<Held>>,
    pub wired: Wired,
    acts: Option<mpsc::UnboundedSender<Act>>,
    /// It reads again, or acknowledges late, for all we know until then.
    lags_until: Option<Instant>,
    lazy: bool,
    task: Option<JoinHandle<()>>,
}

impl Raw {
    pub fn new(user: &UserId, id: &str) -> Self {
        let id = DeviceId::parse(id).expect("a name");
        let (held, wired) = (Arc::default(), Wired::default());
        Self { user: user.clone(), id, held, wired, acts: None, lags_until: None, lazy: false, task: None }
    }

    pub fn is_connected(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    pub fn cursor(&self) -> Option<Cursor> {
        self.held().cursor.clone()
    }

    pub fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is its own fault when it is behind.
    pub fn may_lag(&self) -> bool {
        self.lazy || self.lags_until.is_some_and(|until| Instant::now() < until + Duration::from_secs(3))
    }

    pub fn stall(&mut self, time: Duration) {
        self.lags_until = Some(self.lags_until.unwrap_or(Instant::now()).max(Instant::now()) + time);
        self.act(Act::Stall(time));
    }

    pub fn act(&self, act: Act) {
        if let Some(acts) = &self.acts {
            let _ = acts.send(act);
        }
    }

    /// Connects to a node with this cursor. `lazy`: acknowledges only what it must.
    pub fn connect(&mut self, house: &House, node: usize, cursor: Option<Cursor>, lazy: bool) {
        self.kill();
        (self.lags_until, self.lazy) = (None, lazy);
        let Ok((stream, conn, line)) = house.dial(node, &self.user, &self.id) else { return };
        self.wired.set(conn, line, node);
        let (acts, queue) = mpsc::unbounded_channel();
        let life = Life {
            token: house.token(&self.user),
            id: self.id.clone(),
            held: Arc::clone(&self.held),
            lazy,
            window: house.setting().rules.window,
            acked: 0,
            last_id: 0,
            snatching: None,
        };
        {
            let mut held = self.held();
            (held.cursor, held.live, held.connected) = (cursor, false, true);
        }
        self.acts = Some(acts);
        self.task = Some(tokio::spawn(life.live(stream, queue)));
    }

    pub fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.acts = None;
        self.held().connected = false;
    }
}

/// One connection of a raw device.
struct Life {
    token: String,
    id: DeviceId,
    held: Arc<Mutex<Held>>,
    lazy: bool,
    window: u64,
    acked: u64,
    last_id: u64,
    snatching: Option<ConvId>,
}

impl Life {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&mut self) -> MsgId {
        self.last_id += 1;
        MsgId::parse(&format!("r{}", self.last_id)).expect("a name")
    }

    async fn live(mut self, stream: tokio::io::DuplexStream, mut queue: mpsc::UnboundedReceiver<Act>) {
        let _ = self.serve(stream, &mut queue).await;
        let mut held = self.held();
        (held.connected, held.live) = (false, false);
    }

    async fn serve(
        &mut self,
        stream: tokio::io::DuplexStream,
        queue: &mut mpsc::UnboundedReceiver<Act>,
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        let mut request = "ws://everline.test/v1/ws".into_client_request()?;
        let protocol = SUBPROTOCOL.parse().expect("a header's value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        // Written by a task of its own: who waits for room to write, reads all the same.
        let (mut sink, mut socket) = socket.split();
        let (out, mut queued) = mpsc::unbounded_channel::<Frame>();
        let mut writer = tokio::task::JoinSet::new();
        writer.spawn(async move {
            while let Some(frame) = queued.recv().await {
                let last = matches!(frame, Frame::Close(_));
                if sink.send(frame).await.is_err() || last {
                    return;
                }
            }
        });
        let (cursor, conversations) = {
            let held = self.held();
            (held.cursor.clone(), held.heads.clone())
        };
        let hello = Hello {
            id: self.next_id(),
            token: Some(self.token.clone()),
            device_id: self.id.clone(),
            cursor,
            conversations,
            client: None,
        };
        let _ = out.send(Frame::text(ClientFrame::Hello(hello).to_json()));
        loop {
            let answer = tokio::select! {
                biased;
                act = queue.recv() => match act {
                    Some(Act::Ask(request)) => Some(self.envelope(request)),
                    Some(Act::Sync(after_seq)) => {
                        if let Some(cursor) = &mut self.held().cursor {
                            cursor.seq = cursor.seq.min(after_seq);
                        }
                        Some(self.envelope(Request::Sync { after_seq }))
                    }
                    Some(Act::Snatch(conv_id)) => {
                        self.snatching = Some(conv_id.clone());
                        Some(self.envelope(Request::History { conv_id, from: HistoryFrom::Newest, limit: 1 }))
                    }
                    Some(Act::Stall(time)) => {
                        tokio::time::sleep(time).await;
                        None
                    }
                    Some(Act::Behave) => {
                        self.lazy = false;
                        self.ack(true)
                    }
                    Some(Act::Quit) | None => {
                        let _ = out.send(Frame::Close(None));
                        None
                    }
                },
                frame = socket.next() => match frame {
                    Some(Ok(Frame::Text(text))) => self.take(&text),
                    Some(Ok(_)) => None,
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
            };
            if let Some(frame) = answer {
                let _ = out.send(Frame::text(frame.to_json()));
            }
        }
    }

    fn envelope(&mut self, request: Request) -> ClientFrame {
        ClientFrame::Request(Envelope { id: self.next_id(), request })
    }

    fn take(&mut self, text: &str) -> Option<ClientFrame> {
        match ServerFrame::parse(text).ok()? {
            ServerFrame::Welcome(welcome) => {
                let mut held = self.held();
                let resumed = held.cursor.as_ref().filter(|_| welcome.sync == SyncMode::Resumed).map(|held| held.seq);
                let seq = resumed.unwrap_or(welcome.head_seq);
                held.cursor = Some(Cursor { epoch: welcome.epoch, seq });
                drop(held);
                self.acked = seq;
                None
            }
            ServerFrame::Reset(reset) => {
                self.held().cursor = Some(Cursor { epoch: reset.epoch, seq: reset.head_seq });
                self.acked = reset.head_seq;
                None
            }
            ServerFrame::Sync(frame) => {
                let mut held = self.held();
                held.live |= frame.live;
                let cursor = held.cursor.as_mut()?;
                // A second `sync` under way is answered from further back than the first has led.
                if frame.from_seq > cursor.seq {
                    return None;
                }
                cursor.seq = cursor.seq.max(frame.to_seq);
                drop(held);
                self.ack(false)
            }
            ServerFrame::Answer(Answer { body: AnswerBody::History { entries, .. }, .. }) => {
                let Some(Event::Message(message)) = entries.last().map(|entry| &entry.event) else { return None };
                let conv_id = self.snatching.take_if(|conv| *conv == message.conv_id)?;
                let range = Range { from: message.conv_seq, to: message.conv_seq };
                Some(self.envelope(Request::Delete { conv_id, ranges: vec![range] }))
            }
            ServerFrame::Heads { conversations } => {
                let told = conversations.into_iter().map(|item| (item.conv_id, item.head_seq));
                self.held().heads.extend(told);
                None
            }
            ServerFrame::Ping { .. } => {
                let seq = self.held().cursor.as_ref()?.seq;
                self.acked = seq;
                Some(ClientFrame::Pong { seq })
            }
            _ => None,
        }
    }

    /// The lazy acknowledge late, yet before the window is used up.
    fn ack(&mut self, now: bool) -> Option<ClientFrame> {
        let seq = self.held().cursor.as_ref()?.seq;
        let due = now || !self.lazy || seq >= self.acked + (self.window / 2).max(1);
        (due && seq > self.acked).then(|| {
            self.acked = seq;
            ClientFrame::Ack { seq }
        })
    }
}
