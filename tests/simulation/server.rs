//! The application's server: it calls what the handlers of the server API call, on any node, which may die
//! meanwhile; without an answer it calls again under the same key, there or elsewhere, or lets it be.

use std::sync::Arc;
use std::time::Duration;

use everline::engine::{Engine, Notified, Recipients, Refusal};
use everline::protocol::*;
use everline::store::TimelineId;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::blows::random_when;
use crate::device::Act;
use crate::house::House;
use crate::notices::Notice;
use crate::run::{Run, ms};

/// One call of several.
struct Try {
    node: usize,
    /// How long an answer is waited for.
    patience: Duration,
    pause: Duration,
    /// Calls again although it was accepted.
    again: bool,
}

impl House {
    /// Where the timelines of those stand who were told something and never came: what has expired is below the floor
    /// only once somebody has looked.
    pub async fn look_after_absent(&self) {
        let all = self.store().all_timelines();
        let users = all.into_iter().filter_map(|timeline| match timeline {
            TimelineId::User(user) if !self.model().people.contains_key(&user) => Some(user),
            _ => None,
        });
        for user in users.collect::<Vec<_>>() {
            let _ = self.call(0, move |engine: Engine| async move { engine.standing(&user).await }).await;
        }
    }

    /// One call for a notification. Whether it was accepted.
    async fn notify(&self, node: usize, notice: &Notice, patience: Duration) -> bool {
        let asked = self.model().asks_notice(notice);
        self.note(&format!("the server tells {:?} {} at node {node}: call {asked}", notice.to, notice.key));
        let came = self.tell(node, notice, notice.body.clone(), patience).await;
        self.note(&format!("call {asked} came to {came:?}"));
        let mut model = self.model();
        match came {
            Some(Ok(Notified { made, duplicates })) => {
                model.acks_notice(&notice.key, asked, made as u64, duplicates as u64);
                return true;
            }
            came => model.misses_notice(&notice.key, came.and_then(Result::err).map(|refusal| refusal.code)),
        }
        false
    }

    /// `None`: no answer.
    async fn tell(
        &self,
        node: usize,
        notice: &Notice,
        body: Body,
        patience: Duration,
    ) -> Option<Result<Notified, Refusal>> {
        let Notice { key, to, topic, .. } = notice.clone();
        let to = to.map_or(Recipients::Everybody, Recipients::Users);
        let call = self.call(node, move |engine: Engine| async move { engine.notify(to, topic, body, key).await });
        tokio::time::timeout(patience, call).await.ok().flatten()
    }

    /// Until it is accepted, or the tries are used up.
    async fn insist(&self, notice: Arc<Notice>, tries: Vec<Try>) {
        for Try { node, patience, pause, again } in tries {
            if self.notify(node, &notice, patience).await && !again {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

impl Run {
    /// The application's server does something.
    pub async fn server_acts(&mut self) {
        match self.rng.random_range(0..20) {
            0..9 => self.tell_somebody(),
            9..12 => self.tell_twice(),
            12..14 => self.tell_much().await,
            14..17 => self.struck_while_telling().await,
            17 => self.misuse_a_key(),
            _ => self.look_up_broadcasts(),
        }
    }

    /// Who is told: one, some, perhaps the same twice, perhaps one who never came; or everybody.
    fn notice(&mut self) -> Arc<Notice> {
        let mut to = match self.rng.random_range(0..10) {
            0..3 => None,
            3..7 => Some(vec![self.person()]),
            _ => Some((0..self.rng.random_range(2..=4)).map(|_| self.person()).collect()),
        };
        if self.rng.random_bool(0.1) {
            to.iter_mut().for_each(|to| to.push(UserId::parse("stranger").expect("a name")));
        }
        self.notice_to(to)
    }

    fn notice_to(&mut self, to: Option<Vec<UserId>>) -> Arc<Notice> {
        let (key, topic) = (self.fresh("key"), self.fresh("topic"));
        let name = |name: &str| MsgId::parse(name).expect("a name");
        Arc::new(Notice { key: name(&key), to, topic: name(&topic), body: self.body() })
    }

    fn tries(&mut self, at_most: usize) -> Vec<Try> {
        let nodes = self.house.nodes();
        let one = |rng: &mut rand::rngs::StdRng| Try {
            node: rng.random_range(0..nodes),
            patience: ms([30, 1_000, 12_000][rng.random_range(0..3)]),
            pause: ms([0, 50, 3_000][rng.random_range(0..3)]),
            again: rng.random_bool(0.2),
        };
        (0..self.rng.random_range(1..=at_most)).map(|_| one(&mut self.rng)).collect()
    }

    fn insist(&mut self, notice: &Arc<Notice>, tries: Vec<Try>) {
        let (house, notice) = (self.house.clone(), Arc::clone(notice));
        self.calls.push(tokio::spawn(async move { house.insist(notice, tries).await }));
    }

    fn tell_somebody(&mut self) {
        let (notice, tries) = (self.notice(), self.tries(4));
        self.insist(&notice, tries);
    }

    /// Two callers with one key, at the same time.
    fn tell_twice(&mut self) {
        self.tick("told twice at once");
        let notice = self.notice();
        for _ in 0..2 {
            let tries = self.tries(2);
            self.insist(&notice, tries);
        }
    }

    /// Many, perhaps more than are kept.
    async fn tell_much(&mut self) {
        let user = self.person();
        let most = usize::try_from(self.house.setting().rules.max_entries).unwrap_or(40).min(40) + 6;
        let to = self.rng.random_bool(0.7).then(|| vec![user]);
        self.tick("told much");
        for _ in 0..self.rng.random_range(3..=most) {
            let (notice, tries) = (self.notice_to(to.clone()), self.tries(2));
            self.insist(&notice, tries);
            if self.rng.random_bool(0.3) {
                self.moments(1).await;
            }
        }
    }

    /// The node dies at one of the writes. Tells what was to be told.
    async fn die_telling(&mut self) -> Arc<Notice> {
        let node = self.rng.random_range(0..self.house.nodes());
        self.restore(&[node]).await;
        let (notice, when) = (self.notice(), random_when(&mut self.rng));
        let (trap, write) = (self.house.trap(node), self.rng.random_range(1..=6));
        trap.stop_at(write, when);
        let patience = ms(12_000);
        self.insist(&notice, vec![Try { node, patience, pause: ms(0), again: false }]);
        trap.stopped(ms(2_000)).await;
        self.note(&format!("node {node} dies {when:?} its write {write}"));
        self.tick("killed while telling");
        self.tick("kills");
        self.house.crash(node, false);
        notice
    }

    /// And the server calls again, somewhere.
    async fn struck_while_telling(&mut self) {
        let notice = self.die_telling().await;
        if self.rng.random_bool(0.5) {
            self.moments(3).await;
        }
        for node in 0..self.house.nodes() {
            if self.rng.random_bool(0.6) {
                self.house.restart(node).await;
            }
        }
        if self.rng.random_bool(0.7) {
            let tries = self.tries(3);
            self.insist(&notice, tries);
        }
    }

    /// Nobody calls again, and nothing comes later that would heal what is left.
    pub async fn last_telling(&mut self) {
        self.house.trouble(false);
        drop(self.die_telling().await);
    }

    /// A key that was accepted, for something else: of no effect.
    fn misuse_a_key(&mut self) {
        let accepted = self.house.model().notices.accepted();
        let Some(notice) = accepted.choose(&mut self.rng).cloned() else { return };
        let (house, body, node) = (self.house.clone(), self.body(), self.rng.random_range(0..self.house.nodes()));
        self.calls.push(tokio::spawn(async move {
            let Some(came) = house.tell(node, &notice, body, ms(12_000)).await else { return };
            house.note(&format!("{} again, for something else: {came:?}", notice.key));
            house.model().misused_key(&notice.key, came.err().map(|refusal| refusal.code));
        }));
    }

    /// Somebody reads what everybody was told, or asks of the logs behind notifications what nobody may.
    fn look_up_broadcasts(&mut self) {
        let user = self.person();
        let conv_id = match self.rng.random_range(0..8) {
            0 => ConvId::notices(&user),
            _ => ConvId::everybody(),
        };
        let limit = [1, 3, 200][self.rng.random_range(0..3)];
        let from = [HistoryFrom::Newest, HistoryFrom::After(0), HistoryFrom::Before(4)][self.rng.random_range(0..3)];
        let request = match self.rng.random_range(0..8) {
            0 => Request::Changes { conv_id, since: 0 },
            1 => Request::Read { conv_id, read_seq: 1 },
            2 => Request::Members { conv_id, page: None, limit: 10 },
            _ => Request::History { conv_id, from, limit },
        };
        let real = self.reals.iter().filter(|device| device.user == user).find_map(|device| device.client().cloned());
        match real {
            Some(client) if self.rng.random_bool(0.5) => {
                tokio::spawn(async move { drop(client.request(request).await) });
            }
            _ => {
                let raw = self.raws.iter().find(|device| device.user == user);
                raw.into_iter().for_each(|device| device.act(Act::Ask(request.clone())));
            }
        }
    }

    /// The calls under way come to an end.
    pub async fn calls_end(&mut self) {
        for call in self.calls.drain(..) {
            let _ = call.await;
        }
    }
}
