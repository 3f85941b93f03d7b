//! Rule 5: once a request is answered, every device of its user sees the effect. Rule 6: a request that
//! was taken is decided, in its place, whether somebody still waits for the answer or not.

use std::time::Duration;

use everline::protocol::{AnswerBody, DeviceId, Request};
use everline::store::sim::{Faults, Moment};

use super::gate::When;
use super::oracle::{all_delivered, events, times};
use super::world::*;
use crate::{ensure, ensure_eq};

/// alice's own timeline is slow.
pub async fn an_answer_waits_for_the_callers_own_timeline() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    let own = a.gate.hold(of("alice"), When::Before);
    let asked = a.start("alice", send(&conv, "m2"));
    own.reached().await;
    rest().await;
    ensure_eq!(times(&world, &conv, "m2")?, 1, "the message is in the log");
    ensure!(!asked.is_finished(), "answered before alice's other devices can see it");
    own.release();
    answer(asked).await?;
    ensure_eq!(a.log("alice").await?.len(), 2, "alice's log");
    Ok(())
}

/// alice's lane is busy with something else when her message is committed.
pub async fn an_answer_waits_for_the_callers_busy_lane() -> Proof {
    let world = World::together();
    let node = world.node();
    let conv = node.create(&["bob", "carol"]).await?;
    let latency = Duration::from_millis(10)..Duration::from_millis(10);
    world.sim.set_faults(Faults { latency, ..Faults::none() });
    node.start("alice", read(&conv, 1));
    let settings =
        everline::protocol::Request::Settings { conv_id: conv.clone(), muted: Some(true), pinned: None, hidden: None };
    node.start("alice", settings);
    tokio::task::yield_now().await;
    let asked = node.start("alice", send(&conv, "m2"));
    answer(asked).await?;
    world.sim.set_faults(Faults::none());
    ensure!(node.log("alice").await?.contains(&"message 2 m2".to_owned()), "alice does not see her own message");
    Ok(())
}

/// Asked again while the first asking's effect is still on its way to alice's own timeline.
pub async fn a_repeated_request_is_answered_after_its_effect() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    let own = a.gate.hold(of("alice"), When::Before);
    a.start("alice", send(&conv, "m2"));
    own.reached().await;
    let again = a.start("alice", send(&conv, "m2"));
    rest().await;
    ensure!(!again.is_finished(), "answered before alice's other devices can see it");
    own.release();
    ensure_eq!(sent(answer(again).await?)?, (2, true), "the repeated message");
    ensure_eq!(a.log("alice").await?.len(), 2, "alice's log");
    Ok(())
}

/// The store answers none; what is acked must be there after a crash, and nobody is told before.
pub async fn nothing_is_acked_before_it_is_durable() -> Proof {
    let world = World::together();
    let node = world.node();
    let conv = node.create(&["bob", "carol"]).await?;
    let seat = node.hub.register(&user("bob"), &caller("bob").device);
    let held = node.gate.sim.hold_next_commit(Moment::Before);
    let asked = node.start("alice", send(&conv, "m2"));
    held.reached().await;
    rest().await;
    let acked = asked.is_finished();
    ensure_eq!(seat.newest(), 0, "bob is told of what is not durable");
    world.restart(&node).await?;
    ensure_eq!(times(&world, &conv, "m2")?, 0, "what was never durable");
    ensure!(!acked, "acked and lost");
    all_delivered(&world, &conv)
}

/// alice's first message is abandoned by its caller; it still comes before her second.
pub async fn an_abandoned_request_keeps_its_place() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    let held = a.gate.hold(log_of(&conv), When::Before);
    a.start("bob", send(&conv, "m2"));
    held.reached().await;
    let abandoned = a.start("alice", send(&conv, "m3"));
    let kept = a.start("alice", send(&conv, "m4"));
    tokio::task::yield_now().await;
    abandoned.abort();
    let _ = abandoned.await;
    held.release();
    ensure_eq!(sent(answer(kept).await?)?, (4, false), "alice's second message");
    ensure_eq!(a.send("alice", &conv, "m3").await?, (3, true), "alice's first message, sent again");
    ensure_eq!(events(&world, &conv)?.len(), 4, "entries");
    rest().await;
    all_delivered(&world, &conv)
}

/// A hello, a goodbye and a logout that wait together are decided one after the other.
pub async fn requests_decided_together_see_each_other() -> Proof {
    let (mut world, conv) = (World::apart(), direct("alice", "bob"));
    world.policy.max_devices = 2;
    let node = world.node();
    node.send("alice", &conv, "m1").await?;
    rest().await;
    let device = |name: &str| everline::engine::Caller { user: user("bob"), device: DeviceId::parse(name).unwrap() };
    let hello = |name: &str| {
        let (engine, caller) = (node.engine.clone(), device(name));
        tokio::spawn(async move { engine.hello(&caller, None).await })
    };
    hello("old").await.unwrap().unwrap();
    let busy = node.gate.hold(of("bob"), When::Before);
    node.start("bob", Request::Clear { conv_id: conv.clone(), up_to: 1 });
    busy.reached().await;
    node.engine.goodbye(&device("old"), 7);
    let logout = |name: &str| Request::Logout { device_id: DeviceId::parse(name).unwrap() };
    let tablet = hello("tablet");
    tokio::task::yield_now().await;
    let out = node.start("bob", logout("tablet"));
    let third = hello("third");
    tokio::task::yield_now().await;
    busy.release();
    tablet.await.unwrap().map_err(|refusal| format!("tablet: {:?}", refusal.code))?;
    answer(out).await?;
    third.await.unwrap().map_err(|refusal| format!("third: {:?}", refusal.code))?;
    let AnswerBody::Devices { devices } = node.ask("bob", Request::Devices).await? else {
        return Err("devices".into());
    };
    let known: Vec<_> = devices.iter().map(|device| (device.device_id.as_str(), device.acked_seq)).collect();
    ensure_eq!(known, [("old", 7), ("third", 0)], "bob's devices");
    Ok(())
}

/// The caller is told `unavailable`; the request is decided all the same, and once.
pub async fn what_was_answered_unavailable_is_found_by_the_resend() -> Proof {
    let (world, a, _b, conv) = World::two_nodes().await?;
    let held = a.gate.hold(log_of(&conv), When::Before);
    let code = a.refused("alice", send(&conv, "m2")).await?;
    ensure_eq!(code, everline::protocol::ErrorCode::Unavailable, "a store that does not answer");
    held.release();
    ensure_eq!(a.send("alice", &conv, "m2").await?, (2, true), "the message sent again");
    rest().await;
    all_delivered(&world, &conv)
}
