//! What follows a sealed bucket: its side rows become settled rows, erasures reach older buckets.
//!
//! Everything here may be done by anybody, at any time, twice, or by a process that dies in between:
//! * settled rows are plain copies of rows that no longer change, `USING TIMESTAMP bucket + 1`, so the newest
//!   bucket wins in whatever order copies arrive;
//! * an erasure compares the old body, so one that comes late does not undo a later one.
//!
//! How it can hurt: a bucket said to be settled too early hides rows. So it is read at SERIAL first (its last
//! commit is then at a quorum), every write is answered, and the buckets before it are settled before it. And
//! what the database refuses must not be asked for without end: going through once is all that a commit or a
//! load brings about.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use super::Inner;
use super::commit::was_applied;
use super::place::{Place, Sight};
use super::read::LivingRow;
use super::session::{surely_nothing_happened, unavailable};
use super::stats::add;
use super::values::{ANCHOR, Bound, ERASURE, Key, big, unsigned};
use crate::protocol::ConvId;
use crate::store::{Result, Section, TimelineId};

/// Rows copied at once.
const ROWS: usize = 1000;
/// Tries to erase one body that others keep changing.
const TRIES: usize = 8;

impl Inner {
    /// Settles what is to be settled, in a task of its own; at most one a conversation. `changed`: there is
    /// something new, which a task under way may have passed by: it goes through once more.
    pub(super) fn look_after(self: &Arc<Self>, id: &ConvId, changed: bool) {
        match self.settling().entry(id.clone()) {
            Entry::Occupied(mut again) => {
                *again.get_mut() |= changed;
                return;
            }
            Entry::Vacant(free) => drop(free.insert(false)),
        }
        let (this, id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = this.settle(&id).await {
                    // Whoever opens the next bucket, or loads this conversation anew, tries again.
                    tracing::warn!(conversation = %id, %error, "buckets are not settled yet");
                }
                let mut settling = this.settling();
                if !settling.get_mut(&id).is_some_and(std::mem::take) {
                    settling.remove(&id);
                    return;
                }
            }
        });
    }

    fn settling(&self) -> MutexGuard<'_, HashMap<ConvId, bool>> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles every sealed bucket behind the last, and carries out the last one's erasures. Once: what comes
    /// meanwhile is looked after by whoever commits it, and what the database refuses is not asked for again.
    pub(super) async fn settle(self: &Arc<Self>, id: &ConvId) -> Result<()> {
        let timeline = TimelineId::Conversation(id.clone());
        let last = self.locate(&timeline, Sight::Serial).await?;
        let settled = self.settled_buckets(id).await?;
        for bucket in settled..last.bucket {
            self.settle_bucket(&timeline, id, bucket).await?;
        }
        self.carry_out(&timeline, id, &last).await
    }

    async fn settle_bucket(self: &Arc<Self>, timeline: &TimelineId, id: &ConvId, bucket: u64) -> Result<()> {
        let place = self.bucket(timeline, bucket, Sight::Serial).await?.filter(|place| place.sealed);
        let place = place.ok_or_else(|| unavailable(format!("bucket {bucket} is not sealed")))?;
        for (key, body) in self.erasures_of(timeline, &place).await? {
            self.erase(timeline, id, unsigned(Some(key.n)), &body).await?;
        }
        let (mut from, before) = (Key::first(Section::State, 0), Key { section: ERASURE, n: 0, id: String::new() });
        loop {
            let rows = self.rows_with_ttl(timeline, bucket, &from, &before, ROWS).await?;
            let next = rows.last().filter(|_| rows.len() == ROWS).map(|(key, ..)| key.clone().successor());
            self.copy(id, bucket, rows).await?;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        let anchor = Key { section: ANCHOR, n: 0, id: String::new() };
        self.put_settled(id, &anchor, bucket + 1, None, 0).await?;
        self.settled.insert(id.clone(), bucket + 1);
        Ok(())
    }

    /// Copies rows of a sealed bucket, some at a time.
    async fn copy(&self, id: &ConvId, bucket: u64, rows: Vec<LivingRow>) -> Result<()> {
        let mut copies = Vec::with_capacity(rows.len());
        for (key, value, ttl) in rows {
            // A TTL of nothing would be for ever.
            let ttl = ttl.map_or(0, |left| left.max(1));
            copies.push(async move { self.put_settled(id, &key, bucket, value.as_ref(), ttl).await }.boxed());
        }
        let mut running = futures::stream::iter(copies).buffer_unordered(self.options.in_flight.max(1));
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    async fn put_settled(&self, id: &ConvId, key: &Key, bucket: u64, value: Option<&Bytes>, ttl: i32) -> Result<()> {
        let value = value.map_or(Bound::Null, |value| Bound::Blob(value));
        // The row that counts buckets and the copies are different rows: each only needs its own to grow.
        let values = [
            Bound::Text(id.as_str()),
            Bound::Tiny(key.section),
            Bound::Big(key.n),
            Bound::Text(&key.id),
            Bound::Big(big(bucket)),
            value,
            Bound::Big(big(bucket + 1)),
            Bound::Int(ttl),
        ];
        self.write(&self.statements.settle, &values).await
    }

    /// A plain write.
    pub(super) async fn write(
        &self,
        statement: &scylla::statement::prepared::PreparedStatement,
        values: &[Bound<'_>],
    ) -> Result<()> {
        add(&self.stats.writes, 1);
        self.session.execute_unpaged(statement, values).await.map(drop).map_err(unavailable)
    }

    /// Erasures noted in a bucket.
    async fn erasures_of(&self, timeline: &TimelineId, place: &Place) -> Result<Vec<(Key, Bytes)>> {
        let key = |n: i64| Key { section: ERASURE, n, id: String::new() };
        let (mut from, before) = (key(0), key(i64::MAX));
        let mut found = Vec::new();
        loop {
            let rows = self.rows_with_ttl(timeline, place.bucket, &from, &before, ROWS).await?;
            let next = rows.last().filter(|_| rows.len() == ROWS).map(|(key, ..)| key.clone().successor());
            found.extend(rows.into_iter().filter_map(|(key, body, _)| Some((key, body?))));
            match next {
                Some(next) => from = next,
                None => return Ok(found),
            }
        }
    }

    /// Carries out the last bucket's erasures and takes them off its list.
    async fn carry_out(self: &Arc<Self>, timeline: &TimelineId, id: &ConvId, last: &Place) -> Result<()> {
        if last.bucket == 0 {
            return Ok(());
        }
        for (key, body) in self.erasures_of(timeline, last).await? {
            self.erase(timeline, id, unsigned(Some(key.n)), &body).await?;
            let values = [
                Bound::Text(id.as_str()),
                Bound::Big(big(last.bucket)),
                Bound::Big(key.n),
                // Another erasure of the same entry may have been noted since: that one stays.
                Bound::Blob(&body),
            ];
            self.conditionally(&self.statements.drop_erasure, &values).await?;
        }
        Ok(())
    }

    /// Puts another body into an entry of a sealed bucket. Also where it is seen to stand already: only an
    /// applied condition says that a quorum holds it, and its note is taken off the list next.
    async fn erase(self: &Arc<Self>, timeline: &TimelineId, id: &ConvId, seq: u64, body: &Bytes) -> Result<()> {
        let last = self.locate(timeline, Sight::Quorum).await?;
        let bucket = self.bucket_of(id, seq, &last).await?;
        for _ in 0..TRIES {
            let Some(old) = self.body(id, bucket, seq).await? else { return Ok(()) };
            let end = self.range(id, bucket).await?.1;
            let values = [
                Bound::Blob(body),
                Bound::Text(id.as_str()),
                Bound::Big(big(bucket)),
                Bound::Big(big(seq)),
                Bound::Big(big(end)),
                Bound::Blob(&old),
            ];
            if self.conditionally(&self.statements.erase, &values).await? {
                return Ok(());
            }
        }
        Err(unavailable(format!("entry {seq} cannot be erased in bucket {bucket}")))
    }

    /// The body of an entry as it stands.
    async fn body(&self, id: &ConvId, bucket: u64, seq: u64) -> Result<Option<Bytes>> {
        let timeline = TimelineId::Conversation(id.clone());
        let key = |n: u64| Key { section: 0, n: big(n), id: String::new() };
        let rows = self.rows_with_ttl(&timeline, bucket, &key(seq), &key(seq + 1), 1).await?;
        Ok(rows.into_iter().next().and_then(|(_, body, _)| body))
    }

    /// One conditional statement; whether it was applied. An unknown outcome is an error: the caller reads
    /// again, for what it wants either stands there or not.
    async fn conditionally(
        &self,
        statement: &scylla::statement::prepared::PreparedStatement,
        values: &[Bound<'_>],
    ) -> Result<bool> {
        add(&self.stats.erasure_rounds, 1);
        match self.session.execute_unpaged(statement, values).await {
            Ok(answer) => was_applied(answer).ok_or_else(|| unavailable("an answer without [applied]")),
            Err(error) => {
                add(&self.stats.unknown, usize::from(!surely_nothing_happened(&error)));
                Err(unavailable(error))
            }
        }
    }
}
