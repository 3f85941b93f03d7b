//! Rule 4: whatever is answered is judged by the log as it stands, not by what a node happened to know,
//! and no reader is shown more than is his.

use std::time::Duration;

use everline::hub::Signal;
use everline::protocol::*;

use super::gate::When;
use super::oracle::{all_delivered, erased};
use super::world::*;
use crate::{ensure, ensure_eq};

/// Node A has the conversation in memory when dave is invited through node B.
pub async fn who_was_invited_elsewhere_may_send_here() -> Proof {
    let (world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    b.ask("alice", invite(&conv, "dave")).await?;
    ensure_eq!(a.send("dave", &conv, "m4").await?, (4, false), "dave's message");
    rest().await;
    all_delivered(&world, &conv)
}

/// Node A remembers a reaction that was taken away through node B.
pub async fn what_changes_nothing_is_judged_by_the_log() -> Proof {
    let (_world, a, b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    let react = |add| Request::React { conv_id: conv.clone(), target: 2, key: "+".into(), add };
    a.ask("bob", react(true)).await?;
    b.ask("bob", react(false)).await?;
    a.ask("bob", react(true)).await?;
    let AnswerBody::History { entries, .. } = b.ask("carol", history(&conv)).await? else {
        return Err("history".into());
    };
    ensure_eq!(entries[0].reactions.iter().map(|r| r.count).sum::<u64>(), 1, "reactions shown");

    let muted = |muted| {
        let conv_id = conv.clone();
        Request::Settings { conv_id, muted: Some(muted), pinned: None, hidden: None }
    };
    a.ask("bob", muted(true)).await?;
    b.ask("bob", muted(false)).await?;
    ensure!(!a.summary("bob", &conv).await?.settings.muted, "bob has taken the mute away");
    a.ask("bob", muted(true)).await?;
    ensure!(b.summary("bob", &conv).await?.settings.muted, "bob muted the conversation last");
    Ok(())
}

/// carol leaves; messages, edits, reactions and members that follow are none of her business.
pub async fn a_leaver_learns_nothing_of_what_follows() -> Proof {
    for (mode, together) in [(HistoryMode::SinceJoin, false), (HistoryMode::Full, true)] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create_with(&["bob", "carol"], mode).await?;
        node.send("alice", &conv, "m2").await?;
        node.ask("carol", Request::Leave { conv_id: conv.clone() }).await?;
        node.send("alice", &conv, "m4").await?;
        node.ask("alice", edit(&conv, 2, "other")).await?;
        let react = Request::React { conv_id: conv.clone(), target: 2, key: "+".into(), add: true };
        node.ask("bob", react).await?;
        rest().await;
        match node.ask("carol", history(&conv)).await? {
            AnswerBody::History { entries, head_seq: 3, .. } if entries.len() == 1 => {
                ensure!(entries[0].reactions.is_empty(), "a reaction after the leave is shown");
                let Event::Message(message) = &entries[0].event else { return Err("no message".into()) };
                ensure_eq!(message.body, Some(body("m2")), "the message as carol knew it");
            }
            other => return Err(format!("carol's history: {other:?}")),
        }
        match node.ask("carol", Request::Changes { conv_id: conv.clone(), since: 0 }).await? {
            AnswerBody::Changes { edited, reacted, up_to: 3, .. } if edited.is_empty() && reacted.is_empty() => {}
            other => return Err(format!("carol's changes: {other:?}")),
        }
        let line = node.summary("carol", &conv).await?;
        ensure_eq!((line.head_seq, line.left_seq), (3, Some(3)), "carol's line of the list");
        node.refused("carol", Request::Members { conv_id: conv.clone(), page: None, limit: 10 }).await?;
    }
    Ok(())
}

/// Whoever never was a member is told what he is told of a conversation that does not exist.
pub async fn a_stranger_learns_nothing() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    a.send("alice", &conv, "m2").await?;
    let nowhere = ConvId::parse("g:nowhere").unwrap();
    for ask in
        [history, |conv: &ConvId| send(conv, "x"), |conv: &ConvId| read(conv, 1), |conv: &ConvId| recall(conv, 2)]
    {
        ensure_eq!(a.refused("mallory", ask(&conv)).await?, ErrorCode::NotFound, "a conversation not his");
        ensure_eq!(a.refused("mallory", ask(&nowhere)).await?, ErrorCode::NotFound, "no conversation");
    }
    Ok(())
}

/// The body is gone from the store with the recall, those of its edits too, and none is served.
pub async fn a_recalled_body_is_erased_and_no_edit_of_it_is_served() -> Proof {
    for together in [false, true] {
        let world = World::new(together);
        let node = world.node();
        let conv = node.create(&["bob", "carol"]).await?;
        node.send("alice", &conv, "secret-one").await?;
        node.ask("alice", edit(&conv, 2, "secret-two")).await?;
        rest().await;
        node.ask("alice", recall(&conv, 2)).await?;
        rest().await;
        for who in ["alice", "bob", "carol"] {
            ensure_eq!(node.log(who).await?, ["conversation 1", "message 2 gone", "recall 4"], "{who}'s log");
            let history = node.ask(who, history(&conv)).await?;
            ensure!(!format!("{history:?}").contains("secret-t"), "{who}'s history: {history:?}");
            let changes = node.ask(who, Request::Changes { conv_id: conv.clone(), since: 0 }).await?;
            ensure!(!format!("{changes:?}").contains("secret-t"), "{who}'s changes: {changes:?}");
        }
        erased(&world, &conv, "\"text\":\"secret-one\"")?;
        erased(&world, &conv, "\"text\":\"secret-two\"")?;
    }
    Ok(())
}

/// A message waits for bob's timeline and is recalled meanwhile. When it comes to him at last, his sessions read
/// it from the log; what was to be pushed still has its body.
pub async fn a_body_that_waited_is_not_pushed_after_its_recall() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    let slow = a.gate.hold(of("bob"), When::Before);
    a.send("alice", &conv, "secret").await?;
    slow.reached().await;
    a.ask("alice", recall(&conv, 2)).await?;
    let seat = a.hub.register(&user("bob"), &caller("bob").device);
    ensure!(seat.follow(1), "bob's session follows");
    tokio::time::sleep(Duration::from_secs(2)).await;
    slow.release();
    rest().await;
    let mut pushed = Vec::new();
    ensure_eq!(seat.take(&mut pushed), Signal::Behind, "what bob's session is told");
    ensure!(pushed.is_empty(), "pushed: {pushed:?}");
    ensure_eq!(a.log("bob").await?, ["conversation 1", "message 2 gone", "recall 3"], "bob's log");
    Ok(())
}
