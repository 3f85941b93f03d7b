//! Receiving (design, section 5): between the log and the pushes nothing falls through. Rule 13, the
//! client's half: an older answer never undoes what is known. (Sessions and the client library have
//! tests of their own; these are the promises that a planted bug must break.)

use everline::client::state::{HistoryAnswer, State, apply, apply_history};
use everline::hub::Signal;
use everline::protocol::*;

use super::world::*;
use crate::{ensure, ensure_eq};

/// A message comes after the last page was read and before the session follows.
pub async fn nothing_is_lost_between_the_last_page_and_following() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    let seat = a.hub.register(&user("bob"), &caller("bob").device);
    ensure_eq!(a.log("bob").await?.len(), 1, "bob's log");
    a.send("alice", &conv, "m2").await?;
    rest().await;
    ensure!(!seat.follow(1), "bob's session follows behind 1, and 2 is neither read nor in its queue");
    ensure_eq!(a.log("bob").await?.len(), 2, "bob's log");
    ensure!(seat.follow(2), "at the head, bob's session follows");
    a.send("alice", &conv, "m3").await?;
    rest().await;
    let mut batch = Vec::new();
    ensure_eq!(seat.take(&mut batch), Signal::Entries, "what bob's session is told");
    ensure_eq!(batch.iter().map(|live| live.seq).collect::<Vec<_>>(), [3], "what is pushed");
    Ok(())
}

/// More comes than a session's queue holds: it reads its log, and misses nothing.
pub async fn an_overflow_sends_the_session_to_its_log() -> Proof {
    let (_world, a, _b, conv) = World::two_nodes().await?;
    let seat = a.hub.register(&user("bob"), &caller("bob").device);
    ensure!(seat.follow(1), "bob's session follows");
    for n in 2..=300 {
        a.send("alice", &conv, &format!("m{n}")).await?;
    }
    rest().await;
    let mut batch = Vec::new();
    ensure_eq!(seat.take(&mut batch), Signal::Behind, "what bob's session is told");
    ensure!(!seat.follow(1), "bob's session cannot follow behind 1");
    ensure_eq!(a.log("bob").await?.len(), 300, "bob's log");
    Ok(())
}

/// An answer on its way while a recall and an edit arrive is older than they are.
pub async fn an_older_answer_undoes_nothing_on_a_client() -> Proof {
    let conv = ConvId::parse("g:1").unwrap();
    let message = |seq: u64| {
        Event::Message(Message {
            conv_id: conv.clone(),
            conv_seq: seq,
            sender_id: user("alice"),
            client_msg_id: MsgId::parse(&format!("m{seq}")).unwrap(),
            sent_at: 1,
            body: Some(body("as sent")),
            reply_to: None,
            mentions: vec![],
            recalled: false,
            edited_at: None,
        })
    };
    let entries = (2..=3).map(|seq| HistoryEntry { event: message(seq), reactions: vec![] }).collect();
    let older = HistoryAnswer { entries, next: None, complete: true, head_seq: 3 };
    let changes = [
        Event::Recall { conv_id: conv.clone(), conv_seq: 4, target: 2, by: user("alice") },
        Event::Edit {
            conv_id: conv.clone(),
            conv_seq: 5,
            target: 3,
            by: user("alice"),
            body: body("as edited"),
            edited_at: 2,
        },
    ];
    // With the messages held before, and without.
    for held in [true, false] {
        let mut state = State { user_id: Some(user("bob")), ..State::default() };
        let events = (2..=3).map(message).filter(|_| held).chain(changes.clone());
        for (event, seq) in events.zip(1..) {
            apply(&mut state, &Entry { seq, event });
        }
        apply_history(&mut state, &conv, HistoryFrom::Newest, &older, false);
        let messages = &state.conversations[&conv].messages;
        ensure_eq!(messages[&2].body, None, "the recalled message's body (held before: {held})");
        ensure_eq!(messages[&3].body, Some(body("as edited")), "the edited message's body (held before: {held})");
    }
    Ok(())
}
