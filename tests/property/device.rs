//! A device: a cursor, a cache, and the contract's rules for what to do with pages, resets and answers.
//! Its own reading of the contract; shares nothing with the client library.

use std::collections::{BTreeMap, BTreeSet};

use everline::engine::{Caller, Engine, PageRead};
use everline::protocol::*;

/// A message as the device holds it.
#[derive(Clone, Debug)]
pub struct Held {
    pub message: Message,
    /// conv_seq of the last recall or edit it knows to be in `message`.
    changed: u64,
    /// Last word of each (key, user): (conv_seq, add).
    pub words: BTreeMap<(String, UserId), (u64, bool)>,
    /// `words` holds everything up to this conv_seq.
    words_as_of: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Cache {
    pub held: BTreeMap<u64, Held>,
    pub hidden: BTreeSet<u64>,
    pub cleared: u64,
    /// All changes and messages up to here are in; moved by sync entries only while no reset is open.
    pub reconciled: u64,
    pub read: Option<(u64, u64)>,
    pub settings: Option<ConversationSettings>,
}

/// What a device still owes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owes {
    Nothing,
    /// Never was here: says hello without a cursor and loads everything.
    Hello,
    /// After a reset.
    Reconcile,
}

/// What happened, for the tally.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub resets: u64,
    pub pages: u64,
    pub stubs: u64,
}

#[derive(Clone, Debug)]
pub struct Device {
    pub caller: Caller,
    pub cursor: u64,
    pub owes: Owes,
    pub caches: BTreeMap<ConvId, Cache>,
}

/// Not a violation: the store was away; the device tries again later.
struct Later;

type Asked<T> = Result<T, Stop>;

enum Stop {
    Later,
    Wrong(String),
}

impl From<Later> for Stop {
    fn from(_: Later) -> Self {
        Self::Later
    }
}

impl Device {
    pub fn new(user: &UserId, name: &str, owes: Owes) -> Self {
        let device = DeviceId::parse(name).expect("a name");
        Self { caller: Caller { user: user.clone(), device }, cursor: 0, owes, caches: BTreeMap::new() }
    }

    /// Comes on-line, catches up (or gives up when the store is away, or after `pages`) and goes.
    /// `limits`: entries and bytes of a page.
    pub async fn visit(&mut self, engine: &Engine, pages: usize, limits: (usize, usize)) -> Result<Seen, String> {
        let mut seen = Seen::default();
        match self.catch_up(engine, pages, limits, &mut seen).await {
            Ok(()) | Err(Stop::Later) => Ok(seen),
            Err(Stop::Wrong(wrong)) => Err(format!("{:?} at {}: {wrong}", self.caller, self.cursor)),
        }
    }

    async fn catch_up(&mut self, engine: &Engine, pages: usize, limits: (usize, usize), seen: &mut Seen) -> Asked<()> {
        if self.owes == Owes::Hello {
            let standing = engine.standing(&self.caller.user).await.map_err(|_| Later)?;
            (self.cursor, self.caches) = (standing.head, BTreeMap::new());
            self.load(engine).await?;
            self.owes = Owes::Nothing;
        }
        for _ in 0..pages {
            if self.owes == Owes::Reconcile {
                self.load(engine).await?;
                self.owes = Owes::Nothing;
            }
            match engine.page(&self.caller.user, self.cursor, limits.0, limits.1).await.map_err(|_| Later)? {
                PageRead::Page(page) => {
                    seen.pages += 1;
                    if page.from != self.cursor || page.to < page.from || page.to > page.standing.head {
                        return Err(Stop::Wrong(format!("page {page:?}")));
                    }
                    for (seq, text) in &page.entries {
                        if *seq <= self.cursor || *seq > page.to {
                            return Err(Stop::Wrong(format!("entry {seq} out of place in {page:?}")));
                        }
                        self.cursor = *seq;
                        let event = Event::decode(text).map_err(|error| Stop::Wrong(format!("{error}: {text}")))?;
                        seen.stubs += u64::from(matches!(&event, Event::Message(message) if message.recalled));
                        self.apply(event);
                    }
                    self.cursor = page.to;
                    if page.to == page.standing.head {
                        return Ok(());
                    }
                    if page.to == page.from {
                        return Err(Stop::Wrong(format!("empty page below the head: {page:?}")));
                    }
                }
                PageRead::BelowFloor(standing) => {
                    if self.cursor >= standing.floor {
                        return Err(Stop::Wrong(format!("reset, and not below the floor: {standing:?}")));
                    }
                    seen.resets += 1;
                    (self.cursor, self.owes) = (standing.head, Owes::Reconcile);
                }
                PageRead::AboveHead(standing) => {
                    return Err(Stop::Wrong(format!("was shown entries that are not there: {standing:?}")));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        let Some(conv) = event.conv_id().cloned() else { return };
        let steady = self.owes == Owes::Nothing;
        let cache = self.caches.entry(conv).or_default();
        if let Some(conv_seq) = event.conv_seq().filter(|_| steady) {
            cache.reconciled = cache.reconciled.max(conv_seq);
        }
        match event {
            Event::Message(message) => cache.add(message, None),
            Event::Recall { conv_seq, target, .. } => cache.recall(target, conv_seq),
            Event::Edit { conv_seq, target, body, edited_at, .. } => cache.edit(target, conv_seq, body, edited_at),
            Event::Reaction { conv_seq, target, user_id, key, add, .. } => {
                cache.word(target, conv_seq, (key, user_id), add);
            }
            Event::Delete { ranges, .. } => cache.hide(&ranges, 0),
            Event::Clear { up_to, .. } => cache.hide(&[], up_to),
            Event::Read { read_seq, unread, .. } => cache.read = Some((read_seq, unread)),
            Event::Settings { muted, pinned, hidden, .. } => {
                cache.settings = Some(ConversationSettings { muted, pinned, hidden });
            }
            _ => {}
        }
    }

    /// Lists the conversations; of each cached one the changes, of each the messages, since `reconciled`.
    async fn load(&mut self, engine: &Engine) -> Asked<()> {
        for (conv_id, summary) in self.list(engine).await? {
            let cached = self.caches.contains_key(&conv_id);
            let mut cache = self.caches.remove(&conv_id).unwrap_or_default();
            let loaded = self.load_one(engine, &summary, &mut cache, cached).await;
            if loaded.is_ok() || cached {
                self.caches.insert(conv_id, cache);
            }
            loaded?;
        }
        Ok(())
    }

    /// All conversations, page by page. A message that comes meanwhile takes its conversation to the
    /// front, perhaps past the page being read: so the front is read again until it brings nothing new.
    async fn list(&self, engine: &Engine) -> Asked<BTreeMap<ConvId, ConversationSummary>> {
        let mut listed = BTreeMap::new();
        let mut active_after = None;
        loop {
            let (mut page, mut new, mut newest) = (None, false, 0);
            loop {
                let request = Request::Conversations { active_after, page: page.take(), limit: 3 };
                let answer = self.ask(engine, request).await?;
                let AnswerBody::Conversations { conversations, next } = answer else { return Err(odd(&answer)) };
                for summary in conversations {
                    newest = newest.max(summary.last_at.unwrap_or(0));
                    new |= listed.insert(summary.conv_id.clone(), summary).is_none();
                }
                match next {
                    Some(next) => page = Some(next),
                    None => break,
                }
            }
            if !new {
                return Ok(listed);
            }
            active_after = Some(newest.saturating_sub(1));
        }
    }

    async fn load_one(&self, engine: &Engine, of: &ConversationSummary, cache: &mut Cache, cached: bool) -> Asked<()> {
        let conv_id = of.conv_id.clone();
        let (mut since, messages_since) = (cache.reconciled, cache.reconciled);
        // A conversation not cached holds nothing that could have changed.
        let mut more_changes = cached;
        while more_changes {
            let answer = self.ask(engine, Request::Changes { conv_id: conv_id.clone(), since }).await?;
            let AnswerBody::Changes { recalled, edited, reacted, up_to, more, deleted, cleared_up_to } = answer else {
                return Err(odd(&answer));
            };
            recalled.into_iter().for_each(|change| cache.recall(change.target, change.conv_seq));
            edited.into_iter().for_each(|c| cache.edit(c.target, c.conv_seq, c.body, c.edited_at));
            reacted.into_iter().for_each(|c| cache.word(c.target, c.conv_seq, (c.key, c.user_id), c.add));
            cache.hide(&deleted, cleared_up_to);
            if up_to < since || (more && up_to == since) {
                return Err(Stop::Wrong(format!("changes of {conv_id} since {since} up to {up_to}, more {more}")));
            }
            since = up_to;
            more_changes = more;
        }
        let mut after = messages_since;
        loop {
            let request = Request::History { conv_id: conv_id.clone(), from: HistoryFrom::After(after), limit: 5 };
            let answer = self.ask(engine, request).await?;
            let AnswerBody::History { entries, next, complete, head_seq } = answer else { return Err(odd(&answer)) };
            for entry in entries {
                let Event::Message(message) = entry.event else { continue };
                let words = entry.reactions.into_iter().flat_map(|count| {
                    count.users.into_iter().map(move |user| ((count.key.clone(), user), (head_seq, true)))
                });
                cache.add(message, Some((head_seq, words.collect())));
            }
            match next {
                Some(next) if !complete && next > after => after = next,
                None if complete => break,
                _ => return Err(Stop::Wrong(format!("history of {conv_id} after {after}: {next:?} {complete}"))),
            }
        }
        // What was read of messages is of a later head than the changes: only the changes' counts.
        cache.reconciled = if cached { since } else { of.head_seq };
        cache.read = Some((of.read_seq, of.unread));
        cache.settings = Some(of.settings);
        Ok(())
    }

    async fn ask(&self, engine: &Engine, request: Request) -> Asked<AnswerBody> {
        match engine.submit(&self.caller, request.clone()).await {
            Ok(answer) => Ok(answer),
            Err(refusal) if refusal.code == ErrorCode::Unavailable => Err(Stop::Later),
            Err(refusal) => Err(Stop::Wrong(format!("{request:?} was refused: {refusal:?}"))),
        }
    }
}

fn odd(answer: &AnswerBody) -> Stop {
    Stop::Wrong(format!("another answer than asked for: {answer:?}"))
}

/// What an answer tells beside the message: as of which head, and the reactions.
type AsOf = (u64, BTreeMap<(String, UserId), (u64, bool)>);

impl Cache {
    fn hides(&self, seq: u64) -> bool {
        seq <= self.cleared || self.hidden.contains(&seq)
    }

    fn add(&mut self, message: Message, as_of: Option<AsOf>) {
        let seq = message.conv_seq;
        if self.hides(seq) {
            return;
        }
        let (head, words) = as_of.unwrap_or((seq, BTreeMap::new()));
        match self.held.get_mut(&seq) {
            Some(held) => {
                if message.recalled {
                    held.erase(head.max(held.changed));
                } else if head > held.changed && !held.message.recalled && head > seq {
                    (held.message, held.changed) = (message, head);
                }
                if head > held.words_as_of && !held.message.recalled {
                    held.words.retain(|_, word| word.0 > head);
                    for (place, word) in words {
                        held.words.entry(place).or_insert(word);
                    }
                    held.words_as_of = head;
                }
            }
            None => {
                let changed = if message.recalled { u64::MAX } else { head };
                self.held.insert(seq, Held { message, changed, words, words_as_of: head });
            }
        }
    }

    fn recall(&mut self, target: u64, conv_seq: u64) {
        if let Some(held) = self.held.get_mut(&target) {
            held.erase(conv_seq);
        }
    }

    fn edit(&mut self, target: u64, conv_seq: u64, body: Body, edited_at: u64) {
        if let Some(held) = self.held.get_mut(&target).filter(|held| !held.message.recalled && held.changed < conv_seq)
        {
            (held.message.body, held.message.edited_at, held.changed) = (Some(body), Some(edited_at), conv_seq);
        }
    }

    fn word(&mut self, target: u64, conv_seq: u64, place: (String, UserId), add: bool) {
        let takes = |held: &&mut Held| !held.message.recalled && held.words_as_of < conv_seq;
        let Some(held) = self.held.get_mut(&target).filter(takes) else { return };
        let word = held.words.entry(place).or_insert((0, add));
        if word.0 < conv_seq {
            *word = (conv_seq, add);
        }
    }

    fn hide(&mut self, ranges: &[Range], cleared: u64) {
        self.hidden.extend(ranges.iter().flat_map(|range| range.from..=range.to));
        self.cleared = self.cleared.max(cleared);
        let (hidden, cleared) = (&self.hidden, self.cleared);
        self.held.retain(|seq, _| *seq > cleared && !hidden.contains(seq));
    }
}

impl Held {
    fn erase(&mut self, conv_seq: u64) {
        self.message = crate::user::stub(self.message.clone());
        self.words.clear();
        self.changed = conv_seq;
    }
}
