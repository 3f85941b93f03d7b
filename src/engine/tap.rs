//! A tap on the engine: one more recipient of everything that is appended (webhooks).
//!
//! What a tap holds open counts as a delivery under way, so whatever makes deliveries whole after a crash
//! (`fanned`, marks) makes the tap's work whole: it is told again of what it had not finished. It must not
//! block. How it can hurt: work never finished is done again at every start, and beyond some hundred of
//! one conversation its requests wait.

use std::fmt;
use std::sync::Arc;

use crate::conversation::state::Roster;
use crate::fanout::Progress;
use crate::protocol::ConvId;

/// Takes what was appended. Called in conv_seq order for what one process appends to one conversation;
/// the same again after a crash.
pub trait Tap: Send + Sync + 'static {
    /// Entries are durable. Must not block.
    fn appended(&self, appended: Fresh);
}

/// Entries (after, up_to] of a conversation, and whom they are for.
pub struct Fresh {
    /// Whose log.
    pub conversation: ConvId,
    /// Exclusive lower bound, a conv_seq.
    pub after: u64,
    /// Inclusive upper bound, a conv_seq.
    pub up_to: u64,
    /// Members to whom some of it is delivered; each one's stays tell which.
    pub recipients: Roster,
    progress: Arc<Progress>,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh")
            .field("conversation", &self.conversation)
            .field("after", &self.after)
            .field("up_to", &self.up_to)
            .finish_non_exhaustive()
    }
}

impl Fresh {
    pub(super) fn new(
        conversation: ConvId,
        (after, up_to): (u64, u64),
        recipients: Roster,
        progress: &Arc<Progress>,
    ) -> Self {
        progress.add();
        Self { conversation, after, up_to, recipients, progress: Arc::clone(progress) }
    }

    /// The tap has made durable what it makes of it; without this it is told again after the next start.
    pub fn finish(self) {
        self.progress.finish();
    }
}
