//! Chat logs into messages, and nicks into users.
//!
//! One event a line: `[hh:mm] <nick> text` and `[hh:mm]  * nick text` (`/me`) are messages; what
//! begins with `===` (nick changes, joins, modes) is none. Lines need not be UTF-8: they are decoded
//! lossily, and nothing in them is refused.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use everline::protocol::UserId;

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    /// Who.
    pub(crate) nick: String,
    /// What.
    pub(crate) text: String,
    /// Said with `/me`.
    pub(crate) action: bool,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// File name.
    pub(crate) name: String,
    /// In file order.
    pub(crate) lines: Vec<Line>,
}

/// Reads `files` of `dir`, or, when none is named, all its `*.txt`, by name.
pub(crate) fn read_dir(dir: &Path, files: &[String], at_most: Option<usize>) -> Result<Vec<Log>> {
    let mut paths: Vec<PathBuf> = files.iter().map(|name| dir.join(name)).collect();
    if paths.is_empty() {
        let entries = std::fs::read_dir(dir).with_context(|| format!("chat logs in {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                paths.push(path);
            }
        }
        paths.sort();
    }
    paths.truncate(at_most.unwrap_or(usize::MAX));
    ensure!(!paths.is_empty(), "no *.txt in {}", dir.display());
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Log> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Log { name, lines: parse(&bytes) })
}

/// The messages among the lines of a file.
pub(crate) fn parse(bytes: &[u8]) -> Vec<Line> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| parse_line(&String::from_utf8_lossy(line))).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let is_time = time.len() == 5 && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    if !is_time {
        return None;
    }
    let (nick, text, action) = if let Some(rest) = rest.strip_prefix('<') {
        // Some have nothing behind the nick, not even the space.
        let (nick, text) = rest.split_once('>')?;
        (nick, text.strip_prefix(' ').unwrap_or(text), false)
    } else {
        let rest = rest.strip_prefix(" * ")?;
        let (nick, text) = rest.split_once(' ').unwrap_or((rest, ""));
        (nick, text, true)
    };
    (!nick.is_empty()).then(|| Line { nick: nick.to_owned(), text: text.to_owned(), action })
}

/// The user a nick is; different nicks are different users. What a `user_id` may not hold becomes
/// `@` and two hexadecimal digits.
pub(crate) fn user_of(nick: &str) -> Result<UserId> {
    let mut id = String::with_capacity(nick.len());
    for byte in nick.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            id.push(char::from(byte));
        } else {
            id.push_str(&format!("@{byte:02X}"));
        }
    }
    UserId::parse(&id).with_context(|| format!("nick {nick:?} makes no user_id"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn messages_and_actions_are_told_from_the_rest() {
        let text = b"\n[04:46] <pawan> how to\n[04:48]  * unperson sits and listens\n\
            === A is now known as B\n[02:34] <Ttech>\n[02:34] <x> a > b\n[09:43] caf\xe9\n[02:34] <y> caf\xe9";
        let lines = parse(text);
        let seen: Vec<_> = lines.iter().map(|l| (&*l.nick, &*l.text, l.action)).collect();
        let expected = [
            ("pawan", "how to", false),
            ("unperson", "sits and listens", true),
            ("Ttech", "", false),
            ("x", "a > b", false),
            ("y", "caf\u{fffd}", false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn different_nicks_are_different_users() -> Result<()> {
        let nicks = ["a", "A", "a@7C", "a|", "[a]", "a b", "ä", "a.b-c_d"];
        let users: BTreeSet<_> = nicks.iter().map(|nick| user_of(nick)).collect::<Result<_>>()?;
        assert_eq!(users.len(), nicks.len());
        assert_eq!(user_of("a|@")?, "a@7C@40");
        assert!(user_of("").is_err());
        Ok(())
    }

    #[test]
    fn the_real_logs_come_to_their_known_totals() -> Result<()> {
        let Some(dir) = crate::replay::test_data() else {
            return Ok(());
        };
        let logs = read_dir(&dir, &[], None)?;
        let messages: usize = logs.iter().map(|log| log.lines.len()).sum();
        let users: BTreeSet<_> =
            logs.iter().flat_map(|log| &log.lines).map(|l| user_of(&l.nick)).collect::<Result<_>>()?;
        assert_eq!((logs.len(), messages, users.len()), (24, 30_898, 2_986));
        Ok(())
    }
}
