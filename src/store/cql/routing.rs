//! Sends conditional batches of one partition to one replica, always the same while it is up.
//!
//! The driver routes a batch to any replica, conditional or not. Two coordinators that run ballots of one
//! partition disturb each other; with one, they queue. Safety does not depend on it.

use std::sync::Arc;

use scylla::cluster::{ClusterState, NodeRef};
use scylla::policies::load_balancing::{DefaultPolicy, FallbackPlan, LoadBalancingPolicy, RoutingInfo};
use scylla::routing::Shard;

/// The driver's own policy, told that every request is conditional.
#[derive(Debug)]
pub(super) struct FixedReplica(Arc<dyn LoadBalancingPolicy>);

impl Default for FixedReplica {
    fn default() -> Self {
        Self(DefaultPolicy::builder().build())
    }
}

impl FixedReplica {
    /// All nodes in the order they are to be tried. The inner plan borrows the changed request, so nodes
    /// are taken over by their ids.
    fn plan<'a>(&self, request: &RoutingInfo<'_>, cluster: &'a ClusterState) -> Vec<(NodeRef<'a>, Option<Shard>)> {
        let mut request = request.clone();
        request.is_confirmed_lwt = true;
        let first = self.0.pick(&request, cluster);
        let mut plan: Vec<(NodeRef<'a>, Option<Shard>)> = Vec::new();
        for (node, shard) in first.into_iter().chain(self.0.fallback(&request, cluster)) {
            let known = plan.iter().any(|(seen, _)| seen.host_id == node.host_id);
            let place = cluster.get_nodes_info().iter().find(|other| other.host_id == node.host_id);
            if let (false, Some(node)) = (known, place) {
                plan.push((node, shard));
            }
        }
        plan
    }
}

impl LoadBalancingPolicy for FixedReplica {
    fn pick<'a>(
        &'a self,
        request: &'a RoutingInfo<'_>,
        cluster: &'a ClusterState,
    ) -> Option<(NodeRef<'a>, Option<Shard>)> {
        self.plan(request, cluster).into_iter().next()
    }

    fn fallback<'a>(&'a self, request: &'a RoutingInfo<'_>, cluster: &'a ClusterState) -> FallbackPlan<'a> {
        Box::new(self.plan(request, cluster).into_iter())
    }

    fn name(&self) -> String {
        "FixedReplica".to_owned()
    }
}
