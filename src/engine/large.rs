//! Large conversations as sessions follow them: which a user is in, where each stands, and what of their
//! logs this node has not told its followers yet.
//!
//! Nothing here is durable and nothing need be: a follower who missed everything finds it by the head.
//! How it can hurt: the order in [`Engine::look_at_large`]. Follow first, then the head, then the stay.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Engine, Inner, Refusal, unavailable};
use crate::conversation::entry::{Appended, Kind};
use crate::conversation::inbox::{hidden_of, large_of, read_row};
use crate::conversation::view::View;
use crate::fanout::read_log;
use crate::hub::{Effect, Follow, FollowerSeat, Hub, News};
use crate::planted::{Bug, planted};
use crate::protocol::{ConvId, UserId};
use crate::store::{self, TimelineId};

/// Conversations looked at together.
const AT_ONCE: usize = 16;
/// Entries read at once.
const PAGE: u64 = 256;
/// Pause before a log that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// A large conversation that a session follows from now on.
#[derive(Debug)]
pub struct Followed {
    /// The following.
    pub follow: Follow,
    /// Where the log stood when it was looked at.
    pub head: u64,
    /// What the user's sync timeline has told of it: entries up to where it became large, or he joined.
    pub from: u64,
    /// The newest entry he has deleted or cleared; 0: none. Texts up to there are not for him as they are.
    pub gone: u64,
}

impl Engine {
    /// Begins to follow the large conversations the user is in, but those already `known` (with the `from`
    /// of that following).
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn look_at_large(
        &self,
        seat: &FollowerSeat,
        user: &UserId,
        known: &[(ConvId, u64)],
    ) -> Result<Vec<Followed>, Refusal> {
        let inner = &self.inner;
        let look = async {
            let all = large_of(&*inner.store, user).await?;
            let looks = all.into_iter().map(|conv| inner.follow(seat, user, conv, known));
            let found: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
            store::Result::Ok(found.into_iter().flatten().collect())
        };
        look.await.map_err(|error| unavailable(&inner.damage, &error))
    }

    /// Looks at the heads of all large conversations followed here. Call once a second where other nodes
    /// write into the same store: their hints may be lost.
    pub async fn look_at_followed(&self) {
        let inner = &self.inner;
        if planted(Bug::SilenceBelieved) {
            return;
        }
        stream::iter(inner.hub.followed())
            .for_each_concurrent(AT_ONCE, |conv| async move {
                match inner.store.head(&TimelineId::Conversation(conv.clone())).await {
                    Ok(head) => inner.hub.look(&conv, head.position.seq),
                    Err(error) => tracing::debug!(conversation = %conv, %error, "head not read"),
                }
            })
            .await;
    }
}

impl Inner {
    async fn follow(
        &self,
        seat: &FollowerSeat,
        user: &UserId,
        conv: ConvId,
        known: &[(ConvId, u64)],
    ) -> store::Result<Option<Followed>> {
        let follow = seat.follow(&conv);
        let head = self.store.head(&TimelineId::Conversation(conv.clone())).await?.position.seq;
        self.hub.begin(&conv, head);
        let Some(view) = View::load(&*self.store, &conv, user).await? else { return Ok(None) };
        let from = view.member.join_seq().max(view.info.large_at.unwrap_or(0));
        let follows = view.member.present() && view.info.is_large();
        if !follows || known.iter().any(|(other, since)| *other == conv && *since >= from) {
            return Ok(None);
        }
        follow.begins(from);
        let gone = self.newest_gone(user, follow.conv()).await?;
        Ok(Some(Followed { follow, head, from, gone }))
    }

    async fn newest_gone(&self, user: &UserId, conv: &ConvId) -> store::Result<u64> {
        let timeline = TimelineId::User(user.clone());
        let Some(row) = read_row(&*self.store, &timeline, conv).await? else { return Ok(0) };
        let hidden = hidden_of(&*self.store, &timeline, conv, &row).await?;
        Ok(row.cleared_up_to.max(hidden.last().unwrap_or_default()))
    }

    /// Tells those who follow the conversation here what was committed.
    pub(super) fn tell_followers(&self, entries: &[Appended], conv: &ConvId) {
        let news: Vec<News> = entries.iter().filter(|entry| entry.header.large.is_some()).map(news).collect();
        if !news.is_empty() {
            self.hub.publish_news(conv, &news);
        }
    }

    /// Lets the hub have logs read: it knows no store.
    pub(super) fn read_for(this: &Arc<Self>, hub: &Hub) {
        let inner = Arc::downgrade(this);
        hub.set_on_moved(Box::new(move |conv| {
            tokio::spawn(catch_up(Weak::clone(&inner), conv.clone()));
        }));
    }
}

/// Reads what the followers of a conversation here have not been told yet.
async fn catch_up(inner: Weak<Inner>, conv: ConvId) {
    while let Some(inner) = inner.upgrade() {
        let Some((after, up_to)) = inner.hub.missing(&conv) else { return };
        match read_log(&*inner.store, &conv, after, up_to.min(after + PAGE)).await {
            Ok(entries) => inner.hub.tell(&conv, &entries.iter().map(news).collect::<Vec<_>>()),
            Err(error) => {
                if !inner.damage.is_damage(&error) {
                    tracing::warn!(conversation = %conv, %error, "log not read for followers");
                }
                drop(inner);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// An entry as those who follow the log are told it.
fn news(entry: &Appended) -> News {
    let about = entry.header.subject.clone();
    let effect = match (entry.header.kind, about) {
        (Kind::Recall, _) => Effect::Recalls,
        (Kind::Dissolved, _) => Effect::EndsAll,
        (Kind::Left, Some(user)) => Effect::Ends(user),
        _ => Effect::None,
    };
    // Who is a member is told those whom it is about, by their own timelines.
    let text = entry.header.subject.is_none().then(|| Arc::clone(&entry.text));
    News { seq: entry.seq, text, effect }
}
