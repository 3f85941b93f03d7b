//! Rule 7: receipts, recalls, membership and notifications reach whom they concern as surely as messages do.
//! Rule 8: `unread` is a fold over what was delivered.

use everline::engine::{Caller, Notified, Recipients};
use everline::protocol::{AnswerBody, ConvId, DeviceId, ErrorCode, Event, MsgId};

use super::gate::When;
use super::oracle::all_delivered;
use super::world::*;
use crate::{ensure, ensure_eq};

/// bob reads; his node dies at any write of it; he reads again elsewhere.
pub async fn a_receipt_survives_death_at_any_write() -> Proof {
    for when in [When::Before, When::After] {
        for write in 1.. {
            ensure!(write < 10, "reading has no end");
            let (world, conv) = (World::apart(), direct("alice", "bob"));
            let (a, b) = (world.node(), world.node());
            b.send("alice", &conv, "m1").await?;
            rest().await;
            a.gate.kill_at(write, when);
            a.start("bob", read(&conv, 1));
            rest().await;
            // A node that has nothing of bob's in memory.
            world.node().ask("bob", read(&conv, 1)).await?;
            rest().await;
            let log = b.log("alice").await?;
            let receipts = log.iter().filter(|entry| entry.starts_with("receipt")).count();
            ensure_eq!(receipts, 1, "receipts with alice, died {when:?} write {write}");
            if !a.gate.is_dead() {
                break;
            }
        }
    }
    Ok(())
}

/// alice and bob are told something; the node dies at any write; the same is ordered again.
pub async fn a_notification_survives_death_at_any_write() -> Proof {
    for (together, when) in [(false, When::Before), (false, When::After), (true, When::Before), (true, When::After)] {
        for write in 1.. {
            ensure!(write < 30, "notifying has no end");
            let world = World::new(together);
            let first = world.node();
            first.send("bob", &direct("alice", "bob"), "m1").await?;
            rest().await;
            let node = world.restart(&first).await?;
            node.gate.kill_at(write, when);
            let engine = node.engine.clone();
            let started = tokio::spawn(async move { engine_notify(&engine, "k1", "hi").await });
            rest().await;
            let (died, acked) = (node.gate.is_dead(), started.is_finished() && started.await.unwrap().is_ok());
            let next = world.restart(&node).await?;
            rest().await;
            let told = |log: Vec<String>| log.iter().filter(|entry| *entry == "notification").count();
            for who in ["alice", "bob"] {
                let found = told(next.log(who).await?);
                ensure!(found == 1 || (found == 0 && !acked), "{who} has {found} notifications, acked: {acked}");
            }
            notify(&next, "k1", "hi").await?;
            rest().await;
            for who in ["alice", "bob"] {
                ensure_eq!(told(next.log(who).await?), 1, "{who}'s notifications, died {when:?} write {write}");
            }
            ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
            if !died {
                break;
            }
        }
    }
    Ok(())
}

/// One key, one notification; and it leaves no trace but in the one order of what its users learn.
pub async fn a_notification_is_made_once_and_stands_in_the_one_order() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let (node, conv) = (world.node(), direct("alice", "bob"));
        node.send("bob", &conv, "m1").await?;
        ensure_eq!(notify(&node, "k1", "hi").await?, Notified { made: 2, duplicates: 0 }, "the first call");
        node.send("bob", &conv, "m2").await?;
        ensure_eq!(notify(&node, "k1", "hi").await?, Notified { made: 0, duplicates: 2 }, "the same again");
        let other = engine_notify(&node.engine, "k1", "ho").await;
        ensure_eq!(other.map_err(|refusal| refusal.code), Err(ErrorCode::IdempotencyConflict), "another content");
        rest().await;
        ensure_eq!(node.log("alice").await?, ["message 1 m1", "notification", "message 2 m2"], "alice's log");
        let last = node.events("bob").await?.remove(1);
        let plain = matches!(last, Event::Notification { conv_id: None, conv_seq: None, .. });
        ensure!(plain, "bob is told {last:?}");
        let lines = node.conversations("alice").await?;
        ensure_eq!(lines.iter().map(|line| &line.conv_id).collect::<Vec<_>>(), [&conv], "alice's list");
        for request in [history, |conv: &_| send(conv, "x"), |conv: &_| read(conv, 1), |conv: &_| invite(conv, "eve")] {
            let notices = everline::protocol::ConvId::notices(&user("alice"));
            let code = node.refused("alice", request(&notices)).await?;
            ensure_eq!(code, ErrorCode::NotFound, "what a client asks of it");
        }
        let report = everline::audit::verify::verify(&world.sim).await.map_err(|error| error.to_string())?;
        ensure!(report.is_clean(), "{:?}", report.differences);
    }
    Ok(())
}

async fn engine_notify(
    engine: &everline::engine::Engine,
    key: &str,
    text: &str,
) -> Result<Notified, everline::engine::Refusal> {
    let (topic, key) = (MsgId::parse("billing").unwrap(), MsgId::parse(key).unwrap());
    let users = Recipients::Users(vec![user("alice"), user("bob")]);
    engine.notify(users, topic, body(text), key).await
}

async fn notify(node: &Node, key: &str, text: &str) -> Result<Notified, String> {
    engine_notify(&node.engine, key, text).await.map_err(|refusal| format!("notify: {:?}", refusal.code))
}

/// alice comes after the first two, and with another device after the third.
pub async fn who_comes_later_reads_what_everybody_is_told_from_then_on() -> Proof {
    for together in [false, true] {
        let (world, all) = (World::new(together), ConvId::everybody());
        let node = world.node();
        for key in ["k1", "k2", "k2"] {
            tell_everybody(&node, key).await?;
        }
        ensure_eq!(node.refused("alice", history(&all)).await?, ErrorCode::NotFound, "who never came");
        for (device, key) in [("phone", "k3"), ("tablet", "k4")] {
            let caller = Caller { user: user("alice"), device: DeviceId::parse(device).unwrap() };
            node.engine.hello(&caller, None).await.map_err(|refusal| format!("hello: {:?}", refusal.code))?;
            tell_everybody(&node, key).await?;
        }
        let AnswerBody::History { entries, .. } = node.ask("alice", history(&all)).await? else {
            return Err("history is answered by something else".into());
        };
        let read: Vec<_> = entries.iter().filter_map(|entry| entry.event.conv_seq()).collect();
        ensure_eq!(read, [2, 3, 4], "what alice reads");
    }
    Ok(())
}

async fn tell_everybody(node: &Node, key: &str) -> Proof {
    let (topic, key) = (MsgId::parse("news").unwrap(), MsgId::parse(key).unwrap());
    let told = node.engine.notify(Recipients::Everybody, topic, body("hi"), key).await;
    told.map(drop).map_err(|refusal| format!("notify: {:?}", refusal.code))
}

/// Nobody but alice is connected.
pub async fn a_recall_reaches_who_is_off_line() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("alice", &conv, "m2").await?;
        let _seat = node.hub.register(&user("alice"), &caller("alice").device);
        node.ask("alice", recall(&conv, 2)).await?;
        rest().await;
        all_delivered(&world, &conv)?;
        ensure!(node.log("bob").await?.contains(&"recall 3".to_owned()), "bob learns of the recall");
    }
    Ok(())
}

/// bob deletes what he saw in the history before it was delivered to him.
pub async fn a_delete_is_not_overtaken_by_its_message() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    let slow = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "m2").await?;
    slow.reached().await;
    b.ask("bob", delete(&conv, 2)).await?;
    slow.release();
    rest().await;
    all_delivered(&world, &conv)?;
    ensure!(!b.log("bob").await?.iter().any(|entry| entry.starts_with("message")), "bob is shown what he deleted");
    let shown = b.ask("bob", history(&conv)).await?;
    ensure!(!format!("{shown:?}").contains("m2"), "bob's history shows what he deleted");
    ensure!(b.log("carol").await?.contains(&"message 2 m2".to_owned()), "carol keeps it");
    Ok(())
}

/// A recall of what bob has read, deleted or written takes nothing from what he has not read.
pub async fn a_recall_subtracts_only_what_counts() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        for n in 2..=6 {
            node.send(if n == 4 { "bob" } else { "alice" }, &conv, &format!("m{n}")).await?;
        }
        node.ask("bob", read(&conv, 2)).await?;
        node.ask("bob", delete(&conv, 3)).await?;
        ensure_eq!(node.summary("bob", &conv).await?.unread, 2, "bob's unread");
        for (target, unread) in [(2, 2), (3, 2), (4, 2), (5, 1)] {
            node.ask("alice", recall(&conv, target)).await?;
            rest().await;
            ensure_eq!(node.summary("bob", &conv).await?.unread, unread, "bob's unread after recall of {target}");
            all_delivered(&world, &conv)?;
        }
    }
    Ok(())
}

/// bob deletes a message whose recall is in the log, but not yet with him.
pub async fn a_recount_knows_only_what_was_delivered() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    a.send("alice", &conv, "m3").await?;
    rest().await;
    let slow = a.gate.hold(of("bob"), When::Before);
    a.ask("alice", recall(&conv, 3)).await?;
    slow.reached().await;
    b.ask("bob", delete(&conv, 3)).await?;
    slow.release();
    rest().await;
    all_delivered(&world, &conv)
}

/// Whoever joins has read what was there before.
pub async fn a_joiner_has_read_what_was_before() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    a.ask("alice", invite(&conv, "dave")).await?;
    rest().await;
    ensure_eq!(b.summary("dave", &conv).await?.read_seq, 3, "dave's read_seq");
    a.send("alice", &conv, "m4").await?;
    rest().await;
    ensure_eq!(b.summary("dave", &conv).await?.unread, 1, "dave's unread");
    all_delivered(&world, &conv)
}

/// `read` tells the unread of its moment, on every device.
pub async fn a_reading_tells_what_is_left() -> Proof {
    let (_world, a, b, conv) = World::two_nodes().await?;
    for n in 2..=4 {
        a.send("alice", &conv, &format!("m{n}")).await?;
    }
    rest().await;
    b.ask("bob", read(&conv, 3)).await?;
    let last = b.events("bob").await?.pop();
    ensure!(matches!(last, Some(Event::Read { read_seq: 3, unread: 1, .. })), "bob's reading: {last:?}");
    Ok(())
}
