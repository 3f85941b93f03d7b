//! Notifications: entries of a system timeline, made once under the key of the server API (rule 7).
//!
//! To one user they go by the log `s:<user>`, whose only member he is; to everybody by `b:all`. The rest
//! (fan-out, recovery, order) is that of any other entry.

use xxhash_rust::xxh3::xxh3_64;

use super::{Decision, Desk};
use crate::conversation::entry::{Header, Kind};
use crate::conversation::member::Member;
use crate::conversation::rows::{self, Info, SentAs};
use crate::protocol::{AnswerBody, Body, ErrorCode, Event, MsgId, Role, UserId};

/// A notification to be made.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What it is about.
    pub topic: MsgId,
    /// Content.
    pub body: Body,
    /// Under the same key it is made once.
    pub key: MsgId,
}

impl Desk<'_> {
    /// `user`: whom it is for; in `b:all` nobody in particular.
    pub(super) async fn notify(&mut self, user: &UserId, notice: &Notice) -> Decision<AnswerBody> {
        let key = rows::notice_key(&notice.key);
        let content = content_of(notice);
        if let Some(made) = self.conversation.sent_as(self.store, &key).await? {
            let same = made.content == content;
            return if same { Ok(self.sent(made, true)) } else { Err(ErrorCode::IdempotencyConflict.into()) };
        }
        let everybody = self.conversation.id.is_everybody();
        if self.conversation.info.is_none() {
            self.make_notices(user, everybody);
        }
        if !everybody && self.conversation.member(user).is_none_or(|member| !member.present()) {
            // His first one, or he was erased: nothing of before is his.
            self.set_member(user, Member::joining(self.draft.next_seq(), Role::Member, self.draft.at()));
        }
        let conv_id = Some(self.conversation.id.clone()).filter(|_| everybody);
        let (topic, body) = (notice.topic.clone(), notice.body.clone());
        let conv_seq = self.append(Header::plain(Kind::Notification, Some(user)), |conv_seq, _| Event::Notification {
            conv_seq: conv_id.is_some().then_some(conv_seq),
            conv_id,
            topic,
            body,
        });
        let made = SentAs { conv_seq, sent_at: self.draft.at(), content };
        let expires = made.sent_at.saturating_add(self.policy.dedupe_ms);
        self.draft.row(key.clone(), Some(rows::pack(&made)), Some(expires));
        self.conversation.remember(key.id, made);
        Ok(self.sent(made, false))
    }

    /// A system timeline comes to be with its first entry.
    fn make_notices(&mut self, user: &UserId, everybody: bool) {
        let large_at = Some(0).filter(|_| everybody);
        let members_count = u64::from(!everybody);
        self.set_info(Info { creator: Some(user.clone()), members_count, large_at, ..Info::everybody() });
    }
}

/// A fingerprint of topic and body as JSON values.
fn content_of(notice: &Notice) -> u64 {
    let canonical = (notice.topic.as_str(), notice.body.to_value());
    xxh3_64(&serde_json::to_vec(&canonical).unwrap_or_default())
}
