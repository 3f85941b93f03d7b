//! Decides requests in order against one state of the log, and answers what comes to nothing new.
//!
//! How it can hurt: an answer by a state that another node has left behind (rule 4), or before its effect
//! stands in the caller's own timeline (rule 5).

use std::sync::Arc;

use tokio::sync::oneshot;

use super::ConversationState;
use crate::conversation::decide::{Desk, NotDecided, Order};
use crate::engine::{Answer, Inner, Refusal};
use crate::planted::{Bug, planted};
use crate::protocol::{AnswerBody, ConvId, ErrorCode, UserId};
use crate::timeline::Draft;

/// Fan-outs of one conversation under way at once; further requests wait for the oldest.
const FAN_OUTS: usize = 256;

/// A client's request, or an order of the server API about him, and where its answer goes.
pub(super) type Asked = (UserId, Order, oneshot::Sender<Answer>);

impl Inner {
    /// Decides requests in order, commits what they come to, delivers and answers. After a refusal
    /// everything is decided anew from the log (rule 2).
    pub(super) async fn decide_batch(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        mut requests: Vec<Asked>,
    ) {
        if planted(Bug::AbandonedRequestDropped) {
            requests.retain(|(_, _, reply)| !reply.is_closed());
        }
        while let Some(oldest) = state.ledger.as_mut().and_then(|ledger| ledger.crowded(FAN_OUTS)) {
            oldest.wait().await;
        }
        loop {
            let Ok(conversation) = self.loaded(id, state).await else {
                return requests.into_iter().for_each(refuse_damaged);
            };
            conversation.trim();
            let mut draft = Draft::new(conversation.head, self.clock.now_ms());
            let mut appended = Vec::new();
            let mut decisions = Vec::with_capacity(requests.len());
            let mut damaged = false;
            for (caller, order, _) in &requests {
                let mut desk = Desk {
                    store: &*self.store,
                    policy: &self.policy,
                    conversation,
                    draft: &mut draft,
                    appended: &mut appended,
                };
                match desk.decide(caller, order).await {
                    Ok(answer) => decisions.push(Ok(answer)),
                    Err(NotDecided::Refused(refusal)) => decisions.push(Err(refusal)),
                    Err(NotDecided::Store(error)) => {
                        damaged = self.pause(id, error).await.is_err();
                        break;
                    }
                }
            }
            if decisions.len() < requests.len() {
                // What was drafted is thrown away, and with it the state that already counted on it.
                state.conversation = None;
                if damaged {
                    // The others are decided without the one that needs what is damaged.
                    refuse_damaged(requests.remove(decisions.len()));
                }
                if requests.is_empty() {
                    return;
                }
                continue;
            }
            if draft.is_empty() && !self.still_at(id, state).await {
                // Refused, or nothing to change, by a state another node has left behind.
                state.conversation = None;
                continue;
            }
            let callers = requests.iter().map(|(caller, _, _)| caller.clone()).collect();
            if draft.is_empty() {
                self.answer_unchanged(id, state, requests, decisions).await;
                return;
            }
            if self.commit(id, state, draft, appended, callers, &mut requests, &mut decisions).await {
                let open = requests.drain(..).zip(decisions);
                open.for_each(|((_, _, reply), answer)| drop(reply.send(answer)));
                return;
            }
            if requests.is_empty() {
                return;
            }
        }
    }

    /// Answers what was refused or there already. A success names an entry, and that may still be on its
    /// way to the caller's own timeline (perhaps from a node that died): it is delivered first (rule 5).
    async fn answer_unchanged(
        self: &Arc<Self>,
        id: &ConvId,
        state: &mut ConversationState,
        requests: Vec<Asked>,
        decisions: Vec<Answer>,
    ) {
        for ((caller, _, reply), answer) in requests.into_iter().zip(decisions) {
            let named = match &answer {
                _ if planted(Bug::DuplicateBeforeOwnEffect) => 0,
                Ok(AnswerBody::Sent { conv_seq, .. } | AnswerBody::Ok { conv_seq: Some(conv_seq), .. }) => *conv_seq,
                _ => 0,
            };
            let under_way = match planted(Bug::DuplicateBeforeOwnEffect) {
                true => None,
                false => match self.deliver_to(id, state, &caller, named).await {
                    Ok(under_way) => under_way,
                    Err(_) => {
                        drop(reply.send(Err(Refusal::new(ErrorCode::Unavailable))));
                        continue;
                    }
                },
            };
            let Some(progress) = under_way else {
                drop(reply.send(answer));
                continue;
            };
            tokio::spawn(async move {
                progress.wait().await;
                drop(reply.send(answer));
            });
        }
    }

    /// Whether the log still stands where it was when this was decided (rule 4). A commit asks that by
    /// its condition; an answer without one must ask for itself.
    async fn still_at(&self, id: &ConvId, state: &ConversationState) -> bool {
        let Some(conversation) = &state.conversation else { return false };
        if self.store.together() || planted(Bug::JudgedByCache) {
            return true;
        }
        loop {
            match self.store.head(&conversation.timeline).await {
                Ok(head) => return head.position == conversation.head.position,
                // Loading it anew says what is damaged.
                Err(error) => match self.pause(id, error).await {
                    Ok(()) => {}
                    Err(_) => return false,
                },
            }
        }
    }
}

/// Answers a request that would need what is damaged.
pub(super) fn refuse_damaged((_, _, reply): Asked) {
    let _ = reply.send(Err(Refusal::new(ErrorCode::Unavailable)));
}
