//! One seed: chaos for a while, then quiet and the verdict; a few times over.

use std::time::Duration;

use everline::protocol::*;
use everline::store::sim::{Faults, Unknown};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::device::{Act, Raw, Real};
use crate::house::{House, Setting};
use crate::interlude;
use crate::model::{Rules, Tally};
use crate::rough::Hints;

pub struct Run {
    pub rng: StdRng,
    /// Of interludes.
    pub dice: StdRng,
    pub house: House,
    pub people: Vec<UserId>,
    pub reals: Vec<Real>,
    pub raws: Vec<Raw>,
    /// Numbers names and bodies.
    pub count: u64,
    /// Steps to go; a smaller number is a prefix of the same story.
    pub left: usize,
    /// There was a flood already; one is dear enough.
    pub flooded: bool,
    pub creates: Vec<(UserId, Request)>,
    /// What the application's server has under way.
    pub calls: Vec<tokio::task::JoinHandle<()>>,
}

/// Real and raw devices of a user.
const KINDS: [(usize, usize); 5] = [(1, 1), (2, 0), (2, 1), (1, 0), (0, 1)];

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a seed decides before anything happens.
fn setting(seed: u64, rng: &mut StdRng) -> Setting {
    let together = rng.random_bool(0.45);
    let nodes = if together { 1 } else { rng.random_range(1..=3) };
    let latency = [ms(0)..ms(0), ms(0)..ms(5), ms(1)..ms(40), ms(5)..ms(400)];
    let latency = latency[[0, 1, 1, 2, 2, 3][rng.random_range(0..6)]].clone();
    let mut faults = Faults { latency, lose_unsynced: rng.random_bool(0.8), ..Faults::none() };
    if !together {
        faults.unknown = Unknown { happened: 1.0, did_not: 1.0, later: 1.0 };
        faults.late = ms(1)..ms([20, 500, 5000][rng.random_range(0..3)]);
        faults.unknown_p = [0.0, 0.05, 0.25][rng.random_range(0..3)];
        faults.read_error_p = [0.0, 0.0, 0.03][rng.random_range(0..3)];
    }
    let rules =
        Rules { max_entries: [15, 30, 60, 1000][rng.random_range(0..4)], window: [8, 40, 500][rng.random_range(0..3)] };
    let mut setting = Setting {
        seed,
        together,
        nodes,
        faults,
        rules,
        heartbeat: ms([3_000, 10_000, 25_000][rng.random_range(0..3)]),
        max_age_ms: 7 * 24 * 60 * 60 * 1000,
        token_ttl: Duration::from_secs([60, 3600, 1_000_000][rng.random_range(0..3)]),
        page_bytes: [300, 4_000, 256 * 1024][rng.random_range(0..3)],
        hints: rng.random_bool(0.75).then(|| hints(rng)),
        flood: rng.random_bool(0.04),
        // By the number alone, so that the other stories stay what they were.
        large: (seed % 4 == 2).then_some(1 + (seed as usize / 4) % 2),
        notices: seed % 5 < 2,
    };
    if setting.flood {
        // What the flood needs to show anything.
        (setting.together, setting.nodes, setting.heartbeat) = (true, 1, ms(25_000));
        setting.faults = Faults { latency: ms(0)..ms(5), lose_unsynced: true, ..Faults::none() };
        setting.rules = Rules { max_entries: 1000, window: 500 };
        setting.page_bytes = 256 * 1024;
        (setting.large, setting.notices) = (None, false);
    }
    setting
}

fn hints(rng: &mut StdRng) -> Hints {
    let p = |rng: &mut StdRng| [0.0, 0.0, 0.1, 0.5][rng.random_range(0..4)];
    Hints { lost_p: p(rng), late_p: p(rng), late_ms: [20, 5_000][rng.random_range(0..2)], doubled_p: p(rng) }
}

/// Tells which kinds of worlds were met.
fn count_setting(house: &House) {
    let setting = house.setting();
    let kinds = [
        ("together", setting.together),
        ("several nodes", setting.nodes > 1),
        ("unknown outcomes", setting.faults.unknown_p > 0.0),
        ("slow stores", setting.faults.latency.end > ms(100)),
        ("unsynced writes lost", setting.together && setting.faults.lose_unsynced),
    ];
    for (kind, _) in kinds.into_iter().filter(|(_, met)| *met) {
        house.model().count(kind);
    }
}

impl Run {
    pub fn new(seed: u64, traced: bool, steps: Option<usize>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let setting = setting(seed, &mut rng);
        let house = House::new(setting, traced);
        house.note(&format!("{:?}", house.setting()));
        count_setting(&house);
        let people: Vec<UserId> =
            (0..rng.random_range(2..=4)).map(|n| UserId::parse(&format!("u{n}")).expect("a name")).collect();
        let (mut reals, mut raws) = (Vec::new(), Vec::new());
        for user in &people {
            let kinds = if house.setting().flood { [(1, 1); 5] } else { KINDS }[rng.random_range(0..5)];
            reals.extend((0..kinds.0).map(|n| Real::new(user, &format!("real{n}"), rng.random())));
            raws.extend((0..kinds.1).map(|n| Raw::new(user, &format!("raw{n}"))));
        }
        let left = rng.random_range(20..90);
        let left = steps.map_or(left, |steps| steps.min(left));
        Self {
            rng,
            dice: interlude::dice(seed),
            house,
            people,
            reals,
            raws,
            count: 0,
            left,
            flooded: false,
            creates: Vec::new(),
            calls: Vec::new(),
        }
    }

    pub fn tally(&self) -> Tally {
        self.house.model().tally.clone()
    }

    pub fn note(&self, text: &str) {
        self.house.note(&format!("-- {text}"));
    }

    pub fn tick(&self, what: &'static str) {
        self.house.model().count(what);
    }

    /// Whether something contradicts the promises already.
    pub fn sound(&self) -> Result<(), String> {
        let model = self.house.model();
        if model.wrong.is_empty() { Ok(()) } else { Err(model.wrong.join("\n")) }
    }

    /// The story to its end.
    pub async fn story(&mut self) -> Result<(), String> {
        let rounds = self.rng.random_range(1..=2);
        let each = self.left / rounds + 1;
        for device in &mut self.reals {
            device.start(&self.house);
        }
        for _ in 0..rounds {
            self.house.trouble(true);
            for _ in 0..each.min(self.left) {
                self.left -= 1;
                self.step().await?;
                self.stranger();
                self.none_silent()?;
                self.sound()?;
            }
            self.interlude().await?;
            self.last_blow().await;
            self.quiet().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), String> {
        if self.house.setting().notices && self.rng.random_bool(0.2) {
            self.server_acts().await;
        }
        match self.rng.random_range(0..100) {
            0..12 => self.hurt().await,
            12..20 => self.hurt_line(),
            20..34 => self.come_and_go().await,
            34..36 => self.time_passes(),
            36..38 => self.under_fire().await?,
            38..46 if self.house.setting().flood && !self.flooded => self.flood().await?,
            38..44 => self.strike().await,
            44..46 => self.during_recall().await,
            46 => self.drown().await,
            47..49 => self.snatch().await,
            49 => self.elsewhere().await,
            50 => self.patience().await,
            51..53 => self.burial().await,
            53 => self.ahead_of_delivery().await,
            54 => self.parting().await,
            55 => self.looking_back().await,
            56 => self.outlived().await,
            57 => self.older_answer().await,
            58..63 if self.house.setting().is_alone() => self.one_ails().await?,
            _ => {
                for _ in 0..[1, 1, 2, 5][self.rng.random_range(0..4)] {
                    self.someone_asks();
                }
            }
        }
        let wait = [0, 0, 1, 20, 300, 3000][self.rng.random_range(0..6)];
        if wait == 0 {
            for _ in 0..self.rng.random_range(0..30) {
                tokio::task::yield_now().await;
            }
        } else {
            tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..wait * 1000))).await;
        }
        Ok(())
    }

    /// Something happens to a node.
    async fn hurt(&mut self) {
        let node = self.rng.random_range(0..self.house.nodes());
        let other = self.rng.random_range(0..self.house.nodes());
        match self.rng.random_range(0..10) {
            _ if !self.house.is_up(node) => {
                self.note(&format!("node {node} starts again"));
                self.house.restart(node).await;
            }
            0..4 => {
                let silent = self.rng.random_bool(0.3);
                self.note(&format!("node {node} is killed, silently {silent}"));
                self.tick("kills");
                self.house.crash(node, silent);
                if self.rng.random_bool(0.6) {
                    self.house.restart(node).await;
                }
            }
            4..6 => {
                self.note(&format!("node {node} stands still"));
                self.tick("pauses");
                self.house.pause(node, true);
            }
            // A store inside the process is never out of reach.
            6 if !self.house.setting().together => {
                self.note(&format!("node {node} does not reach the store"));
                self.tick("partitions");
                self.house.cut(node, true);
            }
            7 => {
                self.note("all nodes are well");
                self.mend();
            }
            8 if self.rng.random_bool(0.3) => {
                let on = self.rng.random();
                self.note(&format!("the bus is silent: {on}"));
                self.tick("silent bus");
                self.house.silence(on);
            }
            _ if self.house.setting().together => {}
            8 => {
                let wrongly = self.rng.random_bool(0.5).then_some(node);
                self.note(&format!("node {other} takes over, and from {wrongly:?}"));
                if self.house.take_over(other, wrongly).await {
                    self.tick("takeovers");
                }
            }
            _ if other == node => {}
            _ => self.bury_alive(node, other).await,
        }
    }

    /// A node stands still, is taken for dead, goes on, and then does die.
    pub async fn bury_alive(&mut self, node: usize, by: usize) {
        self.note(&format!("node {node} stands still, is taken for dead by {by}, goes on"));
        self.tick("buried alive");
        self.house.pause(node, true);
        if self.house.take_over(by, Some(node)).await {
            self.tick("takeovers");
        }
        self.house.pause(node, false);
        if self.rng.random_bool(0.7) {
            let longest = [1_000, 20_000, 150_000][self.rng.random_range(0..3)];
            tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..longest))).await;
            self.note(&format!("node {node} is killed"));
            self.tick("kills");
            self.house.crash(node, false);
        }
    }

    fn mend(&mut self) {
        for node in 0..self.house.nodes() {
            self.house.pause(node, false);
            self.house.cut(node, false);
        }
    }

    /// Something happens to a connection.
    fn hurt_line(&mut self) {
        let lines: Vec<_> = self
            .reals
            .iter()
            .map(|device| device.wired.get())
            .chain(self.raws.iter().map(|device| device.wired.get()))
            .flatten()
            .collect();
        let Some((conn, line, _)) = lines.choose(&mut self.rng) else { return };
        let what = match self.rng.random_range(0..6) {
            0 => {
                line.cut();
                "cuts"
            }
            1 => {
                line.up.shut(true);
                "half open upwards"
            }
            2 => {
                line.down.shut(true);
                "half open downwards"
            }
            3 => {
                line.delay(self.rng.random_range(1..2_000));
                "slow lines"
            }
            _ => {
                line.mend();
                "mended lines"
            }
        };
        self.house.note(&format!("-- {what}: conn {conn}"));
        self.house.model().count(what);
    }

    /// Devices start, stop, die, come back with older cursors.
    async fn come_and_go(&mut self) {
        let of = self.reals.len() + self.raws.len();
        let index = self.rng.random_range(0..of);
        if let Some(device) = self.reals.get_mut(index) {
            match self.rng.random_range(0..4) {
                0 if device.running.is_some() => {
                    let silent = tokio::time::timeout(Duration::from_secs(2), device.close()).await;
                    drop(silent);
                }
                1 => device.kill(),
                _ => device.start(&self.house),
            }
            return;
        }
        let Some(device) = self.raws.get_mut(index - self.reals.len()) else { return };
        match self.rng.random_range(0..8) {
            0 => device.kill(),
            1 => device.act(Act::Quit),
            2 => device.stall(ms(self.rng.random_range(1..20_000))),
            3 if device.is_connected() => {
                if let Some(cursor) = device.cursor() {
                    device.act(Act::Sync(self.rng.random_range(0..=cursor.seq)));
                }
            }
            _ => {
                let node = self.rng.random_range(0..self.house.nodes());
                let cursor = match self.rng.random_range(0..10) {
                    0 => None,
                    1 => device.cursor().map(|cursor| Cursor { seq: self.rng.random_range(0..=cursor.seq), ..cursor }),
                    _ => device.cursor(),
                };
                let lazy = self.rng.random_bool(0.5);
                device.connect(&self.house, node, cursor, lazy);
            }
        }
    }

    fn time_passes(&mut self) {
        let hour = 60 * 60 * 1000;
        match self.rng.random_range(0..4) {
            0 => {
                let hours = [1, 25, 200][self.rng.random_range(0..3)];
                self.note(&format!("{hours} hours pass"));
                self.tick("jumps ahead");
                self.house.jump(hours * hour);
                self.house.expire();
            }
            1 => {
                let back = [1_000, 90_000, hour, 72 * hour][self.rng.random_range(0..4)];
                self.note(&format!("the clock goes {back} ms back"));
                self.tick("jumps back");
                self.house.jump(-back);
            }
            _ => {}
        }
    }

    /// One request of somebody, on one of his devices.
    pub fn someone_asks(&mut self) {
        let index = self.rng.random_range(0..self.reals.len() + self.raws.len());
        let user = match self.reals.get(index) {
            Some(device) => device.user.clone(),
            None => self.raws[index - self.reals.len()].user.clone(),
        };
        let request = self.request(&user);
        if let Some(device) = self.raws.get(index.wrapping_sub(self.reals.len())) {
            return device.act(Act::Ask(request));
        }
        let Some(client) = self.reals[index].client().cloned() else { return };
        // The answer is looked at on the wire.
        match request {
            Request::Send(send) => {
                let to = match send.to {
                    SendTo::Conv(conv) => everline::client::To::Conversation(conv),
                    SendTo::User(user) => everline::client::To::User(user),
                };
                let mut message = everline::client::Outgoing::new(to, send.body);
                message.reply_to = send.reply_to;
                message.mentions = send.mentions;
                message.client_msg_id = Some(send.client_msg_id);
                tokio::spawn(async move { drop(client.queue(message).await) });
            }
            request => drop(tokio::spawn(async move { drop(client.request(request).await) })),
        }
    }
}
