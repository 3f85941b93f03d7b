//! One event: as it waits in the queue, and as JSON.
//!
//! Bytes of the queue may be damaged: reading never panics. No body is stored with an event.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::protocol::{ConvId, UserId};
use crate::timeline::codec::{Reader, put_number, put_text};

const SENT: u8 = 1;
const OFFLINE: u8 = 2;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// `message.sent`.
    Sent,
    /// `message.offline`: it came to a user none of whose devices was connected.
    Offline {
        /// Who.
        user: UserId,
        /// His unread messages in that conversation, of that moment.
        unread: u64,
        /// Whether he has muted it.
        muted: bool,
    },
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// When it was put into the queue: milliseconds since 1970.
    pub(super) at: u64,
    pub(super) conversation: ConvId,
    /// Of the message.
    pub(super) conv_seq: u64,
    pub(super) what: What,
}

impl Event {
    pub(super) fn store(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        put_number(&mut out, self.at);
        put_text(&mut out, &self.conversation);
        put_number(&mut out, self.conv_seq);
        match &self.what {
            What::Sent => out.push(SENT),
            What::Offline { user, unread, muted } => {
                out.push(OFFLINE);
                put_text(&mut out, user);
                put_number(&mut out, *unread);
                out.push(u8::from(*muted));
            }
        }
        out
    }

    /// `None`: damaged.
    pub(super) fn load(data: &[u8]) -> Option<Self> {
        let mut read = Reader::new(data);
        let at = read.number()?;
        let conversation = ConvId::parse(read.text()?).ok()?;
        let conv_seq = read.number()?;
        let what = match read.byte()? {
            SENT => What::Sent,
            OFFLINE => What::Offline {
                user: UserId::parse(read.text()?).ok()?,
                unread: read.number()?,
                muted: read.byte()? != 0,
            },
            _ => return None,
        };
        Some(Self { at, conversation, conv_seq, what })
    }

    /// As the receiver is told it. `message`: the entry's text on the wire, a JSON object; `sender`: who
    /// wrote it.
    pub(super) fn to_json(&self, message: &RawValue, sender: Option<&UserId>) -> String {
        let Self { at, conversation, conv_seq, what } = self;
        let text = match what {
            What::Sent => serde_json::to_string(&Sent {
                id: format!("{conversation}/{conv_seq}"),
                r#type: "message.sent",
                at: *at,
                message,
            }),
            What::Offline { user, unread, muted } => serde_json::to_string(&Offline {
                id: format!("{conversation}/{conv_seq}/{user}"),
                r#type: "message.offline",
                at: *at,
                conv_id: conversation,
                conv_seq: *conv_seq,
                sender_id: sender,
                user_id: user,
                unread: *unread,
                muted: *muted,
            }),
        };
        // Only maps with keys that are no strings fail.
        text.unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Sent<'a> {
    id: String,
    r#type: &'static str,
    at: u64,
    message: &'a RawValue,
}

#[derive(Serialize)]
struct Offline<'a> {
    id: String,
    r#type: &'static str,
    at: u64,
    conv_id: &'a ConvId,
    conv_seq: u64,
    sender_id: Option<&'a UserId>,
    user_id: &'a UserId,
    unread: u64,
    muted: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_equal_and_cut_ones_are_not_misread() {
        let event =
            |what| Event { at: 1_795_174_000_123, conversation: ConvId::parse("g:1").unwrap(), conv_seq: 7, what };
        let offline = What::Offline { user: UserId::parse("bob").unwrap(), unread: 300, muted: true };
        for event in [event(What::Sent), event(offline)] {
            let bytes = event.store();
            assert_eq!(Event::load(&bytes), Some(event));
            assert!((0..bytes.len()).all(|cut| Event::load(&bytes[..cut]).is_none()));
        }
    }

    #[test]
    fn an_event_names_itself_by_what_it_is_about() {
        let what = What::Offline { user: UserId::parse("bob").unwrap(), unread: 3, muted: false };
        let event = Event { at: 5, conversation: ConvId::parse("g:1").unwrap(), conv_seq: 7, what };
        let text = RawValue::from_string(r#"{"op":"message"}"#.to_owned()).unwrap();
        let alice = UserId::parse("alice").unwrap();
        assert_eq!(
            event.to_json(&text, Some(&alice)),
            r#"{"id":"g:1/7/bob","type":"message.offline","at":5,"conv_id":"g:1","conv_seq":7,"sender_id":"alice","user_id":"bob","unread":3,"muted":false}"#
        );
        let sent = Event { what: What::Sent, ..event };
        assert_eq!(
            sent.to_json(&text, Some(&alice)),
            r#"{"id":"g:1/7","type":"message.sent","at":5,"message":{"op":"message"}}"#
        );
    }
}
