//! A plan repeats itself, and asks nothing of anybody who is not there.

use super::*;
use crate::replay::log::parse;

fn plan(seed: u64) -> Result<Plan> {
    let mut text = String::new();
    for number in 0..2000 {
        text.push_str(&format!("[00:00] <nick{}> line {number}\n", number * 7919 % (1 + number / 10)));
    }
    let logs = [Log { name: "x".into(), lines: parse(text.as_bytes()) }];
    let (mut plans, _) = plans(&logs, seed, Habits { sync_max_entries: 300 })?;
    plans.pop().ok_or_else(|| anyhow::anyhow!("no plan"))
}

#[test]
fn the_same_seed_gives_the_same_plan() -> Result<()> {
    assert_eq!(plan(1)?.steps, plan(1)?.steps);
    assert_ne!(plan(1)?.steps, plan(2)?.steps);
    Ok(())
}

#[test]
fn every_message_is_sent_in_order_by_a_member_and_all_devices_come_back() -> Result<()> {
    let plan = plan(3)?;
    let mut members = BTreeSet::from([plan.owner.clone()]);
    let (mut next, mut away) = (0, BTreeSet::new());
    for step in plan.steps {
        match step {
            Step::Invite { user, by } => assert!(members.contains(&by) && members.insert(user)),
            Step::Send { message, user, reply_to, .. } => {
                assert!(message == next && members.contains(&user));
                assert!(reply_to.is_none_or(|target| target < message));
                next += 1;
            }
            Step::Leave { user } | Step::Remove { user } => assert!(members.remove(&user)),
            Step::Drop { user, device } => assert!(away.insert((user, device))),
            Step::Return { user, device } => {
                away.remove(&(user, device));
            }
            _ => {}
        }
    }
    assert_eq!(next, 2000);
    assert!(away.is_empty());
    Ok(())
}
