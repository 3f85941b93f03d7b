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

/// A device's pipelined messages meet on another node one of them, tried again by another device.
pub async fn pipelined_messages_keep_their_order_around_one_that_another_node_made() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let held = a.gate.hold(log_of(&conv), When::Before);
    let [one, two, three] = ["m1", "m2", "m3"].map(|id| a.start("alice", send(&conv, id)));
    held.reached().await;
    ensure_eq!(b.send("alice", &conv, "m2").await?, (2, false), "the second, by another device");
    held.release();
    let mut places = Vec::new();
    for started in [one, two, three] {
        places.push(sent(answer(started).await?)?);
    }
    ensure_eq!(places, [(3, false), (2, true), (4, false)], "places of the three, and which were there");
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

/// bob's session is here; what this node committed for him without knowing it, and what another node
/// committed, it must not find out at the next heartbeat only.
pub async fn sessions_are_told_of_what_a_refusal_reveals() -> Proof {
    let (_world, a, b, conv) = World::two_nodes().await?;
    let seat = a.hub.register(&user("bob"), &caller("bob").device);
    ensure!(seat.follow(1), "bob's session follows");
    a.gate.unknown(of("bob"), Fate::AnswerLost);
    a.send("alice", &conv, "m2").await?;
    rest().await;
    ensure_eq!(seat.newest(), 2, "what bob's session knows of");
    ensure!(seat.follow(2), "bob's session follows again");
    b.send("alice", &conv, "m3").await?;
    rest().await;
    a.ask("bob", read(&conv, 3)).await?;
    ensure!(!seat.follow(2), "bob's session would go on without entry 3");
    ensure_eq!(seat.newest(), 4, "what bob's session knows of");
    Ok(())
}

/// A call of the store takes long because of one timeline: members of other calls do not wait for it.
pub async fn a_slow_call_holds_up_no_other_call() -> Proof {
    let world = World::apart();
    let node = world.node();
    let names: Vec<String> = (0..300).map(|n| format!("u{n:03}")).collect();
    let conv = node.create(&names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    rest().await;
    let first = node.gate.hold(of("u000"), When::Before);
    node.send("alice", &conv, "m2").await?;
    first.reached().await;
    rest().await;
    ensure_eq!(node.log("u299").await?.len(), 2, "the last member's log");
    first.release();
    rest().await;
    all_delivered(&world, &conv)
}

/// bob's timeline cannot be written for a while; carol and alice go on.
pub async fn a_timeline_that_is_away_holds_up_no_other() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    for _ in 0..20 {
        a.gate.unknown(of("bob"), Fate::Lost);
    }
    for id in ["m2", "m3"] {
        a.send("alice", &conv, id).await?;
        rest().await;
    }
    ensure_eq!(a.log("bob").await?.len(), 1, "bob's log while his timeline is away");
    ensure_eq!(a.log("carol").await?.len(), 3, "carol's log meanwhile");
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    all_delivered(&world, &conv)
}
