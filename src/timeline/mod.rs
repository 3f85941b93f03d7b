//! Timelines: numbering, group commit, and the certainty of outcomes.
//!
//! One lane for each active timeline ([`lane`]) gathers what is to be appended, a [`draft`] numbers it,
//! [`decide`] commits it and does not let go before the outcome is known. Nothing else in Everline
//! gives a sequence number. What entries mean is no business of this room.

pub mod codec;
pub mod decide;
pub mod draft;
pub mod lane;
pub mod lanes;

pub use decide::{Attempts, Decided, commit_again, commit_once, commit_until_decided};
pub use draft::Draft;
pub use lane::{Full, Lane, Pushed, Weigh};
pub use lanes::Lanes;
