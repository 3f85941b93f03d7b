//! What a conversation timeline stores for one entry: a short header for the rules, then the text of
//! the event as it goes over the wire, so that serving an entry is copying it.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::{ConvId, Event, Message, UserId};
use crate::timeline::codec::{Reader, put_number, put_text};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message.
    Message = 1,
    /// A recall of a message.
    Recall = 2,
    /// A new body for a message.
    Edit = 3,
    /// A reaction added or taken away.
    Reaction = 4,
    /// Somebody joined.
    Joined = 5,
    /// Somebody left, or was removed.
    Left = 6,
    /// Somebody has another role.
    Role = 7,
    /// The conversation was made.
    Created = 8,
    /// Title, attributes, or another change of the conversation as a whole.
    Changed = 9,
    /// The conversation is over: everybody's stay ends with it.
    Dissolved = 11,
    /// Something the application's server tells users.
    Notification = 10,
    /// From the next entry on the conversation is followed by its own log.
    Large = 12,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 12] = [
            Kind::Message,
            Kind::Recall,
            Kind::Edit,
            Kind::Reaction,
            Kind::Joined,
            Kind::Left,
            Kind::Role,
            Kind::Created,
            Kind::Changed,
            Kind::Dissolved,
            Kind::Notification,
            Kind::Large,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether it changes a message that came before.
    pub fn changes_target(self) -> bool {
        matches!(self, Self::Recall | Self::Edit | Self::Reaction)
    }
}

/// The header: what rules and folds need to know without reading the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Sender of a message; else who did it. `None`: the server API, which is no user.
    pub by: Option<UserId>,
    /// conv_seq of the message changed; 0 for none.
    pub target: u64,
    /// Who sent the message changed.
    pub target_sender: Option<UserId>,
    /// Whom a membership entry is about.
    pub subject: Option<UserId>,
    /// Of an entry of a large conversation. The log alone says so: what is addressed to whom never
    /// depends on how many members there are by now.
    pub large: Option<Box<Large>>,
}

/// What an entry of a large conversation carries, so that nothing need be written per member and nothing
/// be counted from the log's beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Large {
    /// The messages up to and with this entry.
    pub tail: Tail,
    /// The sync timelines that get it: those mentioned, and whom a membership entry is about.
    pub told: Vec<Told>,
    /// Of a message: which one it is of its sender's, and where the one before stands.
    pub own: Ordinal,
}

/// The messages of a large conversation up to some entry, counted from where it became large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    /// How many.
    pub messages: u64,
    /// conv_seq of the newest; 0: there is none.
    pub last_seq: u64,
    /// Its time.
    pub last_at: u64,
}

/// An entry in one user's sync timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whose.
    pub user: UserId,
    /// The entry above it that he was told before, or 0: what was not delivered is found by going back.
    pub before: u64,
}

/// A message among those of its sender, counted like [`Tail`] but from his present stay on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ordinal {
    /// How many of his there are, this one included.
    pub count: u64,
    /// conv_seq of his one before; 0: there is none.
    pub before: u64,
}

impl Large {
    /// The place of this entry in a user's sync timeline; `None`: it is not his.
    pub fn told(&self, user: &UserId) -> Option<&Told> {
        self.told.iter().find(|told| told.user == *user)
    }

    fn store(&self, out: &mut Vec<u8>) {
        let Self { tail, told, own } = self;
        for n in [tail.messages, tail.last_seq, tail.last_at, own.count, own.before, told.len() as u64] {
            put_number(out, n);
        }
        for Told { user, before } in told {
            put_text(out, user);
            put_number(out, *before);
        }
    }

    fn load(reader: &mut Reader<'_>) -> Option<Self> {
        let mut number = || reader.number();
        let tail = Tail { messages: number()?, last_seq: number()?, last_at: number()? };
        let own = Ordinal { count: number()?, before: number()? };
        let mut told = Vec::new();
        for _ in 0..number()? {
            told.push(Told { user: UserId::parse(reader.text()?).ok()?, before: reader.number()? });
        }
        Some(Self { tail, told, own })
    }
}

impl Header {
    /// A header without target and subject.
    pub fn plain(kind: Kind, by: Option<&UserId>) -> Self {
        Self { kind, by: by.cloned(), target: 0, target_sender: None, subject: None, large: None }
    }

    /// Header and text as stored.
    pub fn store(&self, text: &str) -> Bytes {
        let mut out = Vec::with_capacity(text.len() + 80);
        out.push(self.kind as u8);
        put_text(&mut out, self.by.as_deref().unwrap_or_default());
        put_number(&mut out, self.target);
        put_text(&mut out, self.target_sender.as_deref().unwrap_or_default());
        put_text(&mut out, self.subject.as_deref().unwrap_or_default());
        out.push(u8::from(self.large.is_some()));
        if let Some(large) = &self.large {
            large.store(&mut out);
        }
        out.extend_from_slice(text.as_bytes());
        Bytes::from(out)
    }

    /// Header and text; `None` when the bytes are damaged.
    pub fn load(data: &[u8]) -> Option<(Self, &str)> {
        let mut reader = Reader::new(data);
        let kind = Kind::from_byte(reader.byte()?)?;
        let by = optional(reader.text()?)?;
        let target = reader.number()?;
        let target_sender = optional(reader.text()?)?;
        let subject = optional(reader.text()?)?;
        let large = match reader.byte()? {
            0 => None,
            _ => Some(Box::new(Large::load(&mut reader)?)),
        };
        let text = std::str::from_utf8(reader.rest()).ok()?;
        Some((Self { kind, by, target, target_sender, subject, large }, text))
    }
}

fn optional(text: &str) -> Option<Option<UserId>> {
    if text.is_empty() { Some(None) } else { UserId::parse(text).ok().map(Some) }
}

/// Kind and text only: all a page needs of most entries.
pub fn kind_and_text(data: &[u8]) -> Option<(Kind, &str)> {
    let mut reader = Reader::new(data);
    let kind = Kind::from_byte(reader.byte()?)?;
    reader.text()?;
    reader.number()?;
    reader.text()?;
    reader.text()?;
    if reader.byte()? != 0 {
        Large::load(&mut reader)?;
    }
    Some((kind, std::str::from_utf8(reader.rest()).ok()?))
}

/// The message an entry's text holds; `None` when it is none or damaged.
pub fn message(text: &str) -> Option<Message> {
    match Event::decode(text) {
        Ok(Event::Message(message)) => Some(message),
        _ => None,
    }
}

/// The text of a message whose body is gone.
pub fn stub(message: Message) -> Arc<str> {
    let stub = Message { body: None, edited_at: None, recalled: true, mentions: Vec::new(), ..message };
    Event::Message(stub).encode()
}

/// What a mentioned member of a large conversation is told of the message at `target`.
pub fn mention(conv: &ConvId, target: u64, sender: &UserId) -> Arc<str> {
    Event::Mention { conv_id: conv.clone(), target, sender_id: sender.clone() }.encode()
}

/// An entry just appended (or read again for recovery), on its way to the members.
#[derive(Debug, Clone)]
pub struct Appended {
    /// Its conv_seq.
    pub seq: u64,
    /// Its time.
    pub at: u64,
    /// Its header.
    pub header: Header,
    /// Its text on the wire.
    pub text: Arc<str>,
    /// What each member's sync timeline stores for it.
    pub pointer: Bytes,
}

impl Appended {
    /// Puts the parts together.
    pub fn new(conv_id: &ConvId, seq: u64, at: u64, header: Header, text: Arc<str>) -> Self {
        let pointer = super::pointer::Pointer::Log { kind: header.kind, conv_id, conv_seq: seq, target: header.target };
        Self { seq, at, pointer: pointer.store(), header, text }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_every_cut_is_noticed() {
        let user = |name: &str| UserId::parse(name).unwrap();
        let told = vec![Told { user: user("bob"), before: 7 }, Told { user: user("carol"), before: 0 }];
        let tail = Tail { messages: 300, last_seq: 1 << 40, last_at: 5 };
        let large = Large { tail, told, own: Ordinal { count: 3, before: 200 } };
        let plain = Header::plain(Kind::Message, Some(&user("alice")));
        for header in [Header { large: Some(Box::new(large)), ..plain.clone() }, plain] {
            let stored = header.store("text");
            assert_eq!(Header::load(&stored), Some((header.clone(), "text")));
            assert_eq!(kind_and_text(&stored), Some((Kind::Message, "text")));
            for cut in 0..stored.len() - 4 {
                assert_eq!(Header::load(&stored[..cut]), None, "{cut}");
            }
        }
    }
}
