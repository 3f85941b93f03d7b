//! Killed at any point: the same story again and again, the process dying at its first write, at its
//! second, and so on, before the write or after it. Whatever was acked is with everybody once.

use std::time::Duration;

use everline::protocol::{ConvId, Request};
use everline::store::sim::{Faults, Sim};

use super::gate::When;
use super::oracle::{all_delivered, events, times};
use super::world::*;
use crate::{ensure, ensure_eq};

/// More writes than any story here has.
const MOST: usize = 200;

/// Who asks what. Later ones do not wait for earlier ones, so lanes are busy.
type Story = fn(group: &ConvId, pair: &ConvId) -> Vec<(&'static str, Request)>;

/// A message in a group while bob and carol are busy with another conversation.
pub async fn an_acked_message_survives_death_at_any_write() -> Proof {
    matrix(|group, pair| {
        vec![
            ("bob", send(pair, "p1")),
            ("alice", send(group, "g2")),
            ("bob", send(pair, "p2")),
            ("carol", send(group, "g3")),
        ]
    })
    .await
}

/// Members come and go and messages change while everything is under way.
pub async fn changes_and_membership_survive_death_at_any_write() -> Proof {
    matrix(|group, pair| {
        vec![
            ("alice", send(group, "g2")),
            ("bob", send(pair, "p1")),
            ("alice", remove(group, "carol")),
            ("alice", recall(group, 2)),
            ("bob", send(group, "g5")),
            ("alice", invite(group, "carol")),
            ("alice", edit(group, 2, "too late")),
            ("carol", send(group, "g7")),
        ]
    })
    .await
}

async fn matrix(story: Story) -> Proof {
    for together in [false, true] {
        for when in [When::Before, When::After] {
            for lose in [true, false] {
                let mut write = 1;
                while die_at(together, write, when, lose, story).await.map_err(|broken| {
                    format!("together={together}, died {when:?} write {write}, lose_unsynced={lose}: {broken}")
                })? {
                    write += 1;
                    ensure!(write < MOST, "the story has no end");
                }
                ensure!(write > 4, "the story has only {write} writes");
            }
        }
    }
    Ok(())
}

/// Plays the story, dying at this write. False: it has fewer writes.
async fn die_at(together: bool, write: usize, when: When, lose: bool, story: Story) -> Result<bool, String> {
    let world = World::new(together);
    let first = world.node();
    let (group, pair) = (first.create(&["bob", "carol"]).await?, direct("bob", "carol"));
    rest().await;
    slow(&world.sim, lose);
    let node = world.restart(&first).await?;
    node.gate.kill_at(write, when);
    let asked: Vec<_> = story(&group, &pair)
        .into_iter()
        .map(|(who, request)| (who, request.clone(), node.start(who, request)))
        .collect();
    rest().await;
    let died = node.gate.is_dead();
    let next = world.restart(&node).await?;
    rest().await;
    for (who, request, answer) in asked {
        let acked = answer.is_finished() && answer.await.unwrap().is_ok();
        check(&world, &next, who, request, acked).await?;
    }
    rest().await;
    for conv in [&group, &pair] {
        all_delivered(&world, conv)?;
    }
    ensure_eq!(world.sim.all_marks().len(), 0, "marks left");
    Ok(died)
}

/// What was acked is there; what was not is there once after a resend.
async fn check(world: &World, next: &Node, who: &str, request: Request, acked: bool) -> Proof {
    let Request::Send(send) = &request else { return Ok(()) };
    let everline::protocol::SendTo::Conv(conv) = &send.to else { return Ok(()) };
    let (conv, id) = (conv.clone(), send.client_msg_id.clone());
    if !events(world, &conv)?.is_empty() {
        all_delivered(world, &conv)?;
    }
    let before = times(world, &conv, &id)?;
    ensure!(before == 1 || (before == 0 && !acked), "{id} stands {before} times after the restart, acked: {acked}");
    let resent = next.engine.submit(&caller(who), request).await;
    rest().await;
    if resent.is_ok() {
        ensure_eq!(times(world, &conv, &id)?, 1, "{id} after the resend");
    }
    Ok(())
}

/// Every write takes a while, so that the next requests find lanes busy.
fn slow(sim: &Sim, lose_unsynced: bool) {
    let latency = Duration::from_millis(1)..Duration::from_millis(1);
    sim.set_faults(Faults { latency, lose_unsynced, ..Faults::none() });
}
