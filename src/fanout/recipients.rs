//! To whom entries of a conversation go, by one predicate: `Member::addressed` (rule 1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::conversation::entry::Appended;
use crate::conversation::member::Member;
use crate::conversation::rows::{self, Info};
use crate::conversation::state::{Conversation, Roster};
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, UserId};
use crate::store::{Error, Section, Store, TimelineId};

/// Members looked at in one go.
const PAGE: usize = 1000;

/// Everybody to whom any of the entries is addressed, or who is handed over what he missed.
pub fn recipients_of(conversation: &Conversation, entries: &[Appended]) -> Roster {
    let mode = conversation.mode();
    let addressed = |user: &UserId, member: &Member| {
        if planted(Bug::MembersOfNow) && !member.present() {
            return false;
        }
        entries.iter().any(|entry| member.addressed(user, entry.seq, &entry.header, mode))
    };
    let found = conversation.everyone().filter(|(user, member)| addressed(user, member));
    let mut found: Vec<_> = found.map(|(user, member)| (user.clone(), Arc::clone(member))).collect();
    // By id, as the roster is: the order of deliveries follows from the log alone.
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    found.into()
}

/// Whom the entries of a large conversation name: their rows were looked at when it was decided.
pub fn told_of(conversation: &Conversation, entries: &[Appended]) -> Roster {
    let users = named_in(entries);
    users.into_iter().filter_map(|user| Some((user.clone(), Arc::clone(conversation.member(user)?)))).collect()
}

/// Users whose sync timelines entries of a large conversation go to, by id.
fn named_in(entries: &[Appended]) -> BTreeSet<&UserId> {
    let large = entries.iter().filter_map(|entry| entry.header.large.as_ref());
    large.flat_map(|large| large.told.iter().map(|told| &told.user)).collect()
}

/// [`recipients_of`] a large conversation, for recovery: all members are looked at, a page at a time, only
/// if there are entries from before it was large.
///
/// # Errors
/// Those of reading it.
pub async fn recipients_of_many(
    store: &dyn Store,
    id: &ConvId,
    info: Option<&Info>,
    entries: &[Appended],
) -> Result<Roster, Error> {
    let Some(info) = info else { return Ok(Roster::from([])) };
    let timeline = TimelineId::Conversation(id.clone());
    let mut found: BTreeMap<UserId, Arc<Member>> = BTreeMap::new();
    for user in named_in(entries) {
        if let Some(member) = rows::read::<Member>(store, &timeline, &rows::member_key(user)).await? {
            found.insert(user.clone(), Arc::new(info.as_of(member)));
        }
    }
    let small: Vec<&Appended> = entries.iter().filter(|entry| entry.header.large.is_none()).collect();
    let mut after = None;
    while !small.is_empty() {
        let page = store.rows(&timeline, Section::Member, after, u64::MAX, PAGE).await?;
        for (key, value) in &page {
            let Ok(user) = UserId::parse(&key.id) else { continue };
            let member = info.as_of(rows::unpack(&timeline, key, value)?);
            if small.iter().any(|entry| member.addressed(&user, entry.seq, &entry.header, info.history)) {
                found.insert(user, Arc::new(member));
            }
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((key, _)) => after = Some(key),
            None => break,
        }
    }
    Ok(found.into_iter().collect())
}
