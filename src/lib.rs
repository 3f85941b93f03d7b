//! Everline.

pub mod protocol;
