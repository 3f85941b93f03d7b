//! What the server itself says of a user: a fresh device that reads the list, all of history and all
//! changes, on a raw connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use everline::protocol::{
    AnswerBody, ClientFrame, ConvId, ConversationSummary, Envelope, Event, HistoryEntry, HistoryFrom, Message, MsgId,
    Range, Request, ServerFrame, UserId,
};

use tokio::time::{Instant, sleep};

use super::compare::{Seen, SeenMessage, SeenRead};
use super::oracle::Facets;
use crate::target::Door;
use crate::wire::{Welcome, Wire};

/// Messages a page.
const PAGE: u32 = 200;
/// A busy store may answer "later" for so long.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(300);

/// Everything the server told.
pub(crate) struct ServerView {
    /// Head of the user's sync timeline when it was asked.
    pub(crate) head_seq: u64,
    pub(crate) conversations: BTreeMap<ConvId, Told>,
}

/// Of one conversation.
pub(crate) struct Told {
    pub(crate) row: ConversationSummary,
    pub(crate) seen: Seen,
    /// Targets of recalls and edits that `changes` named, with the number of the change.
    pub(crate) recalled: BTreeMap<u64, u64>,
    pub(crate) edited: BTreeMap<u64, u64>,
}

struct Reader {
    wire: Wire,
    asked: u64,
}

/// Connects, until somebody is there who says welcome.
async fn connect(door: &Door, user: &UserId) -> Result<(Wire, Welcome)> {
    let token = door.token(user)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let connected = async {
            let mut wire = Wire::open(door.addr, 0).await?;
            let welcome = wire.hello(&token, "oracle", None).await?;
            anyhow::Ok((wire, welcome))
        };
        match connected.await {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(PAUSE).await,
            connected => return connected,
        }
    }
}

/// Reads all of it.
pub(crate) async fn read(door: &Door, user: &UserId) -> Result<ServerView> {
    let (wire, welcome) = connect(door, user).await?;
    ensure!(welcome.sync == "fresh", "hello without a cursor was answered {}", welcome.sync);
    let mut reader = Reader { wire, asked: 0 };
    let mut conversations = BTreeMap::new();
    for row in reader.rows().await? {
        let told = reader.conversation(row).await?;
        conversations.insert(told.row.conv_id.clone(), told);
    }
    reader.wire.close().await;
    Ok(ServerView { head_seq: welcome.head_seq, conversations })
}

impl Reader {
    /// Asks until the answer is not "later".
    async fn ask(&mut self, request: Request) -> Result<AnswerBody> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.asked += 1;
            let id = self.asked.to_string();
            let envelope = Envelope { id: MsgId::parse(&id)?, request: request.clone() };
            let text = self.wire.ask(&id, ClientFrame::Request(envelope).to_json()).await?;
            match ServerFrame::parse(&text)? {
                ServerFrame::Answer(answer) => return Ok(answer.body),
                ServerFrame::Error(error) if error.retryable && Instant::now() < deadline => sleep(PAUSE).await,
                _ => bail!("not an answer: {text}"),
            }
        }
    }

    async fn rows(&mut self) -> Result<Vec<ConversationSummary>> {
        let (mut all, mut page) = (Vec::new(), None);
        loop {
            // Small pages, so that paging is tested.
            let request = Request::Conversations { active_after: None, page, limit: 3 };
            let AnswerBody::Conversations { conversations, next } = self.ask(request).await? else {
                bail!("conversations was answered by something else");
            };
            all.extend(conversations);
            match next {
                Some(next) => page = Some(next),
                None => return Ok(all),
            }
        }
    }

    async fn conversation(&mut self, row: ConversationSummary) -> Result<Told> {
        let conv_id = row.conv_id.clone();
        let mut seen = Seen {
            read: SeenRead::Seq(row.read_seq),
            unread: row.unread,
            settings: row.settings,
            left: row.left_seq.is_some(),
            title: row.title.clone(),
            ..Seen::default()
        };
        self.history(&conv_id, &mut seen).await?;
        let (recalled, edited) = self.changes(&conv_id, &mut seen).await?;
        if row.left_seq.is_none() {
            seen.members = Some(self.members(&conv_id).await?);
        }
        Ok(Told { row, seen, recalled, edited })
    }

    async fn history(&mut self, conv_id: &ConvId, seen: &mut Seen) -> Result<()> {
        let mut from = HistoryFrom::Newest;
        loop {
            let request = Request::History { conv_id: conv_id.clone(), from, limit: PAGE };
            let AnswerBody::History { entries, next, complete, .. } = self.ask(request).await? else {
                bail!("history was answered by something else");
            };
            for HistoryEntry { event, reactions } in entries {
                let Event::Message(message) = event else { continue };
                let mut by_key = BTreeMap::new();
                for reaction in reactions {
                    let users: BTreeSet<UserId> = reaction.users.into_iter().collect();
                    let counted = usize::try_from(reaction.count)?;
                    ensure!(
                        users.len() == counted.min(20),
                        "{conv_id} {}: {counted} reactions {} by {} users",
                        message.conv_seq,
                        reaction.key,
                        users.len()
                    );
                    by_key.insert(reaction.key, users);
                }
                let seq = message.conv_seq;
                let twice = seen.messages.insert(seq, seen_message(message, by_key));
                ensure!(twice.is_none(), "{conv_id}: history told {seq} on two pages");
            }
            match next {
                Some(next) if !complete => from = HistoryFrom::Before(next),
                _ => return Ok(()),
            }
        }
    }

    async fn changes(&mut self, conv_id: &ConvId, seen: &mut Seen) -> Result<(BTreeMap<u64, u64>, BTreeMap<u64, u64>)> {
        let (mut since, mut all) = (0, (BTreeMap::new(), BTreeMap::new()));
        loop {
            let request = Request::Changes { conv_id: conv_id.clone(), since };
            let AnswerBody::Changes { recalled, edited, up_to, more, deleted, cleared_up_to, .. } =
                self.ask(request).await?
            else {
                bail!("changes was answered by something else");
            };
            all.0.extend(recalled.iter().map(|recall| (recall.target, recall.conv_seq)));
            all.1.extend(edited.iter().map(|edit| (edit.target, edit.conv_seq)));
            seen.hidden = hidden(&deleted);
            seen.cleared = cleared_up_to;
            if !more {
                return Ok(all);
            }
            ensure!(up_to > since, "{conv_id}: changes does not get on from {since}");
            since = up_to;
        }
    }

    async fn members(&mut self, conv_id: &ConvId) -> Result<BTreeMap<UserId, everline::protocol::Role>> {
        let (mut all, mut page) = (BTreeMap::new(), None);
        loop {
            let request = Request::Members { conv_id: conv_id.clone(), page, limit: 60 };
            let AnswerBody::Members { members, next } = self.ask(request).await? else {
                bail!("members was answered by something else");
            };
            for member in members {
                let twice = all.insert(member.user_id.clone(), member.role);
                ensure!(twice.is_none(), "{conv_id}: members told {} twice", member.user_id);
            }
            match next {
                Some(next) => page = Some(next),
                None => return Ok(all),
            }
        }
    }
}

/// Every number in the ranges.
pub(crate) fn hidden(ranges: &[Range]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|range| range.from..=range.to).collect()
}

fn seen_message(message: Message, reactions: BTreeMap<String, BTreeSet<UserId>>) -> SeenMessage {
    SeenMessage {
        sender: message.sender_id,
        client_msg_id: message.client_msg_id,
        sent_at: message.sent_at,
        reply_to: message.reply_to,
        mentions: message.mentions,
        facets: Facets {
            recalled: message.recalled,
            edited: message.edited_at.is_some() && !message.recalled,
            body: message.body,
            reactions,
        },
    }
}
