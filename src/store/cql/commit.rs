//! One commit: one conditional batch.
//!
//! The batch's condition is the whole head as it is known (position, and floor and `fanned`, which must not
//! regress). When it is refused the head is read at SERIAL: another position is a conflict for good; the same
//! with another floor, or a bucket opened meanwhile, is tried again under the condition that fits. Earlier
//! tries were refused, so none of them can land any more.

use std::sync::Arc;

use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};

use super::Inner;
use super::place::{Place, Sight, partition};
use super::session::{one_line, surely_nothing_happened};
use super::stats::add;
use super::values::{Bound, ERASURE, Key, big};
use crate::store::{Commit, Head, Outcome, Position, Result, RowWrite, TimelineId};

/// Tries under other conditions before a commit is called unknown.
const TRIES: usize = 5;
/// Entries of a user are deleted as a range each time the floor passes so many.
const TRIM: u64 = 4096;
/// Longer lives are for ever: the servers know no expiry beyond some years.
const LONGEST_TTL_S: u64 = 3700 * 24 * 60 * 60;

/// How a batch ended.
enum Sent {
    Applied,
    Refused,
    /// It may have happened.
    Unknown(String),
    /// It surely did not.
    Impossible(String),
}

/// Commits one, and afterwards sees to what its buckets need.
pub(super) async fn one(inner: Arc<Inner>, commit: Commit) -> Outcome {
    let timeline = &commit.timeline;
    let mut place = match inner.places.get(timeline) {
        Some(place) => place,
        None => match inner.locate(timeline, Sight::Serial).await {
            Ok(place) => place,
            Err(_) => return Outcome::Unknown,
        },
    };
    let mut fresh = false;
    for _ in 0..TRIES {
        let matches = place.head.position == commit.expected;
        // A bucket opens only behind one that a quorum holds for sure: nobody will repair it afterwards.
        if !matches || (place.sealed && !place.sure) {
            if fresh {
                // It may have been applied by an earlier try whose outcome nobody knew: then its erasures wait.
                if let TimelineId::Conversation(id) = timeline
                    && !commit.rewrite.is_empty()
                {
                    inner.look_after(id, true);
                }
                return Outcome::Conflict(place.head);
            }
            match inner.locate(timeline, Sight::Serial).await {
                Ok(now) => (place, fresh) = (now, true),
                Err(_) => return Outcome::Unknown,
            }
            continue;
        }
        let attempt = Attempt::build(&inner, &commit, &place);
        match attempt.send(&inner).await {
            Sent::Applied => {
                add(&inner.stats.entries, commit.entries.len());
                inner.places.insert(timeline.clone(), attempt.after);
                if let TimelineId::Conversation(id) = timeline
                    && (attempt.erasures || (attempt.opens && attempt.after.bucket > 0))
                {
                    inner.look_after(id, true);
                }
                return Outcome::Applied;
            }
            Sent::Refused => {
                add(&inner.stats.refused, 1);
                match inner.locate(timeline, Sight::Serial).await {
                    Ok(now) => (place, fresh) = (now, true),
                    Err(_) => return Outcome::Unknown,
                }
            }
            Sent::Unknown(why) => {
                add(&inner.stats.unknown, 1);
                tracing::debug!(?timeline, error = why, "outcome unknown");
                // What is known of the timeline may be behind: the next try looks first.
                forget(&inner, timeline, &place);
                return Outcome::Unknown;
            }
            Sent::Impossible(why) => {
                // Not decided, so it will be sent again: the lanes bound what they put into one commit.
                tracing::error!(?timeline, bytes = attempt.bytes, error = why, "the database refuses a commit");
                forget(&inner, timeline, &place);
                return Outcome::Unknown;
            }
        }
    }
    Outcome::Unknown
}

/// Keeps only where to look.
fn forget(inner: &Inner, timeline: &TimelineId, place: &Place) {
    let nowhere = Place { bucket: place.bucket, head: Head { position: NOWHERE, ..Head::default() }, ..*place };
    inner.places.insert(timeline.clone(), nowhere);
}

/// A position no commit expects.
const NOWHERE: Position = Position { seq: u64::MAX, term: u64::MAX };

/// A batch in the making.
struct Attempt<'a> {
    batch: Batch,
    values: Vec<Vec<Bound<'a>>>,
    bytes: usize,
    after: Place,
    opens: bool,
    erasures: bool,
    conversation: bool,
}

/// Lets a timeline that nobody has written begin at a head.
pub(super) async fn begin_at(inner: Arc<Inner>, timeline: TimelineId, head: Head) -> Result<Outcome> {
    let place = inner.locate(&timeline, Sight::Serial).await?;
    if place.exists {
        return Ok(Outcome::Conflict(place.head));
    }
    let commit = Commit {
        timeline,
        expected: place.head.position,
        term: head.position.term,
        attempt: crate::store::Attempt::default(),
        entries: Vec::new(),
        rewrite: Vec::new(),
        rows: Vec::new(),
        floor: head.floor,
        fanned: head.fanned,
    };
    let after = Place { head, base: head.position.seq, ..after(&commit, &place, true) };
    let outcome = match Attempt::towards(&inner, &commit, &place, after).send(&inner).await {
        Sent::Applied => {
            inner.places.insert(commit.timeline.clone(), after);
            Outcome::Applied
        }
        // Whoever asks again sees what stands there.
        Sent::Refused | Sent::Unknown(_) | Sent::Impossible(_) => {
            forget(&inner, &commit.timeline, &place);
            Outcome::Unknown
        }
    };
    Ok(outcome)
}

impl<'a> Attempt<'a> {
    fn build(inner: &Inner, commit: &'a Commit, place: &Place) -> Self {
        let opens = !place.exists || place.sealed;
        Self::towards(inner, commit, place, after(commit, place, opens))
    }

    /// One after which the timeline stands at `after`.
    fn towards(inner: &Inner, commit: &'a Commit, place: &Place, after: Place) -> Self {
        let conversation = matches!(commit.timeline, TimelineId::Conversation(_));
        let opens = !place.exists || place.sealed;
        let mut this = Self {
            batch: Batch::new(BatchType::Unlogged),
            values: Vec::new(),
            bytes: 0,
            after,
            opens,
            erasures: false,
            conversation,
        };
        this.batch.set_execution_profile_handle(Some(inner.conditional.clone()));
        this.batch.set_is_idempotent(false);
        let full = this.after.head.position.seq - this.after.base >= inner.options.bucket_entries;
        this.after.sealed = conversation && full;
        this.head(inner, commit, place);
        this.entries(inner, commit);
        this.rewrites(inner, commit);
        for row in &commit.rows {
            this.row(inner, commit, row);
        }
        this
    }

    fn push(&mut self, statement: &PreparedStatement, values: Vec<Bound<'a>>) {
        self.batch.append_statement(statement.clone());
        for value in &values {
            if let Bound::Blob(bytes) = value {
                self.bytes += bytes.len();
            }
        }
        self.values.push(values);
    }

    /// The values before, the partition, the values after.
    fn around(&self, commit: &'a Commit, before: &[Bound<'a>], after: &[Bound<'a>]) -> Vec<Bound<'a>> {
        let mut values = before.to_vec();
        values.extend(partition(&commit.timeline, self.after.bucket));
        values.extend_from_slice(after);
        values
    }

    /// The statics, their condition, and what a new bucket begins with.
    fn head(&mut self, inner: &Inner, commit: &'a Commit, place: &Place) {
        let set = |head: &Head| {
            [head.position.seq, head.position.term, head.floor, head.fanned].map(|number| Bound::Big(big(number)))
        };
        let condition = if self.opens { [Bound::Null; 4] } else { set(&place.head) };
        let mut before = set(&self.after.head).to_vec();
        before.push(Bound::Big(big(self.after.head.at)));
        let values = self.around(commit, &before, &condition);
        self.push(&inner.of(&commit.timeline).advance, values);
        if self.opens {
            let values = self.around(commit, &[], &[]);
            self.push(&inner.of(&commit.timeline).anchor_row, values);
        }
        if self.opens && self.conversation {
            let values = self.around(commit, &[Bound::Big(big(self.after.base))], &[]);
            self.push(&inner.statements.set_base, values);
        }
        if self.after.sealed {
            let values = self.around(commit, &[Bound::Big(big(self.after.head.position.seq))], &[]);
            self.push(&inner.statements.seal, values);
        }
        let passed = self.after.head.floor / TRIM > place.head.floor / TRIM;
        if !self.conversation && passed {
            let values = self.around(commit, &[], &[Bound::Big(big(self.after.head.floor))]);
            self.push(&inner.statements.user.trim, values);
        }
    }

    /// Seconds an entry lives; 0 = for ever.
    fn entry_ttl(&self, inner: &Inner) -> i32 {
        if self.conversation { 0 } else { seconds(inner.options.user_entry_ttl_ms) }
    }

    fn entries(&mut self, inner: &Inner, commit: &'a Commit) {
        let ttl = Bound::Int(self.entry_ttl(inner));
        let attempt = commit.attempt.0.to_be_bytes();
        for (seq, entry) in (commit.expected.seq + 1..).zip(&commit.entries) {
            let values = [
                Bound::Big(big(seq)),
                Bound::Big(big(entry.at)),
                Bound::Attempt(attempt),
                Bound::Blob(&entry.data),
                ttl,
            ];
            let values = self.around(commit, &[], &values);
            self.push(&inner.of(&commit.timeline).put_entry, values);
        }
    }

    /// Bodies to erase: in place, or noted here where they stand in an older bucket.
    fn rewrites(&mut self, inner: &Inner, commit: &'a Commit) {
        let ttl = Bound::Int(self.entry_ttl(inner));
        for (seq, data) in &commit.rewrite {
            let gone = !self.conversation && *seq <= self.after.head.floor;
            if *seq == 0 || *seq > commit.expected.seq || gone {
                continue;
            }
            if *seq > self.after.base {
                let values = self.around(commit, &[ttl, Bound::Blob(data)], &[Bound::Big(big(*seq))]);
                self.push(&inner.of(&commit.timeline).rewrite, values);
            } else {
                self.erasures = true;
                let key = [Bound::Tiny(ERASURE), Bound::Big(big(*seq)), Bound::Text("")];
                let values = [&key[..], &[Bound::Blob(data), Bound::Int(0)]].concat();
                let values = self.around(commit, &[], &values);
                self.push(&inner.of(&commit.timeline).put_row, values);
            }
        }
    }

    fn row(&mut self, inner: &Inner, commit: &'a Commit, row: &'a RowWrite) {
        let Key { section, n, .. } = Key::first(row.key.section, row.key.n);
        let key = [Bound::Tiny(section), Bound::Big(n), Bound::Text(&row.key.id)];
        let statements = inner.of(&commit.timeline);
        let (value, ttl) = match &row.value {
            Some(value) => (Bound::Blob(value), row.expires_at.map_or(0, |moment| left(inner, moment))),
            // Older buckets may have one: a row without value hides it.
            None if self.conversation => (Bound::Null, 0),
            None => {
                let values = self.around(commit, &[], &key);
                self.push(&statements.delete_row, values);
                return;
            }
        };
        let values = self.around(commit, &[], &[&key[..], &[value, Bound::Int(ttl)]].concat());
        self.push(&statements.put_row, values);
    }

    async fn send(&self, inner: &Inner) -> Sent {
        let stats = &inner.stats;
        add(if self.conversation { &stats.conversation_rounds } else { &stats.user_rounds }, 1);
        add(&stats.bytes, self.bytes);
        match inner.session.batch(&self.batch, &self.values).await {
            Ok(answer) => applied(answer),
            Err(error) if surely_nothing_happened(&error) => Sent::Impossible(one_line(&error)),
            Err(error) => Sent::Unknown(one_line(&error)),
        }
    }
}

/// Where the timeline stands once this commit is applied; `sealed` is not decided here.
fn after(commit: &Commit, place: &Place, opens: bool) -> Place {
    let before = place.head;
    Place {
        bucket: if place.sealed { place.bucket + 1 } else { place.bucket },
        exists: true,
        base: if opens { before.position.seq } else { place.base },
        sealed: false,
        head: Head {
            position: Position { seq: commit.expected.seq + commit.entries.len() as u64, term: commit.term },
            floor: before.floor.max(commit.floor),
            at: commit.entries.last().map_or(before.at, |entry| entry.at),
            fanned: before.fanned.max(commit.fanned),
        },
        sure: true,
    }
}

/// What a conditional batch was answered. The two servers answer differently in number of rows and
/// columns: only the column `[applied]` counts, by name, in every row.
fn applied(answer: QueryResult) -> Sent {
    let read = || -> std::result::Result<bool, String> {
        let rows = answer.into_rows_result().map_err(|error| one_line(&error))?;
        let (place, _) = rows.column_specs().get_by_name("[applied]").ok_or("an answer without [applied]")?;
        let mut all = rows.rows_num() > 0;
        for row in rows.rows::<Row>().map_err(|error| one_line(&error))? {
            let row = row.map_err(|error| one_line(&error))?;
            all &= matches!(row.columns.get(place), Some(Some(CqlValue::Boolean(true))));
        }
        Ok(all)
    };
    match read() {
        Ok(true) => Sent::Applied,
        Ok(false) => Sent::Refused,
        Err(why) => Sent::Unknown(why),
    }
}

/// Whether a single conditional statement was applied; `None`: not known.
pub(super) fn was_applied(answer: QueryResult) -> Option<bool> {
    match applied(answer) {
        Sent::Applied => Some(true),
        Sent::Refused => Some(false),
        Sent::Unknown(_) | Sent::Impossible(_) => None,
    }
}

/// Milliseconds as a TTL: never shorter; 0 = for ever.
fn seconds(ms: u64) -> i32 {
    let seconds = ms.div_ceil(1000);
    if seconds > LONGEST_TTL_S { 0 } else { i32::try_from(seconds).unwrap_or(0) }
}

/// The TTL of what may vanish after a moment. A second more: the server's own clock counts whole ones.
fn left(inner: &Inner, moment: u64) -> i32 {
    match seconds(moment.saturating_sub(inner.options.clock.now_ms())) {
        0 if moment <= inner.options.clock.now_ms() => 1,
        0 => 0,
        seconds => seconds + 1,
    }
}
