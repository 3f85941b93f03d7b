//! Rule 9: times and floors never go back, a page is dense or not sent. Rule 12: what was done is
//! remembered under its name. (The new epoch of a restored backup: `tests/cql_commands.rs`; that a node with a
//! slow clock is not ready: `tests/nodes/sessions.rs`.)

use everline::engine::PageRead;
use everline::protocol::{AnswerBody, Event, HistoryMode, Request};

use super::oracle::{all_delivered, events, times};
use super::world::*;
use crate::{ensure, ensure_eq};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// The clock is set back between two messages.
pub async fn an_entrys_time_never_goes_back() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    world.clock.jump(-3_600_000);
    b.send("alice", &conv, "m3").await?;
    let mut last = 0;
    for event in events(&world, &conv)? {
        if let Event::Message(message) = event {
            ensure!(message.sent_at >= last, "sent at {} after {last}", message.sent_at);
            last = message.sent_at;
        }
    }
    Ok(())
}

/// Told once that entries are too old, a device is told so for ever, whatever the clock says later.
pub async fn a_floor_is_stored_before_it_is_told() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("alice", &conv, "m2").await?;
        rest().await;
        world.clock.jump(8 * DAY);
        node.send("alice", &conv, "m3").await?;
        rest().await;
        let told = node.engine.standing(&user("bob")).await.unwrap();
        ensure_eq!((told.head, told.floor), (3, 2), "bob's timeline");
        world.clock.jump(-8 * DAY);
        let next = world.restart(&node).await?;
        let later = next.engine.standing(&user("bob")).await.unwrap();
        ensure_eq!(later, told, "bob's timeline after the clock went back");
        let page = next.engine.page(&user("bob"), 1, 10, 1 << 20).await;
        ensure!(matches!(page, Ok(PageRead::BelowFloor(_))), "below the floor: {page:?}");
    }
    Ok(())
}

/// The newest thousand (here: three) are kept; one below is a reset.
pub async fn a_cursor_below_the_floor_is_a_reset() -> Proof {
    for together in [false, true] {
        let mut world = World::new(together);
        world.policy.sync_max_entries = 3;
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        for n in 2..=8 {
            node.send("alice", &conv, &format!("m{n}")).await?;
        }
        rest().await;
        let page = node.engine.page(&user("bob"), 4, 10, 1 << 20).await;
        ensure!(matches!(page, Ok(PageRead::BelowFloor(_))), "one below the floor: {page:?}");
        let page = node.engine.page(&user("bob"), 5, 10, 1 << 20).await;
        let Ok(PageRead::Page(page)) = page else { return Err(format!("at the floor: {page:?}")) };
        ensure_eq!((page.from, page.to, page.entries.len()), (5, 8, 3), "page at the floor");
        let page = node.engine.page(&user("bob"), 9, 10, 1 << 20).await;
        ensure!(matches!(page, Ok(PageRead::AboveHead(_))), "above the head: {page:?}");
    }
    Ok(())
}

/// An entry is lost by damage: a device may get an error or a reset, never a page around the hole.
pub async fn a_page_with_a_hole_is_never_sent() -> Proof {
    for hole in [1, 2, 3] {
        let world = World::together();
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        for n in 2..=4 {
            node.send("alice", &conv, &format!("m{n}")).await?;
        }
        rest().await;
        world.sim.damage(&of("bob"), hole);
        let mut after = 0;
        while let Ok(PageRead::Page(page)) = node.engine.page(&user("bob"), after, 10, 1 << 20).await {
            ensure!(page.to < hole || page.from >= hole, "a page from {} to {} without {hole}", page.from, page.to);
            if page.to == page.standing.head {
                break;
            }
            after = page.to;
        }
    }
    Ok(())
}

/// A page begins after the cursor.
pub async fn a_page_begins_after_the_cursor() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    rest().await;
    ensure_eq!(a.log("bob").await?, ["conversation 1", "message 2 m2"], "bob's log");
    let page = a.engine.page(&user("bob"), 1, 10, 1 << 20).await;
    let Ok(PageRead::Page(page)) = page else { return Err(format!("{page:?}")) };
    let seqs: Vec<u64> = page.entries.iter().map(|(seq, _)| *seq).collect();
    ensure_eq!((page.from, seqs), (1, vec![2]), "page after 1");
    Ok(())
}

/// Every entry of bob's timeline has expired; his numbers go on where they were.
pub async fn numbers_go_on_when_every_entry_has_expired() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("alice", &conv, "m2").await?;
        rest().await;
        world.clock.jump(9 * DAY);
        world.sim.expire_entries(world.clock.now_ms());
        let next = world.restart(&node).await?;
        expiry_is_no_difference(&world, together).await?;
        next.send("alice", &conv, "m3").await?;
        rest().await;
        expiry_is_no_difference(&world, together).await?;
        let standing = next.engine.standing(&user("bob")).await.unwrap();
        ensure_eq!((standing.head, standing.floor), (3, 2), "bob's timeline");
    }
    Ok(())
}

/// `verify`, before anybody has looked and stored the floor; the store of one process alone lets nothing expire.
async fn expiry_is_no_difference(world: &World, together: bool) -> Proof {
    if together {
        return Ok(());
    }
    let report = everline::audit::verify::verify(&world.sim).await.map_err(|error| error.to_string())?;
    ensure!(report.is_clean(), "{:?}", report.differences);
    Ok(())
}

/// The name follows from (creator, op_id), on whichever node.
pub async fn the_same_creation_makes_one_conversation() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    ensure_eq!(b.create(&["bob", "carol"]).await?, conv, "the same creation, on another node");
    a.ask("alice", Request::Leave { conv_id: conv.clone() }).await?;
    let again = b.ask("alice", create(&["bob", "carol"], HistoryMode::SinceJoin)).await?;
    ensure!(matches!(&again, AnswerBody::Ok { conv_id: Some(id), .. } if *id == conv), "again: {again:?}");
    rest().await;
    all_delivered(&world, &conv)
}

/// carol's message was taken; she is out; her client, which had no answer, sends again.
pub async fn a_repetition_is_recognised_before_anything_else_is_checked() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("carol", &conv, "m2").await?;
        node.ask("carol", recall(&conv, 2)).await?;
        node.ask("alice", remove(&conv, "carol")).await?;
        ensure_eq!(node.send("carol", &conv, "m2").await?, (2, true), "carol's message, sent again");
        let next = world.restart(&node).await?;
        ensure_eq!(next.send("carol", &conv, "m2").await?, (2, true), "the same after a restart");
        ensure_eq!(times(&world, &conv, "m2")?, 1, "carol's message");
    }
    Ok(())
}

/// More sends than a lane remembers: the first is still known, before and after a restart.
pub async fn a_repetition_is_recognised_beyond_what_a_lane_remembers() -> Proof {
    let (world, conv) = (World::together(), direct("alice", "bob"));
    let node = world.node();
    for n in 0..1100 {
        node.send("alice", &conv, &format!("m{n}")).await?;
    }
    ensure_eq!(node.send("alice", &conv, "m0").await?, (1, true), "the first message, sent again");
    let next = world.restart(&node).await?;
    for n in [0, 500, 1099] {
        ensure_eq!(next.send("alice", &conv, &format!("m{n}")).await?, (n + 1, true), "m{n} after a restart");
    }
    Ok(())
}
