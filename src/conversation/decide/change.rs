//! `recall`, `edit`, `react`: entries that change a message that came before.

use std::sync::Arc;

use super::{Decision, Desk, ok};
use crate::conversation::Refusal;
use crate::conversation::entry::{self, Header, Kind};
use crate::conversation::member::Member;
use crate::conversation::rows::{self, Change, ChangeKind, Info, Target, Word};
use crate::planted::{Bug, planted};
use crate::protocol::limits::MAX_EDITS;
use crate::protocol::{AnswerBody, Body, ErrorCode, Event, Message, Role, UserId};
use crate::store::Section;

/// Words read to find another user to name with a key.
const WORDS_LOOKED_AT: usize = 256;

/// A message about to be changed, by somebody who may see it.
struct Found {
    member: Arc<Member>,
    info: Info,
    header: Header,
    message: Message,
    target: Target,
}

/// The message in an entry as stored, if it is one, and its header.
fn message_at(data: &[u8]) -> Option<(Header, Message)> {
    let (header, text) = Header::load(data)?;
    let message = (header.kind == Kind::Message).then(|| entry::message(text))??;
    Some((header, message))
}

impl Desk<'_> {
    /// Membership, then that the target is visible and a message.
    async fn find(&self, caller: &UserId, target: u64) -> Decision<Found> {
        let (member, info) = self.membership(caller)?;
        let visible = target <= self.draft.head_seq() && member.sees(target, info.history);
        let data = if visible { self.entry(target).await? } else { None };
        let Some((header, message)) = data.as_deref().and_then(message_at) else {
            return Err(Refusal::field("target").into());
        };
        let target = self.row(&rows::target_key(target)).await?.unwrap_or_default();
        Ok(Found { member, info, header, message, target })
    }

    fn in_time(&self, message: &Message) -> Decision<()> {
        if self.draft.at() > message.sent_at.saturating_add(self.policy.recall_limit_ms) {
            return Err(ErrorCode::TooLate.into());
        }
        Ok(())
    }

    pub(super) async fn recall(&mut self, caller: &UserId, target: u64) -> Decision<AnswerBody> {
        let Found { member, info, header, message, target: state } = self.find(caller, target).await?;
        let moderates = !info.direct && member.role != Role::Member;
        if message.sender_id != *caller && !moderates {
            return Err(ErrorCode::Forbidden.into());
        }
        if let Some((first, _)) = state.recall {
            return Ok(ok(first));
        }
        self.in_time(&message)?;
        self.take_back(caller, &header, message, state).await
    }

    /// Recalls a message of this user's, without asking whether he may; anything else is passed over.
    pub(super) async fn recall_own(&mut self, user: &UserId, target: u64) -> Decision<()> {
        let data = if target <= self.draft.head_seq() { self.entry(target).await? } else { None };
        let found = data.as_deref().and_then(message_at).filter(|(_, message)| message.sender_id == *user);
        let Some((header, message)) = found else { return Ok(()) };
        let state: Target = self.row(&rows::target_key(target)).await?.unwrap_or_default();
        if state.recall.is_none() {
            self.take_back(user, &header, message, state).await?;
        }
        Ok(())
    }

    /// Appends the recall and erases the bodies of the message and its edits.
    async fn take_back(
        &mut self,
        caller: &UserId,
        header: &Header,
        message: Message,
        mut state: Target,
    ) -> Decision<AnswerBody> {
        let target = message.conv_seq;
        let edits = self.edit_stubs(&state).await?;
        let conv_seq = self.change(caller, &message, ChangeKind::Recall, |conv_id, conv_seq, _| Event::Recall {
            conv_id,
            conv_seq,
            target,
            by: caller.clone(),
        });
        state.recall = Some((conv_seq, caller.clone()));
        self.set_target(target, &state);
        let plain = Header::plain(Kind::Message, Some(&message.sender_id));
        let header = if planted(Bug::RecallDropsCounts) { &plain } else { header };
        let stub = entry::stub(message);
        if planted(Bug::BodyNotErased) {
            return Ok(ok(conv_seq));
        }
        self.draft.rewrite(target, header.store(&stub));
        for (seq, data) in edits {
            self.draft.rewrite(seq, data);
        }
        Ok(ok(conv_seq))
    }

    /// The edits of a message with their bodies taken out: erased with the message's own.
    async fn edit_stubs(&self, state: &Target) -> Decision<Vec<(u64, bytes::Bytes)>> {
        let mut stubs = Vec::new();
        for seq in &state.edits {
            let data = self.entry(*seq).await?;
            let Some((header, text)) = data.as_deref().and_then(Header::load) else { continue };
            if let Ok(Event::Edit { conv_id, conv_seq, target, by, edited_at, .. }) = Event::decode(text) {
                let body = empty_body();
                let bare = Event::Edit { conv_id, conv_seq, target, by, edited_at, body }.encode();
                stubs.push((*seq, header.store(&bare)));
            }
        }
        Ok(stubs)
    }

    pub(super) async fn edit(&mut self, caller: &UserId, target: u64, body: &Body) -> Decision<AnswerBody> {
        let Found { message, target: mut state, .. } = self.find(caller, target).await?;
        if message.sender_id != *caller {
            return Err(ErrorCode::Forbidden.into());
        }
        if state.recall.is_some() {
            return Err(ErrorCode::Gone.into());
        }
        self.in_time(&message)?;
        // A recall reads and erases them all in one commit.
        if state.edits.len() >= MAX_EDITS {
            return Err(ErrorCode::TooLate.into());
        }
        let conv_seq = self.change(caller, &message, ChangeKind::Edit, |conv_id, conv_seq, edited_at| Event::Edit {
            conv_id,
            conv_seq,
            target,
            by: caller.clone(),
            body: body.clone(),
            edited_at,
        });
        state.edits.push(conv_seq);
        self.set_target(target, &state);
        Ok(ok(conv_seq))
    }

    pub(super) async fn react(&mut self, caller: &UserId, target: u64, key: &str, add: bool) -> Decision<AnswerBody> {
        let Found { message, target: mut state, .. } = self.find(caller, target).await?;
        if state.recall.is_some() {
            return Err(ErrorCode::Gone.into());
        }
        let word = rows::word_key(target, key, caller);
        match self.row::<Word>(&word).await? {
            Some(last) if last.add == add => return Ok(ok(last.conv_seq)),
            None if !add => return Ok(ok(self.draft.head_seq())),
            _ => {}
        }
        if add && !state.add(key, caller) {
            return Err(Refusal::field("key").into());
        }
        if !add && state.take_away(key, caller) {
            self.name_another(target, key, caller, &mut state).await?;
        }
        let conv_seq = self.change(caller, &message, ChangeKind::Reaction, |conv_id, conv_seq, _| Event::Reaction {
            conv_id,
            conv_seq,
            target,
            user_id: caller.clone(),
            key: key.to_owned(),
            add,
        });
        state.last_word = conv_seq;
        self.draft.row(word, Some(rows::pack(&Word { conv_seq, add })), None);
        self.set_target(target, &state);
        Ok(ok(conv_seq))
    }

    /// Puts a user who reacted with this key among those named, instead of one who has taken his away.
    async fn name_another(&self, target: u64, key: &str, gone: &UserId, state: &mut Target) -> Decision<()> {
        let Some(with) = state.reactions.iter_mut().find(|with| with.key == key) else { return Ok(()) };
        let after = Some(rows::word_key(target, key, ""));
        let timeline = &self.conversation.timeline;
        let words = self.store.rows(timeline, Section::Word, after, target, WORDS_LOOKED_AT).await?;
        for (row, _) in &words {
            let Some((_, user)) = rows::of_word(row).filter(|(other, _)| *other == key) else { continue };
            if user == *gone || with.users.contains(&user) {
                continue;
            }
            if self.row::<Word>(row).await?.is_some_and(|word| word.add) {
                with.users.push(user);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Appends a change and its place in the change index.
    fn change(
        &mut self,
        caller: &UserId,
        message: &Message,
        kind: ChangeKind,
        event: impl FnOnce(crate::protocol::ConvId, u64, u64) -> Event,
    ) -> u64 {
        let header = Header {
            target: message.conv_seq,
            target_sender: Some(message.sender_id.clone()),
            ..Header::plain(kind.entry_kind(), Some(caller))
        };
        let conv_id = self.conversation.id.clone();
        let conv_seq = self.append(header, |conv_seq, at| event(conv_id, conv_seq, at));
        let change = Change { kind, target: message.conv_seq };
        self.draft.row(rows::change_key(conv_seq), Some(rows::pack(&change)), None);
        conv_seq
    }

    fn set_target(&mut self, target: u64, state: &Target) {
        self.draft.row(rows::target_key(target), Some(rows::pack(state)), None);
    }
}

fn empty_body() -> Body {
    #[expect(clippy::expect_used, reason = "`{}` is a JSON object")]
    Body::parse("{}").expect("an empty object is a body")
}
