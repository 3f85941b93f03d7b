//! Every statement the store sends, prepared once.
//!
//! Conditional ones are never idempotent and keep to one replica; reads and plain writes are idempotent
//! (nothing in this store retries by itself all the same).

use scylla::client::execution_profile::ExecutionProfileHandle;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

use super::OpenError;
use super::session::{Connected, one_line};
use super::values::{ANCHOR, ERASURE};
use crate::config::CqlTarget;

/// Columns that make a partition, the tables' names, and what only one of them has.
struct Shape {
    table: &'static str,
    key: &'static str,
    key_marks: &'static str,
    partition: &'static str,
    base: &'static str,
    sealed: &'static str,
}

const CONVERSATION: Shape = Shape {
    table: "conversation_timeline",
    key: "conv_id, bucket",
    key_marks: "?, ?",
    partition: "conv_id = ? AND bucket = ?",
    base: "base",
    sealed: "sealed",
};

const USER: Shape = Shape {
    table: "user_timeline",
    key: "user_id",
    key_marks: "?",
    partition: "user_id = ?",
    // These have no buckets: columns that are there in any case, not looked at.
    base: "head",
    sealed: "head",
};

/// Statements of one kind of timeline. Values in the order: what is set, partition, clustering, condition.
pub(super) struct Timeline {
    /// base, head, term, floor, fanned, head_at, sealed of the anchor (and its section: statics alone cannot be
    /// read by a key).
    pub(super) anchor: PreparedStatement,
    /// The same, at SERIAL.
    pub(super) anchor_serial: PreparedStatement,
    /// head, term, floor, fanned, head_at; if head, term, floor, fanned.
    pub(super) advance: PreparedStatement,
    /// Writes the anchor.
    pub(super) anchor_row: PreparedStatement,
    /// n, at, attempt, value, ttl.
    pub(super) put_entry: PreparedStatement,
    /// section, n, id, value, ttl.
    pub(super) put_row: PreparedStatement,
    /// section, n, id.
    pub(super) delete_row: PreparedStatement,
    /// ttl, value; n.
    pub(super) rewrite: PreparedStatement,
    /// n: entries up to there.
    pub(super) trim: PreparedStatement,
    /// section, n, id: that row and the anchor.
    pub(super) row: PreparedStatement,
    /// from (section, n, id), before (section, n, id), limit.
    pub(super) rows: PreparedStatement,
    /// after, up to, limit: ascending.
    pub(super) entries: PreparedStatement,
    /// The same, descending.
    pub(super) entries_backward: PreparedStatement,
    /// token of the partition after this one; limit.
    pub(super) partitions_after: PreparedStatement,
    /// limit.
    pub(super) partitions: PreparedStatement,
}

/// All of them.
pub(super) struct Statements {
    pub(super) conversation: Timeline,
    pub(super) user: Timeline,
    /// base; partition.
    pub(super) set_base: PreparedStatement,
    /// sealed; partition.
    pub(super) seal: PreparedStatement,
    /// value; partition, n; head, value.
    pub(super) erase: PreparedStatement,
    /// partition, n; value.
    pub(super) drop_erasure: PreparedStatement,
    /// conv_id, section, n, id, bucket, value, timestamp, ttl.
    pub(super) settle: PreparedStatement,
    /// conv_id, section, n, id.
    pub(super) settled_row: PreparedStatement,
    /// conv_id, from, before, limit.
    pub(super) settled_rows: PreparedStatement,
    /// node, shard, burst, conv_id, from_seq.
    pub(super) put_mark: PreparedStatement,
    /// node, shard, burst, conv_id.
    pub(super) delete_mark: PreparedStatement,
    /// node, shard, limit.
    pub(super) marks: PreparedStatement,
    /// node.
    pub(super) know_node: PreparedStatement,
    /// ttl, node.
    pub(super) renew_node: PreparedStatement,
    pub(super) nodes: PreparedStatement,
    /// node.
    pub(super) forget_node: PreparedStatement,
    pub(super) epoch: PreparedStatement,
}

/// Prepares for one keyspace.
struct Preparer<'a> {
    connected: &'a Connected,
    target: &'a CqlTarget,
}

impl Preparer<'_> {
    async fn plain(&self, text: &str) -> Result<PreparedStatement, OpenError> {
        let text = text.replace("KS.", &format!("{}.", self.target.keyspace));
        let mut prepared =
            self.connected.session.prepare(text).await.map_err(|error| OpenError::Refused(one_line(&error)))?;
        prepared.set_is_idempotent(true);
        Ok(prepared)
    }

    async fn serial(&self, text: &str) -> Result<PreparedStatement, OpenError> {
        let mut prepared = self.plain(text).await?;
        prepared.set_consistency(Consistency::Serial);
        prepared.set_execution_profile_handle(Some(self.conditional_profile()));
        Ok(prepared)
    }

    async fn conditional(&self, text: &str) -> Result<PreparedStatement, OpenError> {
        let mut prepared = self.plain(text).await?;
        prepared.set_is_idempotent(false);
        prepared.set_execution_profile_handle(Some(self.conditional_profile()));
        Ok(prepared)
    }

    fn conditional_profile(&self) -> ExecutionProfileHandle {
        self.connected.conditional.clone()
    }

    async fn timeline(&self, shape: &Shape) -> Result<Timeline, OpenError> {
        let Shape { table, key, key_marks, partition, base, sealed } = shape;
        let at_anchor = format!(
            "SELECT {base}, head, term, floor, fanned, head_at, {sealed}, section FROM KS.{table} \
             WHERE {partition} AND section = {ANCHOR} AND n = 0 AND id = ''"
        );
        let row = "section, n, id, value";
        let entries = format!(
            "SELECT n, at, attempt, value, {sealed} FROM KS.{table} \
             WHERE {partition} AND section = 0 AND n > ? AND n <= ?"
        );
        let advance = format!(
            "UPDATE KS.{table} SET head = ?, term = ?, floor = ?, fanned = ?, head_at = ? WHERE {partition} \
             IF head = ? AND term = ? AND floor = ? AND fanned = ?"
        );
        let insert = format!("INSERT INTO KS.{table} ({key}, section, n, id");
        let at_row = format!("WHERE {partition} AND section = ? AND n = ? AND id = ?");
        Ok(Timeline {
            anchor: self.plain(&at_anchor).await?,
            anchor_serial: self.serial(&at_anchor).await?,
            advance: self.conditional(&advance).await?,
            anchor_row: self.conditional(&format!("{insert}) VALUES ({key_marks}, {ANCHOR}, 0, '')")).await?,
            put_entry: self
                .conditional(&format!(
                    "{insert}, at, attempt, value) VALUES ({key_marks}, 0, ?, '', ?, ?, ?) USING TTL ?"
                ))
                .await?,
            put_row: self
                .conditional(&format!("{insert}, value) VALUES ({key_marks}, ?, ?, ?, ?) USING TTL ?"))
                .await?,
            delete_row: self.conditional(&format!("DELETE FROM KS.{table} {at_row}")).await?,
            rewrite: self
                .conditional(&format!(
                    "UPDATE KS.{table} USING TTL ? SET value = ? WHERE {partition} AND section = 0 AND n = ? AND id = ''"
                ))
                .await?,
            trim: self
                .conditional(&format!("DELETE FROM KS.{table} WHERE {partition} AND section = 0 AND n <= ?"))
                .await?,
            row: self
                .plain(&format!(
                    "SELECT {row}, {sealed} FROM KS.{table} WHERE {partition} \
                     AND (section, n, id) IN (({ANCHOR}, 0, ''), (?, ?, ?))"
                ))
                .await?,
            rows: self
                .plain(&format!(
                    "SELECT {row}, TTL(value) FROM KS.{table} WHERE {partition} \
                     AND (section, n, id) >= (?, ?, ?) AND (section, n, id) < (?, ?, ?) LIMIT ?"
                ))
                .await?,
            entries: self.plain(&format!("{entries} LIMIT ?")).await?,
            entries_backward: self
                .plain(&format!("{entries} ORDER BY section DESC, n DESC, id DESC LIMIT ?"))
                .await?,
            partitions_after: self
                .plain(&format!(
                    "SELECT DISTINCT {key}, token({key}) FROM KS.{table} WHERE token({key}) > token({key_marks}) LIMIT ?"
                ))
                .await?,
            partitions: self.plain(&format!("SELECT DISTINCT {key}, token({key}) FROM KS.{table} LIMIT ?")).await?,
        })
    }
}

impl Statements {
    /// Prepares everything.
    pub(super) async fn prepare(connected: &Connected, target: &CqlTarget) -> Result<Self, OpenError> {
        let with = Preparer { connected, target };
        let bucket = "WHERE conv_id = ? AND bucket = ?";
        let table = "KS.conversation_timeline";
        let settled = "KS.conversation_settled";
        Ok(Self {
            conversation: with.timeline(&CONVERSATION).await?,
            user: with.timeline(&USER).await?,
            set_base: with.conditional(&format!("UPDATE {table} SET base = ? {bucket}")).await?,
            seal: with.conditional(&format!("UPDATE {table} SET sealed = ? {bucket}")).await?,
            erase: with
                .conditional(&format!(
                    "UPDATE {table} SET value = ? {bucket} AND section = 0 AND n = ? AND id = '' \
                     IF head = ? AND value = ?"
                ))
                .await?,
            drop_erasure: with
                .conditional(&format!(
                    "DELETE FROM {table} {bucket} AND section = {ERASURE} AND n = ? AND id = '' IF value = ?"
                ))
                .await?,
            settle: with
                .plain(&format!(
                    "INSERT INTO {settled} (conv_id, section, n, id, bucket, value) VALUES (?, ?, ?, ?, ?, ?) \
                     USING TIMESTAMP ? AND TTL ?"
                ))
                .await?,
            settled_row: with
                .plain(&format!(
                    "SELECT bucket, value FROM {settled} WHERE conv_id = ? AND section = ? AND n = ? AND id = ?"
                ))
                .await?,
            settled_rows: with
                .plain(&format!(
                    "SELECT section, n, id, value, bucket FROM {settled} WHERE conv_id = ? \
                     AND (section, n, id) >= (?, ?, ?) AND (section, n, id) < (?, ?, ?) LIMIT ?"
                ))
                .await?,
            put_mark: with
                .plain("INSERT INTO KS.mark (node, shard, burst, conv_id, from_seq) VALUES (?, ?, ?, ?, ?)")
                .await?,
            delete_mark: with
                .plain("DELETE FROM KS.mark WHERE node = ? AND shard = ? AND burst = ? AND conv_id = ?")
                .await?,
            marks: with
                .plain("SELECT burst, conv_id, from_seq FROM KS.mark WHERE node = ? AND shard = ? LIMIT ?")
                .await?,
            know_node: with.plain("INSERT INTO KS.node (cluster, node) VALUES ('everline', ?)").await?,
            renew_node: with
                .plain("UPDATE KS.node USING TTL ? SET alive = true WHERE cluster = 'everline' AND node = ?")
                .await?,
            nodes: with.plain("SELECT node, alive FROM KS.node WHERE cluster = 'everline'").await?,
            forget_node: with.plain("DELETE FROM KS.node WHERE cluster = 'everline' AND node = ?").await?,
            epoch: with.plain("SELECT value FROM KS.meta WHERE key = 'epoch'").await?,
        })
    }
}
