//! When everything is mended: all devices must catch up in time, and then the verdict is given.

use std::collections::BTreeMap;
use std::time::Duration;

use everline::audit::verify;
use everline::client::state::{ConversationView, State, View};
use everline::client::{Client, ConnectionState, RequestError};
use everline::protocol::*;
use tokio::time::Instant;

use crate::device::{Act, Real};
use crate::judge::{Screen, Shown};
use crate::run::Run;

/// Within this every device must have caught up once all faults are over: reconnects wait up to 20 s, a
/// silent connection is given up after two heartbeats, a request after 30 s.
const CATCHES_UP: Duration = Duration::from_secs(400);

type Rows = BTreeMap<ConvId, (ConversationSummary, Vec<Range>, u64)>;

impl Run {
    /// See the module.
    pub async fn quiet(&mut self) -> Result<(), String> {
        self.note("quiet");
        self.mend_all().await;
        self.calls_end().await;
        self.catch_up().await?;
        // Fan-outs, receipts and whatever else goes on behind the answers.
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.catch_up().await?;
        // A dead node's mark may have landed after its fan-outs were taken over: nodes look again and again.
        if self.names_the_dead() {
            while self.house.take_over_the_dead().await {}
        } else {
            self.tick("dead not named");
        }
        self.all_ready()?;
        self.sound()?;
        self.judge_store().await?;
        self.judge_devices().await?;
        self.tick("checked at rest");
        self.sound()
    }

    /// In half of the stories the living find out for themselves who is dead: when its word holds no longer, which is
    /// not to be waited for where the clocks went back.
    fn names_the_dead(&self) -> bool {
        let setting = self.house.setting();
        setting.together || setting.seed.is_multiple_of(2) || self.house.has_turned_back()
    }

    async fn mend_all(&mut self) {
        self.house.trouble(false);
        self.house.silence(false);
        for node in 0..self.house.nodes() {
            self.house.pause(node, false);
            self.house.cut(node, false);
            self.house.restart(node).await;
        }
        while self.names_the_dead() && self.house.take_over_the_dead().await {
            self.tick("takeovers");
        }
        let wires: Vec<_> = self.reals.iter().map(|device| device.wired.get()).collect();
        for (_, line, _) in wires.into_iter().chain(self.raws.iter().map(|device| device.wired.get())).flatten() {
            line.mend();
        }
        for device in &mut self.reals {
            if device.has_stopped() {
                // Refused for good, with a token of a time that has not come yet: its user tries again.
                device.kill();
            }
            device.start(&self.house);
        }
    }

    /// Every device holds everything, or it is said which does not.
    async fn catch_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + CATCHES_UP;
        loop {
            let behind = self.behind().await;
            if behind.is_empty() {
                return Ok(());
            }
            self.sound()?;
            if Instant::now() > deadline {
                return Err(format!("do not catch up: {}", behind.join("; ")));
            }
            for device in self.reals.iter_mut().filter(|device| device.has_stopped()) {
                device.kill();
                device.start(&self.house);
            }
            for device in &mut self.raws {
                if !device.is_connected() {
                    let cursor = device.cursor();
                    device.connect(&self.house, 0, cursor, false);
                }
                device.act(Act::Behave);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn behind(&self) -> Vec<String> {
        let mut behind = Vec::new();
        if self.house.setting().large.is_some() || self.house.setting().notices {
            match self.house.stored() {
                Ok(stored) => behind.extend(self.untold(&stored)),
                Err(error) => behind.push(error),
            }
        }
        for device in &self.reals {
            let head = self.house.sync_head(&device.user);
            if let Some(text) = lags(device, head).await {
                behind.push(format!("{} {}: {text}", device.user, device.id));
            }
        }
        for device in &self.raws {
            let (head, held) = (self.house.sync_head(&device.user), device.held());
            let seq = held.cursor.as_ref().map(|cursor| cursor.seq);
            if !held.connected || !held.live || seq != Some(head) {
                behind.push(format!("{} {}: {held:?} of {head}", device.user, device.id));
            }
        }
        behind
    }

    /// Devices that were not told where their large conversations stand.
    fn untold(&self, stored: &crate::judge::Stored) -> Vec<String> {
        let reals = self.reals.iter().map(|device| (&device.user, &device.id, &device.wired));
        let raws = self.raws.iter().map(|device| (&device.user, &device.id, &device.wired));
        let model = self.house.model();
        let untold = reals.chain(raws).filter_map(|(user, id, wired)| {
            let text = model.untold(wired.get()?.0, stored, true)?;
            Some(format!("{user} {id}: {text}"))
        });
        untold.collect()
    }

    async fn judge_store(&mut self) -> Result<(), String> {
        self.house.look_after_absent().await;
        let stored = self.house.stored()?;
        self.house.model().judge(&stored);
        self.sound()?;
        self.judge_bodies(&stored)?;
        let report = verify::verify(&self.house.store()).await.map_err(|error| error.to_string())?;
        if !report.is_clean() {
            return Err(format!("verify: {:?}", report.differences));
        }
        // Marks of the living may stand: one whose deletion failed is only looked at once more, later.
        if !report.unfinished.is_empty() {
            return Err(format!("left undone: {:?}", report.unfinished));
        }
        let breaches = self.house.store().breaches();
        if breaches.is_empty() { Ok(()) } else { Err(format!("the store was misused: {breaches:?}")) }
    }

    /// A recalled body stands nowhere in the store.
    fn judge_bodies(&self, stored: &crate::judge::Stored) -> Result<(), String> {
        let gone = stored.logs.iter().flat_map(|(conv, log)| {
            let recalled = log.fates.iter().filter(|(_, fate)| fate.recalled.is_some());
            recalled.map(move |(target, _)| (conv, *target))
        });
        let model = self.house.model();
        for (conv, target) in gone {
            let sent = model
                .sent
                .iter()
                .find(|((_, of, _), sent)| of == conv && sent.told.is_some_and(|(_, at)| at == target));
            let edits = model.acked.iter().filter_map(|(_, request, of, _)| match request {
                Request::Edit { target: edited, body, .. } if of == conv && *edited == target => Some(body),
                _ => None,
            });
            for body in sent.map(|(_, sent)| &sent.send.body).into_iter().chain(edits) {
                if self.house.holds(conv, body.as_str()) {
                    return Err(format!("{conv} {target} was recalled, {body:?} is still in the store"));
                }
            }
        }
        Ok(())
    }

    async fn judge_devices(&mut self) -> Result<(), String> {
        let stored = self.house.stored()?;
        for user in self.people.clone() {
            let mut fresh = Real::new(&user, "fresh", self.count ^ 0x5eed);
            fresh.start(&self.house);
            let (client, _) = fresh.running.as_ref().expect("started");
            let client = client.clone();
            if !tokio::time::timeout(CATCHES_UP, client.wait_live()).await.unwrap_or_default() {
                return Err(format!("{user}: a fresh device does not get live"));
            }
            let rows = rows(&client).await.map_err(|error| format!("{user}: {error}"))?;
            self.house.model().judge_rows(&user, &rows, &stored);
            for (conv, (row, _, _)) in &rows {
                self.house.model().judge_reading(&user, conv, row.read_seq, &stored);
            }
            self.sound()?;
            let state = client.state().await.ok_or("stopped")?;
            self.judge_told(&user, &fresh.id, &state, &stored);
            if self.house.setting().notices {
                let read = broadcasts(&client).await.map_err(|error| format!("{user}: {error}"))?;
                let listed: Vec<ConvId> = rows.keys().cloned().collect();
                self.house.model().judge_everybody(&user, &read, &listed, &stored);
            }
            let expected = state.view();
            self.judge_view(&user, "fresh", &expected, &rows, &stored);
            for device in self.reals.iter().filter(|device| device.user == user) {
                let state = saved_state(device).await?;
                let view = state.view();
                self.judge_told(&user, &device.id, &state, &stored);
                self.judge_view(&user, &device.id, &view, &rows, &stored);
                same(&expected, &view).map_err(|text| format!("{user} fresh and {}: {text}", device.id))?;
            }
            fresh.close().await;
        }
        Ok(())
    }

    fn judge_told(&self, user: &UserId, device: &DeviceId, state: &State, stored: &crate::judge::Stored) {
        let told = state.notifications.iter().map(|told| (told.conv_seq, told.topic.clone(), told.body.clone()));
        self.house.model().judge_told(user, device, told.collect(), stored);
    }

    fn judge_view(&self, user: &UserId, device: &str, view: &View, rows: &Rows, stored: &crate::judge::Stored) {
        let screens = view.conversations.iter().map(|(conv, shown)| {
            let message = |message: &everline::client::state::MessageView| Shown {
                sender: message.sender_id.clone(),
                body: message.body.clone(),
            };
            let messages = shown.messages.iter().map(|(seq, shown)| (*seq, message(shown))).collect();
            (conv.clone(), Screen { messages, left: shown.left, unread: shown.unread })
        });
        let screens = screens.collect();
        self.house.model().judge_screen(user, device, &screens, rows, stored);
    }
}

/// Why a device is not current, if it is not.
async fn lags(device: &Real, head: u64) -> Option<String> {
    let Some(client) = device.client() else { return Some("not started".into()) };
    let looked = client.look(|state| (state.seq(), state.conversations.values().any(|held| held.is_stale()))).await;
    let Some((seq, stale)) = looked else { return Some(format!("stopped: {:?}", client.status())) };
    let waiting = client.outbox().await.len();
    let live = client.status() == ConnectionState::Live;
    (seq != head || stale || waiting > 0 || !live)
        .then(|| format!("at {seq} of {head}, stale {stale}, {waiting} to send, {:?}", client.status()))
}

/// What a device shows, which must be what it has saved: but for what comes in between the two looks.
async fn saved_state(device: &Real) -> Result<State, String> {
    let client = device.client().ok_or("stopped")?;
    let mut differs = String::new();
    for _ in 0..5 {
        let state = client.state().await.ok_or("stopped")?;
        let saved = device.cache.saved().state;
        if state == saved {
            return Ok(state);
        }
        let parts = state.conversations.iter().filter(|(conv, held)| saved.conversations.get(*conv) != Some(*held));
        let parts: Vec<_> = parts.map(|(conv, held)| (held, saved.conversations.get(conv))).collect();
        differs = format!("{:?} {:?} {parts:?}", state.cursor, saved.cursor);
    }
    Err(format!("{} {}: saved is not what is shown: {differs}", device.user, device.id))
}

/// The list and one's own marks, as the server tells them.
async fn rows(client: &Client) -> Result<Rows, RequestError> {
    let list = client.request(Request::Conversations { active_after: None, page: None, limit: 1000 }).await?;
    let AnswerBody::Conversations { conversations, .. } = list else { return Err(RequestError::Unexpected) };
    let mut rows = Rows::new();
    for line in conversations {
        let conv_id = line.conv_id.clone();
        let changes = client.request(Request::Changes { conv_id: conv_id.clone(), since: 0 }).await?;
        let AnswerBody::Changes { deleted, cleared_up_to, .. } = changes else { return Err(RequestError::Unexpected) };
        rows.insert(conv_id, (line, deleted, cleared_up_to));
    }
    Ok(rows)
}

/// All a user can read of what everybody was told: its places.
async fn broadcasts(client: &Client) -> Result<Vec<u64>, RequestError> {
    let (mut read, mut after) = (Vec::new(), 0);
    loop {
        let from = HistoryFrom::After(after);
        let page = Request::History { conv_id: ConvId::everybody(), from, limit: 200 };
        let AnswerBody::History { entries, next, .. } = client.request(page).await? else {
            return Err(RequestError::Unexpected);
        };
        read.extend(entries.iter().filter_map(|entry| entry.event.conv_seq()));
        match next {
            Some(next) => after = next,
            None => return Ok(read),
        }
    }
}

/// A recall after one has left is told to nobody who has left: only one who asks again sees a stub. In a large
/// conversation recalled messages may count as unread, on a device that does not hold all; the model knows the bounds.
fn same(one: &View, other: &View) -> Result<(), String> {
    for id in one.conversations.keys().chain(other.conversations.keys()) {
        let (Some(a), Some(b)) = (one.conversations.get(id), other.conversations.get(id)) else {
            return Err(format!("{id} is missing on one side"));
        };
        if a.left && b.left {
            continue;
        }
        let unread = if a.large { b.unread } else { a.unread };
        if (ConversationView { unread, ..a.clone() }) != *b {
            return Err(format!("{id}\n{a:?}\n{b:?}"));
        }
    }
    Ok(())
}
