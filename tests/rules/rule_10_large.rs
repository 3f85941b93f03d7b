//! Rule 10: a conversation becomes large, with messages in flight and nodes dying, and nothing is lost or
//! doubled; what is unread is counted right; whoever follows its log is told of every entry.

use everline::conversation::entry::Header;
use everline::engine::Followed;
use everline::hub::{Follow, Registration};
use everline::protocol::*;

use super::gate::When;
use super::oracle::{all_delivered, events};
use super::world::*;
use crate::{ensure, ensure_eq};

/// A world in which four members are many.
fn world(together: bool) -> World {
    let mut world = World::new(together);
    world.policy.large_conversation_members = 3;
    world
}

/// Alice, bob, carol, and dave, with whom it is large: `created` 1, `joined` 2, `large` 3.
async fn town(node: &Node) -> Result<ConvId, String> {
    let conv = node.create(&["bob", "carol"]).await?;
    node.ask("alice", invite(&conv, "dave")).await?;
    rest().await;
    Ok(conv)
}

fn mention(conv: &ConvId, id: &str, whom: &str) -> Request {
    match send(conv, id) {
        Request::Send(send) => Request::Send(Send { mentions: vec![user(whom)], ..send }),
        other => other,
    }
}

/// What `verify` finds is nothing.
async fn agrees(world: &World) -> Proof {
    let report = everline::audit::verify::verify(&world.sim).await.map_err(|error| error.to_string())?;
    ensure!(report.difference_count == 0, "verify finds {:?}", report.differences);
    Ok(())
}

/// Unread by definition: messages of others above what was read, in the present stay.
async fn unread_is_right(world: &World, node: &Node, conv: &ConvId, who: &str) -> Proof {
    let line = node.summary(who, conv).await?;
    let counts = |event: &&Event| match event {
        Event::Message(message) => message.sender_id != user(who) && message.conv_seq > line.read_seq,
        _ => false,
    };
    let log = events(world, conv)?;
    let his = log.iter().filter(|event| event.conv_seq() <= Some(line.head_seq));
    // Recalled ones may count until they are read.
    let most = his.clone().filter(counts).count() as u64;
    let gone = his.filter(|event| matches!(event, Event::Recall { .. })).count() as u64;
    ensure!(line.unread <= most && line.unread + gone >= most, "unread of {who} is {}, not {most}", line.unread);
    Ok(())
}

/// Messages, a mention, a recall and a removal in flight around the crossing; the node dies at any write,
/// and what was not answered is asked again.
pub async fn crossing_the_limit_survives_death_at_any_write() -> Proof {
    for (together, when) in [(false, When::Before), (false, When::After), (true, When::Before), (true, When::After)] {
        for write in 1.. {
            ensure!(write < 120, "crossing has no end");
            let world = world(together);
            let node = world.node();
            let conv = node.create(&["bob", "carol"]).await?;
            let requests = || {
                vec![
                    ("bob", send(&conv, "m1")),
                    ("alice", invite(&conv, "dave")),
                    ("bob", send(&conv, "m2")),
                    ("alice", mention(&conv, "m3", "carol")),
                    ("alice", invite(&conv, "erin")),
                    ("carol", send(&conv, "m4")),
                    ("bob", recall(&conv, 2)),
                    ("bob", mention(&conv, "m5", "carol")),
                    ("alice", remove(&conv, "bob")),
                    ("alice", send(&conv, "m6")),
                ]
            };
            node.gate.kill_at(write, when);
            for (who, request) in requests() {
                node.start(who, request);
            }
            rest().await;
            let died = node.gate.is_dead();
            let next = if died { world.restart(&node).await? } else { node };
            for (who, request) in requests() {
                // Bob may have been removed already.
                let _ = next.engine.submit(&caller(who), request).await;
            }
            rest().await;
            let what = format!("together {together}, died {when:?} write {write}");
            all_delivered(&world, &conv).map_err(|broken| format!("{what}: {broken}"))?;
            agrees(&world).await.map_err(|broken| format!("{what}: {broken}"))?;
            ensure_eq!(world.sim.all_marks().len(), 0, "{what}: marks left");
            for who in ["alice", "carol", "dave", "erin"] {
                unread_is_right(&world, &next, &conv, who).await.map_err(|broken| format!("{what}: {broken}"))?;
            }
            if !died {
                break;
            }
        }
    }
    Ok(())
}

/// However many members there are, a message is written once: no timeline but the log's moves.
pub async fn a_message_is_written_into_nobodys_own_timeline() -> Proof {
    for together in [false, true] {
        let world = world(together);
        let node = world.node();
        let conv = town(&node).await?;
        let heads = |world: &World| {
            let heads = ["alice", "bob", "carol", "dave"].map(|who| world.sim.dump(&of(who)).head.position.seq);
            (heads, world.sim.all_marks().len())
        };
        let before = heads(&world);
        for n in 0..20 {
            node.send("alice", &conv, &format!("m{n}")).await?;
        }
        rest().await;
        ensure_eq!(heads(&world), before, "heads of the members' timelines");
        node.ask("bob", mention(&conv, "m20", "dave")).await?;
        rest().await;
        ensure_eq!(node.log("dave").await?.pop(), Some("mention".to_owned()), "dave's last entry");
        ensure_eq!(node.log("carol").await?.pop(), Some("conversation 3".to_owned()), "carol's last entry");
        all_delivered(&world, &conv)?;
        agrees(&world).await?;
    }
    Ok(())
}

/// What is unread is worked out from few numbers, and is what counting would give.
pub async fn what_is_unread_is_counted_without_counting() -> Proof {
    for together in [false, true] {
        let world = world(together);
        let first = world.node();
        let conv = first.create(&["bob", "carol"]).await?;
        first.send("alice", &conv, "m2").await?;
        first.send("bob", &conv, "m3").await?;
        first.ask("alice", invite(&conv, "dave")).await?; // 4, large is 5
        for (who, id) in [("alice", "m6"), ("bob", "m7"), ("bob", "m8"), ("carol", "m9"), ("bob", "m10")] {
            first.send(who, &conv, id).await?;
        }
        rest().await;
        // Nothing of it is in this one's memory.
        let node = world.node();
        let unread = async |who: &str| node.summary(who, &conv).await.map(|line| (line.read_seq, line.unread));
        ensure_eq!(unread("alice").await?, (1, 5), "alice has written two of seven");
        ensure_eq!(unread("bob").await?, (1, 3), "bob has written four of seven");
        ensure_eq!(unread("dave").await?, (4, 5), "dave joined before five");
        node.ask("bob", read(&conv, 2)).await?;
        ensure_eq!(unread("bob").await?, (2, 2), "bob has read one from before it was large");
        node.ask("bob", read(&conv, 8)).await?;
        ensure_eq!(unread("bob").await?, (8, 1), "of 9 and 10 one is bob's");
        node.ask("dave", delete(&conv, 7)).await?;
        ensure_eq!(unread("dave").await?, (4, 4), "dave has deleted one");
        node.ask("dave", read(&conv, 6)).await?;
        ensure_eq!(unread("dave").await?, (6, 3), "dave has read one");
        node.send("dave", &conv, "m11").await?;
        node.ask("alice", Request::Clear { conv_id: conv.clone(), up_to: 9 }).await?;
        ensure_eq!(unread("alice").await?, (1, 2), "after clearing 9 there are two for alice");
        ensure_eq!(unread("dave").await?, (6, 3), "one's own message is not unread");
        // Who leaves keeps what was so at that moment; who comes back has read everything before.
        node.ask("alice", remove(&conv, "dave")).await?; // 12
        node.send("alice", &conv, "m13").await?;
        ensure_eq!(unread("dave").await?, (6, 3), "after leaving");
        let line = node.summary("dave", &conv).await?;
        ensure_eq!((line.head_seq, line.left_seq), (12, Some(12)), "what the leaver is told");
        node.ask("alice", invite(&conv, "dave")).await?; // 14
        node.send("alice", &conv, "m15").await?;
        ensure_eq!(unread("dave").await?, (14, 1), "after coming back");
        rest().await;
        agrees(&world).await?;
    }
    Ok(())
}

/// The list's order follows the newest message, though no row of a member's moves with it.
pub async fn the_list_knows_what_moved_last() -> Proof {
    let world = world(true);
    let node = world.node();
    let conv = town(&node).await?;
    world.clock.jump(1000);
    node.send("alice", &direct("alice", "bob"), "m1").await?;
    world.clock.jump(1000);
    node.send("carol", &conv, "m4").await?;
    let order = async || {
        let list = node.conversations("bob").await?;
        Ok::<_, String>(list.iter().map(|line| line.conv_id.clone()).collect::<Vec<_>>())
    };
    ensure_eq!(order().await?, [conv.clone(), direct("alice", "bob")], "after the large one has moved");
    world.clock.jump(1000);
    node.send("alice", &direct("alice", "bob"), "m2").await?;
    ensure_eq!(order().await?, [direct("alice", "bob"), conv], "after the other one has moved");
    Ok(())
}

/// A session of this user's follows the one large conversation he is in.
async fn follow(node: &Node, who: &str) -> Result<(Registration, Followed), String> {
    let seat = node.hub.register(&user(who), &caller(who).device);
    let found = node.engine.look_at_large(&seat.follower(), &user(who), &[]).await;
    let mut found = found.map_err(|refusal| format!("{:?}", refusal.code))?;
    ensure_eq!(found.len(), 1, "conversations {who} follows");
    Ok((seat, found.remove(0)))
}

/// Collects what a follower is told.
fn told(follow: &Follow, at: &mut u64) -> Vec<u64> {
    let Some(lacks) = follow.lacks(*at) else { return Vec::new() };
    let told = (*at + 1..=lacks.head).collect();
    *at = lacks.head;
    told
}

/// A session on a node that hears nothing of the other one: it is told within a look.
pub async fn a_follower_is_told_even_by_a_silent_bus() -> Proof {
    let world = world(false);
    let (a, b) = (world.node(), world.node());
    let conv = town(&a).await?;
    let (_seat, found) = follow(&b, "bob").await?;
    let (follow, mut at) = (&found.follow, found.head);
    ensure_eq!((found.from, at), (3, 3), "where bob begins");
    for n in 4..=9 {
        a.send("alice", &conv, &format!("m{n}")).await?;
    }
    b.engine.look_at_followed().await;
    rest().await;
    ensure_eq!(told(follow, &mut at), (4..=9).collect::<Vec<_>>(), "what bob is told");
    a.ask("alice", remove(&conv, "bob")).await?; // 10
    a.send("alice", &conv, "m11").await?;
    b.engine.look_at_followed().await;
    rest().await;
    ensure_eq!(told(follow, &mut at), [10], "what bob is told of the end of his stay and after it");
    ensure!(follow.lacks(at).is_some_and(|lacks| lacks.ended), "bob follows no longer");
    Ok(())
}

/// The newest texts are kept for followers who come later; a recalled one is not.
pub async fn a_recalled_text_is_told_to_no_follower() -> Proof {
    let world = world(true);
    let node = world.node();
    let conv = town(&node).await?;
    let (_seat, Followed { follow, .. }) = follow(&node, "bob").await?;
    for id in ["m4", "m5"] {
        node.send("alice", &conv, id).await?;
    }
    let told = |follow: &Follow| follow.lacks(3).and_then(|lacks| lacks.entries).unwrap_or_default();
    ensure_eq!(told(&follow).len(), 2, "texts bob is told");
    node.ask("alice", recall(&conv, 4)).await?;
    rest().await;
    let bodies = told(&follow).iter().filter(|text| text.contains("\"body\"")).count();
    ensure_eq!(bodies, 0, "texts from before the recall");
    Ok(())
}

/// The owner leaves: of the many the longest-standing is found, though none of them is in memory.
pub async fn an_heir_is_found_among_many() -> Proof {
    for together in [false, true] {
        let world = world(together);
        let first = world.node();
        let conv = town(&first).await?;
        let admin = Request::Role { conv_id: conv.clone(), user_id: user("dave"), role: Role::Admin };
        first.ask("alice", admin).await?;
        let node = world.node();
        node.ask("alice", Request::Leave { conv_id: conv.clone() }).await?;
        node.ask("dave", remove(&conv, "carol")).await?;
        node.ask("dave", Request::Leave { conv_id: conv.clone() }).await?;
        rest().await;
        ensure_eq!(node.log("bob").await?.pop(), Some("member 9".to_owned()), "bob is owner now");
        all_delivered(&world, &conv)?;
        agrees(&world).await?;
    }
    Ok(())
}

/// A recalled message keeps what its entry carries for all that is counted.
pub async fn a_recall_keeps_what_is_counted_by() -> Proof {
    let world = world(false);
    let node = world.node();
    let conv = town(&node).await?;
    node.send("alice", &conv, "m4").await?;
    node.ask("alice", mention(&conv, "m5", "bob")).await?;
    let header = |seq: usize| {
        let dump = world.sim.dump(&log_of(&conv));
        Header::load(&dump.entries[seq - 1].data).map(|(header, _)| header)
    };
    let before = header(5);
    node.ask("alice", recall(&conv, 5)).await?;
    rest().await;
    ensure_eq!(header(5), before, "the header of the recalled message");
    agrees(&world).await
}
