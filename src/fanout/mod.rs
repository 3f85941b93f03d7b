//! Fan-out: from a conversation's log into the sync timelines of those it is addressed to.
//!
//! Deliveries of one conversation reach a user's lane in conv_seq order, and the user's row
//! (`delivered`) makes each of them once, whoever delivers and however often (rules 1, 2). Nothing is
//! pushed from here: the lane's driver does that, after the commit.

mod deliver;
mod progress;
mod recipients;

pub use deliver::{Batch, Delivery, deliver, read_log};
pub use progress::{Ledger, Progress};
pub use recipients::{recipients_of, recipients_of_many, told_of};
