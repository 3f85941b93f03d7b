//! Large conversations of one session: which it follows, what its device was told of each, and the
//! `heads` frames, coalesced.
//!
//! ```text
//!   hello, `joined`, `large`, reset ─► look: follow, head, stay ─► following
//!   hub: "something moved" ─► at most one frame in PACE ─► heads
//! ```
//!
//! What is told is only ever what the log has above the number told last, so a frame that is late says
//! the same as two that are not. It must not tell a number beyond the user's stay: the hub knows its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Done, Session};
use super::socket::Transport;
use crate::engine::{Followed, Refusal};
use crate::hub::Follow;
use crate::protocol::{ConvId, ConversationChange, EncodedHeads, Event, MemberChange, UserId, write_heads_frame};

/// Between two frames of a session.
const PACE: Duration = Duration::from_millis(250);
/// Before a look that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Conversations in one frame, and bytes of their entries; what goes beyond is told by its number only.
const FRAME: (usize, usize) = (2000, 256 * 1024);

/// One that is followed.
struct Following {
    follow: Follow,
    /// Where the stay began, or the conversation became large.
    from: u64,
    /// What the device was told last.
    told: u64,
    /// Not by `heads` yet: by its sync timeline, which may still be on its way to that.
    by_sync: bool,
}

/// What a session keeps of large conversations.
#[derive(Default)]
pub(super) struct Heads {
    following: Vec<Following>,
    /// What the device said it holds, for the look that tells what it lacks: the first, and one after the
    /// sync timeline has skipped entries.
    held: Option<BTreeMap<ConvId, u64>>,
    /// The sync timeline has skipped entries since the last look was done.
    skipped: bool,
    /// A look is under way.
    looking: bool,
    /// Another one is due after it.
    again: bool,
    /// When a look that failed is tried again.
    retry_at: Option<Instant>,
    /// The last frame.
    sent_at: Option<Instant>,
    /// The next one waits for this moment.
    due_at: Option<Instant>,
}

impl Heads {
    /// Of a device that holds so much.
    pub(super) fn holding(held: BTreeMap<ConvId, u64>) -> Self {
        Self { held: Some(held), ..Self::default() }
    }

    /// What was found is followed; gives what the device lacks, `again` if another look comes after this one.
    fn take(&mut self, found: Vec<Followed>, again: bool) -> Vec<Item> {
        let mut items = Vec::new();
        let skipped = self.skipped;
        // What was skipped may speak of one that this look, begun before, has not seen.
        self.skipped &= again;
        if skipped {
            // These were left to the sync timeline, which has gone on elsewhere.
            for one in self.following.iter_mut().filter(|one| one.by_sync) {
                one.by_sync = false;
                items.push(Item::number(one.follow.conv(), one.told));
            }
        }
        let held = self.held.take().or_else(|| skipped.then(BTreeMap::new));
        for Followed { follow, head, from, gone } in found {
            let conv = follow.conv().clone();
            self.following.retain(|other| *other.follow.conv() != conv);
            let told = match &held {
                // What it said it holds; else its sync timeline tells it everything up to where the
                // following begins.
                Some(held) => held.get(&conv).copied(),
                None => Some(from),
            };
            // What came since the head was looked at counts too: that it woke us is forgotten by now.
            let lacks = follow.lacks(told.unwrap_or(head));
            let newest = lacks.as_ref().map_or(head, |lacks| lacks.head.max(head));
            let by_sync = told.is_some_and(|told| told >= newest) && held.is_none();
            if told.unwrap_or(0) < newest {
                items.push(match (told, lacks) {
                    (Some(told), Some(lacks)) if lacks.head == newest && gone <= told => {
                        item(&conv, told, newest, lacks.entries)
                    }
                    _ => Item::number(&conv, newest),
                });
            }
            self.following.push(Following { follow, from, told: newest, by_sync });
        }
        items
    }

    /// When something is to be done at the latest.
    pub(super) fn due_at(&self) -> Option<Instant> {
        [self.due_at, self.retry_at].into_iter().flatten().min()
    }
}

/// One conversation of a frame.
struct Item {
    conv: ConvId,
    from: Option<u64>,
    head: u64,
    entries: Option<Vec<Arc<str>>>,
}

impl Item {
    /// Without entries.
    fn number(conv: &ConvId, head: u64) -> Self {
        Self { conv: conv.clone(), from: None, head, entries: None }
    }
}

impl<S: Transport> Session<S> {
    /// Looks which large conversations the user is in, and where they stand.
    pub(super) fn look_at_large(&mut self) {
        if self.heads.looking {
            self.heads.again = true;
            return;
        }
        self.heads.looking = true;
        let known: Vec<_> = self.heads.following.iter().map(|one| (one.follow.conv().clone(), one.from)).collect();
        let (engine, seat) = (self.shared().engine.clone(), self.presence.seat.follower());
        let user = self.presence.caller.user.clone();
        self.work.push(Box::pin(async move { Done::Large(engine.look_at_large(&seat, &user, &known).await) }));
    }

    /// The sync timeline goes on elsewhere: what it would have told must be looked for.
    pub(super) fn skipped_to_large(&mut self) {
        self.heads.skipped = true;
        self.look_at_large();
    }

    /// A look is done: what was found is followed, and what the device lacks is told.
    pub(super) fn looked_at_large(&mut self, found: Result<Vec<Followed>, Refusal>) {
        self.heads.looking = false;
        let Ok(found) = found else {
            self.heads.retry_at = Some(Instant::now() + RETRY);
            self.rearm = true;
            return;
        };
        let again = std::mem::take(&mut self.heads.again);
        let items = self.heads.take(found, again);
        self.heads_frames(items);
        if again {
            self.look_at_large();
        }
        // Something may have come for those followed only now.
        self.large_moved();
    }

    /// The hub says that a followed conversation has moved, or a moment has come that was waited for.
    pub(super) fn large_moved(&mut self) {
        let now = Instant::now();
        if self.heads.retry_at.is_some_and(|at| now >= at) {
            self.heads.retry_at = None;
            self.look_at_large();
        }
        if !self.presence.seat.has_heads() {
            self.heads.due_at = None;
            return;
        }
        let next = self.heads.sent_at.map_or(now, |at| at + PACE);
        if now < next {
            self.heads.due_at = Some(next);
            self.rearm = true;
            return;
        }
        self.heads.due_at = None;
        // What comes from here on wakes again.
        self.presence.seat.collect_heads();
        let mut items = Vec::new();
        self.heads.following.retain_mut(|one| {
            let Some(lacks) = one.follow.lacks(one.told) else { return true };
            if lacks.head > one.told {
                items.push(item(one.follow.conv(), one.told, lacks.head, lacks.entries));
                (one.told, one.by_sync) = (lacks.head, false);
            }
            !lacks.ended
        });
        self.heads_frames(items);
    }

    fn heads_frames(&mut self, mut items: Vec<Item>) {
        let mut bytes = 0;
        for item in &mut items {
            bytes += item.entries.iter().flatten().map(|text| text.len() + 2).sum::<usize>();
            if bytes > FRAME.1 {
                (item.from, item.entries) = (None, None);
            }
        }
        for items in items.chunks(FRAME.0) {
            let encoded = items.iter().map(|item| EncodedHeads {
                conv_id: &item.conv,
                from_seq: item.from,
                head_seq: item.head,
                entries: item.entries.as_deref(),
            });
            self.socket.feed(|out| write_heads_frame(out, encoded));
            self.shared().meters.heads_out.increment(1);
            self.heads.sent_at = Some(Instant::now());
        }
    }
}

/// With entries if they are known.
fn item(conv: &ConvId, told: u64, head: u64, entries: Option<Vec<Arc<str>>>) -> Item {
    Item { conv: conv.clone(), from: entries.is_some().then_some(told), head, entries }
}

/// Whether an entry of the sync timeline says that this user follows a large conversation from now on.
pub(super) fn begins_following(text: &str, me: &UserId) -> bool {
    // Most entries are messages: only these two are read.
    if !text.starts_with(r#""op":"member""#) && !text.starts_with(r#""op":"conversation""#) {
        return false;
    }
    match Event::decode(text) {
        Ok(Event::Member { change: MemberChange::Joined, user_id, .. }) => user_id == *me,
        Ok(Event::Conversation { change: ConversationChange::Large, .. }) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::protocol::DeviceId;

    /// A session was made large conversations' follower before its sync timeline had told of them; then that
    /// skipped what tells.
    #[test]
    fn what_was_left_to_a_sync_timeline_that_skips_it_is_told() {
        let hub = Arc::new(Hub::default());
        let me = UserId::parse("alice").expect("a user");
        let seat = hub.register(&me, &DeviceId::parse("phone").expect("a device"));
        let followed = |name: &str, head: u64| {
            let conv = ConvId::parse(name).expect("a conversation");
            let follow = seat.follower().follow(&conv);
            hub.begin(&conv, head);
            follow.begins(2);
            Followed { follow, head, from: 2, gone: 0 }
        };
        let told =
            |items: Vec<Item>| items.into_iter().map(|item| (item.conv.to_string(), item.head)).collect::<Vec<_>>();
        let mut heads = Heads::default();
        let first = heads.take(vec![followed("g:1", 2), followed("g:2", 7)], false);
        assert_eq!(told(first), [("g:2".to_owned(), 7)], "the sync timeline tells of 1 up to 2");
        heads.skipped = true;
        assert_eq!(told(heads.take(Vec::new(), true)), [("g:1".to_owned(), 2)]);
        assert_eq!(
            told(heads.take(vec![followed("g:3", 2)], false)),
            [("g:3".to_owned(), 2)],
            "found by a look after it"
        );
        assert!(heads.take(vec![followed("g:4", 2)], false).is_empty(), "nothing was skipped since");
    }

    #[test]
    fn only_ones_own_joining_and_the_crossing_begin_a_following() {
        let me = UserId::parse("alice").expect("a user");
        let conv_id = ConvId::parse("g:1").expect("a conversation");
        let joined = |user: &str| Event::Member {
            conv_id: conv_id.clone(),
            conv_seq: 3,
            change: MemberChange::Joined,
            user_id: UserId::parse(user).expect("a user"),
            by: None,
            role: None,
        };
        let crossing = Event::Conversation { conv_id: conv_id.clone(), conv_seq: 4, change: ConversationChange::Large };
        assert!(begins_following(&joined("alice").encode(), &me));
        assert!(!begins_following(&joined("bob").encode(), &me));
        assert!(begins_following(&crossing.encode(), &me));
        assert!(!begins_following(r#""op":"message","body":{"op":"member"}}"#, &me));
    }
}
