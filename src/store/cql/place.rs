//! Where a timeline stands: its head and, for conversations, the bucket the next commit goes to.
//!
//! Buckets are numbered 0, 1, 2 ... and exist without gaps; all but the last are sealed. So the last is found
//! from any bucket known to exist by walking on, and from nothing by doubling steps and halving.

use scylla::response::query_result::QueryRowsResult;
use scylla::statement::prepared::PreparedStatement;

use super::Inner;
use super::session::unavailable;
use super::stats::add;
use super::values::{ANCHOR, Bound, big, name, unsigned};
use crate::protocol::{ConvId, UserId};
use crate::store::{Head, Position, Result, TimelineId};

/// The last bucket of a timeline (users' timelines have one, number 0).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: u64,
    /// False: nothing was ever written.
    pub(super) exists: bool,
    /// Number before the first entry of the bucket.
    pub(super) base: u64,
    /// The bucket is full; the next commit opens another.
    pub(super) sealed: bool,
    pub(super) head: Head,
    /// Known by a SERIAL read or an applied commit: a quorum holds all of it.
    pub(super) sure: bool,
}

/// At what consistency to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Everything that was answered `Applied`.
    Quorum,
    /// Everything decided, and made durable on the way.
    Serial,
}

/// The values that name a partition.
pub(super) fn partition<'a>(timeline: &'a TimelineId, bucket: u64) -> Vec<Bound<'a>> {
    match timeline {
        TimelineId::Conversation(_) => vec![Bound::Text(name(timeline)), Bound::Big(big(bucket))],
        TimelineId::User(_) => vec![Bound::Text(name(timeline))],
    }
}

type Anchor = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, i8);

impl Inner {
    /// Reads, at the statement's own consistency.
    pub(super) async fn read(&self, statement: &PreparedStatement, values: &[Bound<'_>]) -> Result<QueryRowsResult> {
        let serial = statement.get_consistency() == Some(scylla::statement::Consistency::Serial);
        add(if serial { &self.stats.serial_reads } else { &self.stats.reads }, 1);
        let result = self.session.execute_unpaged(statement, values).await.map_err(unavailable)?;
        result.into_rows_result().map_err(unavailable)
    }

    /// One bucket; `None` when it is not there.
    pub(super) async fn bucket(&self, timeline: &TimelineId, bucket: u64, sight: Sight) -> Result<Option<Place>> {
        let statements = self.of(timeline);
        let statement = match sight {
            Sight::Quorum => &statements.anchor,
            Sight::Serial => &statements.anchor_serial,
        };
        let rows = self.read(statement, &partition(timeline, bucket)).await?;
        let row = rows.maybe_first_row::<Anchor>().map_err(unavailable)?;
        let Some((base, head, term, floor, fanned, at, sealed, _)) = row else { return Ok(None) };
        let conversation = matches!(timeline, TimelineId::Conversation(_));
        let place = Place {
            bucket,
            exists: true,
            base: if conversation { unsigned(base) } else { 0 },
            sealed: conversation && sealed.is_some(),
            head: Head {
                position: Position { seq: unsigned(head), term: unsigned(term) },
                floor: unsigned(floor),
                at: unsigned(at),
                fanned: unsigned(fanned),
            },
            sure: sight == Sight::Serial,
        };
        if let (TimelineId::Conversation(id), true) = (timeline, place.sealed) {
            self.buckets.insert((id.clone(), bucket), (place.base, place.head.position.seq));
        }
        Ok(Some(place))
    }

    /// Where a timeline stands now, and remembers it.
    pub(super) async fn locate(self: &std::sync::Arc<Self>, timeline: &TimelineId, sight: Sight) -> Result<Place> {
        let place = match self.places.get(timeline) {
            Some(known) => self.walk(timeline, known.bucket, sight).await?,
            None => self.search(timeline, sight).await?,
        };
        self.places.insert(timeline.clone(), place);
        Ok(place)
    }

    /// From a bucket that exists (or the first) to the last.
    pub(super) async fn walk(&self, timeline: &TimelineId, from: u64, sight: Sight) -> Result<Place> {
        let mut last = match self.bucket(timeline, from, sight).await? {
            Some(place) => place,
            None => return Ok(Place { sure: sight == Sight::Serial, ..Place::default() }),
        };
        while last.sealed {
            match self.bucket(timeline, last.bucket + 1, sight).await? {
                Some(next) => last = next,
                None => break,
            }
        }
        Ok(last)
    }

    /// Finds the last bucket of a timeline nothing is known of, and looks after what was left undone there.
    async fn search(self: &std::sync::Arc<Self>, timeline: &TimelineId, sight: Sight) -> Result<Place> {
        let first = self.bucket(timeline, 0, sight).await?;
        let (TimelineId::Conversation(id), Some(first)) = (timeline, first) else {
            return Ok(first.unwrap_or(Place { sure: sight == Sight::Serial, ..Place::default() }));
        };
        if !first.sealed {
            return Ok(first);
        }
        // Settled buckets are sealed, so begin at the last of them.
        let mut low = self.settled_buckets(id).await?.saturating_sub(1);
        let mut step = 1;
        let mut high = loop {
            match self.bucket(timeline, low + step, Sight::Quorum).await? {
                Some(place) if place.sealed => low = place.bucket,
                _ => break low + step,
            }
            step *= 2;
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.bucket(timeline, middle, Sight::Quorum).await? {
                Some(place) if place.sealed => low = middle,
                _ => high = middle,
            }
        }
        let place = self.walk(timeline, low, sight).await?;
        self.look_after(id, false);
        Ok(place)
    }

    /// The bucket an entry stands in, if it is not after `last`.
    pub(super) async fn bucket_of(&self, id: &ConvId, seq: u64, last: &Place) -> Result<u64> {
        if seq > last.base {
            return Ok(last.bucket);
        }
        let (mut low, mut high) = (0, last.bucket.saturating_sub(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if seq > self.range(id, middle).await?.1 { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// What a sealed bucket holds: above the first, up to the second.
    pub(super) async fn range(&self, id: &ConvId, bucket: u64) -> Result<(u64, u64)> {
        if let Some(range) = self.buckets.get(&(id.clone(), bucket)) {
            return Ok(range);
        }
        let timeline = TimelineId::Conversation(id.clone());
        let found = self.bucket(&timeline, bucket, Sight::Quorum).await?;
        let place = found.ok_or_else(|| unavailable(format!("bucket {bucket} of {id} is not there yet")))?;
        Ok((place.base, place.head.position.seq))
    }

    /// How many buckets are settled at least.
    pub(super) async fn settled_buckets(&self, id: &ConvId) -> Result<u64> {
        if let Some(count) = self.settled.get(id) {
            return Ok(count);
        }
        let values = [Bound::Text(id.as_str()), Bound::Tiny(ANCHOR), Bound::Big(0), Bound::Text("")];
        let rows = self.read(&self.statements.settled_row, &values).await?;
        let row = rows.maybe_first_row::<(Option<i64>, Option<&[u8]>)>().map_err(unavailable)?;
        let count = row.map_or(0, |(count, _)| unsigned(count));
        self.settled.insert(id.clone(), count);
        Ok(count)
    }

    /// Timelines that exist: conversations, then users, each in the order of the database.
    pub(super) async fn timelines(&self, after: Option<TimelineId>, limit: usize) -> Result<Vec<TimelineId>> {
        let mut found = Vec::new();
        if !matches!(after, Some(TimelineId::User(_))) {
            let mut last = match &after {
                Some(TimelineId::Conversation(id)) => Some((id.to_string(), 0)),
                _ => None,
            };
            while found.len() < limit {
                let page = self.conversations_after(last.take()).await?;
                last = page.last().cloned();
                // A conversation is listed by its first bucket.
                let first = page.into_iter().filter(|(_, bucket)| *bucket == 0);
                let ids = first.filter_map(|(id, _)| ConvId::parse(&id).ok()).map(TimelineId::Conversation);
                found.extend(ids);
                if last.is_none() {
                    break;
                }
            }
        }
        let mut last = match after {
            Some(TimelineId::User(id)) => Some(id.to_string()),
            _ => None,
        };
        while found.len() < limit {
            let page = self.users_after(last.take()).await?;
            last = page.last().cloned();
            found.extend(page.iter().filter_map(|id| UserId::parse(id).ok()).map(TimelineId::User));
            if last.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn conversations_after(&self, last: Option<(String, i64)>) -> Result<Vec<(String, i64)>> {
        let statements = &self.statements.conversation;
        let rows = match &last {
            Some((id, bucket)) => {
                let values = [Bound::Text(id), Bound::Big(*bucket), Bound::Int(LISTED)];
                self.read(&statements.partitions_after, &values).await?
            }
            None => self.read(&statements.partitions, &[Bound::Int(LISTED)]).await?,
        };
        let rows = rows.rows::<(String, i64, i64)>().map_err(unavailable)?;
        rows.map(|row| row.map(|(id, bucket, _)| (id, bucket)).map_err(unavailable)).collect()
    }

    async fn users_after(&self, last: Option<String>) -> Result<Vec<String>> {
        let statements = &self.statements.user;
        let rows = match &last {
            Some(id) => self.read(&statements.partitions_after, &[Bound::Text(id), Bound::Int(LISTED)]).await?,
            None => self.read(&statements.partitions, &[Bound::Int(LISTED)]).await?,
        };
        let rows = rows.rows::<(String, i64)>().map_err(unavailable)?;
        rows.map(|row| row.map(|(id, _)| id).map_err(unavailable)).collect()
    }
}

/// Partitions in one page of a listing.
const LISTED: i32 = 500;
