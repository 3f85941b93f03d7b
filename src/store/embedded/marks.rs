//! Marks. A store that commits together needs none (its heads say how far fan-out is); they are kept because
//! the contract has them, so a caller that does not ask which kind of store this is works too.
//!
//! Must not be slow for anybody else: each is a write and a sync of its own. How it can hurt: not at all.

use std::collections::BTreeSet;

use super::disk::{Batch, Sync, damaged, failed};
use super::keys;
use super::shared::Shared;
use crate::store::{Error, KnownNode, Mark, Result};

pub(super) fn put(shared: &Shared, mark: &Mark) -> Result<()> {
    let mut batch = shared.disk.batch();
    batch.insert(&shared.disk.marks, keys::mark(mark), Vec::new());
    write(shared, batch)
}

pub(super) fn delete(shared: &Shared, mark: &Mark) -> Result<()> {
    let mut batch = shared.disk.batch();
    batch.remove(&shared.disk.marks, keys::mark(mark));
    write(shared, batch)
}

fn write(shared: &Shared, batch: Batch<'_>) -> Result<()> {
    shared.usable()?;
    batch.commit(Sync::Data).map_err(|error| {
        shared.fail(&format!("mark not written: {error}"));
        Error::Unavailable(error.to_string())
    })
}

pub(super) fn of(shared: &Shared, node: u64, limit: usize) -> Result<Vec<Mark>> {
    Ok(all(shared)?.into_iter().filter(|mark| mark.node == node).take(limit).collect())
}

/// Nodes that have marks. Whether they are alive is nobody's question here.
pub(super) fn nodes(shared: &Shared) -> Result<Vec<KnownNode>> {
    let nodes: BTreeSet<u64> = all(shared)?.into_iter().map(|mark| mark.node).collect();
    Ok(nodes.into_iter().map(|node| KnownNode { node, alive: false }).collect())
}

fn all(shared: &Shared) -> Result<Vec<Mark>> {
    shared.usable()?;
    let keyspace = &shared.disk.marks;
    let mark = |guard: fjall::Guard| {
        let key = guard.key().map_err(|error| failed(keyspace, &error))?;
        keys::parse_mark(&key).ok_or_else(|| damaged(keyspace, &key))
    };
    keyspace.iter().map(mark).collect()
}
