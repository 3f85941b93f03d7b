//! Making a conversation, joining and leaving it, roles, title. Membership is a projection of the log:
//! every change is an entry, and the rows are written by the same commit.

use std::collections::BTreeSet;

use super::{Decision, Desk, about, ok};
use crate::conversation::entry::{Header, Kind};
use crate::conversation::member::{AsLeft, Member};
use crate::conversation::rows::{self, Info};
use crate::protocol::{
    AnswerBody, Body, ConversationChange, ErrorCode, Event, HistoryMode, MemberChange, Role, UserId,
};
use crate::store::Section;

/// Members looked at in one go.
const PAGE: usize = 1000;

impl Desk<'_> {
    /// Makes the conversation. Its maker is the owner; made by the server it has none.
    pub(super) fn create(
        &mut self,
        maker: Option<&UserId>,
        members: &[UserId],
        title: Option<&String>,
        attributes: Option<&Body>,
        history: HistoryMode,
    ) -> Decision<AnswerBody> {
        let conv_id = self.conversation.id.clone();
        let made = |conv_seq| AnswerBody::Ok { conv_id: Some(conv_id.clone()), conv_seq: Some(conv_seq), seq: None };
        if self.conversation.info.is_some() {
            // The name follows from (creator, op_id): this is the same request again.
            return Ok(made(1));
        }
        let users: BTreeSet<&UserId> = members.iter().chain(maker).collect();
        let change = ConversationChange::Created {
            // The maker first: he is the owner.
            members: maker
                .into_iter()
                .chain(users.iter().copied().filter(|user| Some(*user) != maker))
                .cloned()
                .collect(),
            title: title.cloned(),
            attributes: attributes.cloned(),
        };
        let conv_seq = self.changed(Kind::Created, maker, change);
        let at = self.draft.at();
        for user in &users {
            let role = if Some(*user) == maker { Role::Owner } else { Role::Member };
            self.set_member(user, Member::joining(conv_seq, role, at));
        }
        self.set_info(Info {
            direct: false,
            title: title.cloned(),
            attributes: attributes.cloned(),
            history,
            creator: maker.cloned(),
            members_count: users.len() as u64,
            owner: maker.cloned(),
            large_at: None,
            dissolved_at: None,
        });
        self.grow();
        Ok(made(conv_seq))
    }

    /// Membership in a group; in a direct conversation nobody comes or goes.
    fn group(&self, caller: &UserId) -> Decision<(Role, Info)> {
        let (member, info) = self.membership(caller)?;
        if info.direct { Err(ErrorCode::Forbidden.into()) } else { Ok((member.role, info)) }
    }

    pub(super) fn invite(&mut self, caller: &UserId, users: &[UserId]) -> Decision<AnswerBody> {
        let (_, info) = self.group(caller)?;
        self.join_all(Some(caller), users, Role::Member, info);
        Ok(ok(self.draft.head_seq()))
    }

    /// Lets everybody join who is no member.
    pub(super) fn join_all(&mut self, by: Option<&UserId>, users: &[UserId], role: Role, mut info: Info) {
        for user in users {
            let before = self.conversation.member(user).map(|member| (**member).clone());
            if before.as_ref().is_some_and(Member::present) {
                continue;
            }
            let conv_seq = self.member_entry(Kind::Joined, MemberChange::Joined, by, user, Some(role));
            let at = self.draft.at();
            // As he is now: the entry may have changed his row.
            let member = match self.known(user) {
                Some(mut member) => {
                    member.rejoin(conv_seq, at);
                    Member { role, ..member }
                }
                None => {
                    let told = if info.is_large() { conv_seq } else { 0 };
                    Member { told, ..Member::joining(conv_seq, role, at) }
                }
            };
            self.set_member(user, member);
            info.members_count += 1;
            if role == Role::Owner {
                info.owner = Some(user.clone());
            }
            self.set_info(info);
            info = self.grow();
        }
    }

    /// Right behind the entry that exceeded the limit comes the one after which the conversation is large.
    fn grow(&mut self) -> Info {
        let mut info = self.conversation.info.clone().unwrap_or_else(Info::everybody);
        if !info.is_large() && info.members_count > self.policy.large_conversation_members as u64 {
            info.large_at = Some(self.changed(Kind::Large, None, ConversationChange::Large));
            self.set_info(info.clone());
        }
        info
    }

    pub(super) fn remove(&mut self, caller: &UserId, users: &[UserId]) -> Decision<AnswerBody> {
        let (role, _) = self.group(caller)?;
        if role == Role::Member {
            return Err(ErrorCode::Forbidden.into());
        }
        let is_owner = |user: &UserId| {
            self.conversation.member(user).is_some_and(|member| member.present() && member.role == Role::Owner)
        };
        if users.iter().any(is_owner) {
            return Err(ErrorCode::Forbidden.into());
        }
        for user in users {
            self.end_stay(MemberChange::Removed, Some(caller), user);
        }
        Ok(ok(self.draft.head_seq()))
    }

    pub(super) async fn leave(&mut self, caller: &UserId) -> Decision<AnswerBody> {
        let (role, _) = self.group(caller)?;
        self.end_stay(MemberChange::Left, Some(caller), caller);
        let left_at = self.draft.head_seq();
        if role == Role::Owner {
            self.find_new_owner(Some(caller)).await?;
        }
        Ok(ok(left_at))
    }

    /// Ends the stay of a present member.
    pub(super) fn end_stay(&mut self, change: MemberChange, by: Option<&UserId>, user: &UserId) {
        let Some(mut info) = self.conversation.info.clone() else { return };
        if !self.known(user).is_some_and(|member| member.present()) {
            return;
        }
        let conv_seq = self.member_entry(Kind::Left, change, by, user, None);
        let Some(mut member) = self.known(user) else { return };
        info.owner = info.owner.filter(|owner| owner != user);
        info.members_count = info.members_count.saturating_sub(1);
        member.leave(conv_seq, AsLeft { members_count: info.members_count, title: info.title.clone() });
        self.set_member(user, member);
        self.set_info(info);
    }

    /// The longest-standing admin, else member, becomes owner.
    pub(super) async fn find_new_owner(&mut self, by: Option<&UserId>) -> Decision<()> {
        let rank = |member: &Member| (member.role != Role::Admin, member.join_seq());
        let heir = if self.conversation.is_large() {
            self.heir_of_many(rank).await?
        } else {
            let present = self.conversation.everyone().filter(|(_, member)| member.present());
            present.min_by(|(a, x), (b, y)| (rank(x), a).cmp(&(rank(y), b))).map(|(user, _)| user.clone())
        };
        if let Some(user) = heir {
            self.bring(vec![user.clone()]).await?;
            self.give_role(by, &user, Role::Owner);
        }
        Ok(())
    }

    /// Looks at all members, a page at a time: of a large conversation they are not in memory.
    async fn heir_of_many<R: Ord>(&self, rank: impl Fn(&Member) -> R) -> Decision<Option<UserId>> {
        let timeline = &self.conversation.timeline;
        let (mut after, mut heir) = (None, None);
        loop {
            let page = self.store.rows(timeline, Section::Member, after, u64::MAX, PAGE).await?;
            for (key, value) in &page {
                let Ok(user) = UserId::parse(&key.id) else { continue };
                let member: Member = match self.draft.pending_row(key) {
                    Some(Some(pending)) => rows::unpack(timeline, key, pending)?,
                    _ => rows::unpack(timeline, key, value)?,
                };
                let place = (rank(&member), user);
                if member.present() && heir.as_ref().is_none_or(|first| place < *first) {
                    heir = Some(place);
                }
            }
            match page.into_iter().nth(PAGE - 1) {
                Some((key, _)) => after = Some(key),
                None => return Ok(heir.map(|(_, user)| user)),
            }
        }
    }

    pub(super) fn give_role(&mut self, by: Option<&UserId>, user: &UserId, role: Role) {
        if self.known(user).is_none() {
            return;
        }
        self.member_entry(Kind::Role, MemberChange::Role, by, user, Some(role));
        if let Some(member) = self.known(user) {
            self.set_member(user, Member { role, ..member });
        }
        let Some(mut info) = self.conversation.info.clone() else { return };
        info.owner = match role {
            Role::Owner => Some(user.clone()),
            _ => info.owner.filter(|owner| owner != user),
        };
        self.set_info_if_changed(info);
    }

    /// Only the owner gives roles. Giving `owner` away leaves him an admin.
    pub(super) fn role(&mut self, caller: &UserId, user: &UserId, role: Role) -> Decision<AnswerBody> {
        let (own_role, _) = self.group(caller)?;
        let present = self.conversation.member(user).filter(|member| member.present()).map(|member| member.role);
        let Some(before) = present else {
            return Err(crate::conversation::Refusal::field("user_id").into());
        };
        if own_role != Role::Owner || (user == caller && role != Role::Owner) {
            return Err(ErrorCode::Forbidden.into());
        }
        if before != role {
            if role == Role::Owner {
                self.give_role(Some(caller), caller, Role::Admin);
            }
            self.give_role(Some(caller), user, role);
        }
        Ok(ok(self.draft.head_seq()))
    }

    /// Any member may change title and attributes.
    pub(super) fn update(
        &mut self,
        caller: &UserId,
        title: Option<&String>,
        attributes: Option<&Body>,
    ) -> Decision<AnswerBody> {
        let (_, info) = self.group(caller)?;
        self.rename(Some(caller), title, attributes, info);
        Ok(ok(self.draft.head_seq()))
    }

    /// Sets what is given and differs.
    pub(super) fn rename(
        &mut self,
        by: Option<&UserId>,
        title: Option<&String>,
        attributes: Option<&Body>,
        mut info: Info,
    ) {
        if let Some(title) = title.filter(|title| info.title.as_ref() != Some(title)) {
            info.title = Some(title.clone());
            self.changed(Kind::Changed, by, ConversationChange::Renamed { title: title.clone() });
        }
        if let Some(attributes) =
            attributes.filter(|new| !info.attributes.as_ref().is_some_and(|old| old.same_value(new)))
        {
            info.attributes = Some(attributes.clone());
            self.changed(Kind::Changed, by, ConversationChange::Attributes { attributes: attributes.clone() });
        }
        self.set_info_if_changed(info);
    }

    fn set_info_if_changed(&mut self, info: Info) {
        if self.conversation.info.as_ref() != Some(&info) {
            self.set_info(info);
        }
    }

    pub(super) fn changed(&mut self, kind: Kind, by: Option<&UserId>, change: ConversationChange) -> u64 {
        let conv_id = self.conversation.id.clone();
        self.append(Header::plain(kind, by), |conv_seq, _| Event::Conversation { conv_id, conv_seq, change })
    }

    fn member_entry(
        &mut self,
        kind: Kind,
        change: MemberChange,
        by: Option<&UserId>,
        user: &UserId,
        role: Option<Role>,
    ) -> u64 {
        let conv_id = self.conversation.id.clone();
        let (user_id, by_id) = (user.clone(), by.cloned());
        self.append(about(kind, by, user), |conv_seq, _| Event::Member {
            conv_id,
            conv_seq,
            change,
            user_id,
            by: by_id,
            role,
        })
    }
}
