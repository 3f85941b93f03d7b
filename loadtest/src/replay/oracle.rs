//! What must be: a plain model of one group, told what was acknowledged and nothing else.
//!
//! It shares nothing with the server but the ids of `protocol`: no unread counter is kept, no
//! timeline, no cache; everything is computed from the list of what happened. It is told the outcome
//! of every request (a request whose answer a crash took is asked again until the outcome is known),
//! so it has no guesses, with one exception: an edit or reaction asked again may stand in the log
//! twice, which changes nothing anybody sees; such numbers are allowed to be unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, ensure};
use everline::protocol::{Body, ConvId, ConversationSettings, MsgId, Role, UserId};

/// A group.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) conv_id: ConvId,
    pub(crate) title: String,
    /// Newcomers see everything.
    pub(crate) full: bool,
    log: BTreeMap<u64, Act>,
    /// Where in the log the changes of a message are, by message.
    changes: BTreeMap<u64, Vec<u64>>,
    members: BTreeMap<UserId, Member>,
    /// Entries that may stand in the log beside those known.
    spare: u64,
    /// With more members it is large.
    limit: usize,
    /// Where it became so.
    large_at: Option<u64>,
}

/// One entry of the log.
#[derive(Clone, Debug)]
enum Act {
    Created,
    Large,
    Member,
    Message(Said),
    Recall { target: u64 },
    Edit { target: u64, body: Body },
    Reaction { target: u64, user: UserId, key: String, add: bool },
}

/// A message as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) sender: UserId,
    pub(crate) client_msg_id: MsgId,
    pub(crate) sent_at: u64,
    pub(crate) body: Body,
    pub(crate) reply_to: Option<u64>,
    pub(crate) mentions: Vec<UserId>,
}

/// A user who is or was a member.
#[derive(Clone, Debug, Default)]
struct Member {
    stays: Vec<Stay>,
    role: Option<Role>,
    hidden: BTreeSet<u64>,
    cleared: u64,
    read: u64,
    settings: ConversationSettings,
}

/// Both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stay {
    pub(crate) join: u64,
    pub(crate) leave: Option<u64>,
}

/// What a user must see of the group.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Visible and not hidden, by conv_seq.
    pub(crate) messages: BTreeMap<u64, Shown>,
    /// Those that reached him by his sync timeline while he was a member.
    pub(crate) synced: BTreeSet<u64>,
    pub(crate) hidden: BTreeSet<u64>,
    pub(crate) cleared: u64,
    pub(crate) read: u64,
    /// Of a user who has left, a later recall may or may not have been taken off.
    pub(crate) unread: RangeInclusive<u64>,
    pub(crate) settings: ConversationSettings,
    pub(crate) stay: Stay,
    /// As far as he may know.
    pub(crate) head: u64,
}

/// A message as it stands. Of a user who has left, what happened later may or may not have reached
/// him: then two states are right.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) said: Said,
    pub(crate) now: Facets,
    pub(crate) at_leave: Option<Facets>,
}

/// What can change of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facets {
    pub(crate) recalled: bool,
    /// `None`: recalled.
    pub(crate) body: Option<Body>,
    pub(crate) edited: bool,
    pub(crate) reactions: BTreeMap<String, BTreeSet<UserId>>,
}

impl Act {
    fn target(&self) -> Option<u64> {
        match self {
            Self::Recall { target } | Self::Edit { target, .. } | Self::Reaction { target, .. } => Some(*target),
            Self::Created | Self::Large | Self::Member | Self::Message(_) => None,
        }
    }
}

impl Oracle {
    /// `create` was answered. With more than `limit` members the conversation is large.
    pub(crate) fn new(conv_id: ConvId, title: String, full: bool, owner: UserId, limit: usize) -> Self {
        let stays = vec![Stay { join: 1, leave: None }];
        let member = Member { stays, role: Some(Role::Owner), read: 1, ..Member::default() };
        Self {
            conv_id,
            title,
            full,
            log: BTreeMap::from([(1, Act::Created)]),
            changes: BTreeMap::new(),
            members: BTreeMap::from([(owner, member)]),
            spare: 0,
            limit,
            large_at: None,
        }
    }

    pub(crate) fn head(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    /// A request that may have had its effect was asked again.
    pub(crate) fn asked_again(&mut self) {
        self.spare += 1;
    }

    pub(crate) fn sent(&mut self, conv_seq: u64, said: Said) -> Result<()> {
        let what = format!("message {} of {}", said.client_msg_id, said.sender);
        ensure!(self.is_member_at(&said.sender, conv_seq), "{what} got conv_seq {conv_seq} outside his stays");
        self.append(conv_seq, Act::Message(said)).context(what)
    }

    pub(crate) fn recalled(&mut self, target: u64, conv_seq: u64) -> Result<()> {
        self.append(conv_seq, Act::Recall { target }).with_context(|| format!("recall of {target}"))
    }

    pub(crate) fn edited(&mut self, target: u64, conv_seq: u64, body: Body) -> Result<()> {
        self.append(conv_seq, Act::Edit { target, body }).with_context(|| format!("edit of {target}"))
    }

    pub(crate) fn reacted(&mut self, target: u64, conv_seq: u64, user: UserId, key: String, add: bool) -> Result<()> {
        let what = format!("reaction of {user} on {target}");
        self.append(conv_seq, Act::Reaction { target, user, key, add }).context(what)
    }

    /// An invitation of one was answered with this number.
    pub(crate) fn joined(&mut self, user: &UserId, answered: u64) -> Result<()> {
        let present = self.members.values().filter(|member| member.role.is_some()).count();
        // Right behind the entry that exceeds the limit comes the one that says so, and is answered.
        let crosses = self.large_at.is_none() && present + 1 > self.limit;
        let conv_seq = answered - u64::from(crosses);
        self.append(conv_seq, Act::Member).with_context(|| format!("joining of {user}"))?;
        if crosses {
            self.append(answered, Act::Large)?;
            self.large_at = Some(answered);
        }
        let member = self.members.entry(user.clone()).or_default();
        member.stays.push(Stay { join: conv_seq, leave: None });
        member.role = Some(Role::Member);
        member.read = member.read.max(conv_seq);
        Ok(())
    }

    /// Left or was removed.
    pub(crate) fn left(&mut self, user: &UserId, conv_seq: u64) -> Result<()> {
        self.append(conv_seq, Act::Member).with_context(|| format!("leaving of {user}"))?;
        let member = self.member(user)?;
        member.role = None;
        let stay = member.stays.last_mut().context("left without having joined")?;
        stay.leave = Some(conv_seq);
        Ok(())
    }

    pub(crate) fn role(&mut self, user: &UserId, role: Role, conv_seq: u64) -> Result<()> {
        self.append(conv_seq, Act::Member).with_context(|| format!("role of {user}"))?;
        self.member(user)?.role = Some(role);
        Ok(())
    }

    /// Both ends included.
    pub(crate) fn deleted(&mut self, user: &UserId, from: u64, to: u64) -> Result<()> {
        self.member(user)?.hidden.extend(from..=to);
        Ok(())
    }

    pub(crate) fn cleared(&mut self, user: &UserId, up_to: u64) -> Result<()> {
        let member = self.member(user)?;
        member.cleared = member.cleared.max(up_to);
        Ok(())
    }

    pub(crate) fn read(&mut self, user: &UserId, read_seq: u64) -> Result<()> {
        let member = self.member(user)?;
        member.read = member.read.max(read_seq);
        Ok(())
    }

    pub(crate) fn set(&mut self, user: &UserId, settings: ConversationSettings) -> Result<()> {
        self.member(user)?.settings = settings;
        Ok(())
    }

    /// Numbers of the log nobody was told of, beyond those that may be; an error names them.
    pub(crate) fn check_dense(&self) -> Result<()> {
        let unknown: Vec<u64> = (1..=self.head()).filter(|seq| !self.log.contains_key(seq)).collect();
        let spare = usize::try_from(self.spare).unwrap_or(usize::MAX);
        ensure!(
            unknown.len() <= spare,
            "{}: conv_seq {unknown:?} were given to nothing that was acknowledged",
            self.conv_id
        );
        Ok(())
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &UserId> {
        self.members.keys()
    }

    /// Members now, with their roles.
    pub(crate) fn present(&self) -> BTreeMap<UserId, Role> {
        let with_role = |(user, member): (&UserId, &Member)| Some((user.clone(), member.role?));
        self.members.iter().filter_map(with_role).collect()
    }

    /// (entries, messages) times members they reached.
    pub(crate) fn deliveries(&self) -> (u64, u64) {
        let messages: Vec<u64> =
            self.log.iter().filter(|(_, act)| matches!(act, Act::Message(_))).map(|(seq, _)| *seq).collect();
        let mut sums = (0, 0);
        for stay in self.members.values().flat_map(|member| &member.stays) {
            let to = stay.leave.unwrap_or(self.head());
            sums.0 += u64::try_from(self.log.range(stay.join..=to).count()).unwrap_or_default();
            let first = messages.partition_point(|seq| *seq < stay.join);
            let last = messages.partition_point(|seq| *seq <= to);
            sums.1 += u64::try_from(last - first).unwrap_or_default();
        }
        sums
    }

    /// What `user` must see; `None` when he never was a member.
    pub(crate) fn expected(&self, user: &UserId) -> Option<Expected> {
        let member = self.members.get(user)?;
        let stay = *member.stays.last()?;
        let head = stay.leave.unwrap_or(self.head());
        let synced = self.synced(member);
        let mut messages = BTreeMap::new();
        for (seq, act) in self.log.range(..=head) {
            let Act::Message(said) = act else { continue };
            let hidden = *seq <= member.cleared || member.hidden.contains(seq);
            if !hidden && (self.full || synced.contains(seq)) {
                messages.insert(*seq, self.shown(*seq, said, stay.leave));
            }
        }
        let floor = member.read.max(member.cleared);
        let large_at = self.large_at.unwrap_or(u64::MAX);
        let unread = |counts: &dyn Fn(u64, &Shown) -> bool| {
            let above = messages.range(floor + 1..);
            let unread = above.filter(|(seq, shown)| shown.said.sender != *user && counts(**seq, shown));
            u64::try_from(unread.count()).unwrap_or(u64::MAX)
        };
        let least = unread(&|_, shown| !shown.now.recalled);
        // Of a large conversation a recalled one may count until it is read.
        let most = unread(&|seq, shown| seq > large_at || !shown.at_leave.as_ref().unwrap_or(&shown.now).recalled);
        Some(Expected {
            unread: least..=most,
            synced: synced.into_iter().filter(|seq| messages.contains_key(seq)).collect(),
            messages,
            hidden: member.hidden.iter().copied().filter(|seq| *seq > member.cleared).collect(),
            cleared: member.cleared,
            read: member.read,
            settings: member.settings,
            stay,
            head,
        })
    }

    /// The message with this number, as it was sent.
    pub(crate) fn said(&self, seq: u64) -> Option<&Said> {
        match self.log.get(&seq)? {
            Act::Message(said) => Some(said),
            _ => None,
        }
    }

    /// Every message a user's sync timeline was given, hidden ones included, in order: of a large conversation
    /// those from before it was.
    pub(crate) fn stream(&self, user: &UserId) -> BTreeSet<u64> {
        let mut seqs = self.members.get(user).map(|member| self.synced(member)).unwrap_or_default();
        seqs.retain(|seq| self.large_at.is_none_or(|at| *seq < at));
        seqs
    }

    fn synced(&self, member: &Member) -> BTreeSet<u64> {
        let mut seqs = BTreeSet::new();
        for stay in &member.stays {
            let range = self.log.range(stay.join..=stay.leave.unwrap_or(u64::MAX));
            seqs.extend(range.filter(|(_, act)| matches!(act, Act::Message(_))).map(|(seq, _)| *seq));
        }
        seqs
    }

    fn shown(&self, target: u64, said: &Said, leave: Option<u64>) -> Shown {
        let at = |up_to| self.facets(target, said, up_to);
        Shown { said: said.clone(), now: at(u64::MAX), at_leave: leave.map(at) }
    }

    fn facets(&self, target: u64, said: &Said, up_to: u64) -> Facets {
        let mut facets = Facets { body: Some(said.body.clone()), ..Facets::default() };
        let changes = self.changes.get(&target).into_iter().flatten();
        let told = changes.filter(|seq| **seq <= up_to).filter_map(|seq| self.log.get(seq));
        for act in told {
            match act {
                Act::Recall { .. } => {
                    return Facets { recalled: true, ..Facets::default() };
                }
                Act::Edit { body, .. } => {
                    facets.body = Some(body.clone());
                    facets.edited = true;
                }
                Act::Reaction { user, key, add, .. } => facets.react(user, key, *add),
                Act::Created | Act::Large | Act::Member | Act::Message(_) => {}
            }
        }
        facets
    }

    fn append(&mut self, conv_seq: u64, act: Act) -> Result<()> {
        let head = self.head();
        ensure!(conv_seq > 0, "answered without conv_seq");
        ensure!(
            !self.log.contains_key(&conv_seq),
            "{}: conv_seq {conv_seq} was given to something else before (head {head})",
            self.conv_id
        );
        if let Some(target) = act.target() {
            let changes = self.changes.entry(target).or_default();
            changes.push(conv_seq);
            changes.sort_unstable();
        }
        self.log.insert(conv_seq, act);
        Ok(())
    }

    fn member(&mut self, user: &UserId) -> Result<&mut Member> {
        self.members.get_mut(user).with_context(|| format!("{user} never was a member"))
    }

    fn is_member_at(&self, user: &UserId, seq: u64) -> bool {
        let covers = |stay: &Stay| stay.join <= seq && stay.leave.is_none_or(|leave| seq <= leave);
        self.members.get(user).is_some_and(|member| member.stays.iter().any(covers))
    }
}

impl Facets {
    fn react(&mut self, user: &UserId, key: &str, add: bool) {
        let users = self.reactions.entry(key.to_owned()).or_default();
        if add {
            users.insert(user.clone());
        } else {
            users.remove(user);
        }
        if users.is_empty() {
            self.reactions.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
