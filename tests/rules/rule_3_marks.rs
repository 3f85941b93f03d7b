//! Rule 3: a fan-out that was begun is finished, by whoever, however often a node is wrongly taken for
//! dead. With marks and a term where commits are decided one by one; with `fanned` where they are one.

use everline::store::{Attempt, Commit, NewEntry, Outcome, Position, RowWrite, Store};

use super::gate::{Fate, When};
use super::oracle::{all_delivered, times};
use super::world::*;
use crate::{ensure, ensure_eq};

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

/// Bob's timeline is slow, so that something is always under way; who comes after has little to bring all the
/// same, and nothing is forgotten.
pub async fn a_mark_moves_on_though_nothing_rests() -> Proof {
    let mut world = World::apart();
    world.policy.sync_max_entries = 2 * ROUNDS * ROUND;
    let (a, b) = (world.node(), world.node());
    let conv = a.create(&["bob", "carol"]).await?;
    let mut bob = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "m2").await?;
    bob.reached().await;
    for round in 0..ROUNDS {
        many(&a, &conv, round, ROUND).await?;
        let next = a.gate.hold(of("bob"), When::Before);
        bob.release();
        next.reached().await;
        bob = next;
    }
    let marks = world.sim.all_marks();
    ensure_eq!(marks.len(), 1, "marks of one node in one conversation");
    let (from, head) = (marks[0].from, ROUNDS * ROUND + 2);
    ensure!(head - from < 3000, "entries to bring again, of {head}: {}", head - from);
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)?;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(())
}

const ROUNDS: u64 = 24;
const ROUND: u64 = 200;

/// Of what a dead node left, the next page is read when everybody has the one before; others of the
/// conversation are served meanwhile.
pub async fn what_was_left_is_brought_in_pages() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let left = [a.gate.hold(of("bob"), When::Before), a.gate.hold(of("carol"), When::Before)];
    many(&a, &conv, 0, 900).await?;
    for held in &left {
        held.reached().await;
    }
    a.gate.kill();
    for _ in 0..20 {
        b.gate.unknown(of("bob"), Fate::Lost);
    }
    let (taken, served) = futures::join!(b.take_over(&a), async {
        rest().await;
        let carol = world.sim.dump(&of("carol")).head.position.seq;
        ensure!((100..=300).contains(&carol), "carol has {carol} entries of 901 while bob's timeline is away");
        b.send("alice", &conv, "next").await?;
        ensure!(!b.gate.lost_one(), "bob's timeline is back too early");
        Ok::<(), String>(())
    });
    served.and(taken)?;
    rest().await;
    all_delivered(&world, &conv)?;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(())
}

/// The other kind of store: a log of many pages whose fan-out is not complete is opened.
pub async fn opening_finishes_many_pages() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    many(&a, &conv, 0, 900).await?;
    rest().await;
    let log = world.sim.dump(&log_of(&conv));
    let opened = World::together();
    let entries = log.entries.iter().map(|entry| NewEntry { at: entry.at, data: entry.data.clone() }).collect();
    let row = |(key, value, expires_at)| RowWrite { key, value: Some(value), expires_at };
    let commit = Commit {
        timeline: log_of(&conv),
        expected: Position::default(),
        term: 0,
        attempt: Attempt(1),
        entries,
        rewrite: Vec::new(),
        rows: log.rows.into_iter().map(row).collect(),
        floor: 0,
        fanned: 0,
    };
    ensure_eq!(opened.sim.commit(vec![commit]).await, [Outcome::Applied], "the log of {conv}");
    let node = opened.node();
    node.engine.recover().await.map_err(|error| error.to_string())?;
    all_delivered(&opened, &conv)?;
    let head = opened.sim.dump(&log_of(&conv)).head;
    ensure_eq!(head.fanned, head.position.seq, "how far fan-out is complete");
    Ok(())
}

/// A deletion ends unknown, and did not happen: the mark must not stand until its node dies, with all that
/// was appended meanwhile to be brought again.
pub async fn a_deletion_that_failed_is_tried_again() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    a.gate.late_delete();
    a.send("alice", &conv, "m2").await?;
    rest().await;
    ensure_eq!(world.sim.all_marks().len(), 1, "marks, one deletion being lost");
    a.engine.renew().await.map_err(|error| error.to_string())?;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(())
}

/// So many messages of alice's at once.
async fn many(node: &Node, conv: &everline::protocol::ConvId, round: u64, count: u64) -> Proof {
    let started: Vec<_> = (0..count).map(|n| node.start("alice", send(conv, &format!("r{round}-{n}")))).collect();
    for one in started {
        answer(one).await?;
    }
    Ok(())
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
