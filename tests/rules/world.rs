//! Nodes on one simulated store, and what every promise comes down to: who has what, once, in order.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use everline::bus::{Exchange, Identity};
use everline::config::{Clock, Policy};
use everline::engine::{Answer, Caller, Engine, PageRead};
use everline::hub::Hub;
use everline::protocol::*;
use everline::store::TimelineId;
use everline::store::sim::{Faults, Sim, SimOptions};
use tokio::task::JoinHandle;

use super::between::Between;
use super::gate::Gate;

/// What a scenario comes to; `Err` says which promise was broken.
pub type Proof = Result<(), String>;

/// Fails the scenario unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

/// Fails the scenario unless both are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        if *found != *expected {
            return Err(format!("{}: found {found:?}, expected {expected:?}", format!($($what)+)));
        }
    }};
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub fn caller(name: &str) -> Caller {
    Caller { user: user(name), device: DeviceId::parse("phone").unwrap() }
}

pub fn body(text: &str) -> Body {
    Body::from_value(&serde_json::json!({ "text": text })).unwrap()
}

/// The sync timeline of a user.
pub fn of(name: &str) -> TimelineId {
    TimelineId::User(user(name))
}

/// The log of a conversation.
pub fn log_of(conv: &ConvId) -> TimelineId {
    TimelineId::Conversation(conv.clone())
}

pub fn direct(a: &str, b: &str) -> ConvId {
    ConvId::direct(&user(a), &user(b))
}

/// A request with these parts.
pub fn send(conv: &ConvId, id: &str) -> Request {
    Request::Send(Send {
        to: SendTo::Conv(conv.clone()),
        client_msg_id: MsgId::parse(id).unwrap(),
        body: body(id),
        reply_to: None,
        mentions: vec![],
    })
}

pub fn create(members: &[&str], history: HistoryMode) -> Request {
    Request::Create {
        members: members.iter().map(|name| user(name)).collect(),
        title: Some("town".into()),
        attributes: None,
        history,
        op_id: MsgId::parse("op").unwrap(),
    }
}

pub fn recall(conv: &ConvId, target: u64) -> Request {
    Request::Recall { conv_id: conv.clone(), target }
}

pub fn edit(conv: &ConvId, target: u64, text: &str) -> Request {
    Request::Edit { conv_id: conv.clone(), target, body: body(text) }
}

pub fn read(conv: &ConvId, read_seq: u64) -> Request {
    Request::Read { conv_id: conv.clone(), read_seq }
}

pub fn delete(conv: &ConvId, seq: u64) -> Request {
    Request::Delete { conv_id: conv.clone(), ranges: vec![Range { from: seq, to: seq }] }
}

pub fn invite(conv: &ConvId, name: &str) -> Request {
    Request::Invite { conv_id: conv.clone(), users: vec![user(name)] }
}

pub fn remove(conv: &ConvId, name: &str) -> Request {
    Request::Remove { conv_id: conv.clone(), users: vec![user(name)] }
}

pub fn history(conv: &ConvId) -> Request {
    Request::History { conv_id: conv.clone(), from: HistoryFrom::Newest, limit: 100 }
}

/// One simulated store with its clock.
#[derive(Debug)]
pub struct World {
    pub clock: Clock,
    pub sim: Sim,
    pub policy: Policy,
    incarnations: Cell<u64>,
}

impl World {
    /// `together`: the kind of store the embedded one is; else of CQL's kind.
    pub fn new(together: bool) -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let faults = Faults { lose_unsynced: true, ..Faults::none() };
        let sim = Sim::new(SimOptions { seed: 1, clock: clock.clone(), together, faults });
        Self { clock, sim, policy: Policy::default(), incarnations: Cell::new(0) }
    }

    /// A store of CQL's kind.
    pub fn apart() -> Self {
        Self::new(false)
    }

    /// A store of the embedded kind.
    pub fn together() -> Self {
        Self::new(true)
    }

    fn engine_on(&self, sim: Sim) -> Node {
        self.engine_with(sim, |_| Hub::default())
    }

    fn engine_with(&self, sim: Sim, hub: impl FnOnce(u64) -> Hub) -> Node {
        self.incarnations.set(self.incarnations.get() + 1);
        let incarnation = self.incarnations.get();
        let (gate, hub) = (Gate::new(sim), Arc::new(hub(incarnation)));
        let store = Arc::new(Between(Arc::clone(&gate)));
        let engine = Engine::new(store, Arc::clone(&hub), self.clock.clone(), self.policy.clone(), incarnation);
        Node { engine, gate, hub, incarnation }
    }

    /// Another node.
    pub fn node(&self) -> Node {
        self.engine_on(self.sim.handle())
    }

    /// Another node, that hears others and is heard.
    pub fn node_on(&self, exchange: &Exchange) -> Node {
        let epoch = everline::store::Store::epoch(&self.sim);
        let join = |node| Hub::new(exchange.join(Identity { node, epoch: Arc::new(move || epoch.clone()) }));
        self.engine_with(self.sim.handle(), join)
    }

    /// The node's process dies and another is started on the same data; it finishes what the first left.
    pub async fn restart(&self, node: &Node) -> Result<Node, String> {
        node.gate.kill();
        let next = self.engine_on(node.gate.sim.crash());
        if everline::store::Store::together(&next.gate.sim) {
            next.engine.recover().await.map_err(|error| error.to_string())?;
        } else {
            next.take_over(node).await?;
        }
        Ok(next)
    }

    /// Two nodes on a store of CQL's kind, and a group of alice (owner), bob and carol made on the first.
    pub async fn two_nodes() -> Result<(Self, Node, Node, ConvId), String> {
        let world = Self::apart();
        let (a, b) = (world.node(), world.node());
        let conv = a.create(&["bob", "carol"]).await?;
        rest().await;
        Ok((world, a, b, conv))
    }
}

/// Lets everything run until nothing is left to do but waiting for tests and time. The clock is paused:
/// it moves only when every task is at rest.
pub async fn rest() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// One process.
#[derive(Debug)]
pub struct Node {
    pub engine: Engine,
    pub gate: Arc<Gate>,
    pub hub: Arc<Hub>,
    pub incarnation: u64,
}

impl Node {
    /// Hands a request in; its answer may be waited for later.
    pub fn start(&self, who: &str, request: Request) -> JoinHandle<Answer> {
        tokio::spawn(self.engine.submit(&caller(who), request))
    }

    /// A request that must succeed.
    pub async fn ask(&self, who: &str, request: Request) -> Result<AnswerBody, String> {
        let what = format!("{who} asks {request:?}");
        self.engine.submit(&caller(who), request).await.map_err(|refusal| format!("{what}: {:?}", refusal.code))
    }

    /// A request that must be refused.
    pub async fn refused(&self, who: &str, request: Request) -> Result<ErrorCode, String> {
        let what = format!("{who} asks {request:?}");
        match self.engine.submit(&caller(who), request).await {
            Ok(answer) => Err(format!("{what} and is answered {answer:?}")),
            Err(refusal) => Ok(refusal.code),
        }
    }

    /// Sends a message of this id and tells its conv_seq and whether it was there already.
    pub async fn send(&self, who: &str, conv: &ConvId, id: &str) -> Result<(u64, bool), String> {
        sent(self.ask(who, send(conv, id)).await?)
    }

    /// Makes the group of alice and these.
    pub async fn create(&self, members: &[&str]) -> Result<ConvId, String> {
        self.create_with(members, HistoryMode::SinceJoin).await
    }

    pub async fn create_with(&self, members: &[&str], history: HistoryMode) -> Result<ConvId, String> {
        match self.ask("alice", create(members, history)).await? {
            AnswerBody::Ok { conv_id: Some(id), .. } => Ok(id),
            other => Err(format!("create answered {other:?}")),
        }
    }

    /// Finishes what the other node left.
    pub async fn take_over(&self, dead: &Node) -> Result<(), String> {
        let name = dead.incarnation;
        self.engine.take_over(|node| node == name).await.map(drop).map_err(|error| error.to_string())
    }

    /// All of a user's sync timeline: `op conv_seq`, a message with its text.
    pub async fn log(&self, who: &str) -> Result<Vec<String>, String> {
        Ok(self.events(who).await?.iter().map(told).collect())
    }

    /// All of a user's sync timeline as a device reads it.
    pub async fn events(&self, who: &str) -> Result<Vec<Event>, String> {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = self.engine.page(&user(who), after, 3, 1 << 20).await;
            let page = match page.map_err(|refusal| format!("page of {who}: {:?}", refusal.code))? {
                PageRead::Page(page) => page,
                other => return Err(format!("page of {who} after {after}: {other:?}")),
            };
            ensure_eq!(page.from, after, "{who}'s page begins at its cursor");
            for (_, text) in &page.entries {
                found.push(Event::decode(text).unwrap());
            }
            after = page.to;
            if page.to == page.standing.head {
                return Ok(found);
            }
        }
    }

    /// The user's list.
    pub async fn conversations(&self, who: &str) -> Result<Vec<ConversationSummary>, String> {
        match self.ask(who, Request::Conversations { active_after: None, page: None, limit: 100 }).await? {
            AnswerBody::Conversations { conversations, .. } => Ok(conversations),
            other => Err(format!("{other:?}")),
        }
    }

    /// The user's line of a conversation in his list.
    pub async fn summary(&self, who: &str, conv: &ConvId) -> Result<ConversationSummary, String> {
        let line = self.conversations(who).await?.into_iter().find(|line| line.conv_id == *conv);
        line.ok_or_else(|| format!("{who} does not see {conv} listed"))
    }
}

/// The answer of a request started before; it must succeed.
pub async fn answer(started: JoinHandle<Answer>) -> Result<AnswerBody, String> {
    started.await.unwrap().map_err(|refusal| format!("refused: {:?}", refusal.code))
}

/// conv_seq of a `sent`, and whether it says duplicate.
pub fn sent(answer: AnswerBody) -> Result<(u64, bool), String> {
    match answer {
        AnswerBody::Sent { conv_seq, duplicate, .. } => Ok((conv_seq, duplicate)),
        other => Err(format!("send answered {other:?}")),
    }
}

fn told(event: &Event) -> String {
    let seq = event.conv_seq().map_or_else(String::new, |seq| format!(" {seq}"));
    let text = match event {
        Event::Message(message) => match &message.body {
            Some(body) => body.to_value()["text"].as_str().map_or_else(String::new, |text| format!(" {text}")),
            None => " gone".to_owned(),
        },
        _ => String::new(),
    };
    format!("{}{seq}{text}", event.op())
}
