//! A device that is cut off, falls below the floor and comes back ends where one ends that was never
//! behind: random histories on the real engine, three devices of one user, all that they show compared.
//!
//! `EVERLINE_SEED=n` runs one seed, `EVERLINE_SEEDS=n` that many.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod client_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client_support::{Faults, Shim, breaking_line, serve};
use everline::auth::Minter;
use everline::client::state::{ConversationView, View};
use everline::client::{Client, ConnectionState, Events, MemoryCache, Options, Preload, To};
use everline::config::{Clock, Secret, Settings, TokenKey};
use everline::engine::Caller;
use everline::protocol::*;
use everline::server::{self, Parts, Server};
use everline::store::Store;
use everline::store::sim::{Faults as StoreFaults, Sim, SimOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECRET: &str = "a secret of the tests";
const NOW_MS: u64 = 1_795_000_000_000;
const DEADLINE: Duration = Duration::from_secs(30);

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

struct World {
    shim: Arc<Shim>,
    /// Of the flaky device.
    url: String,
    steady_url: String,
    _server: Option<server::Handle>,
    rng: SmallRng,
    clock: Clock,
    groups: Vec<ConvId>,
    sent: u32,
}

struct Device {
    name: &'static str,
    cache: MemoryCache,
    running: Option<(Client, Events)>,
    seed: u64,
}

impl Device {
    fn new(name: &'static str, seed: u64) -> Self {
        Self { name, cache: MemoryCache::default(), running: None, seed }
    }

    fn start(&mut self, url: &str) {
        self.seed += 1;
        let options = Options::new(url, token(), DeviceId::parse(self.name).unwrap());
        let options = options.cache(self.cache.clone()).preload(Preload::History(u32::MAX)).seed(self.seed);
        self.running.get_or_insert_with(|| Client::connect(options).unwrap());
    }

    async fn stop(&mut self) {
        if let Some((client, _)) = self.running.take() {
            client.close().await;
        }
    }

    fn client(&self) -> &Client {
        &self.running.as_ref().unwrap().0
    }
}

/// Of alice, for the tests' server; the session of the tests reads the name only.
fn token() -> String {
    Minter::new(SECRET, Clock::simulated(NOW_MS)).mint(&user("alice"), None, Duration::from_secs(1_000_000))
}

impl World {
    /// Over the tests' own session, which is nasty, or over the real server behind a line that breaks.
    async fn new(seed: u64, real: bool) -> Self {
        Self::with(seed, real, Settings::default().policy.large_conversation_members).await
    }

    /// In which more than so many members are many.
    async fn with(seed: u64, real: bool, many: usize) -> Self {
        let clock = Clock::simulated(NOW_MS);
        let options = SimOptions { seed, clock: clock.clone(), together: true, faults: StoreFaults::none() };
        let store: Arc<dyn Store> = Arc::new(Sim::new(options));
        let mut settings = Settings { token_key: Some(TokenKey::Secret(Secret::new(SECRET))), ..Settings::default() };
        settings.policy.sync_max_entries = 15;
        settings.policy.large_conversation_members = many;
        settings.session.rate_requests = 0;
        settings.rate_connects = 0;
        let verifier = server::verifier(&settings, clock.clone()).unwrap();
        let parts = Parts::assemble(&settings, store, verifier, clock.clone(), 1).await.unwrap();
        let shim = Arc::new(Shim { engine: parts.engine.clone(), faults: Faults::default(), seed });
        let (handle, steady_url, url) = if real {
            let listener = server::bind("127.0.0.1:0").await.unwrap();
            let handle = Server::start(&settings, parts, listener).await.unwrap();
            let url = breaking_line(Arc::clone(&shim), handle.addr()).await;
            let steady = format!("ws://{}{WS_PATH}", handle.addr());
            (Some(handle), steady, url)
        } else {
            let url = serve(Arc::clone(&shim)).await;
            (None, url.clone(), url)
        };
        let (rng, groups) = (SmallRng::seed_from_u64(seed), vec![ConvId::direct(&user("alice"), &user("bob"))]);
        Self { shim, url, steady_url, _server: handle, rng, clock, groups, sent: 0 }
    }

    async fn ask(&self, who: &str, request: Request) -> Option<AnswerBody> {
        let caller = Caller { user: user(who), device: DeviceId::parse("driver").unwrap() };
        self.shim.engine.submit(&caller, request).await.ok()
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.random_range(0..of.len())]
    }

    fn body(&mut self) -> Body {
        Body::from_value(&serde_json::json!({ "n": self.rng.random::<u32>() })).unwrap()
    }

    async fn head(&self, conv_id: &ConvId) -> u64 {
        let history = Request::History { conv_id: conv_id.clone(), from: HistoryFrom::Newest, limit: 1 };
        match self.ask("bob", history).await {
            Some(AnswerBody::History { head_seq, .. }) => head_seq,
            _ => 1,
        }
    }

    async fn create(&mut self) {
        let history = if self.rng.random() { HistoryMode::Full } else { HistoryMode::SinceJoin };
        let mut members = vec![user("carol")];
        if self.rng.random() {
            members.push(user("alice"));
        }
        let op_id = MsgId::parse(&format!("op{}", self.groups.len())).unwrap();
        let request = Request::Create { members, title: Some("t".into()), attributes: None, history, op_id };
        if let Some(AnswerBody::Ok { conv_id: Some(conv_id), .. }) = self.ask("bob", request).await {
            self.groups.push(conv_id);
        }
    }

    /// One random act of somebody.
    async fn act(&mut self) {
        let later = self.rng.random_range(0..50);
        self.clock.jump(later);
        let conv_id = self.groups[self.rng.random_range(0..self.groups.len())].clone();
        let head = self.head(&conv_id).await;
        let target = self.rng.random_range(head.saturating_sub(12)..=head).max(1);
        let who = self.pick(&["alice", "bob", "carol"]);
        let request = match self.rng.random_range(0..100) {
            0..40 => {
                self.sent += 1;
                let id = MsgId::parse(&format!("m{}", self.sent)).unwrap();
                let (to, body) = (SendTo::Conv(conv_id), self.body());
                Request::Send(Send { to, client_msg_id: id, body, reply_to: None, mentions: vec![] })
            }
            40..48 => Request::Recall { conv_id, target },
            48..58 => Request::Edit { conv_id, target, body: self.body() },
            58..70 => {
                let (key, add) = (self.pick(&["+1", "ok"]).to_owned(), self.rng.random_bool(0.7));
                Request::React { conv_id, target, key, add }
            }
            70..76 => {
                let to = target + self.rng.random_range(0..3);
                let request = Request::Delete { conv_id, ranges: vec![Range { from: target, to }] };
                return drop(self.ask("alice", request).await);
            }
            76..78 => return drop(self.ask("alice", Request::Clear { conv_id, up_to: target }).await),
            78..84 => Request::Read { conv_id, read_seq: target },
            84..86 => {
                let (muted, pinned) = (Some(self.rng.random()), Some(self.rng.random()));
                let request = Request::Settings { conv_id, muted, pinned, hidden: None };
                return drop(self.ask("alice", request).await);
            }
            86..88 => return self.create().await,
            88..92 => {
                let users = vec![user("alice")];
                return drop(self.ask("bob", Request::Invite { conv_id, users }).await);
            }
            92..94 => {
                let users = vec![user("alice")];
                return drop(self.ask("bob", Request::Remove { conv_id, users }).await);
            }
            94..95 => Request::Leave { conv_id },
            95..97 => {
                let role = if self.rng.random() { Role::Admin } else { Role::Member };
                let user_id = user(self.pick(&["alice", "carol"]));
                return drop(self.ask("bob", Request::Role { conv_id, user_id, role }).await);
            }
            _ => {
                let title = Some(format!("t{}", self.rng.random::<u16>()));
                let attributes = self.rng.random_bool(0.5).then(|| self.body());
                return drop(self.ask("bob", Request::Update { conv_id, title, attributes }).await);
            }
        };
        drop(self.ask(who, request).await);
    }

    /// Waits until a device has applied everything and says so.
    async fn caught_up(&mut self, device: &mut Device) {
        let mut head = 0;
        let engine = self.shim.engine.clone();
        let (client, events) = device.running.as_mut().unwrap();
        let wait = async {
            loop {
                head = engine.standing(&user("alice")).await.unwrap().head;
                let (seen, stale) = client
                    .look(|state| (state.seq(), state.conversations.values().any(|held| held.is_stale())))
                    .await
                    .expect("runs");
                if seen == head && !stale && client.status() == ConnectionState::Live {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            let state = client.state().await.unwrap();
            let stale: Vec<_> = state.conversations.iter().filter(|(_, held)| held.is_stale()).collect();
            panic!(
                "{} stays at {} of {head}, {:?}, {:?} list {} {stale:#?}",
                device.name,
                state.seq(),
                client.status(),
                state.loading,
                state.list_wanted
            );
        }
    }

    /// Waits until a device holds all of a large conversation.
    async fn follows_to_the_head(&mut self, device: &mut Device, conv_id: &ConvId) {
        let wait = async {
            loop {
                self.caught_up(device).await;
                let head = self.head(conv_id).await;
                let held = device.client().state().await.unwrap().large_positions();
                if held.get(conv_id) == Some(&head) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!("{} does not come to the head: {:?}", device.name, device.client().state().await);
        }
    }

    async fn view(&mut self, device: &mut Device) -> View {
        self.caught_up(device).await;
        let state = device.client().state().await.unwrap();
        assert_eq!(state, device.cache.saved().state, "{}: saved is not what is shown", device.name);
        state.view()
    }

    /// The unread numbers of the server, of conversations alice is in.
    async fn check_unread(&self, view: &View) {
        let request = Request::Conversations { active_after: None, page: None, limit: 1000 };
        let Some(AnswerBody::Conversations { conversations, .. }) = self.ask("alice", request).await else { panic!() };
        for row in conversations {
            let shown = view.conversations.get(&row.conv_id).unwrap_or_else(|| panic!("{} missing", row.conv_id));
            assert_eq!(shown.left, row.left_seq.is_some(), "{}", row.conv_id);
            assert_eq!(shown.title, row.title, "{}", row.conv_id);
            if !shown.left {
                assert_eq!(shown.unread, row.unread, "unread of {} {row:?}", row.conv_id);
            }
        }
    }
}

fn differences(a: &ConversationView, b: &ConversationView) -> String {
    let mut out = String::new();
    let seqs: BTreeSet<_> = a.messages.keys().chain(b.messages.keys()).collect();
    for seq in seqs {
        let (a, b) = (a.messages.get(seq), b.messages.get(seq));
        if a != b {
            out += &format!("{seq}: {a:?}\n   {b:?}\n");
        }
    }
    let rest = |view: &ConversationView| ConversationView { messages: Default::default(), ..view.clone() };
    out + &format!("{:?}\n{:?}", rest(a), rest(b))
}

/// A recall after one has left is told to nobody who has left: only one who asks again sees a stub.
fn same(one: &View, other: &View) -> Result<(), String> {
    let ids: BTreeSet<_> = one.conversations.keys().chain(other.conversations.keys()).collect();
    for id in ids {
        let (Some(a), Some(b)) = (one.conversations.get(id), other.conversations.get(id)) else {
            return Err(format!("{id} is missing on one side"));
        };
        let (mut a, mut b) = (a.clone(), b.clone());
        if a.left && b.left {
            let seqs: Vec<u64> = a.messages.keys().copied().collect();
            for seq in seqs {
                let gone =
                    |view: &ConversationView| view.messages.get(&seq).is_some_and(|message| message.body.is_none());
                if gone(&a) || gone(&b) {
                    let _ = (a.messages.remove(&seq), b.messages.remove(&seq));
                }
            }
            (a.unread, b.unread) = (0, 0);
            for message in a.messages.values_mut().chain(b.messages.values_mut()) {
                message.reactions.clear();
            }
        }
        if a != b {
            return Err(format!("{id}\n{}", differences(&a, &b)));
        }
    }
    Ok(())
}

async fn all_sent(device: &Device) {
    let empty = async {
        while !device.client().outbox().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, empty).await.expect("the outbox gets empty");
}

async fn run(seed: u64, real: bool) -> u32 {
    let mut world = World::new(seed, real).await;
    let mut steady = Device::new("steady", seed << 8);
    let mut flaky = Device::new("flaky", (seed << 8) + (1 << 40));
    steady.start(&world.steady_url);
    world.caught_up(&mut steady).await;
    flaky.start(&world.url);
    for round in 0..12 {
        let faulty = world.rng.random_bool(0.7);
        world.shim.faults.set(if faulty { 30 } else { 0 }, 100, 100, if faulty { 100 } else { 0 });
        if world.rng.random_bool(0.5) {
            flaky.stop().await;
        }
        for act in 0..world.rng.random_range(1..40) {
            world.act().await;
            if act % 4 == 3 {
                world.caught_up(&mut steady).await;
            }
            if world.rng.random_bool(0.04) {
                flaky.start(&world.url);
            }
            if world.rng.random_bool(0.1) && flaky.running.is_some() {
                // The outbox, over whatever happens to the connection.
                let body = world.body();
                let to = To::User(user("bob"));
                let message = everline::client::Outgoing::new(to, body);
                drop(flaky.client().queue(message).await.unwrap());
            }
            if world.rng.random_bool(0.05) {
                flaky.stop().await;
            }
        }
        world.caught_up(&mut steady).await;
        flaky.start(&world.url);
        if world.rng.random_bool(0.5) {
            continue;
        }
        world.shim.faults.set(0, 50, 50, 30);
        world.caught_up(&mut flaky).await;
        all_sent(&flaky).await;
        let expected = world.view(&mut steady).await;
        let got = world.view(&mut flaky).await;
        if let Err(error) = same(&expected, &got) {
            let state = flaky.client().state().await.unwrap();
            let conv_id = ConvId::parse(error.split('\n').next().unwrap()).unwrap();
            let held = state.conversations.get(&conv_id).map(|held| everline::client::state::ConversationState {
                messages: Default::default(),
                changes: Default::default(),
                ..held.clone()
            });
            panic!("seed {seed} round {round}: {error}\n{held:?}");
        }
        world.check_unread(&expected).await;
    }
    let mut fresh = Device::new("fresh", 7);
    fresh.start(&world.steady_url);
    world.shim.faults.set(0, 0, 0, 0);
    flaky.start(&world.url);
    world.caught_up(&mut flaky).await;
    all_sent(&flaky).await;
    let expected = world.view(&mut steady).await;
    for device in [&mut flaky, &mut fresh] {
        let got = world.view(device).await;
        same(&expected, &got).unwrap_or_else(|error| panic!("seed {seed} {} at the end: {error}", device.name));
    }
    world.shim.faults.resets.load(Ordering::Relaxed)
}

async fn run_all(default: u64, real: bool) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("EVERLINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVERLINE_SEEDS").unwrap_or(default),
    };
    let (mut resets, count) = (0, seeds.end - seeds.start);
    let mut running = tokio::task::JoinSet::new();
    for seed in seeds {
        if running.len() >= 8 {
            resets += running.join_next().await.unwrap().unwrap();
        }
        running.spawn(run(seed, real));
    }
    while let Some(done) = running.join_next().await {
        resets += done.unwrap();
    }
    println!("{resets} resets in {count} seeds");
    assert!(count < 8 || u64::from(resets) > count / 2, "only {resets} resets: the test is blind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_reset_shows_what_one_shows_that_was_never_behind() {
    run_all(12, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_the_real_server_and_a_line_that_breaks() {
    run_all(8, true).await;
}

/// A large conversation, which devices follow by its own log: what was sent, edited, reacted to, recalled
/// and deleted while a device was away is the same on it as on one that was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_conversation_is_the_same_on_a_device_that_was_away() {
    for seed in 0..4 {
        let mut world = World::with(seed, true, 2).await;
        let (mut steady, mut flaky) = (Device::new("steady", 1), Device::new("flaky", 100));
        world.shim.faults.set(0, 0, 0, 0);
        let members = vec![user("alice"), user("carol")];
        let (history, op_id) = (HistoryMode::SinceJoin, MsgId::parse("town").unwrap());
        let request = Request::Create { members, title: None, attributes: None, history, op_id };
        steady.start(&world.steady_url);
        world.caught_up(&mut steady).await;
        let made = world.ask("bob", request).await;
        let Some(AnswerBody::Ok { conv_id: Some(conv_id), .. }) = made else { panic!("{made:?}") };
        for round in 0..8 {
            if round % 2 == 1 {
                flaky.stop().await;
            }
            for _ in 0..world.rng.random_range(1..100) {
                let (conv_id, head) = (conv_id.clone(), world.head(&conv_id).await);
                let target = world.rng.random_range(head.saturating_sub(12)..=head).max(1);
                let who = world.pick(&["alice", "bob", "carol"]);
                let (who, request) = match world.rng.random_range(0..10) {
                    0..5 => {
                        world.sent += 1;
                        let id = MsgId::parse(&format!("m{}", world.sent)).unwrap();
                        let (to, body, mentions) = (SendTo::Conv(conv_id), world.body(), vec![user("alice")]);
                        (who, Request::Send(Send { to, client_msg_id: id, body, reply_to: None, mentions }))
                    }
                    5 => (who, Request::Recall { conv_id, target }),
                    6 => (who, Request::Edit { conv_id, target, body: world.body() }),
                    7 => (who, Request::React { conv_id, target, key: "+1".into(), add: true }),
                    8 => ("alice", Request::Delete { conv_id, ranges: vec![Range { from: target, to: target }] }),
                    _ => ("alice", Request::Read { conv_id, read_seq: target }),
                };
                drop(world.ask(who, request).await);
            }
            flaky.start(&world.steady_url);
            for device in [&mut steady, &mut flaky] {
                world.follows_to_the_head(device, &conv_id).await;
            }
            let (expected, got) = (world.view(&mut steady).await, world.view(&mut flaky).await);
            same(&expected, &got).unwrap_or_else(|error| panic!("seed {seed} round {round}: {error}"));
        }
    }
}
