//! Rule 3: a fan-out that was begun is finished, by whoever, however often a node is wrongly taken for
//! dead. With marks and a term where commits are decided one by one; with `fanned` where they are one.

use super::gate::When;
use super::oracle::{all_delivered, times};
use super::world::*;
use crate::ensure_eq;

/// The node dies as soon as the message is in the log.
pub async fn a_message_whose_node_dies_is_finished_by_another() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m2"));
    rest().await;
    b.take_over(&a).await?;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "alice's message");
    all_delivered(&world, &conv)?;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(())
}

/// Node A stands still between its mark and its append; B takes over, A goes on and then dies. Whoever
/// resends is told that the message is there, so it must reach everybody.
pub async fn a_node_wrongly_taken_for_dead_is_fenced_off() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let append = a.gate.hold(log_of(&conv), When::Before);
    a.start("alice", send(&conv, "m2"));
    append.reached().await;
    b.take_over(&a).await?;
    a.gate.die_once_applied(log_of(&conv));
    append.release();
    rest().await;
    resent_and_finished(&world, &a, &b, &conv, "m2").await
}

/// Node A's mark is deleted by B, who took over; A's next message needs another.
pub async fn a_mark_holds_only_under_its_term() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let bob = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "m2").await?;
    bob.reached().await;
    b.take_over(&a).await?;
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m3"));
    rest().await;
    resent_and_finished(&world, &a, &b, &conv, "m3").await
}

/// The deletion of the first mark is slow and arrives when the second stands.
pub async fn a_late_deletion_hits_no_later_mark() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.gate.late_delete();
    a.send("alice", &conv, "m2").await?;
    rest().await;
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m3"));
    rest().await;
    a.gate.land().await;
    resent_and_finished(&world, &a, &b, &conv, "m3").await
}

/// bob's timeline is slow; the node dies meanwhile.
pub async fn a_mark_stands_until_all_deliveries_are_done() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let bob = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "m2").await?;
    bob.reached().await;
    rest().await;
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)
}

/// Another's mark makes B raise the term while bob's delivery waits in A; A's new mark must still cover it.
pub async fn a_new_mark_covers_what_is_under_way() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let bob = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "m2").await?;
    bob.reached().await;
    let c = world.node();
    let append = c.gate.hold(log_of(&conv), When::Before);
    c.start("carol", send(&conv, "never"));
    append.reached().await;
    c.gate.kill();
    b.take_over(&c).await?;
    // Refused once for the term; the second try is held, under the new mark.
    let mut append = a.gate.hold(log_of(&conv), When::After);
    a.start("alice", send(&conv, "m3"));
    append.reached().await;
    let refused = append;
    append = a.gate.hold(log_of(&conv), When::Before);
    refused.release();
    append.reached().await;
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)
}

/// When nothing is under way and nothing is sent, no mark is left.
pub async fn at_rest_there_are_no_marks() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    for n in 2..20 {
        a.send("alice", &conv, &format!("m{n}")).await?;
    }
    rest().await;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    all_delivered(&world, &conv)
}

/// Whoever resends is answered, and what he is answered about reaches all.
async fn resent_and_finished(
    world: &World,
    dead: &Node,
    node: &Node,
    conv: &everline::protocol::ConvId,
    id: &str,
) -> Proof {
    node.send("alice", conv, id).await?;
    rest().await;
    node.take_over(dead).await?;
    ensure_eq!(times(world, conv, id)?, 1, "alice's message");
    all_delivered(world, conv)
}
