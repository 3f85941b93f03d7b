//! What the store holds, read past all faults and put into the words of the contract, for whoever judges it.

use std::collections::BTreeMap;

use everline::conversation::entry;
use everline::conversation::pointer::Pointer;
use everline::protocol::*;
use everline::store::TimelineId;

use crate::house::House;
use crate::judge::{Item, Stored, Sync};
use crate::log::Log;

impl House {
    /// Whether these bytes stand anywhere in the conversation.
    pub fn holds(&self, conv: &ConvId, text: &str) -> bool {
        let dump = self.store().dump(&TimelineId::Conversation(conv.clone()));
        let found = |data: &[u8]| data.windows(text.len()).any(|window| window == text.as_bytes());
        dump.entries.iter().any(|entry| found(&entry.data)) || dump.rows.iter().any(|(_, value, _)| found(value))
    }

    /// What the store holds, for whoever looks for the bug.
    pub fn dump(&self) -> String {
        let store = self.store();
        let mut out = String::new();
        for timeline in store.all_timelines() {
            let dump = store.dump(&timeline);
            out += &format!("{timeline:?} {:?}\n", dump.head);
            for entry in &dump.entries {
                let text = match &timeline {
                    TimelineId::User(_) => item(&entry.data).map(|item| format!("{item:?}")),
                    TimelineId::Conversation(_) => entry::Header::load(&entry.data)
                        .map(|(_, text)| text.to_owned())
                        .ok_or_else(|| "damaged".into()),
                };
                out += &format!(
                    "  {} at {} by {:x}: {}\n",
                    entry.seq,
                    entry.at,
                    entry.attempt.0,
                    text.unwrap_or_else(|e| e)
                );
            }
        }
        store.all_marks().iter().for_each(|mark| out += &format!("{mark:?}\n"));
        out
    }

    /// Whom recalled messages mentioned, by what was sent.
    fn mentions_gone(&self, conv: &ConvId, log: &Log) -> BTreeMap<u64, Vec<UserId>> {
        let model = self.model();
        let gone = log.keys.iter().filter(|(_, seq)| log.message(**seq).is_some_and(|message| message.recalled));
        let sent = gone.filter_map(|((sender, id), seq)| {
            let sent = model.sent.get(&(sender.clone(), conv.clone(), id.clone()))?;
            Some((*seq, sent.send.mentions.clone()))
        });
        sent.collect()
    }

    /// The logs behind notifications to users.
    fn notices(&self) -> Result<BTreeMap<UserId, Vec<Event>>, String> {
        let (store, mut notices) = (self.store(), BTreeMap::new());
        for timeline in store.all_timelines() {
            let TimelineId::Conversation(conv) = &timeline else { continue };
            let Some(user) = conv.notices_of() else { continue };
            let entries = store.dump(&timeline).entries;
            let events = entries.iter().map(|entry| {
                let (_, text) = entry::Header::load(&entry.data).ok_or("an entry without a header")?;
                Event::decode(text).map_err(|error| format!("{error}: {text}"))
            });
            notices.insert(user, events.collect::<Result<_, _>>()?);
        }
        Ok(notices)
    }

    /// Everything the store holds, in the words of the contract.
    pub fn stored(&self) -> Result<Stored, String> {
        let store = self.store();
        let mut stored = Stored { notices: self.notices()?, ..Stored::default() };
        let full: BTreeMap<String, bool> = self
            .model()
            .creates
            .iter()
            .map(|(title, (_, history, _))| (title.clone(), *history == HistoryMode::Full))
            .collect();
        for timeline in store.all_timelines() {
            let dump = store.dump(&timeline);
            match timeline {
                TimelineId::Conversation(conv) if conv.is_reserved() => {}
                TimelineId::Conversation(conv) => {
                    let entries = dump.entries.iter().map(|entry| {
                        let (_, text) = entry::Header::load(&entry.data).ok_or("an entry without a header")?;
                        Event::decode(text).map_err(|error| format!("{error}: {text}"))
                    });
                    let entries = entries.collect::<Result<Vec<_>, String>>()?;
                    if entries.len() as u64 != dump.head.position.seq {
                        return Err(format!("{conv}: {} entries below head {:?}", entries.len(), dump.head));
                    }
                    let mut log = Log::fold(&conv, entries, |title| full.get(title).copied().unwrap_or_default());
                    log.mentions = self.mentions_gone(&conv, &log);
                    stored.logs.insert(conv, log);
                }
                TimelineId::User(user) => {
                    let items = dump.entries.iter().map(|entry| {
                        let item = item(&entry.data)?;
                        Ok((entry.seq, notice_of(&user, &item, &stored.notices).unwrap_or(item)))
                    });
                    let items = items.collect::<Result<_, String>>()?;
                    let sync = Sync { head: dump.head.position.seq, floor: dump.head.floor, items };
                    stored.syncs.insert(user, sync);
                }
            }
        }
        Ok(stored)
    }
}

/// A pointer into the log behind a user's notifications is the notification.
fn notice_of(user: &UserId, item: &Item, notices: &BTreeMap<UserId, Vec<Event>>) -> Option<Item> {
    let Item::Log(conv, seq) = item else { return None };
    let log = notices.get(user).filter(|_| *conv == ConvId::notices(user))?;
    log.get(usize::try_from(seq.checked_sub(1)?).ok()?).cloned().map(Item::Own)
}

/// A sync entry as stored.
fn item(data: &[u8]) -> Result<Item, String> {
    Ok(match Pointer::load(data).ok_or("a sync entry that is none")? {
        Pointer::Log { conv_id, conv_seq, .. } => {
            Item::Log(ConvId::parse(conv_id).map_err(|error| error.to_string())?, conv_seq)
        }
        Pointer::Own { text, .. } => Item::Own(Event::decode(text).map_err(|error| error.to_string())?),
    })
}
