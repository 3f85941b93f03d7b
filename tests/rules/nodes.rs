//! Between nodes: a hint only makes faster what would come anyway, nothing is lost when it is wrong or does not
//! come; who is dead is noticed, and so is who cannot know that he lives.

use std::sync::Arc;
use std::time::Duration;

use everline::bus::{Exchange, Identity};
use everline::engine::Sights;
use everline::hub::{Hub, Live, Signal};
use everline::protocol::*;
use everline::store::Store as _;
use everline::store::sim::Faults;

use super::gate::When;
use super::oracle::{all_delivered, times};
use super::socket::{Device, HEARTBEAT};
use super::world::*;
use crate::{ensure, ensure_eq};

/// Pushed, not found by a heartbeat.
const AT_ONCE: Duration = Duration::from_secs(5);
/// A node's word holds for ten seconds.
const WORD: Duration = Duration::from_secs(10);

/// Two nodes that hear each other, and a group of alice (owner) and bob made on the first.
async fn joined() -> Result<(World, Exchange, Node, Node, ConvId), String> {
    let (world, exchange) = (World::apart(), Exchange::default());
    let (a, b) = (world.node_on(&exchange), world.node_on(&exchange));
    let conv = a.create(&["bob"]).await?;
    rest().await;
    Ok((world, exchange, a, b, conv))
}

fn hub_of(exchange: &Exchange, node: u64, epoch: &'static str) -> Arc<Hub> {
    Arc::new(Hub::new(exchange.join(Identity { node, epoch: Arc::new(move || epoch.to_owned()) })))
}

/// One hint is lost, the next comes: what lies between is read.
pub async fn a_hint_that_does_not_continue_is_read_from_the_log() -> Proof {
    let (world, exchange, a, b, conv) = joined().await?;
    let mut bob = Device::hello(&world, &b, "bob").await;
    bob.shown(1, AT_ONCE).await?;
    exchange.silence(true);
    a.send("alice", &conv, "m2").await?;
    rest().await;
    exchange.silence(false);
    a.send("alice", &conv, "m3").await?;
    bob.shown(3, AT_ONCE).await
}

/// A message comes at each moment of a slow hello, one after the other.
pub async fn whenever_a_message_comes_during_hello_it_is_shown_at_once() -> Proof {
    let (world, _exchange, a, b, conv) = joined().await?;
    let slow = Duration::from_millis(20);
    let mut head = 1;
    for moment in 0..40 {
        world.sim.set_faults(Faults { latency: slow..slow + Duration::from_millis(1), ..Faults::none() });
        let mut bob = Device::hello(&world, &b, "bob").await;
        tokio::time::sleep(moment * slow / 2).await;
        a.send("alice", &conv, &format!("m{moment}")).await?;
        head += 1;
        bob.shown(head, AT_ONCE).await.map_err(|wrong| format!("at moment {moment}: {wrong}"))?;
        drop(bob);
        world.sim.set_faults(Faults::none());
        rest().await;
    }
    Ok(())
}

/// The bus says nothing: the heartbeat looks at the store.
pub async fn a_heartbeat_finds_what_a_silent_bus_hides() -> Proof {
    let (world, exchange, a, b, conv) = joined().await?;
    let mut bob = Device::hello(&world, &b, "bob").await;
    bob.shown(1, AT_ONCE).await?;
    exchange.silence(true);
    a.send("alice", &conv, "m2").await?;
    bob.shown(2, HEARTBEAT + AT_ONCE).await
}

/// Before and after a restore of old data the same numbers mean different things.
pub async fn notes_of_another_epoch_are_not_heard() -> Proof {
    let exchange = Exchange::default();
    let (here, there) = (hub_of(&exchange, 1, "a"), hub_of(&exchange, 2, "b"));
    let seat = here.register(&user("bob"), &caller("bob").device);
    ensure!(seat.follow(0), "bob's session follows");
    there.push(&user("bob"), &[Live { seq: 1, text: Some("\"op\":\"x\"}".into()), changes_earlier: false }]);
    ensure_eq!(seat.newest(), 0, "what bob's session has heard of");
    Ok(())
}

/// Nobody asks for it by name: the living find a dead node's mark.
pub async fn what_a_dead_node_left_is_finished_by_the_living() -> Proof {
    let (world, _exchange, a, b, conv) = joined().await?;
    a.engine.renew().await.map_err(|error| error.to_string())?;
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m2"));
    rest().await;
    look_for(&b, &mut Sights::default(), 10, WORD / 3).await?;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "alice's message");
    all_delivered(&world, &conv)?;
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(())
}

/// Of what one dead node left bob's part cannot be delivered; what another leaves is finished all the same.
pub async fn a_timeline_that_is_away_keeps_nobody_from_looking() -> Proof {
    let (world, _exchange, a, b, conv) = joined().await?;
    let c = world.node();
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m2"));
    rest().await;
    let bob = b.gate.hold(of("bob"), When::Before);
    let other = direct("carol", "dave");
    let mut sights = Sights::default();
    look_for(&b, &mut sights, 5, WORD / 3).await?;
    bob.reached().await;
    c.gate.die_once_applied(log_of(&other));
    c.start("carol", send(&other, "m1"));
    look_for(&b, &mut sights, 5, WORD / 3).await?;
    all_delivered(&world, &other)?;
    let left: Vec<_> = world.sim.all_marks().into_iter().map(|mark| mark.conversation).collect();
    ensure_eq!(left, std::slice::from_ref(&conv), "marks left");
    bob.release();
    rest().await;
    let finished = b.engine.finish_for_the_dead(&mut sights).await.map_err(|error| error.to_string())?;
    ensure_eq!(finished, 1, "marks finished since");
    all_delivered(&world, &conv)
}

/// Node a stands still for more than a day and is forgotten; then it goes on, and dies behind its next message
/// before it has said anything else.
pub async fn who_was_forgotten_is_known_again_before_his_next_mark() -> Proof {
    let (world, _exchange, a, b, conv) = joined().await?;
    let mut sights = Sights::default();
    look_for(&b, &mut sights, 25 * 60, Duration::from_secs(60)).await?;
    let known = world.sim.nodes().await.map_err(|error| error.to_string())?;
    let known: Vec<_> = known.into_iter().map(|known| known.node).collect();
    ensure_eq!(known, [b.incarnation], "known nodes, node a having been silent for a day");
    a.gate.die_once_applied(log_of(&conv));
    a.start("alice", send(&conv, "m2"));
    rest().await;
    look_for(&b, &mut sights, 10, WORD / 3).await?;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "alice's message");
    all_delivered(&world, &conv)
}

/// What it left is found at once, so it need not be asked for every few seconds for a day.
pub async fn a_dead_node_that_left_nothing_is_seldom_looked_at() -> Proof {
    let (_world, _exchange, a, b, _conv) = joined().await?;
    a.gate.kill();
    let mut sights = Sights::default();
    look_for(&b, &mut sights, 10, WORD / 3).await?;
    let before = b.gate.looks_at_marks();
    ensure!(before > 0, "the dead node's marks were never looked at");
    look_for(&b, &mut sights, 1000, WORD / 3).await?;
    let looks = b.gate.looks_at_marks() - before;
    ensure!((10..100).contains(&looks), "looks at a dead node's marks, of 1,000: {looks}");
    Ok(())
}

/// A node's part of every few seconds, so often.
async fn look_for(node: &Node, sights: &mut Sights, times: u32, every: Duration) -> Proof {
    for _ in 0..times {
        node.engine.renew().await.map_err(|error| error.to_string())?;
        node.engine.finish_for_the_dead(sights).await.map_err(|error| error.to_string())?;
        tokio::time::sleep(every).await;
    }
    Ok(())
}

/// A node cut off from the store may be taken for dead: it must not be sent clients.
pub async fn a_node_that_cannot_say_that_it_lives_is_not_ready() -> Proof {
    let world = World::apart();
    let node = world.node();
    ensure!(!node.engine.is_renewed(), "ready before it said anything");
    node.engine.renew().await.map_err(|error| error.to_string())?;
    ensure!(node.engine.is_renewed(), "not ready though it said that it lives");
    node.gate.sim.cut(true);
    tokio::time::sleep(WORD + Duration::from_secs(1)).await;
    ensure!(node.engine.renew().await.is_err(), "cut off");
    ensure!(!node.engine.is_renewed(), "ready though the others do not know that it lives");
    Ok(())
}

/// Times of entries do not go back (rule 9), so such a node writes times that are not its own.
pub async fn a_node_whose_clock_is_far_behind_is_not_ready() -> Proof {
    let (world, _exchange, a, b, conv) = joined().await?;
    ensure!(!b.engine.is_behind(), "behind at first");
    world.clock.jump(120_000);
    a.send("alice", &conv, "m2").await?;
    world.clock.jump(-120_000);
    rest().await;
    b.log("bob").await?;
    b.send("bob", &conv, "m3").await?;
    ensure!(b.engine.is_behind(), "two minutes behind, and ready");
    Ok(())
}

/// The same device connects to another node.
pub async fn a_devices_newer_connection_ends_the_older_at_another_node() -> Proof {
    let exchange = Exchange::default();
    let (here, there) = (hub_of(&exchange, 1, "a"), hub_of(&exchange, 2, "a"));
    let device = caller("bob").device;
    let older = here.register(&user("bob"), &device);
    older.announce(1000);
    let newer = there.register(&user("bob"), &device);
    newer.announce(9000);
    ensure_eq!(older.take(&mut Vec::new()), Signal::Close(CloseCode::Replaced), "what the older is told");
    ensure!(newer.take(&mut Vec::new()) != Signal::Close(CloseCode::Replaced), "the newer is to stay");
    Ok(())
}

/// A device that is revoked is closed wherever it is.
pub async fn a_close_reaches_sessions_of_every_node() -> Proof {
    let exchange = Exchange::default();
    let (here, there) = (hub_of(&exchange, 1, "a"), hub_of(&exchange, 2, "a"));
    let device = caller("bob").device;
    let seat = there.register(&user("bob"), &device);
    here.close(&user("bob"), Some(&device), CloseCode::Revoked);
    ensure_eq!(seat.take(&mut Vec::new()), Signal::Close(CloseCode::Revoked), "what bob's session is told");
    Ok(())
}
