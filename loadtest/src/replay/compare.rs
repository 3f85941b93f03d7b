//! What a device or the server shows, held against what must be.
//!
//! [`Seen`] is the common form of a device's cache and of the server's answers; a [`Difference`]
//! names user, device, conversation and number, so that it can be looked for in the server's log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use everline::protocol::{ConvId, ConversationSettings, MsgId, Role, UserId};

use super::oracle::{Expected, Facets, Oracle, Shown};

/// A conversation as it is shown.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) messages: BTreeMap<u64, SeenMessage>,
    /// Deleted by this user.
    pub(crate) hidden: BTreeSet<u64>,
    pub(crate) cleared: u64,
    pub(crate) read: SeenRead,
    pub(crate) unread: u64,
    pub(crate) settings: ConversationSettings,
    pub(crate) left: bool,
    /// What is not known is not compared.
    pub(crate) title: Option<String>,
    pub(crate) members: Option<BTreeMap<UserId, Role>>,
}

/// A message as it is shown.
#[derive(Debug)]
pub(crate) struct SeenMessage {
    pub(crate) sender: UserId,
    pub(crate) client_msg_id: MsgId,
    pub(crate) sent_at: u64,
    pub(crate) reply_to: Option<u64>,
    pub(crate) mentions: Vec<UserId>,
    pub(crate) facets: Facets,
}

/// How far has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum SeenRead {
    #[default]
    Unknown,
    /// `read_seq` itself.
    Seq(u64),
    /// The last message held up to it.
    LastHeld(Option<u64>),
}

/// Whose view is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Viewer {
    /// A device that followed the sync timeline: in a group with open history it may or may not hold
    /// what was said before it came. `from` is 0, or where what it holds begins.
    Follower { from: u64 },
    /// A device that loaded everything: nothing may be missing.
    Complete,
    /// The server's own answers.
    Server,
}

/// Something that is not as it must be.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) user: UserId,
    pub(crate) device: String,
    pub(crate) conv_id: ConvId,
    pub(crate) conv_seq: Option<u64>,
    pub(crate) what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} device {} conversation {}", self.user, self.device, self.conv_id)?;
        if let Some(conv_seq) = self.conv_seq {
            write!(f, " conv_seq {conv_seq}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Collects differences of one view.
pub(crate) struct Comparison<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) device: &'a str,
    pub(crate) oracle: &'a Oracle,
    pub(crate) viewer: Viewer,
    pub(crate) found: Vec<Difference>,
}

impl Comparison<'_> {
    pub(crate) fn note(&mut self, conv_seq: Option<u64>, what: impl Into<String>) {
        self.found.push(Difference {
            user: self.user.clone(),
            device: self.device.to_owned(),
            conv_id: self.oracle.conv_id.clone(),
            conv_seq,
            what: what.into(),
        });
    }

    fn equal<T: PartialEq + fmt::Debug>(&mut self, name: &str, seen: &T, expected: &T) {
        if seen != expected {
            self.note(None, format!("{name} is {seen:?}, must be {expected:?}"));
        }
    }

    /// `seen` is `None` when the view does not have the conversation at all.
    pub(crate) fn run(&mut self, seen: Option<&Seen>) {
        let Some(expected) = self.oracle.expected(self.user) else {
            return;
        };
        let Some(seen) = seen else {
            return self.note(None, "the conversation is missing");
        };
        self.messages(seen, &expected);
        self.position(seen, &expected);
        self.equal("cleared_up_to", &seen.cleared, &expected.cleared);
        self.equal("settings", &seen.settings, &expected.settings);
        self.equal("left", &seen.left, &expected.stay.leave.is_some());
        if seen.title.is_some() {
            self.equal("title", &seen.title, &Some(self.oracle.title.clone()));
        }
        if let Some(members) = &seen.members {
            self.equal("members", members, &self.oracle.present());
        }
        let above = |hidden: &BTreeSet<u64>| -> Vec<u64> { hidden.range(expected.cleared + 1..).copied().collect() };
        self.equal("deleted", &above(&seen.hidden), &above(&expected.hidden));
    }

    fn messages(&mut self, seen: &Seen, expected: &Expected) {
        for (seq, shown) in &expected.messages {
            match seen.messages.get(seq) {
                Some(held) => self.message(*seq, held, shown),
                None if self.may_miss(*seq, expected) => {}
                None => self.note(Some(*seq), format!("missing: {}", shown.said.client_msg_id)),
            }
        }
        for (seq, held) in &seen.messages {
            if !expected.messages.contains_key(seq) {
                self.note(Some(*seq), format!("must not be there: {}", held.client_msg_id));
            }
        }
    }

    fn may_miss(&self, seq: u64, expected: &Expected) -> bool {
        match self.viewer {
            Viewer::Follower { from } => seq < from || !expected.synced.contains(&seq),
            Viewer::Complete | Viewer::Server => false,
        }
    }

    fn message(&mut self, seq: u64, seen: &SeenMessage, shown: &Shown) {
        let said = &shown.said;
        if seen.sender != said.sender || seen.client_msg_id != said.client_msg_id {
            let (sender, id) = (&seen.sender, &seen.client_msg_id);
            return self
                .note(Some(seq), format!("is {id} of {sender}, must be {} of {}", said.client_msg_id, said.sender));
        }
        if seen.sent_at != said.sent_at {
            self.note(Some(seq), format!("sent_at {}, the answer said {}", seen.sent_at, said.sent_at));
        }
        let right = [Some(&shown.now), shown.at_leave.as_ref()];
        for (name, same) in FACETS {
            if !right.iter().flatten().any(|facets| same(&seen.facets, facets)) {
                self.note(Some(seq), format!("{name}: shown {:?}, must be {:?}", seen.facets, shown.now));
            }
        }
        let stub = seen.facets.recalled;
        if !stub && (seen.reply_to != said.reply_to || seen.mentions != said.mentions) {
            self.note(Some(seq), "reply_to or mentions differ");
        }
        // Nobody is ever served a recalled body again; a device that left may still hold it.
        if self.viewer == Viewer::Server && shown.now.recalled && !stub {
            self.note(Some(seq), "a recalled body was served");
        }
    }

    fn position(&mut self, seen: &Seen, expected: &Expected) {
        match seen.read {
            SeenRead::Unknown => {}
            SeenRead::Seq(read) => self.equal("read_seq", &read, &expected.read),
            SeenRead::LastHeld(last) => {
                let must = seen.messages.range(..=expected.read).next_back().map(|(seq, _)| *seq);
                self.equal("last message read", &last, &must);
            }
        }
        if !expected.unread.contains(&seen.unread) {
            let must = &expected.unread;
            self.note(None, format!("unread is {}, must be {must:?}", seen.unread));
        }
    }
}

type Same = fn(&Facets, &Facets) -> bool;

/// What may be of different times in one message of a user who has left.
const FACETS: [(&str, Same); 2] = [
    ("body", |seen, right| seen.recalled == right.recalled && seen.edited == right.edited && seen.body == right.body),
    ("reactions", |seen, right| seen.reactions == right.reactions),
];

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, Result};
    use everline::protocol::Body;

    use super::*;
    use crate::replay::oracle::Said;

    fn said(number: u64) -> Result<Said> {
        Ok(Said {
            sender: UserId::parse("ann")?,
            client_msg_id: MsgId::parse(&number.to_string())?,
            sent_at: number,
            body: Body::parse(&format!(r#"{{"n":{number}}}"#))?,
            reply_to: None,
            mentions: Vec::new(),
        })
    }

    /// What a device that holds exactly the right thing shows.
    fn right(oracle: &Oracle, user: &UserId) -> Result<Seen> {
        let expected = oracle.expected(user).context("no member")?;
        let show = |shown: &Shown| SeenMessage {
            sender: shown.said.sender.clone(),
            client_msg_id: shown.said.client_msg_id.clone(),
            sent_at: shown.said.sent_at,
            reply_to: None,
            mentions: Vec::new(),
            facets: shown.now.clone(),
        };
        Ok(Seen {
            messages: expected.messages.iter().map(|(seq, shown)| (*seq, show(shown))).collect(),
            hidden: expected.hidden,
            cleared: expected.cleared,
            read: SeenRead::Seq(expected.read),
            unread: *expected.unread.start(),
            settings: expected.settings,
            left: false,
            title: None,
            members: Some(oracle.present()),
        })
    }

    fn differences(oracle: &Oracle, user: &UserId, seen: Option<&Seen>) -> Vec<String> {
        let found = Vec::new();
        let viewer = Viewer::Server;
        let mut comparison = Comparison { user, device: "d", oracle, viewer, found };
        comparison.run(seen);
        comparison.found.iter().map(ToString::to_string).collect()
    }

    /// Each way of breaking a right view must be seen, once.
    #[test]
    fn whatever_is_broken_is_found() -> Result<()> {
        let (ann, ben) = (UserId::parse("ann")?, UserId::parse("ben")?);
        let mut oracle = Oracle::new(ConvId::parse("g:1")?, "t".into(), false, ann, 500);
        oracle.joined(&ben, 2)?;
        for seq in 3..8 {
            oracle.sent(seq, said(seq)?)?;
        }
        oracle.recalled(4, 8)?;
        oracle.deleted(&ben, 5, 5)?;
        assert!(differences(&oracle, &ben, Some(&right(&oracle, &ben)?)).is_empty());

        type Break = fn(&mut Seen) -> Result<()>;
        let breaks: [(&str, Break); 8] = [
            ("missing", |seen| seen.messages.remove(&6).map(drop).context("6")),
            ("must not be there", |seen| {
                let again = seen.messages.remove(&6).context("6")?;
                seen.messages.insert(6, SeenMessage { sender: again.sender.clone(), ..again });
                let held = seen.messages.get(&7).context("7")?;
                let deleted = SeenMessage {
                    sender: held.sender.clone(),
                    client_msg_id: MsgId::parse("5")?,
                    sent_at: 5,
                    reply_to: None,
                    mentions: Vec::new(),
                    facets: held.facets.clone(),
                };
                seen.messages.insert(5, deleted);
                Ok(())
            }),
            ("recalled body", |seen| {
                let facets = &mut seen.messages.get_mut(&4).context("4")?.facets;
                *facets = Facets { body: Some(Body::parse(r#"{"n":4}"#)?), ..Facets::default() };
                Ok(())
            }),
            ("body", |seen| {
                seen.messages.get_mut(&6).context("6")?.facets.body = Some(Body::parse("{}")?);
                Ok(())
            }),
            ("must be 7 of ann", |seen| {
                seen.messages.get_mut(&7).context("7")?.client_msg_id = MsgId::parse("x")?;
                Ok(())
            }),
            ("unread", |seen| {
                seen.unread += 1;
                Ok(())
            }),
            ("read_seq", |seen| {
                seen.read = SeenRead::Seq(3);
                Ok(())
            }),
            ("deleted", |seen| {
                seen.hidden.clear();
                Ok(())
            }),
        ];
        for (name, broken) in breaks {
            let mut seen = right(&oracle, &ben)?;
            broken(&mut seen)?;
            let found = differences(&oracle, &ben, Some(&seen));
            assert!(found.iter().any(|difference| difference.contains(name)), "{name}: {found:?}");
        }
        assert_eq!(differences(&oracle, &ben, None).len(), 1);
        Ok(())
    }
}
