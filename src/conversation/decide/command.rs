//! What the server API has done to a conversation. The application's server is trusted: no membership
//! and no rights are asked, only that the thing makes sense. Its entries have no `by`.

use super::{Decision, Desk, ok};
use crate::conversation::Refusal;
use crate::conversation::entry::{Header, Kind};
use crate::conversation::rows::Info;
use crate::protocol::{
    AnswerBody, Body, ConversationChange, ErrorCode, Event, HistoryMode, MemberChange, MsgId, Role, UserId,
};
use crate::store::Span;

/// The topic of a notification whose user was erased.
const ERASED: &str = "erased";

/// One change of a conversation that no user asked for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Makes it, without an owner. The same again makes no second.
    Create {
        /// Everybody in it.
        members: Vec<UserId>,
        /// Title, if any.
        title: Option<String>,
        /// The application's own, if any.
        attributes: Option<Body>,
        /// What a new member sees.
        history: HistoryMode,
    },
    /// Lets users join; with a role, those who are members already get it too.
    Add {
        /// Whom.
        users: Vec<UserId>,
        /// Their role; `owner` for one only.
        role: Option<Role>,
    },
    /// Ends stays; the owner's too, and then somebody else becomes owner.
    Remove {
        /// Whom.
        users: Vec<UserId>,
    },
    /// Changes title and attributes.
    Update {
        /// New title.
        title: Option<String>,
        /// New attributes.
        attributes: Option<Body>,
    },
    /// Ends it for everybody, as if each had left at that entry.
    Dissolve,
    /// The user leaves as if by himself, a direct conversation too.
    Depart {
        /// Who.
        user: UserId,
    },
    /// Recalls messages as their sender, whatever their age and wherever he is now.
    Withdraw {
        /// Who sent them.
        user: UserId,
        /// Which; others' are passed over.
        targets: Vec<u64>,
    },
    /// Erases topic and body of notifications in a user's own log; their places stay.
    Blank {
        /// Which entries; others are passed over.
        targets: Vec<u64>,
    },
}

impl Command {
    /// The user whose own timeline must have the effect before the answer.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::Depart { user } | Self::Withdraw { user, .. } => Some(user),
            _ => None,
        }
    }
}

impl Desk<'_> {
    /// Decides one command.
    ///
    /// # Errors
    /// The refusal, or that the store could not be read.
    pub async fn obey(&mut self, command: &Command) -> Decision<AnswerBody> {
        match command {
            Command::Create { members, title, attributes, history } => {
                self.create(None, members, title.as_ref(), attributes.as_ref(), *history)
            }
            Command::Add { users, role } => self.add(users, *role),
            Command::Remove { users } => self.take_out(users).await,
            Command::Update { title, attributes } => {
                let info = self.living_group()?;
                self.rename(None, title.as_ref(), attributes.as_ref(), info);
                Ok(ok(self.draft.head_seq()))
            }
            Command::Dissolve => self.dissolve(),
            Command::Depart { user } => self.depart(user).await,
            Command::Withdraw { user, targets } => self.withdraw(user, targets).await,
            Command::Blank { targets } => self.blank(targets).await,
        }
    }

    fn existing(&self) -> Decision<Info> {
        self.conversation.info.clone().ok_or_else(|| ErrorCode::NotFound.into())
    }

    /// A group: in a direct conversation, and in the logs of notifications, nobody comes or goes.
    fn group_here(&self) -> Decision<Info> {
        let info = self.existing()?;
        let id = &self.conversation.id;
        match info.direct || id.is_everybody() || id.is_reserved() {
            true => Err(ErrorCode::Forbidden.into()),
            false => Ok(info),
        }
    }

    /// A group that is not over.
    fn living_group(&self) -> Decision<Info> {
        let info = self.group_here()?;
        match info.dissolved_at {
            Some(_) => Err(ErrorCode::Gone.into()),
            None => Ok(info),
        }
    }

    fn add(&mut self, users: &[UserId], role: Option<Role>) -> Decision<AnswerBody> {
        let info = self.living_group()?;
        if role == Some(Role::Owner) && users.len() != 1 {
            return Err(Refusal::field("role").into());
        }
        let before = self.owner();
        self.join_all(None, users, role.unwrap_or(Role::Member), info);
        let Some(role) = role else { return Ok(ok(self.draft.head_seq())) };
        if let (Role::Owner, Some(before), [user]) = (role, before, users)
            && before != *user
        {
            self.give_role(None, &before, Role::Admin);
        }
        for user in users {
            if self.conversation.member(user).is_some_and(|member| member.role != role) {
                self.give_role(None, user, role);
            }
        }
        Ok(ok(self.draft.head_seq()))
    }

    fn owner(&self) -> Option<UserId> {
        self.conversation.info.as_ref().and_then(|info| info.owner.clone())
    }

    async fn take_out(&mut self, users: &[UserId]) -> Decision<AnswerBody> {
        self.living_group()?;
        let owner = self.owner();
        for user in users {
            self.end_stay(MemberChange::Removed, None, user);
        }
        let last = self.draft.head_seq();
        if owner.is_some_and(|owner| users.contains(&owner)) {
            self.find_new_owner(None).await?;
        }
        Ok(ok(last))
    }

    fn dissolve(&mut self) -> Decision<AnswerBody> {
        let info = self.group_here()?;
        if info.dissolved_at.is_some() {
            return Ok(ok(self.draft.head_seq()));
        }
        let large = self.conversation.is_large();
        let conv_seq = self.changed(Kind::Dissolved, None, ConversationChange::Dissolved);
        let info = Info { members_count: 0, owner: None, dissolved_at: Some(conv_seq), ..info };
        if large {
            // Nothing is written for each of them: their rows are read with this in mind.
            self.conversation.forget_members();
        } else {
            for (user, member) in &*self.conversation.roster() {
                self.set_member(user, info.as_of((**member).clone()));
            }
        }
        self.set_info(info);
        Ok(ok(conv_seq))
    }

    async fn depart(&mut self, user: &UserId) -> Decision<AnswerBody> {
        self.existing()?;
        let owned = self.owner().as_ref() == Some(user);
        self.end_stay(MemberChange::Left, Some(user), user);
        let last = self.draft.head_seq();
        if owned {
            self.find_new_owner(Some(user)).await?;
        }
        Ok(ok(last))
    }

    async fn withdraw(&mut self, user: &UserId, targets: &[u64]) -> Decision<AnswerBody> {
        self.existing()?;
        for target in targets {
            self.recall_own(user, *target).await?;
        }
        Ok(ok(self.draft.head_seq()))
    }

    async fn blank(&mut self, targets: &[u64]) -> Decision<AnswerBody> {
        self.existing()?;
        let topic = MsgId::parse(ERASED).map_err(|_| ErrorCode::Unavailable)?;
        let body = Body::from_value(&serde_json::json!({})).map_err(|_| ErrorCode::Unavailable)?;
        let text = Event::Notification { conv_seq: None, conv_id: None, topic, body }.encode();
        for seq in targets {
            let span =
                Span { after: seq.saturating_sub(1), up_to: *seq, limit: 1, max_bytes: usize::MAX, backward: false };
            for entry in self.store.entries(&self.conversation.timeline, span).await? {
                if let Some((header, _)) =
                    Header::load(&entry.data).filter(|(header, _)| header.kind == Kind::Notification)
                {
                    self.draft.rewrite(entry.seq, header.store(&text));
                }
            }
        }
        Ok(ok(self.draft.head_seq()))
    }
}
