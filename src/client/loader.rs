//! What a client asks by itself: the list, missing pages, changes, members.
//!
//! It decides from the marks in the state what to ask next, and holds nothing that would be missed
//! when the connection goes: a new connection begins with a new loader and the marks saved. At most
//! [`AT_ONCE`] requests are under way, one per conversation.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{
    ChangesAnswer, ConversationState, HistoryAnswer, State, apply_changes, apply_conversations, apply_history,
    apply_members,
};
use crate::protocol::{AnswerBody, ConvId, ErrorCode, HistoryFrom, MemberInfo, Request, limits::MAX_HISTORY_LIMIT};

/// Requests of the loader under way.
const AT_ONCE: usize = 8;
/// Lists paged for a row before it is taken not to exist: one that moves to the front while the list is
/// paged is missed.
const TRIES: u32 = 3;
/// Rows and members a page.
const PAGE: u32 = 200;

/// A request of the loader, to be given back with its answer.
#[derive(Clone, Debug)]
pub(super) enum Job {
    List { run: u64, asked_at: u64 },
    Conversation { conv_id: ConvId, generation: u64, part: Part },
}

/// Which part of a conversation.
#[derive(Clone, Debug)]
pub(super) enum Part {
    History(HistoryFrom),
    Changes { began: u64 },
    Members,
}

/// Pages of one conversation between two requests of a run.
#[derive(Debug)]
struct Progress {
    generation: u64,
    changes: Option<(u64, u64)>,
    page: Option<String>,
    members: Vec<MemberInfo>,
}

/// The list between two of its pages.
#[derive(Debug)]
struct ListRun {
    began_at: u64,
    page: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Loader {
    queue: BTreeSet<ConvId>,
    busy: BTreeSet<ConvId>,
    list: Option<ListRun>,
    list_busy: bool,
    /// Counts resets: a page of the list asked before one moves nothing.
    run: u64,
    rows_wanted: bool,
    /// Lists paged in vain for rows that are wanted.
    tries: u32,
    progress: BTreeMap<ConvId, Progress>,
}

impl Loader {
    /// Looks at every mark.
    pub(super) fn new(state: &State) -> Self {
        let mut loader = Self::default();
        loader.look_at(state, state.conversations.keys());
        loader
    }

    /// The marks of these may have changed.
    pub(super) fn look_at<'a>(&mut self, state: &State, touched: impl IntoIterator<Item = &'a ConvId>) {
        for conv_id in touched {
            let Some(held) = state.conversations.get(conv_id) else { continue };
            self.rows_wanted |= held.stale.row.is_some();
            if held.is_stale() {
                self.queue.insert(conv_id.clone());
            }
        }
    }

    /// A reset: everything begins anew; what is under way will finish nothing.
    pub(super) fn restart(&mut self, state: &State) {
        self.run += 1;
        self.list = None;
        self.list_busy = false;
        self.rows_wanted = false;
        self.tries = 0;
        self.progress.clear();
        self.look_at(state, state.conversations.keys());
    }

    /// The next request, if one may be sent now.
    pub(super) fn next(&mut self, state: &State) -> Option<(Request, Job)> {
        if self.busy.len() + usize::from(self.list_busy) >= AT_ONCE {
            return None;
        }
        if (state.list_wanted || self.rows_wanted) && !self.list_busy {
            return Some(self.next_page(state));
        }
        let free = self.queue.iter().filter(|conv_id| !self.busy.contains(*conv_id));
        for conv_id in free.cloned().collect::<Vec<_>>() {
            self.queue.remove(&conv_id);
            if let Some((request, part)) = self.next_part(state, &conv_id) {
                let generation = state.conversations.get(&conv_id).map_or(0, |held| held.stale.generation);
                self.busy.insert(conv_id.clone());
                return Some((request, Job::Conversation { conv_id, generation, part }));
            }
        }
        None
    }

    /// Whether messages or changes are known to be missing that will be asked for.
    pub(super) fn is_behind(&self, state: &State) -> bool {
        let missing = |conv_id: &ConvId| {
            let held = state.conversations.get(conv_id);
            held.is_some_and(|held| held.stale.gap.is_some() || held.stale.changes.is_some())
        };
        self.queue.iter().chain(&self.busy).any(missing)
    }

    fn next_page(&mut self, state: &State) -> (Request, Job) {
        let asked_at = state.seq();
        let list = self.list.get_or_insert(ListRun { began_at: asked_at, page: None });
        self.list_busy = true;
        let request = Request::Conversations { active_after: None, page: list.page.clone(), limit: PAGE };
        (request, Job::List { run: self.run, asked_at })
    }

    fn next_part(&mut self, state: &State, conv_id: &ConvId) -> Option<(Request, Part)> {
        let held = state.conversations.get(conv_id)?;
        let conv_id = conv_id.clone();
        let marks = &held.stale;
        let history = |conv_id, from| {
            let request = Request::History { conv_id, from, limit: MAX_HISTORY_LIMIT };
            Some((request, Part::History(from)))
        };
        if let Some(gap) = marks.gap {
            return history(conv_id, HistoryFrom::After(gap));
        }
        if let Some(older) = marks.older {
            return history(conv_id, older.before.map_or(HistoryFrom::Newest, HistoryFrom::Before));
        }
        let known = self.progress.get(&conv_id).filter(|known| known.generation == marks.generation);
        if let Some(marked) = marks.changes {
            let (began, since) = known.and_then(|known| known.changes).unwrap_or((marked, marked));
            return Some((Request::Changes { conv_id, since }, Part::Changes { began }));
        }
        if marks.members {
            let page = known.and_then(|known| known.page.clone());
            return Some((Request::Members { conv_id, page, limit: PAGE }, Part::Members));
        }
        None
    }

    /// Takes an answer in. Which conversations it touched.
    pub(super) fn answered(&mut self, state: &mut State, job: Job, body: AnswerBody) -> BTreeSet<ConvId> {
        self.free(&job);
        let mut touched = BTreeSet::new();
        match (job, body) {
            (Job::List { run, asked_at }, AnswerBody::Conversations { conversations, next }) => {
                touched.extend(conversations.iter().map(|row| row.conv_id.clone()));
                apply_conversations(state, &conversations, asked_at);
                if run == self.run {
                    self.turn_page(state, next, &mut touched);
                }
            }
            (Job::Conversation { conv_id, generation, part }, body) => {
                self.part_answered(state, &conv_id, generation, part, body);
                touched.insert(conv_id);
            }
            (Job::List { .. }, _) => tracing::warn!("the list was answered by something else"),
        }
        self.look_at(state, &touched);
        touched
    }

    /// An error that will come again: its part is given up.
    pub(super) fn refused(&mut self, state: &mut State, job: &Job, code: ErrorCode) -> BTreeSet<ConvId> {
        self.free(job);
        let Job::Conversation { conv_id, part, generation } = job else {
            tracing::warn!(%code, "the list of conversations was refused");
            let mut touched = BTreeSet::new();
            self.end_list(state, &mut touched);
            return touched;
        };
        tracing::debug!(%code, %conv_id, ?part, "the server tells no more about a conversation");
        if let Some(held) = state.conversations.get_mut(conv_id).filter(|held| held.stale.generation == *generation) {
            let marks = &mut held.stale;
            match part {
                Part::History(_) => (marks.gap, marks.older) = (None, None),
                Part::Changes { .. } => marks.changes = None,
                Part::Members => marks.members = false,
            }
        }
        let touched = BTreeSet::from([conv_id.clone()]);
        self.look_at(state, &touched);
        touched
    }

    /// An error that may not come again: it will be asked once more.
    pub(super) fn postponed(&mut self, job: &Job) {
        self.free(job);
        if let Job::Conversation { conv_id, .. } = job {
            self.queue.insert(conv_id.clone());
        }
    }

    fn free(&mut self, job: &Job) {
        match job {
            Job::List { run, .. } => self.list_busy &= *run != self.run,
            Job::Conversation { conv_id, .. } => {
                self.busy.remove(conv_id);
            }
        }
    }

    fn turn_page(&mut self, state: &mut State, next: Option<String>, touched: &mut BTreeSet<ConvId>) {
        let rows_missing = state.conversations.values().any(|held| held.stale.row.is_some());
        self.rows_wanted = rows_missing;
        match (next, &mut self.list) {
            (Some(next), Some(list)) if state.list_wanted || rows_missing => list.page = Some(next),
            _ => self.end_list(state, touched),
        }
    }

    /// The last page: rows that were wanted before the first and did not come are looked for again, then
    /// given up.
    fn end_list(&mut self, state: &mut State, touched: &mut BTreeSet<ConvId>) {
        let began_at = self.list.take().map_or(0, |list| list.began_at);
        state.list_wanted = false;
        let wanted = |held: &ConversationState| held.stale.row.is_some();
        let in_vain = |held: &ConversationState| held.stale.row.is_some_and(|marked| marked <= began_at);
        self.tries = if state.conversations.values().any(in_vain) { self.tries + 1 } else { 0 };
        if self.tries >= TRIES {
            self.tries = 0;
            for (conv_id, held) in state.conversations.iter_mut().filter(|(_, held)| in_vain(held)) {
                held.stale.row = None;
                touched.insert(conv_id.clone());
            }
        }
        self.rows_wanted = state.conversations.values().any(wanted);
    }

    fn part_answered(&mut self, state: &mut State, conv_id: &ConvId, generation: u64, part: Part, body: AnswerBody) {
        let now = state.conversations.get(conv_id).map(|held| held.stale.generation);
        let finishes = now == Some(generation);
        match (part, body) {
            (Part::History(from), AnswerBody::History { entries, next, complete, head_seq }) => {
                let answer = HistoryAnswer { entries, next, complete, head_seq };
                apply_history(state, conv_id, from, &answer, finishes);
            }
            (
                Part::Changes { began },
                AnswerBody::Changes { recalled, edited, reacted, up_to, more, deleted, cleared_up_to },
            ) => {
                let answer = ChangesAnswer { recalled, edited, reacted, up_to, more, deleted, cleared_up_to };
                apply_changes(state, conv_id, began, &answer, finishes);
                if finishes {
                    self.remember(conv_id, generation, |known| {
                        known.changes = more.then_some((began, up_to));
                    });
                }
            }
            (Part::Members, AnswerBody::Members { members, next }) => {
                if !finishes {
                    return;
                }
                let known = self.remember(conv_id, generation, |known| {
                    known.members.extend(members);
                    known.page.clone_from(&next);
                });
                if next.is_none() {
                    let all = std::mem::take(&mut known.members);
                    apply_members(state, conv_id, &all, true);
                }
            }
            (part, _) => tracing::warn!(%conv_id, ?part, "a request was answered by something else"),
        }
        if !state.conversations.get(conv_id).is_some_and(super::state::ConversationState::is_stale) {
            self.progress.remove(conv_id);
        }
    }

    fn remember(&mut self, conv_id: &ConvId, generation: u64, change: impl FnOnce(&mut Progress)) -> &mut Progress {
        let new = || Progress { generation, changes: None, page: None, members: Vec::new() };
        let known = self.progress.entry(conv_id.clone()).or_insert_with(new);
        if known.generation != generation {
            *known = new();
        }
        change(known);
        known
    }
}
