//! Expired rows vanish when the engine compacts: a filter drops them, so they cost no write and no scan of
//! all the rows that are still of use.
//!
//! Must not touch a row before its time; one whose checksum is wrong is kept, so that reading it tells.
//! How it can hurt: a clock far ahead drops rows too early, which forgets what was already sent.

use std::sync::Arc;

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};

use super::values;
use crate::config::Clock;

/// Clocks may differ by a minute (design, rule 9).
const GRACE_MS: u64 = 60_000;

/// Makes a filter for each compaction.
pub(super) struct Expiry {
    clock: Clock,
}

struct Filter {
    before: u64,
}

impl Expiry {
    /// The factory for a keyspace, if rows of it expire.
    pub(super) fn factory(keyspace: &str, clock: &Clock) -> Option<Arc<dyn Factory>> {
        matches!(keyspace, "rows" | "expiring").then(|| {
            let factory: Arc<dyn Factory> = Arc::new(Self { clock: clock.clone() });
            factory
        })
    }
}

impl Factory for Expiry {
    fn name(&self) -> &str {
        "expiry"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter { before: self.clock.now_ms().saturating_sub(GRACE_MS) })
    }
}

impl CompactionFilter for Filter {
    /// Leaves a tombstone where needed: an older value of the same row must not come back.
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let value = item.value()?;
        let expiry = values::row_expiry(item.key(), &value);
        Ok(if expiry.is_some_and(|at| at < self.before) { Verdict::Remove } else { Verdict::Keep })
    }
}
