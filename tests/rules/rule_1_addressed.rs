//! Rule 1: who receives an entry is decided by the log up to it, by one predicate, whoever asks.

use super::gate::When;
use super::oracle::all_delivered;
use super::world::*;
use crate::ensure_eq;

/// carol is a member at the message and gone before anybody fans it out.
pub async fn a_message_reaches_who_was_a_member_then() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let held = a.gate.hold(log_of(&conv), When::After);
    a.start("alice", send(&conv, "m2"));
    held.reached().await;
    b.ask("alice", remove(&conv, "carol")).await?;
    rest().await;
    all_delivered(&world, &conv)?;
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)
}

/// carol is gone at the message; the node that should not have sent it to her dies, another finishes.
pub async fn a_message_does_not_reach_who_had_left() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.ask("alice", remove(&conv, "carol")).await?;
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m3"));
    rest().await;
    b.take_over(&a).await?;
    all_delivered(&world, &conv)?;
    ensure_eq!(b.log("carol").await?, ["conversation 1", "member 2"], "carol's log");
    Ok(())
}

/// What carol has missed when she is back is a gap in numbers, not in what is hers.
pub async fn a_gap_is_filled_with_what_is_addressed_to_the_user() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.ask("alice", remove(&conv, "carol")).await?;
        node.send("alice", &conv, "m3").await?;
        node.ask("alice", invite(&conv, "carol")).await?;
        node.send("alice", &conv, "m5").await?;
        rest().await;
        all_delivered(&world, &conv)?;
    }
    Ok(())
}

/// A recall and an edit made while carol was away come at her return, before `joined`; those of messages
/// she never saw do not.
pub async fn changes_made_between_two_stays_come_at_the_rejoin() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("alice", &conv, "m2").await?;
        node.send("bob", &conv, "m3").await?;
        node.ask("alice", remove(&conv, "carol")).await?;
        node.send("alice", &conv, "m5").await?;
        node.ask("alice", recall(&conv, 2)).await?;
        node.ask("bob", edit(&conv, 3, "other")).await?;
        node.ask("alice", recall(&conv, 5)).await?;
        node.ask("alice", invite(&conv, "carol")).await?;
        rest().await;
        all_delivered(&world, &conv)?;
        let log = node.log("carol").await?;
        let expected =
            ["conversation 1", "message 2 gone", "message 3 m3", "member 4", "recall 6", "edit 7", "member 9"];
        ensure_eq!(log, expected, "carol's log");
    }
    Ok(())
}

/// The same, when leaving, change and return are all finished by recovery.
pub async fn recovery_hands_over_what_the_fan_out_would_have() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    rest().await;
    let carol = a.gate.hold(of("carol"), When::Before);
    for request in [remove(&conv, "carol"), recall(&conv, 2), send(&conv, "m5"), invite(&conv, "carol")] {
        a.start("alice", request);
    }
    carol.reached().await;
    rest().await;
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)
}
