//! From the queue to the receiver: one request at a time for a conversation, several conversations at once.
//!
//! The next request of a conversation is made when the one before was taken (any status 2xx), so its order
//! is kept; what was not taken is tried again after a pause that grows. When nothing is taken at all there
//! is one try at a time, until one succeeds; then everybody may go at once. Nothing but the status of an
//! answer is looked at, redirects are not followed, and an answer that takes long or does not end is cut.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use rand::Rng;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::queue::Queue;
use super::{dropped, signature};
use crate::config::{Clock, Secret, WebhookSettings, duration};
use crate::fanout::read_log;
use crate::protocol::ConvId;
use crate::store::{Error, Store};

/// Requests under way.
const AT_ONCE: usize = 16;
/// Events of one request, as long as their text stays below [`MOST_BYTES`].
const MOST_EVENTS: usize = 100;
const MOST_BYTES: usize = 512 * 1024;
/// Entries read for one request: its events lie within so many.
const MOST_ENTRIES: u64 = 512;
/// Bytes read of an answer, so that its connection can be used again.
const ANSWER_BYTES: usize = 16 * 1024;
/// The pause after a failure doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many failures without a success in between: the receiver is down.
const DOWN: u32 = 8;
/// Old events are looked for so often.
const SWEEP: Duration = Duration::from_secs(30);

/// Conversations that have got events.
#[derive(Default)]
pub(super) struct Woken {
    conversations: Mutex<HashSet<ConvId>>,
    wake: Notify,
}

impl Woken {
    pub(super) fn wake(&self, conversations: HashSet<ConvId>) {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner).extend(conversations);
        self.wake.notify_one();
    }

    fn take(&self) -> HashSet<ConvId> {
        std::mem::take(&mut *self.conversations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long to wait after so many failures: half of it for sure, the rest by chance.
fn pause(first: Duration, failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(LONGEST_PAUSE);
    whole / 2 + (whole / 2).mul_f64(rng.random::<f64>())
}

/// What one try came to.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    /// Taken, or there was nothing.
    Taken,
    /// Not taken, for this reason.
    Failed(&'static str),
}

/// A conversation with events.
#[derive(Debug, Default)]
struct Line {
    failures: u32,
    /// When it is tried next; `None`: it is being tried.
    due: Option<Instant>,
}

pub(super) struct Deliverer {
    office: Arc<Office>,
    woken: Arc<Woken>,
    lines: HashMap<ConvId, Line>,
    due: BTreeSet<(Instant, ConvId)>,
    running: FuturesUnordered<BoxFuture<'static, (ConvId, Tried)>>,
    /// Failures since the last success.
    streak: u32,
    first_pause: Duration,
    /// Nothing is tried before.
    rest_until: Instant,
}

impl Deliverer {
    pub(super) fn new(
        settings: &WebhookSettings,
        queue: Arc<Queue>,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.patience)
            .pool_max_idle_per_host(AT_ONCE)
            .user_agent(concat!("everline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        let office = Office {
            http,
            url: settings.url.clone(),
            secret: settings.secret.clone(),
            max_age_ms: duration::millis(settings.max_age),
            queue,
            store,
            clock,
        };
        let mut this = Self {
            office: Arc::new(office),
            woken: Arc::default(),
            lines: HashMap::new(),
            due: BTreeSet::new(),
            running: FuturesUnordered::new(),
            streak: 0,
            first_pause: settings.first_pause,
            rest_until: Instant::now(),
        };
        for conversation in this.office.queue.conversations() {
            this.begin(conversation);
        }
        Ok(this)
    }

    pub(super) fn woken(&self) -> Arc<Woken> {
        Arc::clone(&self.woken)
    }

    /// Runs until it is stopped; what is under way then is done again after the next start.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let woken = self.woken();
        loop {
            self.try_what_is_due();
            let free = self.running.len() < self.at_once();
            let next = self.due.first().map(|(at, _)| (*at).max(self.rest_until)).filter(|_| free);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Old events go before they are tried once more.
                _ = sweeps.tick() => self.office.sweep().await,
                Some((conversation, tried)) = self.running.next() => self.tried(conversation, &tried),
                () = woken.wake.notified() => woken.take().into_iter().for_each(|conversation| self.begin(conversation)),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn at_once(&self) -> usize {
        if self.streak < DOWN { AT_ONCE } else { 1 }
    }

    fn begin(&mut self, conversation: ConvId) {
        if !self.lines.contains_key(&conversation) {
            self.set_due(conversation, 0, Instant::now());
        }
    }

    fn set_due(&mut self, conversation: ConvId, failures: u32, at: Instant) {
        self.due.insert((at, conversation.clone()));
        self.lines.insert(conversation, Line { failures, due: Some(at) });
    }

    fn try_what_is_due(&mut self) {
        let now = Instant::now();
        while self.running.len() < self.at_once() && now >= self.rest_until {
            let Some((at, conversation)) = self.due.pop_first() else { return };
            if at > now {
                self.due.insert((at, conversation));
                return;
            }
            self.lines.entry(conversation.clone()).or_default().due = None;
            let office = Arc::clone(&self.office);
            self.running.push(Box::pin(async move {
                let tried = office.deliver(&conversation).await;
                (conversation, tried)
            }));
        }
    }

    fn tried(&mut self, conversation: ConvId, tried: &Tried) {
        let failures = self.lines.remove(&conversation).map_or(0, |line| line.failures);
        match tried {
            Tried::Taken => {
                if std::mem::take(&mut self.streak) >= DOWN {
                    tracing::info!("the webhook receiver takes events again");
                    self.nobody_waits();
                }
                if self.office.queue.has(&conversation) {
                    self.set_due(conversation, 0, Instant::now());
                }
            }
            Tried::Failed(why) => {
                metrics::counter!("everline_webhook_failures_total", "why" => *why).increment(1);
                self.streak = self.streak.saturating_add(1);
                let (failures, mut rng) = (failures.saturating_add(1), rand::rng());
                if self.streak >= DOWN {
                    self.rest_until = Instant::now() + pause(self.first_pause, self.streak - DOWN + 1, &mut rng);
                }
                if self.streak == DOWN {
                    tracing::warn!(why, "the webhook receiver takes nothing: one try at a time");
                }
                tracing::debug!(%conversation, why, failures, "webhook not taken");
                self.set_due(conversation, failures, Instant::now() + pause(self.first_pause, failures, &mut rng));
            }
        }
    }

    /// The receiver is back: everything is due.
    fn nobody_waits(&mut self) {
        let now = Instant::now();
        self.rest_until = now;
        for (_, conversation) in std::mem::take(&mut self.due) {
            self.set_due(conversation, 0, now);
        }
    }
}

/// What a request needs.
struct Office {
    http: reqwest::Client,
    url: Secret,
    secret: Secret,
    max_age_ms: u64,
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    clock: Clock,
}

impl Office {
    /// Drops what is too old.
    async fn sweep(&self) {
        let cutoff = self.clock.now_ms().saturating_sub(self.max_age_ms);
        let queue = Arc::clone(&self.queue);
        match tokio::task::spawn_blocking(move || queue.drop_older(cutoff)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(events)) => {
                dropped("age", events);
                tracing::warn!(events, "webhook events were too old and are dropped");
            }
            Ok(Err(error)) => tracing::error!(%error, "the webhook queue cannot be swept"),
            Err(error) => tracing::error!(%error, "the webhook queue cannot be swept"),
        }
        let fill = self.queue.fill();
        metrics::gauge!("everline_webhook_queue_events").set(fill.events as f64);
        metrics::gauge!("everline_webhook_queue_bytes").set(fill.bytes as f64);
    }

    /// Tells the receiver of a conversation's next events.
    async fn deliver(&self, conversation: &ConvId) -> Tried {
        let (queue, id) = (Arc::clone(&self.queue), conversation.clone());
        let Ok(Ok(mut events)) = tokio::task::spawn_blocking(move || queue.peek(&id, MOST_EVENTS)).await else {
            return Tried::Failed("queue");
        };
        let Some(first) = events.first().map(|(_, event)| event.conv_seq) else {
            return if self.queue.has(conversation) { Tried::Failed("queue") } else { Tried::Taken };
        };
        // Events of one conversation may be told again by a recovery: then numbers go back once.
        let fits = |(_, event): &(u64, Event)| (first..first + MOST_ENTRIES).contains(&event.conv_seq);
        events.truncate(events.iter().take_while(|event| fits(event)).count());
        let (body, up_to) = match self.body(conversation, &events).await {
            Ok(body) => body,
            Err(Error::Damaged(what)) => {
                tracing::error!(%conversation, what, "webhook events cannot be told");
                dropped("damaged", events.len());
                return self.done(conversation, events.last().map_or(0, |(number, _)| *number)).await;
            }
            Err(_) => return Tried::Failed("store"),
        };
        match self.post(body).await {
            Tried::Taken => self.done(conversation, up_to).await,
            failed => failed,
        }
    }

    async fn done(&self, conversation: &ConvId, up_to: u64) -> Tried {
        let (queue, id) = (Arc::clone(&self.queue), conversation.clone());
        match tokio::task::spawn_blocking(move || queue.remove(&id, up_to)).await {
            Ok(Ok(())) => Tried::Taken,
            _ => Tried::Failed("queue"),
        }
    }

    /// The text of a request, and the number of the last event in it.
    async fn body(&self, conversation: &ConvId, events: &[(u64, Event)]) -> Result<(Bytes, u64), Error> {
        let seqs = || events.iter().map(|(_, event)| event.conv_seq);
        let (first, last) = (seqs().min().unwrap_or(1), seqs().max().unwrap_or(1));
        let log = read_log(&*self.store, conversation, first - 1, last).await?;
        let mut body = "{\"events\":[".to_owned();
        let mut up_to = 0;
        for (number, event) in events {
            let index = usize::try_from(event.conv_seq - first).unwrap_or(usize::MAX);
            let damaged = || Error::Damaged(format!("entry {} of {conversation}", event.conv_seq));
            let entry = log.get(index).ok_or_else(damaged)?;
            let message = RawValue::from_string(format!("{{{}", entry.text)).map_err(|_| damaged())?;
            let text = event.to_json(&message, entry.header.by.as_ref());
            if up_to > 0 && body.len() + text.len() > MOST_BYTES {
                break;
            }
            if up_to > 0 {
                body.push(',');
            }
            body.push_str(&text);
            up_to = *number;
        }
        body.push_str("]}");
        Ok((Bytes::from(body), up_to))
    }

    async fn post(&self, body: Bytes) -> Tried {
        let timestamp = self.clock.now_ms().to_string();
        let signature = signature(self.secret.expose(), &timestamp, &body);
        let request = self
            .http
            .post(self.url.expose())
            .header("content-type", "application/json")
            .header("everline-timestamp", timestamp)
            .header("everline-signature", signature)
            .body(body);
        match request.send().await {
            Ok(mut answer) if answer.status().is_success() => {
                metrics::counter!("everline_webhook_requests_total").increment(1);
                let mut left = ANSWER_BYTES;
                while let Ok(Some(chunk)) = answer.chunk().await {
                    left = left.saturating_sub(chunk.len());
                    if left == 0 {
                        break;
                    }
                }
                Tried::Taken
            }
            Ok(_) => Tried::Failed("status"),
            Err(error) if error.is_timeout() => Tried::Failed("timeout"),
            Err(_) => Tried::Failed("connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn a_pause_doubles_up_to_a_minute_and_is_never_below_half_of_it() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (60, 60), (u32::MAX, 60)] {
            for _ in 0..100 {
                let pause = pause(Duration::from_secs(1), failures, &mut rng).as_millis();
                assert!((seconds * 500..=seconds * 1000).contains(&pause), "{failures}: {pause}");
            }
        }
    }
}
