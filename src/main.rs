//! Everline.
fn main() {}
