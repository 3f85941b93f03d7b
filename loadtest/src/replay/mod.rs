//! Real chat logs against a real server, and an oracle that says what every device must hold.
//!
//! One file is one group; each nick is a user with one to three devices, who joins when he is first
//! seen. Lines are sent in file order; between them, by the seed, messages are taken back, edited,
//! reacted to, hidden, read and sent again, members leave and return, devices go and come, and the
//! server is killed. At the end every device must hold exactly what the oracle says, which was told
//! nothing but the answers. A run without resets, recalls to devices that were off-line and refused
//! duplicates proves nothing, so these are counted and printed.

mod compare;
mod log;
mod oracle;
mod plan;

/// Where tests find real chat logs; says so when there are none.
#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn test_data() -> Option<std::path::PathBuf> {
    let root = std::env::var_os("EVERLINE_TEST_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        std::path::PathBuf::from,
    );
    let dir = root.join("irc");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!(
        "SKIPPED: no chat logs at {} (EVERLINE_TEST_DATA names their parent)",
        dir.display()
    );
    None
}
