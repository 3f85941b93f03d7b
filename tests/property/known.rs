//! What random histories have found, told once more in as few steps as it takes.

use everline::protocol::*;
use everline::store::sim::Faults;

use crate::model::Rules;
use crate::place::Stage;
use crate::world::World;

const RULES: Rules =
    Rules { recall_limit_ms: 86_400_000, sync_max_entries: 100, sync_max_age_ms: 604_800_000, max_devices: 3 };

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

struct Told {
    world: World,
    count: u32,
}

impl Told {
    fn new(together: bool, nodes: usize) -> Self {
        let people = ["a", "b", "c"].map(user).to_vec();
        Self { world: World::new(&Stage::Simulated, 1, together, nodes, Faults::none(), RULES, people), count: 0 }
    }

    async fn ask(&self, node: usize, who: &str, request: Request) -> AnswerBody {
        self.world.ask(node, &user(who), request).await.unwrap().unwrap()
    }

    async fn create(&self, who: &str, members: &[&str]) -> ConvId {
        let members = members.iter().map(|name| user(name)).collect();
        let (title, attributes, op_id) = (None, None, MsgId::parse("op").unwrap());
        let create = Request::Create { members, title, attributes, history: HistoryMode::SinceJoin, op_id };
        match self.ask(0, who, create).await {
            AnswerBody::Ok { conv_id: Some(conv_id), .. } => conv_id,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, node: usize, who: &str, to: SendTo) -> u64 {
        self.count += 1;
        let client_msg_id = MsgId::parse(&self.count.to_string()).unwrap();
        let body = Body::parse(r#"{"t":1}"#).unwrap();
        let send = Send { to, client_msg_id, body, reply_to: None, mentions: Vec::new() };
        match self.ask(node, who, Request::Send(send)).await {
            AnswerBody::Sent { conv_seq, .. } => conv_seq,
            other => panic!("{other:?}"),
        }
    }

    async fn history(&self, who: &str, conv_id: &ConvId, from: HistoryFrom) -> (Vec<HistoryEntry>, Option<u64>) {
        let history = Request::History { conv_id: conv_id.clone(), from, limit: 1 };
        match self.ask(0, who, history).await {
            AnswerBody::History { entries, next, .. } => (entries, next),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaver_is_told_of_no_later_reaction() {
    let mut told = Told::new(true, 1);
    let conv = told.create("a", &["b"]).await;
    let target = told.send(0, "a", SendTo::Conv(conv.clone())).await;
    told.ask(0, "b", Request::Leave { conv_id: conv.clone() }).await;
    told.ask(0, "a", Request::React { conv_id: conv.clone(), target, key: "+1".into(), add: true }).await;
    let (entries, _) = told.history("b", &conv, HistoryFrom::Newest).await;
    assert!(entries[0].reactions.is_empty(), "{entries:?}");
}

#[tokio::test(start_paused = true)]
async fn history_by_time_goes_on_behind_what_is_hidden() {
    let mut told = Told::new(true, 1);
    let conv = told.create("a", &["b"]).await;
    // All of one moment: the clock stands still.
    told.send(0, "a", SendTo::Conv(conv.clone())).await;
    told.ask(0, "b", Request::Leave { conv_id: conv.clone() }).await;
    told.send(0, "a", SendTo::Conv(conv.clone())).await;
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    told.ask(0, "a", Request::Invite { conv_id: conv.clone(), users: vec![user("b")] }).await;
    told.send(0, "a", SendTo::Conv(conv.clone())).await;
    let (first, next) = told.history("b", &conv, HistoryFrom::AfterAt(0)).await;
    let (second, _) = told.history("b", &conv, HistoryFrom::AfterAt(next.unwrap())).await;
    let seqs: Vec<_> = first.iter().chain(&second).map(|entry| entry.event.conv_seq().unwrap()).collect();
    assert_eq!(seqs, [2, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_node_answers_by_the_log_not_by_what_it_knew() {
    let mut told = Told::new(false, 2);
    let conv = told.create("a", &["b"]).await;
    // Node 1 learns that c is no member; node 0 then takes him in.
    let stranger = told.world.ask(1, &user("c"), Request::Leave { conv_id: conv.clone() }).await;
    assert_eq!(stranger.unwrap().unwrap_err().code, ErrorCode::NotFound);
    told.ask(0, "a", Request::Invite { conv_id: conv.clone(), users: vec![user("c")] }).await;
    told.send(1, "c", SendTo::Conv(conv.clone())).await;
    // The same of what is a user's own.
    let settings = |muted| Request::Settings { conv_id: conv.clone(), muted: Some(muted), pinned: None, hidden: None };
    told.ask(1, "b", settings(false)).await;
    told.ask(0, "b", settings(true)).await;
    told.ask(1, "b", settings(false)).await;
    let list = Request::Conversations { active_after: None, page: None, limit: 10 };
    let AnswerBody::Conversations { conversations, .. } = told.ask(0, "b", list).await else { panic!() };
    assert!(!conversations[0].settings.muted);
}

#[tokio::test(start_paused = true)]
async fn a_reader_and_his_peer_agree_how_far_was_read() {
    let mut told = Told::new(true, 1);
    told.send(0, "a", SendTo::User(user("b"))).await;
    let conv = ConvId::direct(&user("a"), &user("b"));
    // Read beyond the head while the next message is on its way.
    let read = told.world.ask(0, &user("b"), Request::Read { conv_id: conv.clone(), read_seq: 9 });
    told.send(0, "a", SendTo::Conv(conv.clone())).await;
    read.await.unwrap().unwrap();
    let list = Request::Conversations { active_after: None, page: None, limit: 10 };
    let AnswerBody::Conversations { conversations, .. } = told.ask(0, "b", list).await else { panic!() };
    let page = told.world.nodes[0].engine.page(&user("a"), 0, 100, 1 << 20).await.unwrap();
    let everline::engine::PageRead::Page(page) = page else { panic!("{page:?}") };
    let mut receipts = page.entries.iter().filter_map(|(_, text)| match Event::decode(text).unwrap() {
        Event::Receipt { read_seq, .. } => Some(read_seq),
        _ => None,
    });
    assert_eq!(receipts.next_back(), Some(conversations[0].read_seq));
}
