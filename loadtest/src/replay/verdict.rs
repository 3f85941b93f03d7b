//! The end of a replay: every device, and the server itself, against the oracles of all files.
//!
//! Fan-out goes on after the last answer, so a difference counts only when it is still there after a
//! while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use everline::client::state::{ConversationState, HeldMessage};
use everline::client::{Preload, State};
use everline::protocol::{ConvId, ConversationSummary, UserId};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep};

use super::compare::{Comparison, Difference, Seen, SeenMessage, SeenRead, Viewer};
use super::devices::{Person, Slot, Town};
use super::oracle::{Expected, Facets, Oracle};
use super::plan::Device;
use super::server_view::{ServerView, Told, hidden, read};
use super::witness::reached;
use crate::target::progress;

/// How long a difference may last.
const SETTLE: Duration = Duration::from_secs(60);
/// Users judged at a time.
const AT_ONCE: usize = 16;

/// All that is wrong in the end.
pub(crate) struct Verdict {
    pub(crate) differences: Vec<Difference>,
    /// Views compared: devices and, for each user, the server.
    pub(crate) views: u64,
    pub(crate) messages_compared: u64,
}

/// The groups each user is or was in.
type Groups = BTreeMap<UserId, Vec<Arc<Oracle>>>;

pub(crate) async fn judge(town: &Town, oracles: Vec<Oracle>) -> Result<Verdict> {
    let mut groups = Groups::new();
    for oracle in oracles.into_iter().map(Arc::new) {
        for user in oracle.users() {
            groups.entry(user.clone()).or_default().push(Arc::clone(&oracle));
        }
    }
    let deadline = Instant::now() + SETTLE;
    let bar = progress(u64::try_from(groups.len())?, "users compared");
    let judged = futures::stream::iter(groups).map(|(user, groups)| {
        let bar = bar.clone();
        async move {
            let verdict = judge_user(town, &user, &groups, deadline).await;
            bar.inc(1);
            verdict.with_context(|| format!("user {user}"))
        }
    });
    let verdicts: Vec<Verdict> = judged.buffer_unordered(AT_ONCE).try_collect().await?;
    bar.finish_and_clear();
    let mut all = Verdict { differences: Vec::new(), views: 0, messages_compared: 0 };
    for verdict in verdicts {
        all.differences.extend(verdict.differences);
        all.views += verdict.views;
        all.messages_compared += verdict.messages_compared;
    }
    Ok(all)
}

async fn judge_user(town: &Town, user: &UserId, groups: &[Arc<Oracle>], deadline: Instant) -> Result<Verdict> {
    let person = town.person(user)?;
    let mut verdict = Verdict { differences: Vec::new(), views: 0, messages_compared: 0 };
    let server = loop {
        let server = read(&town.door, user).await?;
        let differences = judge_server(user, groups, &server);
        if differences.is_empty() || Instant::now() > deadline {
            verdict.differences.extend(differences);
            break server;
        }
        sleep(Duration::from_millis(300)).await;
    };
    verdict.views += 1;
    for device in 0..person.slots.len() {
        let differences = judge_device(town, person, device, groups, server.head_seq, deadline).await?;
        verdict.differences.extend(differences);
        verdict.views += 1;
    }
    let seen = server.conversations.values().map(|told| told.seen.messages.len()).sum::<usize>();
    verdict.messages_compared = u64::try_from(seen * (1 + person.slots.len()))?;
    Ok(verdict)
}

async fn judge_device(
    town: &Town,
    person: &Person,
    device: usize,
    groups: &[Arc<Oracle>],
    head: u64,
    deadline: Instant,
) -> Result<Vec<Difference>> {
    town.come(&person.user, device).await?;
    town.wait_live(&person.user, device).await?;
    let slot = person.slot(device)?;
    if slot.kind == Device::Witness {
        return Ok(judge_witness(person, slot, groups, head).await);
    }
    loop {
        let (seq, held) = look(town, person, device, groups).await?;
        let mut differences = Vec::new();
        for oracle in groups {
            let held = held.get(&oracle.conv_id);
            let mut comparison = comparison(&person.user, &slot.id, oracle, viewer(slot, held));
            comparison.run(held.map(|held| &held.seen));
            if seq != head {
                comparison.note(None, format!("the cursor is {seq}, the server's head {head}"));
            }
            differences.append(&mut comparison.found);
        }
        if differences.is_empty() || Instant::now() > deadline {
            return Ok(differences);
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// The cursor of a device and what it holds.
async fn look(
    town: &Town,
    person: &Person,
    device: usize,
    groups: &[Arc<Oracle>],
) -> Result<(u64, BTreeMap<ConvId, Held>)> {
    let client = town.library(&person.user, device).await?.context("the device is away")?;
    let wanted: BTreeSet<ConvId> = groups.iter().map(|oracle| oracle.conv_id.clone()).collect();
    let look = move |state: &State| {
        let seen = |conv_id: &ConvId| {
            let held = Held::of(state.conversations.get(conv_id)?, state.unread(conv_id));
            Some((conv_id.clone(), held))
        };
        (state.seq(), wanted.iter().filter_map(seen).collect())
    };
    client.look(look).await.context("the client has stopped")
}

fn comparison<'a>(user: &'a UserId, device: &'a str, oracle: &'a Oracle, viewer: Viewer) -> Comparison<'a> {
    Comparison { user, device, oracle, viewer, found: Vec::new() }
}

/// What a device must hold, by how it works and what befell it.
fn viewer(slot: &Slot, held: Option<&Held>) -> Viewer {
    if slot.preload != Preload::None {
        return Viewer::Complete;
    }
    match slot.resets.load(Relaxed) {
        0 => Viewer::Follower { from: 0 },
        // A group that was new to it in a reset is held from where it says.
        _ => Viewer::Follower { from: held.and_then(|held| held.complete_from).unwrap_or(u64::MAX) },
    }
}

async fn judge_witness(person: &Person, slot: &Slot, groups: &[Arc<Oracle>], head: u64) -> Vec<Difference> {
    let late = reached(&slot.witness, head, SETTLE).await.err();
    let witness = slot.witness.lock().unwrap_or_else(PoisonError::into_inner);
    let mut differences = Vec::new();
    for (number, oracle) in groups.iter().enumerate() {
        let mut comparison = comparison(&person.user, &slot.id, oracle, Viewer::Complete);
        if number == 0 {
            // Faults of the stream belong to no conversation: told once.
            witness.faults.iter().for_each(|fault| comparison.note(None, fault));
            late.iter().for_each(|error| comparison.note(None, error.to_string()));
        }
        witness.judge(oracle, &person.user).iter().for_each(|fault| comparison.note(None, fault));
        differences.append(&mut comparison.found);
    }
    differences
}

fn judge_server(user: &UserId, groups: &[Arc<Oracle>], server: &ServerView) -> Vec<Difference> {
    let mut differences = Vec::new();
    for oracle in groups {
        let mut comparison = comparison(user, "(server)", oracle, Viewer::Server);
        let told = server.conversations.get(&oracle.conv_id);
        comparison.run(told.map(|told| &told.seen));
        if let (Some(told), Some(expected)) = (told, oracle.expected(user)) {
            judge_row(&mut comparison, &told.row, &expected);
            judge_changes(&mut comparison, told, &expected);
        }
        differences.append(&mut comparison.found);
    }
    let known: BTreeSet<_> = groups.iter().map(|oracle| &oracle.conv_id).collect();
    if let (Some(strange), Some(oracle)) =
        (server.conversations.keys().find(|conv_id| !known.contains(conv_id)), groups.first())
    {
        let mut comparison = comparison(user, "(server)", oracle, Viewer::Server);
        comparison.note(None, format!("lists {strange}, in which this user never was"));
        differences.append(&mut comparison.found);
    }
    differences
}

fn judge_row(comparison: &mut Comparison<'_>, row: &ConversationSummary, expected: &Expected) {
    let last = row.last.as_ref().map(|last| last.message.conv_seq);
    let numbers = [
        ("head_seq", Some(row.head_seq), Some(expected.head)),
        ("join_seq", Some(row.join_seq), Some(expected.stay.join)),
        ("left_seq", row.left_seq, expected.stay.leave),
        ("last", last, expected.messages.keys().next_back().copied()),
    ];
    for (name, told, must) in numbers {
        if told != must {
            comparison.note(None, format!("{name} is {told:?}, must be {must:?}"));
        }
    }
    let present = u64::try_from(comparison.oracle.present().len()).unwrap_or_default();
    if row.left_seq.is_none() && row.members_count != present {
        comparison.note(None, format!("members_count is {}, must be {present}", row.members_count));
    }
}

/// `changes` must name what is true of the messages this user sees.
fn judge_changes(comparison: &mut Comparison<'_>, told: &Told, expected: &Expected) {
    for (seq, shown) in &expected.messages {
        let must = shown.at_leave.as_ref().unwrap_or(&shown.now);
        if must.recalled && !told.recalled.contains_key(seq) {
            comparison.note(Some(*seq), "`changes` does not name its recall");
        }
        if must.edited && !shown.now.recalled && !told.edited.contains_key(seq) {
            comparison.note(Some(*seq), "`changes` does not name its edit");
        }
    }
}

/// A conversation in a device's cache.
struct Held {
    seen: Seen,
    complete_from: Option<u64>,
}

impl Held {
    fn of(held: &ConversationState, unread: u64) -> Self {
        let last_up_to = |seq| held.messages.range(..=seq).next_back().map(|(seq, _)| *seq);
        let seen = Seen {
            messages: held.messages.iter().map(|(seq, message)| (*seq, seen_message(message))).collect(),
            hidden: hidden(held.deleted.as_slice()),
            cleared: held.cleared_up_to,
            read: SeenRead::LastHeld(last_up_to(held.read_seq)),
            unread,
            settings: held.settings,
            left: held.left_seq.is_some(),
            title: held.title.clone(),
            members: held.members.clone(),
        };
        Self { seen, complete_from: held.complete_from }
    }
}

fn seen_message(held: &HeldMessage) -> SeenMessage {
    let mut reactions = BTreeMap::new();
    for (key, reaction) in &held.reactions {
        let mut users = reaction.users.clone();
        // A reaction without a name must not pass for none.
        for number in 0..reaction.unnamed {
            users.extend(UserId::parse(&format!("unnamed@{number}")));
        }
        reactions.insert(key.clone(), users);
    }
    SeenMessage {
        sender: held.sender_id.clone(),
        client_msg_id: held.client_msg_id.clone(),
        sent_at: held.sent_at,
        reply_to: held.reply_to,
        mentions: held.mentions.clone(),
        facets: Facets {
            recalled: held.recalled,
            body: held.body.clone(),
            edited: held.edited_at.is_some() && !held.recalled,
            reactions,
        },
    }
}
