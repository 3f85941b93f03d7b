//! One seed: a history of requests, disconnections, crashes and reads, checked after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use everline::engine::{Answer, Caller};
use everline::protocol::*;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::absorb::{Check, Model, OVERFLOW};
use crate::check;
use crate::device::{Device, Owes};
use crate::model::Rules;
use crate::place::Stage;
use crate::plan::Plan;
use crate::trouble::faults;
use crate::user::{Item, User};
use crate::world::World;

/// What became of a history.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Checked,
    /// More happened in one step than a sync timeline keeps: not checked to the end.
    Unknown,
    /// The process died, and with it everything that runs: call `reopen` in another, and go on.
    Died,
}

/// Not a violation: everything ends here, and goes on after `reopen`.
pub const DIED: &str = "died";

/// An answer, when it has come: the caller's sync head and the time then.
type Told = Arc<Mutex<Option<(Option<Answer>, u64, u64)>>>;

/// How often each kind of thing happened.
pub type Tally = BTreeMap<&'static str, u64>;

pub struct Run {
    pub rng: StdRng,
    pub world: World,
    pub model: Model,
    pub plan: Plan,
    pub devices: Vec<Device>,
    /// What the users have registered.
    registered: BTreeMap<UserId, BTreeSet<DeviceId>>,
    /// Steps to go.
    pub left: usize,
    pub tally: Tally,
    pub trace: Vec<String>,
}

impl Run {
    /// A history of this seed, to be played there.
    pub fn new(seed: u64, stage: &Stage) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let either = rng.random_bool(0.5);
        let together = match stage {
            Stage::Simulated => either,
            Stage::Directory => true,
            Stage::Keyspace(_) => false,
        };
        let nodes = if together { 1 } else { rng.random_range(1..=3) };
        let rules = Rules {
            recall_limit_ms: 24 * 60 * 60 * 1000,
            sync_max_entries: [30, 40, 60][rng.random_range(0..3)],
            sync_max_age_ms: 7 * 24 * 60 * 60 * 1000,
            max_devices: 3,
        };
        let faults = faults(&mut rng, together);
        let plan = Plan::new(rng.random_range(3..=5));
        let world = World::new(stage, seed, together, nodes, faults, rules.clone(), plan.people.clone());
        let devices = plan
            .people
            .iter()
            .flat_map(|user| [Device::new(user, "phone", Owes::Nothing), Device::new(user, "tablet", Owes::Nothing)]);
        let devices = devices.collect();
        let trace = vec![format!("together {together}, {nodes} nodes, {:?}, {rules:?}", world.faults)];
        let left = rng.random_range(10..50);
        let (model, tally) = (Model::new(rules), Tally::new());
        Self { rng, world, model, plan, devices, registered: BTreeMap::new(), left, tally, trace }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub fn note(&mut self, what: String) {
        self.trace.push(format!("{:>4} {what}", self.trace.len()));
    }

    /// The logs as far as they are known, for whoever looks for the bug.
    pub fn logs(&self) -> String {
        let mut out = String::new();
        for conv in self.model.convs.values() {
            out += &format!("{} {:?}\n", conv.id, conv.history);
            for (entry, seq) in conv.log.iter().zip(1..) {
                out += &format!("  {seq} {:?}\n", entry.event);
            }
        }
        for (id, user) in &self.model.users {
            let short = |item: &Item| match item {
                Item::Log(conv, seq) => format!("{} {seq}", &conv[..conv.len().min(10)]),
                Item::Own(event) => event.encode().to_string(),
            };
            let items: Vec<_> = user.sync.iter().map(|(_, item)| short(item)).collect();
            out += &format!("{id}: {}\n", items.join(", "));
        }
        out
    }

    pub fn fingerprint(&self) -> (u64, u64) {
        self.world.fingerprint()
    }

    /// The history to its end, or until its process dies.
    pub async fn history(&mut self) -> Result<End, String> {
        match self.steps().await {
            Err(wrong) if wrong.ends_with(OVERFLOW) => {
                self.count("overflow");
                Ok(End::Unknown)
            }
            Err(wrong) if wrong == DIED => Ok(End::Died),
            Err(wrong) => Err(wrong),
            Ok(()) => Ok(End::Checked),
        }
    }

    async fn steps(&mut self) -> Check {
        while self.left > 0 {
            self.left -= 1;
            self.step().await?;
        }
        self.finish().await
    }

    /// The next process opens what the one before left behind.
    pub async fn reopen(&mut self) -> Result<(), String> {
        self.world.reopen().await;
        self.world.settle().await;
        self.model.absorb(&self.world)?;
        self.check().await
    }

    async fn step(&mut self) -> Check {
        self.maintain().await?;
        self.world.trouble(true);
        let size = if self.rng.random_bool(0.5) { 1 } else { self.rng.random_range(2..=6) };
        let (mut asked, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..size {
            let (user, request) = self.choose();
            let node = self.rng.random_range(0..self.world.nodes.len());
            let incarnation = self.world.nodes[node].incarnation;
            let sub = self.model.asks(incarnation, &user, request.clone(), self.world.now());
            self.note(format!("node {node}: {user} {request:?}"));
            let (answer, look, clock) =
                (self.world.ask(node, &user, request), self.world.look(), self.world.clock.clone());
            let told = Told::default();
            asked.push((sub, Arc::clone(&told)));
            answers.push(async move {
                let answer = answer.await;
                *told.lock().expect("whole") = Some((answer, look.sync_head(&user), clock.now_ms()));
            });
        }
        let answers = tokio::spawn(join_all(answers));
        let visits = self.visits();
        let disturbed = self.disturb().await;
        if disturbed.is_ok() {
            answers.await.map_err(|error| format!("answers: {error}"))?;
        }
        for (sub, told) in asked {
            let told = told.lock().expect("whole").take();
            let (answer, seen, now) = told.unwrap_or((None, 0, self.world.now()));
            self.tell(sub, &answer)?;
            self.model.answered(sub, answer, seen, now);
        }
        disturbed?;
        for (index, visit) in visits {
            let (device, seen) = visit.await.map_err(|error| format!("a device: {error}"))?;
            self.devices[index] = device;
            *self.tally.entry("resets").or_default() += seen?.resets;
        }
        self.world.settle().await;
        self.model.absorb(&self.world)?;
        self.listen()?;
        if self.world.whole() {
            self.check().await?;
        }
        Ok(())
    }

    /// What was pushed is what stands in the log, in its order; with one writer, all of it.
    fn listen(&mut self) -> Check {
        let together = self.world.together;
        let mut pushed = 0;
        for seat in self.world.seats() {
            let batch = seat.take();
            pushed += batch.len() as u64;
            for live in batch {
                let next = if together { live.seq == seat.last + 1 || seat.last == 0 } else { live.seq > seat.last };
                if !next {
                    return Err(format!("{} was pushed {} after {}", seat.user, live.seq, seat.last));
                }
                seat.last = live.seq;
                self.model.pushed(&seat.user, &live)?;
            }
        }
        *self.tally.entry("pushed").or_default() += pushed;
        // The only node there ever was has moved every timeline itself, and told its sessions.
        let only = self.world.nodes.len() == 1 && (together || !self.tally.contains_key("kills"));
        if only && self.world.whole() {
            for seat in self.world.seats() {
                let head = self.model.users.get(&seat.user).map_or(0, User::head);
                if seat.last != head && seat.last != 0 {
                    return Err(format!("{} was told of {} of {head} entries", seat.user, seat.last));
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> (UserId, Request) {
        let open: Vec<_> = self.model.subs.iter().collect();
        if let Some(sub) = open.choose(&mut self.rng).filter(|_| self.rng.random_bool(0.3))
            && let Some(request) = self.plan.again(&sub.request)
        {
            *self.tally.entry("resent").or_default() += 1;
            return (sub.user.clone(), request);
        }
        self.plan.request(&self.model, &mut self.rng)
    }

    /// Notes an answer in the trace and the tally; in a world without trouble there is always one.
    fn tell(&mut self, sub: usize, answer: &Option<Answer>) -> Check {
        let request = format!("{:?}", self.model.subs[sub].request);
        let kind = request.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        self.note(format!("  {kind} of {}: {answer:?}", self.model.subs[sub].user));
        match answer {
            None => self.count("unanswered"),
            Some(Ok(AnswerBody::Sent { duplicate: true, .. })) => self.count("duplicates"),
            Some(Ok(_)) => self.count("answered"),
            Some(Err(refusal)) => match refusal.code {
                ErrorCode::Unavailable => self.count("unavailable"),
                ErrorCode::IdempotencyConflict => self.count("conflicts"),
                ErrorCode::Overloaded => return Err("overloaded by a handful of requests".into()),
                _ => self.count("refused"),
            },
        }
        let unavailable = matches!(answer, Some(Err(refusal)) if refusal.code == ErrorCode::Unavailable);
        let calm = self.world.together || (self.world.faults.unknown_p == 0.0 && self.world.whole());
        if unavailable && calm && self.world.faults.read_error_p == 0.0 && self.world.orphans.is_empty() {
            return Err(format!("unavailable, and nothing is wrong: {request}"));
        }
        Ok(())
    }

    /// Everything that must hold when all is quiet; reads are faultless here.
    async fn check(&mut self) -> Check {
        self.count("checks");
        check::complete(&self.model)?;
        check::decided(&self.model, &self.world)?;
        let (model, world, rng) = (&self.model, &self.world, &mut self.rng);
        let convs: Vec<_> = model.convs.values().filter(|conv| conv.exists).collect();
        for user in &self.plan.people {
            let engine = &world.nodes[rng.random_range(0..world.nodes.len())].engine;
            check::conversations(model, engine, user, rng.random_range(1..5)).await?;
            if rng.random_bool(0.3) {
                check::page(model, world, engine, user, rng).await?;
            }
            let Some(conv) = convs.choose(rng).filter(|_| rng.random_bool(0.3)) else { continue };
            match conv.members.get(user) {
                None => check::stranger(engine, user, &conv.id, false).await?,
                Some(member) => {
                    check::history(model, engine, user, conv, rng).await?;
                    check::changes(model, engine, user, conv, rng.random_range(0..=conv.head() + 1)).await?;
                    if member.present() {
                        check::members(model, engine, user, conv, rng.random_range(1..4)).await?;
                    } else {
                        check::stranger(engine, user, &conv.id, true).await?;
                    }
                }
            }
        }
        if self.rng.random_bool(0.3) {
            let index = self.rng.random_range(0..self.devices.len());
            self.catch_up(index).await?;
        }
        if self.rng.random_bool(0.2) {
            self.register().await?;
        }
        if self.rng.random_bool(0.1) {
            check::erased(&self.model, &self.world)?;
        }
        Ok(())
    }

    /// A device says hello or is logged out; a user has so many and no more.
    async fn register(&mut self) -> Check {
        let user = self.plan.people.choose(&mut self.rng).expect("some").clone();
        let name = format!("d{}", self.rng.random_range(0..5));
        let caller = Caller { user: user.clone(), device: DeviceId::parse(&name).expect("a name") };
        let engine = &self.world.nodes[self.rng.random_range(0..self.world.nodes.len())].engine;
        let known = self.registered.entry(user).or_default();
        if self.rng.random_bool(0.7) {
            let room = known.len() < self.model.rules.max_devices || known.contains(&caller.device);
            match engine.hello(&caller, None).await {
                Ok(_) if room => drop(known.insert(caller.device.clone())),
                Err(refusal) if !room && refusal.code == ErrorCode::TooManyConnections => {}
                other => return Err(format!("{caller:?} says hello: {other:?}; registered are {known:?}")),
            }
        } else {
            let out = engine.submit(&caller, Request::Logout { device_id: caller.device.clone() }).await;
            out.map_err(|refusal| format!("{caller:?} logs out: {refusal:?}"))?;
            known.remove(&caller.device);
        }
        let answer = engine.submit(&caller, Request::Devices).await;
        let Ok(AnswerBody::Devices { devices }) = &answer else { return Err(format!("devices: {answer:?}")) };
        let listed: BTreeSet<_> = devices.iter().map(|device| device.device_id.clone()).collect();
        if listed == *known { Ok(()) } else { Err(format!("{caller:?} has {listed:?}, due is {known:?}")) }
    }

    /// A device comes on-line for good and must be as if it had never been away.
    async fn catch_up(&mut self, index: usize) -> Check {
        let node = self.rng.random_range(0..self.world.nodes.len());
        let limits = (self.rng.random_range(1..12), [300, 1 << 20][self.rng.random_range(0..2)]);
        let seen = self.devices[index].visit(&self.world.nodes[node].engine, 1000, limits).await?;
        *self.tally.entry("resets").or_default() += seen.resets;
        *self.tally.entry("stubs to the off-line").or_default() += seen.stubs;
        check::device(&self.model, &self.devices[index])
    }

    /// All go on, the dead are taken over; then everything is looked at.
    async fn finish(&mut self) -> Check {
        self.note("the end".into());
        for node in 0..self.world.nodes.len() {
            self.world.pause(node, false);
            self.world.cut(node, false);
        }
        self.world.settle().await;
        // A mark whose deletion is unknown may stand until its node is dead.
        let all: Vec<u64> = self.world.nodes.iter().map(|node| node.incarnation).collect();
        self.world.orphans.extend(all);
        if !self.world.together && !self.world.take_over(0, None).await {
            return Err("a take-over without faults did not end".into());
        }
        self.world.orphans.clear();
        self.world.settle().await;
        self.model.absorb(&self.world)?;
        let (marks, unfinished) = (self.world.marks(), self.world.unfinished().await);
        if marks + unfinished > 0 {
            return Err(format!("{marks} marks and {unfinished} unfinished fan-outs are left"));
        }
        self.check().await?;
        check::erased(&self.model, &self.world)?;
        for index in 0..self.devices.len() {
            self.catch_up(index).await?;
        }
        self.tally_log();
        Ok(())
    }

    fn tally_log(&mut self) {
        for conv in self.model.convs.values() {
            let mut add = |what, count: usize| *self.tally.entry(what).or_default() += count as u64;
            add("rejoins", conv.members.values().filter(|member| member.stays.len() > 1).count());
            add("recalls", conv.fates.values().filter(|fate| fate.recall.is_some()).count());
            add("edits", conv.fates.values().map(|fate| fate.edits.len()).sum());
            add("entries", conv.log.len());
            add("direct", usize::from(conv.direct));
        }
        for user in self.model.users.values() {
            let hidden: usize = user.own.values().map(|own| own.hidden.len()).sum();
            *self.tally.entry("deleted").or_default() += hidden as u64;
        }
    }
}
