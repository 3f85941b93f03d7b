//! Marks of unfinished fan-outs, and nodes that are known: plain writes, never conditional.
//!
//! A node's marks stand in partitions of its own, which are read only when it is taken for dead: a deleted mark
//! leaves a tombstone for minutes, and in partitions that everybody reads every few seconds those would grow
//! with the messages of the whole cluster. How it can hurt: marks of a node that is not known are not looked for.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};

use super::Inner;
use super::session::unavailable;
use super::values::Bound;
use crate::protocol::ConvId;
use crate::store::{Error, KnownNode, Mark, Result};

/// Partitions the marks of a node are spread over.
const SHARDS: u64 = 64;

/// Numbers of marks use all 64 bits and are only compared for equality: kept as they are.
fn signed(n: u64) -> Bound<'static> {
    Bound::Big(n.cast_signed())
}

fn shard(mark: &Mark) -> Bound<'static> {
    Bound::Small((mark.burst % SHARDS) as i16)
}

impl Inner {
    pub(super) async fn put_mark(&self, mark: &Mark) -> Result<()> {
        let conversation = Bound::Text(mark.conversation.as_str());
        let values = [signed(mark.node), shard(mark), signed(mark.burst), conversation, signed(mark.from)];
        self.write(&self.statements.put_mark, &values).await
    }

    pub(super) async fn delete_mark(&self, mark: &Mark) -> Result<()> {
        let conversation = Bound::Text(mark.conversation.as_str());
        let values = [signed(mark.node), shard(mark), signed(mark.burst), conversation];
        self.write(&self.statements.delete_mark, &values).await
    }

    pub(super) async fn marks_of(&self, node: u64, limit: usize) -> Result<Vec<Mark>> {
        let shards = futures::stream::iter(0..SHARDS as i16).map(|shard| self.marks_in(node, shard, limit));
        let found: Vec<Vec<Mark>> = shards.buffer_unordered(self.options.in_flight.max(1)).try_collect().await?;
        Ok(found.into_iter().flatten().take(limit).collect())
    }

    async fn marks_in(&self, node: u64, shard: i16, limit: usize) -> Result<Vec<Mark>> {
        let limit = Bound::Int(i32::try_from(limit).unwrap_or(i32::MAX));
        let rows = self.read(&self.statements.marks, &[signed(node), Bound::Small(shard), limit]).await?;
        let rows = rows.rows::<(i64, &str, Option<i64>)>().map_err(unavailable)?;
        let mark = |(burst, id, from): (i64, &str, Option<i64>)| {
            let conversation = ConvId::parse(id).map_err(|_| Error::Damaged(format!("mark of {id}")))?;
            let from = from.unwrap_or(0).cast_unsigned();
            Ok(Mark { conversation, node, burst: burst.cast_unsigned(), from })
        };
        rows.map(|row| row.map_err(unavailable).and_then(mark)).collect()
    }

    /// The row stays, its cell does not: a node that is known may be alive or not. The cell first, so that nobody
    /// sees a new node known and not alive.
    pub(super) async fn renew_node(&self, node: u64, ttl: Duration) -> Result<()> {
        let seconds = i32::try_from(ttl.as_secs_f64().ceil() as u64).unwrap_or(i32::MAX).max(1);
        self.write(&self.statements.renew_node, &[Bound::Int(seconds), signed(node)]).await?;
        self.write(&self.statements.know_node, &[signed(node)]).await
    }

    pub(super) async fn nodes(&self) -> Result<Vec<KnownNode>> {
        let rows = self.read(&self.statements.nodes, &[]).await?;
        let rows = rows.rows::<(i64, Option<bool>)>().map_err(unavailable)?;
        let known =
            |(node, alive): (i64, Option<bool>)| KnownNode { node: node.cast_unsigned(), alive: alive.is_some() };
        rows.map(|row| row.map(known).map_err(unavailable)).collect()
    }

    pub(super) async fn forget_node(&self, node: u64) -> Result<()> {
        self.write(&self.statements.forget_node, &[signed(node)]).await
    }
}
