//! The engine from its public edge, on the memory store: send, fan out, read back, delete, recall.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use everline::config::{Clock, Policy};
use everline::engine::{Answer, Caller, Engine, PageRead};
use everline::hub::Hub;
use everline::protocol::*;
use everline::store::Store;
use everline::store::sim::{Faults, Sim, SimOptions};

struct World {
    engine: Engine,
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn caller(name: &str) -> Caller {
    Caller { user: user(name), device: DeviceId::parse("phone").unwrap() }
}

fn body(text: &str) -> Body {
    Body::from_value(&serde_json::json!({ "text": text })).unwrap()
}

impl World {
    fn new(together: bool) -> Self {
        let clock = Clock::simulated(1_795_000_000_000);
        let sim = Sim::new(SimOptions { seed: 1, clock: clock.clone(), together, faults: Faults::none() });
        let store: Arc<dyn Store> = Arc::new(sim.handle());
        let engine = Engine::new(store, Arc::new(Hub::default()), clock, Policy::default(), 1);
        Self { engine }
    }

    async fn ask(&self, who: &str, request: Request) -> Answer {
        self.engine.submit(&caller(who), request).await
    }

    async fn send(&self, who: &str, conv: &ConvId, id: &str, text: &str) -> Answer {
        let send = Send {
            to: SendTo::Conv(conv.clone()),
            client_msg_id: MsgId::parse(id).unwrap(),
            body: body(text),
            reply_to: None,
            mentions: vec![],
        };
        self.ask(who, Request::Send(send)).await
    }

    async fn create(&self, who: &str, members: &[&str]) -> ConvId {
        let request = Request::Create {
            members: members.iter().map(|name| user(name)).collect(),
            title: Some("town".into()),
            attributes: None,
            history: HistoryMode::SinceJoin,
            op_id: MsgId::parse("op").unwrap(),
        };
        match self.ask(who, request).await.unwrap() {
            AnswerBody::Ok { conv_id: Some(id), conv_seq: Some(1), .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Everything in the user's sync timeline after `after`, as events; dense numbers checked.
    async fn log(&self, who: &str) -> Vec<String> {
        self.settle().await;
        let mut after = 0;
        let mut found = Vec::new();
        loop {
            match self.engine.page(&user(who), after, 100, 1 << 20).await.unwrap() {
                PageRead::Page(page) => {
                    assert_eq!(page.from, after);
                    for (_, text) in &page.entries {
                        let event = Event::decode(text).unwrap();
                        let body = match &event {
                            Event::Message(message) => {
                                message.body.as_ref().map_or("gone", |body| body.as_str()).to_owned()
                            }
                            _ => String::new(),
                        };
                        found.push(format!(
                            "{}{}{}",
                            event.op(),
                            event.conv_seq().map_or(String::new(), |seq| format!(" {seq}")),
                            if body.is_empty() { String::new() } else { format!(" {body}") }
                        ));
                    }
                    after = page.to;
                    if page.to == page.standing.head {
                        return found;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_message_reaches_both_and_is_made_once() {
    for together in [true, false] {
        let world = World::new(together);
        let conv = ConvId::direct(&user("alice"), &user("bob"));
        let first = world.send("alice", &conv, "m1", "hi").await.unwrap();
        assert!(matches!(first, AnswerBody::Sent { conv_seq: 1, duplicate: false, .. }), "{first:?}");
        let again = world.send("alice", &conv, "m1", "hi").await.unwrap();
        assert!(matches!(again, AnswerBody::Sent { conv_seq: 1, duplicate: true, .. }), "{again:?}");
        let other = world.send("alice", &conv, "m1", "ho").await.unwrap_err();
        assert_eq!(other.code, ErrorCode::IdempotencyConflict);
        for who in ["alice", "bob"] {
            assert_eq!(world.log(who).await, [r#"message 1 {"text":"hi"}"#], "{who} together={together}");
        }
    }
}

#[tokio::test]
async fn what_one_deletes_stays_with_the_other_and_a_recall_reaches_all() {
    for together in [true, false] {
        let world = World::new(together);
        let conv = world.create("alice", &["bob", "carol"]).await;
        for n in 1..=3 {
            world.send("alice", &conv, &format!("m{n}"), &format!("t{n}")).await.unwrap();
        }
        let delete = Request::Delete { conv_id: conv.clone(), ranges: vec![Range { from: 2, to: 2 }] };
        world.ask("bob", delete).await.unwrap();
        world.ask("alice", Request::Recall { conv_id: conv.clone(), target: 4 }).await.unwrap();
        let bob = world.log("bob").await;
        assert_eq!(
            bob,
            ["conversation 1", r#"message 3 {"text":"t2"}"#, "message 4 gone", "delete", "recall 5"],
            "together={together}"
        );
        let carol = world.log("carol").await;
        assert_eq!(
            carol,
            [
                "conversation 1",
                r#"message 2 {"text":"t1"}"#,
                r#"message 3 {"text":"t2"}"#,
                "message 4 gone",
                "recall 5"
            ]
        );
        let list =
            world.ask("bob", Request::Conversations { active_after: None, page: None, limit: 10 }).await.unwrap();
        let AnswerBody::Conversations { conversations, .. } = list else { panic!() };
        assert_eq!(conversations.first().map(|c| c.unread), Some(1));
        let history = world
            .ask("bob", Request::History { conv_id: conv.clone(), from: HistoryFrom::Newest, limit: 30 })
            .await
            .unwrap();
        let AnswerBody::History { entries, complete: true, head_seq: 5, .. } = history else { panic!("{history:?}") };
        assert_eq!(entries.len(), 2);
        let gone =
            world.ask("alice", Request::Edit { conv_id: conv.clone(), target: 4, body: body("x") }).await.unwrap_err();
        assert_eq!(gone.code, ErrorCode::Gone);
    }
}
