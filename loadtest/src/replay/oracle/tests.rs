//! The oracle on a group of two: what each must see, and what it must refuse to believe.

use super::*;

fn user(name: &str) -> Result<UserId> {
    Ok(UserId::parse(name)?)
}

fn said(sender: &str, number: u64) -> Result<Said> {
    Ok(Said {
        sender: user(sender)?,
        client_msg_id: MsgId::parse(&number.to_string())?,
        sent_at: number,
        body: Body::parse(&format!(r#"{{"n":{number}}}"#))?,
        reply_to: None,
        mentions: Vec::new(),
    })
}

/// ann makes it (1), 2 from ann, ben joins (3), 4 and 5 from ann, 6 from ben, recall of 4 (7).
fn group(full: bool) -> Result<Oracle> {
    let mut oracle = Oracle::new(ConvId::parse("g:1")?, "t".into(), full, user("ann")?, 500);
    oracle.sent(2, said("ann", 2)?)?;
    oracle.joined(&user("ben")?, 3)?;
    oracle.sent(4, said("ann", 4)?)?;
    oracle.sent(5, said("ann", 5)?)?;
    oracle.sent(6, said("ben", 6)?)?;
    oracle.recalled(4, 7)?;
    Ok(oracle)
}

fn expected(oracle: &Oracle, name: &str) -> Result<Expected> {
    oracle.expected(&user(name)?).context("no member")
}

#[test]
fn a_member_sees_his_stays_and_counts_others_unread() -> Result<()> {
    let ben = expected(&group(false)?, "ben")?;
    assert_eq!(ben.messages.keys().copied().collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(ben.messages.get(&4).map(|shown| shown.now.recalled), Some(true));
    assert_eq!((ben.read, ben.unread), (3, 1..=1));
    let ann = expected(&group(false)?, "ann")?;
    assert_eq!((ann.messages.len(), ann.unread), (4, 1..=1));
    let full = expected(&group(true)?, "ben")?;
    assert_eq!((full.messages.len(), full.synced.len(), full.unread), (4, 3, 1..=1));
    Ok(())
}

#[test]
fn deletes_and_clears_are_one_users_own() -> Result<()> {
    let mut oracle = group(false)?;
    let (ann, ben) = (user("ann")?, user("ben")?);
    oracle.deleted(&ben, 5, 5)?;
    oracle.cleared(&ann, 4)?;
    assert_eq!(expected(&oracle, "ben")?.messages.keys().copied().collect::<Vec<_>>(), [4, 6]);
    assert_eq!(expected(&oracle, "ben")?.unread, 0..=0);
    assert_eq!(expected(&oracle, "ann")?.messages.keys().copied().collect::<Vec<_>>(), [5, 6]);
    Ok(())
}

#[test]
fn who_left_may_know_of_a_later_recall_or_not() -> Result<()> {
    let mut oracle = group(false)?;
    let ben = user("ben")?;
    oracle.left(&ben, 8)?;
    oracle.sent(9, said("ann", 9)?)?;
    oracle.recalled(5, 10)?;
    let seen = expected(&oracle, "ben")?;
    assert_eq!((seen.head, seen.messages.len(), seen.unread), (8, 3, 0..=1));
    let five = seen.messages.get(&5).context("5")?;
    assert!(five.now.recalled && five.at_leave.as_ref().is_some_and(|then| !then.recalled));
    oracle.joined(&ben, 11)?;
    let seen = expected(&oracle, "ben")?;
    assert_eq!((seen.read, seen.unread), (11, 0..=0));
    assert!(seen.messages.values().all(|shown| shown.at_leave.is_none()));
    assert_eq!(oracle.deliveries(), (11 + 6 + 1, 5 + 3));
    Ok(())
}

#[test]
fn a_number_given_twice_or_to_nobody_is_seen() -> Result<()> {
    let mut oracle = group(false)?;
    assert!(oracle.sent(6, said("ann", 6)?).is_err());
    assert!(oracle.sent(8, said("eve", 8)?).is_err());
    oracle.check_dense()?;
    oracle.sent(9, said("ann", 9)?)?;
    assert!(oracle.check_dense().is_err());
    oracle.asked_again();
    oracle.check_dense()
}

#[test]
fn the_last_edit_and_reaction_hold_until_a_recall() -> Result<()> {
    let mut oracle = group(false)?;
    let ben = user("ben")?;
    oracle.edited(5, 8, Body::parse(r#"{"n":"new"}"#)?)?;
    oracle.reacted(5, 9, ben.clone(), "+1".into(), true)?;
    oracle.reacted(5, 10, ben.clone(), "+1".into(), false)?;
    oracle.reacted(5, 11, ben, "!".into(), true)?;
    let now = expected(&oracle, "ann")?.messages.get(&5).map(|shown| shown.now.clone());
    let now = now.context("5")?;
    assert!(now.edited && now.reactions.keys().eq(["!"]));
    oracle.recalled(5, 12)?;
    let now = expected(&oracle, "ann")?.messages.get(&5).map(|shown| shown.now.clone());
    assert_eq!(now, Some(Facets { recalled: true, ..Facets::default() }));
    Ok(())
}

#[test]
fn of_a_large_group_the_sync_timeline_has_what_was_before() -> Result<()> {
    let mut oracle = Oracle::new(ConvId::parse("g:1")?, "t".into(), false, user("ann")?, 1);
    oracle.sent(2, said("ann", 2)?)?;
    // ben joins (3), which makes it large (4).
    oracle.joined(&user("ben")?, 4)?;
    oracle.sent(5, said("ann", 5)?)?;
    oracle.sent(6, said("ann", 6)?)?;
    oracle.recalled(5, 7)?;
    oracle.check_dense()?;
    assert_eq!(oracle.stream(&user("ann")?), [2].into());
    let ben = expected(&oracle, "ben")?;
    assert_eq!((ben.read, ben.stay.join, ben.unread), (3, 3, 1..=2));
    assert_eq!(ben.messages.keys().copied().collect::<Vec<_>>(), [5, 6]);
    Ok(())
}
