//! Marks of unfinished fan-outs, and nodes that are alive: plain writes, never conditional.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};

use super::Inner;
use super::session::unavailable;
use super::values::Bound;
use crate::protocol::ConvId;
use crate::store::{Error, Mark, Result};

/// Partitions marks are spread over.
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
        let values = [shard(mark), signed(mark.node), signed(mark.burst), conversation, signed(mark.from)];
        self.write(&self.statements.put_mark, &values).await
    }

    pub(super) async fn delete_mark(&self, mark: &Mark) -> Result<()> {
        let conversation = Bound::Text(mark.conversation.as_str());
        let values = [shard(mark), signed(mark.node), signed(mark.burst), conversation];
        self.write(&self.statements.delete_mark, &values).await
    }

    pub(super) async fn marks(&self) -> Result<Vec<Mark>> {
        let shards = futures::stream::iter(0..SHARDS as i16).map(|shard| self.marks_of(shard));
        let found: Vec<Vec<Mark>> = shards.buffer_unordered(self.options.in_flight.max(1)).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn marks_of(&self, shard: i16) -> Result<Vec<Mark>> {
        let rows = self.read(&self.statements.marks, &[Bound::Small(shard)]).await?;
        let rows = rows.rows::<(i64, i64, &str, Option<i64>)>().map_err(unavailable)?;
        let mark = |(node, burst, id, from): (i64, i64, &str, Option<i64>)| {
            let conversation = ConvId::parse(id).map_err(|_| Error::Damaged(format!("mark of {id}")))?;
            let from = from.unwrap_or(0).cast_unsigned();
            Ok(Mark { conversation, node: node.cast_unsigned(), burst: burst.cast_unsigned(), from })
        };
        rows.map(|row| row.map_err(unavailable).and_then(mark)).collect()
    }

    pub(super) async fn renew_node(&self, node: u64, ttl: Duration) -> Result<()> {
        let seconds = i32::try_from(ttl.as_secs_f64().ceil() as u64).unwrap_or(i32::MAX).max(1);
        self.write(&self.statements.renew_node, &[signed(node), Bound::Int(seconds)]).await
    }

    pub(super) async fn nodes(&self) -> Result<Vec<u64>> {
        let rows = self.read(&self.statements.nodes, &[]).await?;
        let rows = rows.rows::<(i64,)>().map_err(unavailable)?;
        rows.map(|row| row.map(|(node,)| node.cast_unsigned()).map_err(unavailable)).collect()
    }
}
