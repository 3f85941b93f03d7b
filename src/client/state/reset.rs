//! A fresh start, and the reset: what becomes stale, and when it is over.
//!
//! Marks are part of the state and saved with it, so that an interrupted reconciliation goes on where
//! it was, and a second reset begins it anew without losing where the hole began.

use super::{Loading, Preload, State};
use crate::protocol::{Cursor, Reset, ResetReason};

/// A device without a cursor starts at the head.
pub fn first_start(state: &mut State, cursor: Cursor) {
    state.cursor = Some(cursor);
    state.list_wanted = state.preload != Preload::None;
    state.loading = if state.list_wanted { Loading::Fresh } else { Loading::No };
}

/// Takes in a reset: the cursor moves to its head. `too_old` keeps what is held and marks it stale;
/// the other reasons drop it.
pub fn reset(state: &mut State, reset: &Reset) {
    let cursor = Cursor { epoch: reset.epoch.clone(), seq: reset.head_seq };
    if reset.reason != ResetReason::TooOld {
        let (user_id, preload) = (state.user_id.take(), state.preload);
        *state = State { user_id, preload, ..State::default() };
        return first_start(state, cursor);
    }
    state.cursor = Some(cursor);
    state.loading = Loading::Reset;
    state.list_wanted = true;
    let preload = state.preload;
    for (conv_id, held) in &mut state.conversations {
        if conv_id.is_everybody() {
            // Its log is followed by itself.
            continue;
        }
        held.stale.generation += 1;
        held.stale.row = Some(reset.head_seq);
        if held.complete_from.is_some() {
            held.stale.gap.get_or_insert(held.held_to);
        }
        if let Some(known) = held.reconciled_seq {
            held.stale.changes = Some(held.stale.changes.map_or(known, |marked| marked.min(known)));
        }
        let wanted = matches!(preload, Preload::History(_));
        let known = held.members.is_some() || held.peer_read_seq > 0;
        held.stale.members = (wanted || known) && !held.large && held.left_seq.is_none();
        held.stale.member_changes.clear();
    }
}

/// Ends the first load or the reset when nothing is missing any more. Whether it did.
pub fn close_if_done(state: &mut State) -> bool {
    let open = state.loading != Loading::No;
    if !open || state.list_wanted || state.conversations.values().any(super::ConversationState::is_stale) {
        return false;
    }
    state.loading = Loading::No;
    true
}
