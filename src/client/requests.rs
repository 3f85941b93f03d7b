//! One method per request of the contract, section 6.
//!
//! They only name the fields and take the answer apart; the errors are those of
//! [`Client::request`].

use super::error::RequestError;
use super::handle::Client;
use super::state::{ChangesAnswer, HistoryAnswer};
use crate::protocol::{
    AnswerBody, Body, ConvId, ConversationSummary, DeviceId, DeviceInfo, HistoryFrom, HistoryMode, MemberInfo, MsgId,
    Range, Request, Role, UserId, UserPresence,
};

type Answer<T> = Result<T, RequestError>;

/// A new group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewGroup {
    /// Besides the maker.
    pub members: Vec<UserId>,
    /// 1-256 characters.
    pub title: Option<String>,
    /// Up to 4 KiB.
    pub attributes: Option<Body>,
    /// What new members see.
    pub history: HistoryMode,
}

/// Settings to change; absent ones stay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NewSettings {
    /// No sound.
    pub muted: Option<bool>,
    /// Kept on top.
    pub pinned: Option<bool>,
    /// Not listed.
    pub hidden: Option<bool>,
}

#[allow(clippy::missing_errors_doc, reason = "all those of Client::request")]
impl Client {
    /// Takes a message back for everybody. Its recall's `conv_seq`.
    pub async fn recall(&self, conv_id: ConvId, target: u64) -> Answer<u64> {
        self.conv_seq(Request::Recall { conv_id, target }).await
    }

    /// Gives one's own message another body.
    pub async fn edit(&self, conv_id: ConvId, target: u64, body: Body) -> Answer<u64> {
        self.conv_seq(Request::Edit { conv_id, target, body }).await
    }

    /// Sets or takes away one's reaction.
    pub async fn react(&self, conv_id: ConvId, target: u64, key: &str, add: bool) -> Answer<u64> {
        self.conv_seq(Request::React { conv_id, target, key: key.to_owned(), add }).await
    }

    /// Hides messages from oneself, on all one's devices. The sync `seq`.
    pub async fn delete(&self, conv_id: ConvId, ranges: Vec<Range>) -> Answer<u64> {
        self.seq(Request::Delete { conv_id, ranges }).await
    }

    /// Hides everything up to a number from oneself.
    pub async fn clear(&self, conv_id: ConvId, up_to: u64) -> Answer<u64> {
        self.seq(Request::Clear { conv_id, up_to }).await
    }

    /// Moves one's reading position.
    pub async fn read(&self, conv_id: ConvId, read_seq: u64) -> Answer<u64> {
        self.seq(Request::Read { conv_id, read_seq }).await
    }

    /// Changes one's settings of a conversation.
    pub async fn settings(&self, conv_id: ConvId, settings: NewSettings) -> Answer<u64> {
        let NewSettings { muted, pinned, hidden } = settings;
        self.seq(Request::Settings { conv_id, muted, pinned, hidden }).await
    }

    /// Makes a group. The same `op_id` makes no second one.
    pub async fn create(&self, group: NewGroup, op_id: MsgId) -> Answer<ConvId> {
        let NewGroup { members, title, attributes, history } = group;
        let request = Request::Create { members, title, attributes, history, op_id };
        match self.request(request).await? {
            AnswerBody::Ok { conv_id: Some(conv_id), .. } => Ok(conv_id),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Adds members.
    pub async fn invite(&self, conv_id: ConvId, users: Vec<UserId>) -> Answer<u64> {
        self.conv_seq(Request::Invite { conv_id, users }).await
    }

    /// Takes members out.
    pub async fn remove(&self, conv_id: ConvId, users: Vec<UserId>) -> Answer<u64> {
        self.conv_seq(Request::Remove { conv_id, users }).await
    }

    /// Goes.
    pub async fn leave(&self, conv_id: ConvId) -> Answer<u64> {
        self.conv_seq(Request::Leave { conv_id }).await
    }

    /// Changes title or attributes.
    pub async fn update(&self, conv_id: ConvId, title: Option<String>, attributes: Option<Body>) -> Answer<u64> {
        self.conv_seq(Request::Update { conv_id, title, attributes }).await
    }

    /// Gives a member a role.
    pub async fn role(&self, conv_id: ConvId, user_id: UserId, role: Role) -> Answer<u64> {
        self.conv_seq(Request::Role { conv_id, user_id, role }).await
    }

    /// A page of messages as they stand; also taken into the state. `limit`: 1-200.
    pub async fn history(&self, conv_id: ConvId, from: HistoryFrom, limit: u32) -> Answer<HistoryAnswer> {
        match self.request(Request::History { conv_id, from, limit }).await? {
            AnswerBody::History { entries, next, complete, head_seq } => {
                Ok(HistoryAnswer { entries, next, complete, head_seq })
            }
            _ => Err(RequestError::Unexpected),
        }
    }

    /// A page of recalls, edits and reactions after `since`; also taken into the state.
    pub async fn changes(&self, conv_id: ConvId, since: u64) -> Answer<ChangesAnswer> {
        match self.request(Request::Changes { conv_id, since }).await? {
            AnswerBody::Changes { recalled, edited, reacted, up_to, more, deleted, cleared_up_to } => {
                Ok(ChangesAnswer { recalled, edited, reacted, up_to, more, deleted, cleared_up_to })
            }
            _ => Err(RequestError::Unexpected),
        }
    }

    /// A page of the list, most recent first, and the next page's name; also taken into the state.
    pub async fn conversations(
        &self,
        active_after: Option<u64>,
        page: Option<String>,
        limit: u32,
    ) -> Answer<(Vec<ConversationSummary>, Option<String>)> {
        match self.request(Request::Conversations { active_after, page, limit }).await? {
            AnswerBody::Conversations { conversations, next } => Ok((conversations, next)),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// A page of members and the next page's name.
    pub async fn members(
        &self,
        conv_id: ConvId,
        page: Option<String>,
        limit: u32,
    ) -> Answer<(Vec<MemberInfo>, Option<String>)> {
        match self.request(Request::Members { conv_id, page, limit }).await? {
            AnswerBody::Members { members, next } => Ok((members, next)),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Who of these is connected.
    pub async fn presence(&self, users: Vec<UserId>) -> Answer<Vec<UserPresence>> {
        match self.request(Request::Presence { users }).await? {
            AnswerBody::Presence { users } => Ok(users),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// One's devices.
    pub async fn devices(&self) -> Answer<Vec<DeviceInfo>> {
        match self.request(Request::Devices).await? {
            AnswerBody::Devices { devices } => Ok(devices),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Makes the server forget a device and close its connection.
    pub async fn logout(&self, device_id: DeviceId) -> Answer<()> {
        self.done(Request::Logout { device_id }).await
    }

    /// Gives this connection another token before the present one expires.
    pub async fn auth(&self, token: String) -> Answer<()> {
        self.done(Request::Auth { token }).await
    }

    async fn done(&self, request: Request) -> Answer<()> {
        match self.request(request).await? {
            AnswerBody::Ok { .. } => Ok(()),
            _ => Err(RequestError::Unexpected),
        }
    }

    async fn conv_seq(&self, request: Request) -> Answer<u64> {
        match self.request(request).await? {
            AnswerBody::Ok { conv_seq: Some(conv_seq), .. } => Ok(conv_seq),
            _ => Err(RequestError::Unexpected),
        }
    }

    async fn seq(&self, request: Request) -> Answer<u64> {
        match self.request(request).await? {
            AnswerBody::Ok { seq: Some(seq), .. } => Ok(seq),
            _ => Err(RequestError::Unexpected),
        }
    }
}
