//! `send`: once for each (sender, conversation, client_msg_id).

use xxhash_rust::xxh3::xxh3_64;

use super::{Decision, Desk};
use crate::conversation::Refusal;
use crate::conversation::entry::{Header, Kind};
use crate::conversation::member::Member;
use crate::conversation::rows::{self, Info, SentAs};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ErrorCode, Event, HistoryMode, Message, Role, Send, UserId};

impl Desk<'_> {
    pub(super) async fn send(&mut self, caller: &UserId, send: &Send) -> Decision<AnswerBody> {
        let key = rows::dedupe_key(caller, &send.client_msg_id);
        let content = content_of(send);
        if planted(Bug::DuplicateCheckedLast) {
            self.may_send(caller, send)?;
        }
        if let Some(sent) = self.conversation.sent_as(self.store, &key).await? {
            return self.duplicate(sent, content);
        }
        self.may_send(caller, send)?;
        if self.conversation.info.is_none() {
            self.make_direct(caller)?;
        }
        let conv_id = self.conversation.id.clone();
        let mentioned = self.mentioned(caller, &send.mentions);
        let conv_seq = self.append_told(Header::plain(Kind::Message, Some(caller)), &mentioned, |conv_seq, sent_at| {
            Event::Message(Message {
                conv_id,
                conv_seq,
                sender_id: caller.clone(),
                client_msg_id: send.client_msg_id.clone(),
                sent_at,
                body: Some(send.body.clone()),
                reply_to: send.reply_to,
                mentions: send.mentions.clone(),
                recalled: false,
                edited_at: None,
            })
        });
        let sent = SentAs { conv_seq, sent_at: self.draft.at(), content };
        let expires = sent.sent_at.saturating_add(self.policy.dedupe_ms);
        self.draft.row(key.clone(), Some(rows::pack(&sent)), Some(expires));
        self.conversation.remember(key.id, sent);
        Ok(self.sent(sent, false))
    }

    pub(super) fn sent(&self, sent: SentAs, duplicate: bool) -> AnswerBody {
        AnswerBody::Sent {
            conv_id: self.conversation.id.clone(),
            conv_seq: sent.conv_seq,
            sent_at: sent.sent_at,
            duplicate,
        }
    }

    /// Answered before anything else is checked: also after the sender left, also after a recall.
    fn duplicate(&self, sent: SentAs, content: u64) -> Decision<AnswerBody> {
        if sent.content == content { Ok(self.sent(sent, true)) } else { Err(ErrorCode::IdempotencyConflict.into()) }
    }

    /// Those of the mentioned who are members: of a large conversation they learn it by their own timelines.
    fn mentioned(&self, caller: &UserId, mentions: &[UserId]) -> Vec<UserId> {
        if planted(Bug::MentionForgotten) {
            return Vec::new();
        }
        let mut users: Vec<UserId> = mentions.iter().filter(|user| *user != caller).cloned().collect();
        users.retain(|user| self.conversation.member(user).is_some_and(|member| member.present()));
        users.sort_unstable();
        users.dedup();
        users
    }

    fn may_send(&self, caller: &UserId, send: &Send) -> Decision<()> {
        match (&self.conversation.info, self.conversation.id.direct_members()) {
            (None, Some((a, b))) if *caller == a || *caller == b => {
                if a == b {
                    return Err(Refusal::field("to").into());
                }
            }
            _ => {
                let (member, info) = self.membership(caller)?;
                let unseen = |seq: &u64| *seq > self.draft.head_seq() || !member.sees(*seq, info.history);
                if send.reply_to.as_ref().is_some_and(unseen) {
                    return Err(Refusal::field("reply_to").into());
                }
                return Ok(());
            }
        }
        // The first message of a direct conversation has nothing to reply to.
        if send.reply_to.is_some() { Err(Refusal::field("reply_to").into()) } else { Ok(()) }
    }

    /// A direct conversation comes to be with its first message; it has no `created` entry.
    fn make_direct(&mut self, caller: &UserId) -> Decision<()> {
        let Some((a, b)) = self.conversation.id.direct_members() else {
            return Err(ErrorCode::NotFound.into());
        };
        let (first, at) = (self.draft.next_seq(), self.draft.at());
        for user in [&a, &b] {
            self.set_member(user, Member::joining(first, Role::Member, at));
        }
        self.set_info(Info {
            direct: true,
            title: None,
            attributes: None,
            history: HistoryMode::SinceJoin,
            creator: Some(caller.clone()),
            members_count: 2,
            owner: None,
            large_at: None,
            dissolved_at: None,
        });
        Ok(())
    }
}

/// A fingerprint of `body`, `reply_to` and `mentions` as JSON values: order of keys does not count.
fn content_of(send: &Send) -> u64 {
    let canonical = (send.body.to_value(), send.reply_to, &send.mentions);
    xxh3_64(&serde_json::to_vec(&canonical).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::{Body, ConvId, MsgId, SendTo};

    #[test]
    fn content_is_compared_as_json() {
        let send = |body: &str| Send {
            to: SendTo::Conv(ConvId::parse("g:1").unwrap()),
            client_msg_id: MsgId::parse("1").unwrap(),
            body: Body::parse(body).unwrap(),
            reply_to: None,
            mentions: Vec::new(),
        };
        let same = content_of(&send(r#"{"a":1,"b":"x"}"#));
        assert_eq!(same, content_of(&send(r#"{"b":"\u0078","a":1}"#)));
        assert_ne!(same, content_of(&send(r#"{"a":2,"b":"x"}"#)));
        assert_ne!(same, content_of(&Send { reply_to: Some(1), ..send(r#"{"a":1,"b":"x"}"#) }));
    }
}
