//! What must hold when all is quiet: every timeline complete, every list and every count as the model
//! has it, every device as one that was never away.

use everline::engine::{Caller, Engine, PageRead};
use everline::protocol::*;
use everline::store::TimelineId;
use rand::Rng;
use rand::rngs::StdRng;

use crate::absorb::{Check, Model};
use crate::decide::Decision;
use crate::device::{Device, Owes};
use crate::model::Conv;
use crate::world::World;

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(wrong()) }
}

fn caller(user: &UserId) -> Caller {
    Caller { user: user.clone(), device: DeviceId::parse("probe").expect("a name") }
}

async fn ask(engine: &Engine, user: &UserId, request: Request) -> Result<AnswerBody, String> {
    let answer = engine.submit(&caller(user), request.clone()).await;
    answer.map_err(|refusal| format!("{user} asked {request:?}: {refusal:?}"))
}

/// Every entry of every log is with everybody it is addressed to.
pub fn complete(model: &Model) -> Check {
    for (id, conv) in &model.convs {
        for user in conv.members.keys() {
            let state = model.user(user);
            let next = state.next_of(user, conv);
            ensure(next.is_none(), || {
                format!("{user} lacks entry {next:?} of {id}: has it up to {}", state.own(id).delivered)
            })?;
            if conv.direct && conv.exists {
                receipts(model, conv, user)?;
            }
        }
    }
    Ok(())
}

/// Each knows how far the other has read.
fn receipts(model: &Model, conv: &Conv, user: &UserId) -> Check {
    let peer = conv.members.keys().find(|other| *other != user).expect("two members");
    let (told, read) = (model.user(user).own(&conv.id).receipt, model.user(peer).own(&conv.id).read_seq);
    ensure(told >= read, || format!("{peer} has read {} up to {read}, {user} was told {told}", conv.id))
}

/// A send whose answer was given up for is decided all the same, while its node lives (rule 6).
pub fn decided(model: &Model, world: &World) -> Check {
    for sub in model.subs.iter().filter(|sub| world.lives(sub.node) && sub.answer.is_none()) {
        // One that was refused then and would not be now cannot be told from one forgotten.
        let Request::Send(send) = &sub.request else { continue };
        if send.reply_to.is_some_and(|seq| seq > sub.head) {
            continue;
        }
        let Some(conv) = model.conv_of(&sub.user, &sub.request).and_then(|id| model.convs.get(&id)) else { continue };
        let Some(member) = conv.members.get(&sub.user).filter(|member| member.present()) else { continue };
        let all_along = member.stays.last().is_some_and(|stay| stay.0 <= sub.head);
        let decision = conv.decide(&model.rules, &sub.user, &sub.request, world.now(), &[]);
        let open = all_along && matches!(decision, Decision::Entries(..));
        ensure(!open, || format!("{} sent {:?}, its node lives, and it was forgotten", sub.user, sub.request))?;
    }
    Ok(())
}

/// A recalled body stands nowhere.
pub fn erased(model: &Model, world: &World) -> Check {
    for (id, conv) in &model.convs {
        for (target, fate) in conv.fates.iter().filter(|(_, fate)| fate.recall.is_some()) {
            let first = conv.message(*target).and_then(|message| message.body.clone());
            for body in first.iter().chain(fate.edits.iter().map(|edit| &edit.1)) {
                let there = world.holds(id, body.as_str());
                ensure(!there, || format!("the body of {target} in {id}, recalled, is still there"))?;
            }
        }
    }
    Ok(())
}

/// `conversations`, paged, of one user: each once, as the model has it.
pub async fn conversations(model: &Model, engine: &Engine, user: &UserId, limit: u32) -> Check {
    let (mut page, mut listed) = (None, Vec::new());
    loop {
        let request = Request::Conversations { active_after: None, page: page.take(), limit };
        let AnswerBody::Conversations { conversations, next } = ask(engine, user, request).await? else {
            return Err("not a list".into());
        };
        ensure(conversations.len() <= limit as usize, || "a page above its limit".into())?;
        listed.extend(conversations);
        match next {
            Some(next) => page = Some(next),
            None => break,
        }
    }
    ensure(listed.is_sorted_by(|a, b| a.last_at >= b.last_at), || format!("{user}'s list is not in order"))?;
    let mut ids: Vec<_> = listed.iter().map(|summary| summary.conv_id.clone()).collect();
    ids.sort();
    let due: Vec<_> = model.convs.values().filter(|c| c.members.contains_key(user)).map(|c| c.id.clone()).collect();
    ensure(ids == due, || format!("{user} is listed {ids:?}, due is {due:?}"))?;
    for summary in &listed {
        let wrong = summary_differs(model, user, summary);
        ensure(wrong.is_none(), || {
            format!("{user}'s {}: {}: {summary:?}", summary.conv_id, wrong.unwrap_or_default())
        })?;
    }
    Ok(())
}

fn summary_differs(model: &Model, user: &UserId, told: &ConversationSummary) -> Option<String> {
    let (conv, state) = (&model.convs[&told.conv_id], model.user(user));
    let (member, own) = (&conv.members[user], state.own(&conv.id));
    let unread = state.unread(user, conv);
    let last = (1..=conv.head()).rev().find_map(|seq| state.standing(user, conv, seq));
    let (count, title) = member.as_left.clone().unwrap_or((conv.present().count() as u64, conv.title.clone()));
    let attributes = conv.attributes.clone().filter(|_| member.present());
    let differs = |what: &str, due: String| Some(format!("{what}, due is {due}"));
    match () {
        () if told.unread != unread => differs("unread", unread.to_string()),
        () if told.head_seq != member.cap(conv.head()) => differs("head_seq", member.cap(conv.head()).to_string()),
        () if !last_fits(told.last.as_ref(), last.as_ref()) => differs("last", format!("{last:?}")),
        () if told.last_at != Some(own.last_at) => differs("last_at", own.last_at.to_string()),
        () if told.read_seq != own.read_seq => differs("read_seq", own.read_seq.to_string()),
        () if Some(told.join_seq) != member.stays.last().map(|stay| stay.0) => {
            differs("join_seq", format!("{member:?}"))
        }
        () if told.left_seq != member.left_seq() => differs("left_seq", format!("{member:?}")),
        () if told.members_count != count => differs("members_count", count.to_string()),
        () if told.title != title => differs("title", format!("{title:?}")),
        () if told.attributes != attributes => differs("attributes", format!("{attributes:?}")),
        () if told.settings != own.settings => differs("settings", format!("{:?}", own.settings)),
        () if (told.kind == ConversationKind::Direct) != conv.direct => differs("kind", conv.direct.to_string()),
        () => None,
    }
}

/// A large body is left out, and that is said.
fn last_fits(told: Option<&LastMessage>, due: Option<&Message>) -> bool {
    let due = due.cloned().map(|mut message| {
        let truncated = message.body.as_ref().is_some_and(|body| body.len() > 1024);
        message.body = message.body.filter(|_| !truncated);
        LastMessage { message, truncated }
    });
    told == due.as_ref()
}

/// One page of the sync timeline from anywhere: exactly what the model shows there, or a reset.
pub async fn page(model: &Model, world: &World, engine: &Engine, user: &UserId, rng: &mut StdRng) -> Check {
    let state = model.user(user);
    let after = rng.random_range(0..=state.head());
    let limit = [1, 2, 5, 1000][rng.random_range(0..4)];
    let bytes = [1, 400, 1 << 20][rng.random_range(0..3)];
    let stored = world.dump(&TimelineId::User(user.clone())).0.floor;
    let floor = state.floor(&model.rules, world.now()).max(stored);
    let read = engine.page(user, after, limit, bytes).await;
    match read.map_err(|refusal| format!("page of {user} after {after}: {refusal:?}"))? {
        PageRead::BelowFloor(told) => ensure(after < floor && told.floor <= floor && told.head == state.head(), || {
            format!("{user} after {after}: reset at {told:?}, floor is {floor}, head {}", state.head())
        }),
        PageRead::AboveHead(told) => Err(format!("{user} after {after}: above the head {told:?}")),
        PageRead::Page(page) => {
            ensure(after >= floor, || format!("{user} after {after}: a page from below the floor {floor}: {page:?}"))?;
            let whole = (after + limit as u64).min(state.head());
            let full = page.to == whole || (bytes < 1 << 20 && page.to > after && page.to < whole);
            ensure(page.from == after && full && page.standing.head == state.head(), || {
                format!("{user} after {after}, limit {limit}, {bytes} bytes: {page:?}, head {}", state.head())
            })?;
            let shown: Result<Vec<_>, _> =
                page.entries.iter().map(|(seq, text)| Event::decode(text).map(|event| (*seq, sorted(event)))).collect();
            let shown = shown.map_err(|error| error.to_string())?;
            let due = state.page(user, after, page.to, &model.convs);
            ensure(shown == due, || format!("{user} after {after} to {}: {shown:#?}\ndue is {due:#?}", page.to))
        }
    }
}

fn sorted(mut event: Event) -> Event {
    if let Event::Conversation { change: ConversationChange::Created { members, .. }, .. } = &mut event {
        members.sort();
    }
    event
}

/// `history` from anywhere in any direction, page by page to the end: what stands there, once each.
pub async fn history(model: &Model, engine: &Engine, user: &UserId, conv: &Conv, rng: &mut StdRng) -> Check {
    let state = model.user(user);
    let at = rng.random_range(0..=conv.head() + 1);
    let time = conv.entry(at).map_or(0, |entry| entry.at);
    let start = match rng.random_range(0..4) {
        0 => HistoryFrom::Newest,
        1 => HistoryFrom::Before(at.max(1)),
        2 => HistoryFrom::After(at),
        _ => HistoryFrom::AfterAt(time),
    };
    let limit = rng.random_range(1..8);
    let (mut from, mut found) = (start, Vec::new());
    for _ in 0..500 {
        let request = Request::History { conv_id: conv.id.clone(), from, limit };
        let answer = ask(engine, user, request).await?;
        let AnswerBody::History { entries, next, complete, head_seq } = answer else { return Err("no history".into()) };
        ensure(head_seq == conv.members[user].cap(conv.head()), || {
            format!("{user}: history of {} has head {head_seq}", conv.id)
        })?;
        let ascending = entries.iter().map(|entry| entry.event.conv_seq()).is_sorted();
        ensure(ascending && complete == next.is_none(), || {
            format!("{user}: history of {}: {entries:?} {next:?}", conv.id)
        })?;
        ensure(matches!(start, HistoryFrom::AfterAt(_)) || entries.len() <= limit as usize, || {
            "above the limit".into()
        })?;
        match start {
            HistoryFrom::Newest | HistoryFrom::Before(_) => found.splice(0..0, entries).for_each(drop),
            _ => found.extend(entries),
        }
        let Some(next) = next else { break };
        from = match start {
            HistoryFrom::Newest | HistoryFrom::Before(_) => HistoryFrom::Before(next),
            HistoryFrom::After(_) => HistoryFrom::After(next),
            HistoryFrom::AfterAt(_) => HistoryFrom::AfterAt(next),
        };
    }
    let within = |seq: &u64| match start {
        HistoryFrom::Newest => true,
        HistoryFrom::Before(at) => *seq < at,
        HistoryFrom::After(at) => *seq > at,
        HistoryFrom::AfterAt(time) => conv.entry(*seq).is_some_and(|entry| entry.at >= time),
    };
    let due: Vec<_> = (1..=conv.head())
        .filter(within)
        .filter_map(|seq| state.standing(user, conv, seq))
        .map(Event::Message)
        .collect();
    let told: Vec<_> = found.iter().map(|entry| entry.event.clone()).collect();
    ensure(told == due, || format!("{user}: history of {} from {start:?}: {told:#?}\ndue is {due:#?}", conv.id))?;
    for entry in &found {
        let seq = entry.event.conv_seq().unwrap_or_default();
        let words = entry.reactions.iter().flat_map(|count| count.users.iter().map(|u| (count.key.clone(), u.clone())));
        let counted = entry.reactions.iter().all(|count| count.count == count.users.len() as u64);
        reactions(model, user, conv, seq, words.collect()).and(ensure(counted, || format!("count of {entry:?}")))?;
    }
    Ok(())
}

fn reactions(model: &Model, user: &UserId, conv: &Conv, seq: u64, mut told: Vec<(String, UserId)>) -> Check {
    let due = model.user(user).reactions(user, conv, seq);
    told.sort();
    let right = told.iter().all(|word| due.contains_key(word))
        && due.iter().all(|(word, sure)| sure.is_err() || told.contains(word));
    ensure(right, || format!("{user}: reactions to {seq} of {}: {told:?}, due is {due:?}", conv.id))
}

/// `changes` since anywhere: exactly the last words the user may know.
pub async fn changes(model: &Model, engine: &Engine, user: &UserId, conv: &Conv, since: u64) -> Check {
    let request = Request::Changes { conv_id: conv.id.clone(), since };
    let answer = ask(engine, user, request).await?;
    let AnswerBody::Changes { recalled, edited, reacted, up_to, more: false, deleted, cleared_up_to } = answer else {
        return Err(format!("{answer:?}"));
    };
    let (state, cap) = (model.user(user), conv.members[user].cap(conv.head()));
    let own = state.own(&conv.id);
    let hidden: Vec<u64> = deleted.iter().flat_map(|range| range.from..=range.to).collect();
    ensure(hidden.iter().eq(own.hidden.iter()) && cleared_up_to == own.cleared && up_to == cap, || {
        format!("{user}: changes of {}: up to {up_to}, {deleted:?}, {cleared_up_to}; due is {cap}, {own:?}", conv.id)
    })?;
    let (mut recalls, mut edits, mut words) = (Vec::new(), Vec::new(), Vec::new());
    for (target, fate) in conv.fates.iter().filter(|(target, _)| conv.sees(user, **target)) {
        let new = |seq: u64| seq > since && seq <= cap;
        if let Some((seq, by)) = &fate.recall {
            recalls.extend(new(*seq).then(|| RecallChange { target: *target, conv_seq: *seq, by: by.clone() }));
            continue;
        }
        edits.extend(fate.edits.iter().rfind(|edit| edit.0 <= cap).filter(|edit| new(edit.0)).map(|edit| edit.0));
        let last = |word: &(u64, UserId, String, bool)| {
            !fate.words.iter().any(|other| other.0 > word.0 && (&other.1, &other.2) == (&word.1, &word.2))
        };
        words.extend(fate.words.iter().filter(|word| new(word.0) && last(word)).map(|word| word.0));
    }
    recalls.sort_by_key(|change| change.conv_seq);
    edits.sort_unstable();
    words.sort_unstable();
    let told_edits: Vec<_> = edited.iter().map(|edit| edit.conv_seq).collect();
    let told_words: Vec<_> = reacted.iter().map(|word| word.conv_seq).collect();
    ensure(recalled == recalls && told_edits == edits && told_words == words, || {
        format!(
            "{user}: changes of {} since {since}: {recalled:?} {edited:?} {reacted:?}\ndue is {recalls:?} {edits:?} {words:?}",
            conv.id
        )
    })?;
    for edit in &edited {
        let same = conv
            .fate(edit.target)
            .edits
            .iter()
            .any(|due| (due.0, &due.1, due.2) == (edit.conv_seq, &edit.body, edit.edited_at));
        ensure(same, || format!("{user}: {edit:?} of {}", conv.id))?;
    }
    Ok(())
}

/// `members`, paged.
pub async fn members(model: &Model, engine: &Engine, user: &UserId, conv: &Conv, limit: u32) -> Check {
    let (mut page, mut listed) = (None, Vec::new());
    loop {
        let request = Request::Members { conv_id: conv.id.clone(), page: page.take(), limit };
        let AnswerBody::Members { members, next } = ask(engine, user, request).await? else {
            return Err("none".into());
        };
        listed.extend(members);
        match next {
            Some(next) => page = Some(next),
            None => break,
        }
    }
    listed.sort_by(|a, b| a.user_id.cmp(&b.user_id));
    // The receipt is there before the reading it tells of: whoever has the one is told no less.
    let receipt = model.user(user).own(&conv.id).receipt;
    let told_read = |id: &UserId| {
        let read = model.user(id).own(&conv.id).read_seq;
        if conv.direct && id != user { read.max(receipt) } else { read }
    };
    let due: Vec<_> = conv
        .present()
        .map(|(id, member)| MemberInfo {
            user_id: id.clone(),
            joined_at: member.joined_at,
            join_seq: member.stays.last().expect("a stay").0,
            role: member.role,
            read_seq: told_read(id),
        })
        .collect();
    ensure(listed == due, || format!("{user}: members of {}: {listed:#?}\ndue is {due:#?}", conv.id))
}

/// Whoever never was a member is told the same of a conversation as of none.
pub async fn stranger(engine: &Engine, user: &UserId, conv: &ConvId, left: bool) -> Check {
    let (conv_id, limit) = (conv.clone(), 3);
    let mut requests = vec![Request::Members { conv_id: conv_id.clone(), page: None, limit }];
    if !left {
        requests.push(Request::History { conv_id: conv_id.clone(), from: HistoryFrom::Newest, limit });
        requests.push(Request::Changes { conv_id, since: 0 });
    }
    for request in requests {
        let answer = engine.submit(&caller(user), request.clone()).await;
        let refused = matches!(&answer, Err(refusal) if refusal.code == ErrorCode::NotFound);
        ensure(refused, || format!("{user}, no member, asked {request:?}: {answer:?}"))?;
    }
    Ok(())
}

/// A device that has caught up holds what one that was never away holds.
pub fn device(model: &Model, device: &Device) -> Check {
    let user = &device.caller.user;
    let state = model.user(user);
    ensure(device.owes == Owes::Nothing && device.cursor == state.head(), || {
        format!("{:?} did not catch up: at {}, head {}", device.caller, device.cursor, state.head())
    })?;
    for conv in model.convs.values().filter(|conv| conv.members.contains_key(user)) {
        let wrong = |what: String| format!("{:?}, {}: {what}", device.caller, conv.id);
        let cache = device.caches.get(&conv.id).ok_or_else(|| wrong("not there".into()))?;
        let (own, cap) = (state.own(&conv.id), conv.members[user].cap(conv.head()));
        for seq in 1..=conv.head() {
            let due = state.standing(user, conv, seq);
            let held = cache.held.get(&seq);
            match (held, &due) {
                (None, Some(_)) if !conv.addressed(user, seq) => {}
                (None, None) => {}
                (Some(held), Some(due)) if held.message == *due => {
                    let told = held.words.iter().filter(|(_, word)| word.1).map(|(place, _)| place.clone()).collect();
                    reactions(model, user, conv, seq, told).map_err(wrong)?;
                }
                // Recalled after he left: nobody tells him.
                (Some(held), Some(due)) if due.recalled && !held.message.recalled => {
                    let told = conv.fate(seq).recall.is_some_and(|(at, _)| at <= cap);
                    ensure(!told, || wrong(format!("{seq} is held unrecalled: {held:?}")))?;
                }
                _ => return Err(wrong(format!("{seq} is held as {held:?}\ndue is {due:?}"))),
            }
        }
        let settings = cache.settings.unwrap_or_default();
        ensure(settings == own.settings, || wrong(format!("{settings:?}, due is {:?}", own.settings)))?;
        let read = cache.read.map_or(0, |read| read.0);
        let joins = conv.members[user].stays.iter().any(|stay| stay.0 == own.read_seq);
        ensure(read == own.read_seq || (joins && read < own.read_seq), || {
            wrong(format!("read {read}, due is {own:?}"))
        })?;
    }
    Ok(())
}
