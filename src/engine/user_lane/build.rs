//! Makes the draft of one user's lane: what is queued, decided in order against one state of his timeline.
//!
//! Writes nothing but the draft. How it can hurt: an answer by a state that another node has left behind (rule 4).

use std::time::Duration;

use super::{UserItem, UserWork, ok_seq};
use crate::conversation::decide::NotDecided;
use crate::conversation::inbox::Inbox;
use crate::conversation::own::{OwnDesk, Receipt};
use crate::engine::{Answer, Inner, Refusal};
use crate::fanout::deliver;
use crate::hub::Live;
use crate::planted::{Bug, planted};
use crate::protocol::{ErrorCode, Request, UserId};
use crate::store::{Error, Result};
use crate::timeline::Draft;

/// Pause before a store that could not be read is asked again.
const PAUSE: Duration = Duration::from_millis(50);

impl Inner {
    /// Builds every work's draft, as often as it takes to read what is needed. Items that need what is
    /// damaged are answered and taken out; tells whose they were.
    pub(in crate::engine) async fn build_until_read(&self, works: &mut [UserWork]) -> Vec<UserId> {
        let mut damaged = Vec::new();
        for work in works {
            loop {
                let (index, error) = match self.build(work).await {
                    Ok(true) => break,
                    Ok(false) => {
                        work.inbox = None;
                        continue;
                    }
                    Err(NotBuilt { index, error }) => (index, error),
                };
                work.forget();
                if !self.damage.is_damage(&error) {
                    tracing::warn!(user = %work.user, %error, "user lane waits for the store");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                damaged.push(work.user.clone());
                match index {
                    Some(index) if index < work.items.len() => give_up(work.items.remove(index)),
                    _ => work.items.drain(..).for_each(give_up),
                }
                if work.items.is_empty() {
                    break;
                }
            }
        }
        damaged
    }

    /// False: built on a state that another node has left behind.
    async fn build(&self, work: &mut UserWork) -> std::result::Result<bool, NotBuilt> {
        let inbox = match &mut work.inbox {
            Some(inbox) => inbox,
            none => none.insert(Inbox::load(&*self.store, &work.user).await?),
        };
        self.note_time(inbox.head);
        let mut draft = Draft::new(inbox.head, self.clock.now_ms());
        work.live.clear();
        work.answers.clear();
        work.owing.clear();
        let mut build = Build { inner: self, inbox, draft: &mut draft, live: &mut work.live };
        for (index, item) in work.items.iter().enumerate() {
            match build.item(item).await.map_err(|error| NotBuilt { index: Some(index), error })? {
                Built::Silent => {}
                Built::Answer(answer) => work.answers.push((index, answer)),
                Built::Owes(receipt) => work.owing.push((index, receipt)),
            }
        }
        draft.raise_floor(draft.head_seq().saturating_sub(self.policy.sync_max_entries));
        // A commit asks by its condition whether the state still holds; answers without one must ask
        // for themselves (rule 4), and so must a floor found to be high enough.
        let expires = work.items.iter().any(|item| matches!(item, UserItem::Expire { .. }));
        let unasked = draft.is_empty() && (expires || !work.answers.is_empty() || !work.owing.is_empty());
        let holds = !unasked
            || self.store.together()
            || planted(Bug::JudgedByCache)
            || self.store.head(&inbox.timeline).await?.position == inbox.head.position;
        work.head = draft.head_after();
        work.draft = Some(draft);
        Ok(holds)
    }
}

/// Ends an item that cannot be decided because what it needs is damaged. A delivery counts as done, or
/// its conversation would wait for it for ever: who reads that timeline is told `unavailable`.
fn give_up(item: UserItem) {
    match item {
        UserItem::Deliver(delivery) => delivery.told.iter().for_each(|progress| progress.finish()),
        UserItem::Request { reply, .. } | UserItem::Hello { reply, .. } => {
            let _ = reply.send(Err(Refusal::new(ErrorCode::Unavailable)));
        }
        // Who waits for these goes on when they are dropped.
        UserItem::Receipt { .. }
        | UserItem::Expire { .. }
        | UserItem::Goodbye { .. }
        | UserItem::Revoke { .. }
        | UserItem::Forget { .. } => {}
    }
}

/// Why a draft was not built.
struct NotBuilt {
    /// The item that could not be read for; none: the timeline itself.
    index: Option<usize>,
    error: Error,
}

impl From<Error> for NotBuilt {
    fn from(error: Error) -> Self {
        Self { index: None, error }
    }
}

/// What an item came to.
enum Built {
    /// Nothing to answer.
    Silent,
    Answer(Answer),
    /// A receipt must be durable first; the item comes back after it.
    Owes(Receipt),
}

/// One lane's draft in the making.
struct Build<'a> {
    inner: &'a Inner,
    inbox: &'a mut Inbox,
    draft: &'a mut Draft,
    live: &'a mut Vec<Live>,
}

impl Build<'_> {
    async fn item(&mut self, item: &UserItem) -> Result<Built> {
        match item {
            UserItem::Deliver(delivery) => {
                deliver(&*self.inner.store, self.inbox, self.draft, delivery, self.live).await?;
                Ok(Built::Silent)
            }
            UserItem::Request { request: Request::Logout { device_id }, .. } => {
                self.inner.forget_device(self.inbox, self.draft, device_id).await.map(Built::Answer)
            }
            UserItem::Request { request, receipted, .. } => self.own(request, *receipted).await,
            UserItem::Receipt { receipt, .. } => {
                let result = self.desk(async |desk| desk.receipt(receipt).await).await?;
                debug_assert!(result.is_ok(), "a receipt is never refused");
                Ok(Built::Silent)
            }
            UserItem::Hello { device, client, .. } => {
                self.inner.register_device(self.inbox, self.draft, device, client.as_ref()).await.map(Built::Answer)
            }
            UserItem::Revoke { device, revoked, .. } => {
                self.inner.note_revoked(self.inbox, self.draft, device.as_ref(), *revoked).await?;
                Ok(Built::Silent)
            }
            UserItem::Forget { .. } => {
                self.inner.forget_some(self.inbox, self.draft).await?;
                Ok(Built::Silent)
            }
            UserItem::Goodbye { device, acked } => {
                self.inner.note_goodbye(self.inbox, self.draft, device, *acked).await?;
                Ok(Built::Silent)
            }
            UserItem::Expire { .. } => {
                let floor = self.inner.floor_by_age(&self.inbox.timeline, self.inbox.head).await?;
                if !planted(Bug::FloorNotStored) {
                    self.draft.raise_floor(floor);
                }
                Ok(Built::Silent)
            }
        }
    }

    async fn own(&mut self, request: &Request, receipted: bool) -> Result<Built> {
        if let (Request::Read { conv_id, read_seq }, false) = (request, receipted)
            && conv_id.is_direct()
        {
            match self.desk(async |desk| desk.receipt_due(conv_id, *read_seq).await).await? {
                Ok(Some(receipt)) => return Ok(Built::Owes(receipt)),
                // Nothing to tell is nothing to read: decided here, for the next look may see more.
                Ok(None) => return Ok(Built::Answer(Ok(ok_seq(self.draft.head_seq())))),
                Err(refusal) => return Ok(Built::Answer(Err(refusal))),
            }
        }
        self.desk(async |desk| desk.decide(request).await).await.map(Built::Answer)
    }

    /// Runs a decision of the user's own, and turns what it appended into pushes.
    async fn desk<T>(
        &mut self,
        decide: impl AsyncFnOnce(&mut OwnDesk<'_>) -> std::result::Result<T, NotDecided>,
    ) -> Result<std::result::Result<T, Refusal>> {
        let mut appended = Vec::new();
        let mut desk =
            OwnDesk { store: &*self.inner.store, inbox: self.inbox, draft: self.draft, appended: &mut appended };
        let decided = decide(&mut desk).await;
        let live = appended.into_iter().map(|(seq, text)| Live { seq, text: Some(text), changes_earlier: true });
        self.live.extend(live);
        match decided {
            Ok(value) => Ok(Ok(value)),
            Err(NotDecided::Refused(refusal)) => Ok(Err(refusal)),
            Err(NotDecided::Store(error)) => Err(error),
        }
    }
}
