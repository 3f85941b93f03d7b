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
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 11] = [
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
}

impl Header {
    /// A header without target and subject.
    pub fn plain(kind: Kind, by: Option<&UserId>) -> Self {
        Self { kind, by: by.cloned(), target: 0, target_sender: None, subject: None }
    }

    /// Header and text as stored.
    pub fn store(&self, text: &str) -> Bytes {
        let mut out = Vec::with_capacity(text.len() + 80);
        out.push(self.kind as u8);
        put_text(&mut out, self.by.as_deref().unwrap_or_default());
        put_number(&mut out, self.target);
        put_text(&mut out, self.target_sender.as_deref().unwrap_or_default());
        put_text(&mut out, self.subject.as_deref().unwrap_or_default());
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
        let text = std::str::from_utf8(reader.rest()).ok()?;
        Some((Self { kind, by, target, target_sender, subject }, text))
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
