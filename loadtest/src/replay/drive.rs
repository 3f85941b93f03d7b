//! Does what a plan says, one file after its own order, and tells the oracle what came of it.
//!
//! A request whose answer a crash (or a device that went) took is asked again until it is answered:
//! every one may be repeated by its meaning. While one entry of a group is on its way nothing else is
//! asked of that group, except messages that may be pipelined, so the oracle can tell which number a
//! repeated request has got even where the second answer only says "no change".

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use everline::client::{Outgoing, RequestError, SendError};
use everline::protocol::{
    AnswerBody, Body, ConvId, ConversationSettings, ErrorCode, HistoryMode, MsgId, Range, Request, Role, Send, SendTo,
    UserId,
};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::devices::Town;
use super::log::Log;
use super::oracle::{Oracle, Said};
use super::plan::{Plan, Step};

/// How long one request may take, restarts of the server included.
const DEADLINE: Duration = Duration::from_secs(150);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The replay of one file.
pub(crate) struct Drive {
    town: Arc<Town>,
    log: Log,
    number: usize,
    pipeline: usize,
    oracle: Oracle,
    owner: UserId,
    /// conv_seq of each message of the file.
    seqs: Vec<u64>,
    turn: usize,
}

/// What came of a request.
struct Outcome {
    result: Result<AnswerBody, ErrorCode>,
    /// It was asked more than once, so it may have had its effect more than once.
    again: bool,
}

type Flight = BoxFuture<'static, Result<(usize, Said, u64)>>;

/// The same for all files.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    /// Messages under way at a time.
    pub(crate) pipeline: usize,
    /// Members above which a group is large.
    pub(crate) limit: usize,
}

/// Runs a plan to its end.
pub(crate) async fn drive(town: Arc<Town>, log: Log, plan: Plan, number: usize, style: Style) -> Result<Oracle> {
    let Style { pipeline, limit } = style;
    let Plan { name, owner, full, steps } = plan;
    let history = if full { HistoryMode::Full } else { HistoryMode::SinceJoin };
    let request = Request::Create {
        members: vec![owner.clone()],
        title: Some(name.clone()),
        attributes: None,
        history,
        op_id: MsgId::parse(&format!("replay-{number}"))?,
    };
    let created = ask(&town, &owner, 0, request).await?;
    let Ok(AnswerBody::Ok { conv_id: Some(conv_id), .. }) = created.result else {
        bail!("{name}: create was refused or answered without conv_id");
    };
    let oracle = Oracle::new(conv_id, name, full, owner.clone(), limit);
    let mut drive = Drive { town, log, number, pipeline, oracle, owner, seqs: Vec::new(), turn: 0 };
    drive.run(steps).await.with_context(|| format!("file {}", drive.oracle.title))?;
    Ok(drive.oracle)
}

/// Asks until there is an answer that is not "later".
async fn ask(town: &Town, user: &UserId, turn: usize, request: Request) -> Result<Outcome> {
    let deadline = Instant::now() + DEADLINE;
    let mut again = false;
    let mut last = String::new();
    while Instant::now() < deadline {
        let client = town.any(user, turn).await?;
        match timeout(ATTEMPT, client.request(request.clone())).await {
            Ok(Ok(answer)) => return Ok(Outcome { result: Ok(answer), again }),
            Ok(Err(RequestError::Refused(error))) if !error.code.retryable() => {
                return Ok(Outcome { result: Err(error.code), again });
            }
            Ok(Err(RequestError::Unexpected)) => bail!("{user}: unexpected answer to {request:?}"),
            Ok(Err(error)) => last = error.to_string(),
            // The contract: every request is answered once.
            Err(_) => {
                town.counters.fault(format!("{user}: no answer within {ATTEMPT:?} to {request:?}"));
                last = "no answer".into();
            }
        }
        again = true;
        town.counters.asked_again.fetch_add(1, Relaxed);
        let _ = timeout(Duration::from_secs(2), client.wait_live()).await;
        sleep(Duration::from_millis(20)).await;
    }
    bail!("{user} waits for an answer to {request:?}; last: {last}")
}

fn conv_seq(answer: &AnswerBody) -> Result<u64> {
    match answer {
        AnswerBody::Ok { conv_seq: Some(conv_seq), .. } => Ok(*conv_seq),
        other => bail!("an answer without conv_seq: {other:?}"),
    }
}

impl Drive {
    async fn run(&mut self, steps: Vec<Step>) -> Result<()> {
        let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
        for step in steps {
            self.town.counters.hold().await;
            let sends = matches!(&step, Step::Send { reply_to, .. }
                if reply_to.is_none_or(|target| self.seqs.get(target).is_some_and(|seq| *seq > 0)));
            let room = if sends { self.pipeline } else { 1 };
            while flying.len() >= room {
                let landed = flying.next().await.context("nothing flies")??;
                self.landed(landed)?;
            }
            let what = format!("{step:?}");
            match step {
                Step::Send { message, user, reply_to, mention } => {
                    flying.push(self.fly(message, user, reply_to, mention)?);
                }
                step => self.step(step).await.context(what)?,
            }
            self.town.counters.steps.fetch_add(1, Relaxed);
        }
        while let Some(landed) = flying.next().await {
            self.landed(landed?)?;
        }
        Ok(())
    }

    /// A message on its way.
    fn fly(
        &mut self,
        message: usize,
        user: UserId,
        reply_to: Option<usize>,
        mention: Option<UserId>,
    ) -> Result<Flight> {
        self.seqs.resize(message + 1, 0);
        let said = Said {
            sender: user,
            client_msg_id: self.key(message)?,
            sent_at: 0,
            body: self.body(message)?,
            reply_to: reply_to.map(|target| self.seq(target)).transpose()?,
            mentions: mention.into_iter().collect(),
        };
        let (town, conv_id) = (Arc::clone(&self.town), self.oracle.conv_id.clone());
        self.turn += 1;
        let turn = self.turn;
        Ok(Box::pin(async move {
            let sent = deliver(&town, &conv_id, &said, turn).await;
            let (conv_seq, sent_at) = sent.with_context(|| format!("message {message}"))?;
            Ok((message, Said { sent_at, ..said }, conv_seq))
        }))
    }

    fn landed(&mut self, (message, said, conv_seq): (usize, Said, u64)) -> Result<()> {
        if let Some(seq) = self.seqs.get_mut(message) {
            *seq = conv_seq;
        }
        self.town.counters.messages.fetch_add(1, Relaxed);
        self.oracle.sent(conv_seq, said)
    }

    async fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Send { .. } => bail!("sends are not steps of their own"),
            Step::Invite { user, by } => {
                self.town.arrive(&user).await?;
                let users = vec![user.clone()];
                if let Some(seq) = self.entry(&by, |conv_id| Request::Invite { conv_id, users }).await? {
                    self.oracle.joined(&user, seq)?;
                }
            }
            Step::Leave { user } => self.leave(&user).await?,
            Step::Remove { user } => {
                let users = vec![user.clone()];
                let owner = self.owner.clone();
                if let Some(seq) = self.entry(&owner, |conv_id| Request::Remove { conv_id, users }).await? {
                    self.oracle.left(&user, seq)?;
                }
            }
            Step::Promote { user } => {
                let (owner, user_id, role) = (self.owner.clone(), user.clone(), Role::Admin);
                if let Some(seq) = self.entry(&owner, |conv_id| Request::Role { conv_id, user_id, role }).await? {
                    self.oracle.role(&user, Role::Admin, seq)?;
                }
            }
            Step::Resend { message, user } => self.resend(message, &user).await?,
            Step::Conflict { message, user } => self.conflict(message, &user).await?,
            Step::Drop { user, device } => self.town.go(&user, device).await?,
            Step::Return { user, device } => self.town.come(&user, device).await?,
            Step::Recall { .. } | Step::Edit { .. } | Step::React { .. } => self.change(step).await?,
            Step::Delete { .. } | Step::Clear { .. } | Step::Read { .. } | Step::Mute { .. } => {
                self.personal(step).await?;
            }
        }
        Ok(())
    }

    async fn ask(&mut self, user: &UserId, request: Request) -> Result<Outcome> {
        self.turn += 1;
        ask(&self.town, user, self.turn, request).await
    }

    /// A request that makes one entry of the group's log; its number. A refusal is a fault: nothing
    /// planned may be refused.
    async fn entry(&mut self, by: &UserId, request: impl FnOnce(ConvId) -> Request) -> Result<Option<u64>> {
        let request = request(self.oracle.conv_id.clone());
        let what = format!("{request:?}");
        let Outcome { result, again } = self.ask(by, request).await?;
        if again {
            self.oracle.asked_again();
        }
        match result {
            Ok(answer) => conv_seq(&answer).map(Some),
            Err(code) => {
                self.town.counters.fault(format!("{by}: {code} to {what}"));
                Ok(None)
            }
        }
    }

    async fn leave(&mut self, user: &UserId) -> Result<()> {
        let conv_id = self.oracle.conv_id.clone();
        match self.ask(user, Request::Leave { conv_id }).await? {
            Outcome { result: Ok(answer), .. } => self.oracle.left(user, conv_seq(&answer)?),
            // The first attempt took him out; nothing else was asked of the group meanwhile.
            Outcome { result: Err(ErrorCode::NotFound), again: true } => {
                let seq = self.oracle.head() + 1;
                self.oracle.left(user, seq)
            }
            Outcome { result: Err(code), .. } => bail!("{user} may not leave: {code}"),
        }
    }

    async fn change(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Recall { target, by } => {
                let target = self.seq(target)?;
                self.count_recall().await?;
                if let Some(seq) = self.entry(&by, |conv_id| Request::Recall { conv_id, target }).await? {
                    self.oracle.recalled(target, seq)?;
                }
            }
            Step::Edit { target, by, version } => {
                let body = Body::from_value(&json!({"n": target, "version": version}))?;
                let target = self.seq(target)?;
                let new = body.clone();
                if let Some(seq) = self.entry(&by, |conv_id| Request::Edit { conv_id, target, body }).await? {
                    self.oracle.edited(target, seq, new)?;
                }
            }
            Step::React { target, by, key, add } => {
                let target = self.seq(target)?;
                let request = |conv_id| Request::React { conv_id, target, key: key.to_owned(), add };
                if let Some(seq) = self.entry(&by, request).await? {
                    self.oracle.reacted(target, seq, by, key.to_owned(), add)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What concerns nobody but the user himself.
    async fn personal(&mut self, step: Step) -> Result<()> {
        let conv_id = self.oracle.conv_id.clone();
        match step {
            Step::Delete { from, to, by } => {
                let (from, to) = (self.seq(from)?, self.seq(to)?);
                // Pipelined messages need not have been numbered in file order.
                let (from, to) = (from.min(to), from.max(to));
                let ranges = vec![Range { from, to }];
                self.own(&by, Request::Delete { conv_id, ranges }).await?;
                self.oracle.deleted(&by, from, to)
            }
            Step::Clear { up_to, by } => {
                let up_to = self.seq(up_to)?;
                self.own(&by, Request::Clear { conv_id, up_to }).await?;
                self.oracle.cleared(&by, up_to)
            }
            Step::Read { up_to, by } => {
                let read_seq = self.seq(up_to)?;
                self.own(&by, Request::Read { conv_id, read_seq }).await?;
                self.oracle.read(&by, read_seq)
            }
            Step::Mute { by, muted } => {
                self.own(&by, Request::Settings { conv_id, muted: Some(muted), pinned: None, hidden: None }).await?;
                self.oracle.set(&by, ConversationSettings { muted, ..ConversationSettings::default() })
            }
            _ => Ok(()),
        }
    }

    async fn own(&mut self, by: &UserId, request: Request) -> Result<()> {
        let what = format!("{request:?}");
        if let Err(code) = self.ask(by, request).await?.result {
            bail!("{by}: {code} to {what}");
        }
        Ok(())
    }

    /// The same message under its own key: the first answer again, and no second message.
    async fn resend(&mut self, message: usize, user: &UserId) -> Result<()> {
        let first = self.seq(message)?;
        let request = self.again(message, first)?;
        match self.ask(user, request).await?.result {
            Ok(AnswerBody::Sent { conv_seq, duplicate: true, .. }) if conv_seq == first => {
                self.town.counters.duplicates.fetch_add(1, Relaxed);
            }
            other => {
                self.town.counters.fault(format!(
                    "{user}: message {message} ({first}) sent again was answered {other:?}, not duplicate"
                ));
            }
        }
        Ok(())
    }

    /// The send of a message as the oracle has it, once more.
    fn again(&self, message: usize, seq: u64) -> Result<Request> {
        let said = self.oracle.said(seq).with_context(|| format!("message {message} is not in the log"))?;
        Ok(send(&self.oracle.conv_id, said))
    }

    async fn conflict(&mut self, message: usize, user: &UserId) -> Result<()> {
        let seq = self.seq(message)?;
        let Request::Send(mut other) = self.again(message, seq)? else { return Ok(()) };
        other.body = Body::from_value(&json!({"other": message}))?;
        match self.ask(user, Request::Send(other)).await?.result {
            Err(ErrorCode::IdempotencyConflict) => {
                self.town.counters.conflicts.fetch_add(1, Relaxed);
            }
            other => {
                let what = format!("{user}: other content under the key of message {message} got {other:?}");
                self.town.counters.fault(what);
            }
        }
        Ok(())
    }

    async fn count_recall(&self) -> Result<()> {
        self.town.counters.recalls.fetch_add(1, Relaxed);
        for user in self.oracle.present().keys() {
            if self.town.away(user).await? > 0 {
                self.town.counters.recalls_missed.fetch_add(1, Relaxed);
                break;
            }
        }
        Ok(())
    }

    fn seq(&self, message: usize) -> Result<u64> {
        let seq = self.seqs.get(message).copied().filter(|seq| *seq > 0);
        seq.with_context(|| format!("message {message} has no conv_seq yet"))
    }

    fn key(&self, message: usize) -> Result<MsgId> {
        Ok(MsgId::parse(&format!("f{}-{message}", self.number))?)
    }

    fn body(&self, message: usize) -> Result<Body> {
        let line = self.log.lines.get(message).context("the plan is of another file")?;
        let mut body = json!({"text": line.text, "n": message});
        if line.action
            && let Some(object) = body.as_object_mut()
        {
            object.insert("action".into(), true.into());
        }
        Ok(Body::from_value(&body)?)
    }
}

fn send(conv_id: &ConvId, said: &Said) -> Request {
    Request::Send(Send {
        to: SendTo::Conv(conv_id.clone()),
        client_msg_id: said.client_msg_id.clone(),
        body: said.body.clone(),
        reply_to: said.reply_to,
        mentions: said.mentions.clone(),
    })
}

/// Sends a message through a device's outbox; when that device goes, through another under the same
/// key. conv_seq and sent_at.
async fn deliver(town: &Town, conv_id: &ConvId, said: &Said, turn: usize) -> Result<(u64, u64)> {
    let client = town.any(&said.sender, turn).await?;
    let mut message = Outgoing::new(conv_id.clone(), said.body.clone()).mentions(said.mentions.clone());
    message.reply_to = said.reply_to;
    message.client_msg_id = Some(said.client_msg_id.clone());
    let sent = async { client.queue(message).await?.sent().await };
    match timeout(DEADLINE, sent).await {
        Ok(Ok(sent)) => return Ok((sent.conv_seq, sent.sent_at)),
        Ok(Err(SendError::Stopped)) => {}
        Ok(Err(error)) => bail!("{}: {error}", said.sender),
        Err(_) => bail!("{} waits for `sent` since {DEADLINE:?}", said.sender),
    }
    match ask(town, &said.sender, turn + 1, send(conv_id, said)).await?.result {
        Ok(AnswerBody::Sent { conv_seq, sent_at, .. }) => Ok((conv_seq, sent_at)),
        other => bail!("{}: answered {other:?}", said.sender),
    }
}
