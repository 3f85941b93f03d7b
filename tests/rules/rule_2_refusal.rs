//! Rule 2: after a refusal everything is decided anew from the log; an unknown outcome is decided before
//! anything else, and whose commit it was tells the attempt.

use everline::protocol::ErrorCode;
use everline::store::Outcome;

use super::gate::{Fate, When};
use super::oracle::{all_delivered, times};
use super::world::*;
use crate::{ensure, ensure_eq};

/// Node A still believes that bob is a member.
pub async fn a_right_is_judged_again_after_a_refusal() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("bob", &conv, "m2").await?;
    b.ask("alice", remove(&conv, "bob")).await?;
    ensure_eq!(a.refused("bob", send(&conv, "m4")).await?, ErrorCode::NotFound, "bob's message");
    rest().await;
    ensure_eq!(times(&world, &conv, "m4")?, 0, "message of one who is no member");
    all_delivered(&world, &conv)
}

/// Node A is about to deliver what node B delivers meanwhile.
pub async fn two_nodes_delivering_the_same_deliver_it_once() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    rest().await;
    let bob = a.gate.hold(of("bob"), When::Before);
    let first = a.start("alice", send(&conv, "m3"));
    bob.reached().await;
    b.send("carol", &conv, "m4").await?;
    rest().await;
    bob.release();
    ensure_eq!(sent(answer(first).await?)?, (3, false), "alice's message");
    rest().await;
    all_delivered(&world, &conv)?;
    a.send("alice", &conv, "m5").await?;
    rest().await;
    all_delivered(&world, &conv)
}

/// The commit was applied, its answer lost; before it is sent again another node appends.
pub async fn an_unknown_commit_that_was_applied_is_ours() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.gate.unknown(log_of(&conv), Fate::AnswerLost);
    let first = a.start("alice", send(&conv, "m2"));
    tokio::task::yield_now().await;
    b.send("carol", &conv, "m3").await?;
    ensure_eq!(sent(answer(first).await?)?, (2, false), "alice's message");
    rest().await;
    a.gate.kill();
    b.take_over(&a).await?;
    all_delivered(&world, &conv)
}

/// The same with nobody in between, and nothing that a client's id would make once.
pub async fn an_edit_with_an_unknown_outcome_is_made_once() -> Proof {
    for fate in [Fate::AnswerLost, Fate::Lost, Fate::Late] {
        let (world, a, b, conv) = World::two_nodes().await?;
        a.send("alice", &conv, "m2").await?;
        rest().await;
        a.gate.unknown(log_of(&conv), fate);
        a.ask("alice", edit(&conv, 2, "other")).await?;
        rest().await;
        ensure!(!a.gate.land().await.contains(&Outcome::Applied), "a late request did something");
        ensure_eq!(world.sim.dump(&log_of(&conv)).head.position.seq, 3, "one edit ({fate:?})");
        a.gate.kill();
        b.take_over(&a).await?;
        all_delivered(&world, &conv)?;
    }
    Ok(())
}

/// The commit was lost, and another's took its place: what is acked must be ours.
pub async fn an_unknown_commit_that_was_not_applied_is_decided_anew() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.gate.unknown(log_of(&conv), Fate::Lost);
    let first = a.start("alice", send(&conv, "m2"));
    while !a.gate.lost_one() {
        tokio::task::yield_now().await;
    }
    ensure_eq!(b.send("carol", &conv, "m3").await?, (2, false), "carol's message");
    ensure_eq!(sent(answer(first).await?)?, (3, false), "alice's message");
    rest().await;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "alice's message");
    all_delivered(&world, &conv)
}

/// The first request arrives while the second is on its way.
pub async fn a_request_that_arrives_late_is_the_same_request() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.gate.unknown(log_of(&conv), Fate::Late);
    let first = a.start("alice", send(&conv, "m2"));
    while !a.gate.lost_one() {
        tokio::task::yield_now().await;
    }
    let again = a.gate.hold(log_of(&conv), When::Before);
    again.reached().await;
    ensure_eq!(a.gate.land().await, [Outcome::Applied], "the late request");
    again.release();
    ensure_eq!(sent(answer(first).await?)?, (2, false), "alice's message");
    rest().await;
    a.gate.kill();
    b.take_over(&a).await?;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "alice's message");
    all_delivered(&world, &conv)
}
