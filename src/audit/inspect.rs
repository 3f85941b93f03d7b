//! `inspect`: one timeline as lines of text, for eyes and `grep`.
//!
//! Without `bodies` nothing anybody wrote is shown: no message, no title, no attributes. It must not be
//! used by programs: the form may change.

use crate::conversation::entry::{Header, Kind};
use crate::conversation::member::Member;
use crate::conversation::pointer::Pointer;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Device, Info};
use crate::conversation::user_row::UserRow;
use crate::store::{Entry, Result, RowKey, Section, Span, Store, TimelineId};

/// Rows or entries read at once.
const PAGE: usize = 512;

/// What is to be shown.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Of which timeline.
    pub timeline: TimelineId,
    /// Entries above this number; entries at or below the floor are gone.
    pub after: u64,
    /// At most so many entries, and so many rows of each section.
    pub limit: usize,
    /// Also what people wrote.
    pub bodies: bool,
}

/// Hands the lines to `line`, one after the other.
///
/// # Errors
/// That the store could not be read.
pub async fn inspect(store: &dyn Store, wanted: &Wanted, line: &mut dyn FnMut(String)) -> Result<()> {
    let timeline = &wanted.timeline;
    let head = store.head(timeline).await?;
    let name = match timeline {
        TimelineId::Conversation(id) => format!("conversation {id}"),
        TimelineId::User(user) => format!("user {user}"),
    };
    line(format!("{name}  epoch {}", store.epoch()));
    let position = head.position;
    line(format!(
        "head {}  floor {}  fanned {}  term {}  at {}",
        position.seq,
        head.floor,
        head.fanned,
        position.term,
        time(head.at)
    ));
    for section in Section::ALL {
        section_rows(store, wanted, section, line).await?;
    }
    entries(store, wanted, position.seq, head.floor, line).await
}

async fn section_rows(
    store: &dyn Store,
    wanted: &Wanted,
    section: Section,
    line: &mut dyn FnMut(String),
) -> Result<()> {
    let (mut after, mut shown) = (None, 0);
    loop {
        let page = store.rows(&wanted.timeline, section, after, u64::MAX, PAGE).await?;
        for (key, value) in &page {
            if shown < wanted.limit {
                line(format!("row {}", row(&wanted.timeline, key, value, wanted.bodies)));
            }
            shown += 1;
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((key, _)) => after = Some(key),
            None => break,
        }
    }
    if shown > wanted.limit {
        line(format!("row ... {} more of section {section:?}", shown - wanted.limit));
    }
    Ok(())
}

async fn entries(
    store: &dyn Store,
    wanted: &Wanted,
    head: u64,
    floor: u64,
    line: &mut dyn FnMut(String),
) -> Result<()> {
    let (mut after, mut left) = (wanted.after.max(floor), wanted.limit);
    while after < head && left > 0 {
        let span = Span { after, up_to: head, limit: left.min(PAGE), max_bytes: 4 << 20, backward: false };
        let page = store.entries(&wanted.timeline, span).await?;
        let Some(last) = page.last().map(|entry| entry.seq) else {
            line(format!("... entries {} to {head} are missing", after + 1));
            return Ok(());
        };
        for entry in &page {
            line(match wanted.timeline {
                TimelineId::Conversation(_) => conversation_entry(entry, wanted.bodies),
                TimelineId::User(_) => user_entry(entry),
            });
        }
        left -= page.len();
        after = last;
    }
    if after < head {
        line(format!("... up to {head}"));
    }
    Ok(())
}

/// Who did what no user did.
const SERVER: &str = "(server)";

fn conversation_entry(entry: &Entry, bodies: bool) -> String {
    let start = format!("{:>8}  {}", entry.seq, time(entry.at));
    let Some((header, text)) = Header::load(&entry.data) else {
        return format!("{start}  unreadable, {} bytes", entry.data.len());
    };
    let by = header.by.as_deref().unwrap_or(SERVER);
    let mut line = format!("{start}  {:<8}  by {by}", kind(header.kind));
    if header.target > 0 {
        line += &format!("  target {}", header.target);
    }
    if let Some(subject) = &header.subject {
        line += &format!("  about {subject}");
    }
    line += &format!("  {} bytes", text.len());
    if bodies {
        // The text is kept without the brace in front of it.
        line += &format!("  {{{text}");
    }
    line
}

fn user_entry(entry: &Entry) -> String {
    let start = format!("{:>8}  {}", entry.seq, time(entry.at));
    match Pointer::load(&entry.data) {
        Some(Pointer::Log { kind: what, conv_id, conv_seq, target }) => {
            let target = if target > 0 { format!("  target {target}") } else { String::new() };
            format!("{start}  {:<8}  {conv_id} {conv_seq}{target}", kind(what))
        }
        // Instructions of one's own hold numbers only.
        Some(Pointer::Own { conv_id, text, .. }) => format!("{start}  own       {conv_id}  {{{text}"),
        None => format!("{start}  unreadable, {} bytes", entry.data.len()),
    }
}

fn kind(kind: Kind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn row(timeline: &TimelineId, key: &RowKey, value: &[u8], bodies: bool) -> String {
    let shown = match key.section {
        Section::State => rows::unpack::<Info>(timeline, key, value).ok().map(|info| state_row(&info, bodies)),
        Section::Member => rows::unpack::<Member>(timeline, key, value).ok().map(|member| member_row(key, &member)),
        Section::Conv => UserRow::load(value).map(|row| conv_row(key, &row)),
        Section::Hidden => Ranges::load(value).map(|ranges| hidden_row(key, &ranges)),
        Section::Device => rows::unpack::<Device>(timeline, key, value).ok().map(|device| device_row(key, &device)),
        Section::Revoked => text(value).map(|text| format!("revoked {:?} {text}", key.id)),
        Section::Large => text(value).map(|text| format!("large {} {text}", key.id)),
        Section::Dedupe => text(value).map(|text| format!("sent {:?} {text}", key.id)),
        Section::Change => text(value).map(|text| format!("change {} {text}", key.n)),
        Section::Target => text(value).map(|text| format!("target {} {text}", key.n)),
        Section::Word => text(value).map(|text| format!("word {} {:?} {text}", key.n, key.id)),
    };
    shown.unwrap_or_else(|| format!("{:?} {} {:?} unreadable, {} bytes", key.section, key.n, key.id, value.len()))
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn state_row(info: &Info, bodies: bool) -> String {
    let kind = if info.direct { "direct" } else { "group" };
    let large = if info.is_large() { "  large" } else { "" };
    let by = info.creator.as_deref().unwrap_or(SERVER);
    let mut line = format!("state {kind}  by {by}  members {}  history {:?}", info.members_count, info.history);
    line += large;
    line += if info.dissolved_at.is_some() { "  dissolved" } else { "" };
    if bodies {
        line += &format!("  title {:?}", info.title.as_deref().unwrap_or_default());
        line += info.attributes.as_ref().map_or("", |attributes| attributes.as_str());
    }
    line
}

fn member_row(key: &RowKey, member: &Member) -> String {
    let stays: Vec<String> = member
        .stays
        .iter()
        .map(|stay| match stay.1 {
            crate::conversation::member::OPEN => format!("{}-", stay.0),
            end => format!("{}-{end}", stay.0),
        })
        .collect();
    format!("member {}  {:?}  stays {}  joined {}", key.id, member.role, stays.join(" "), time(member.joined_at))
}

fn conv_row(key: &RowKey, row: &UserRow) -> String {
    let mut line = format!(
        "conversation {}  delivered {}  read {}  unread {}  cleared {}  receipt {}  last {}",
        key.id,
        row.delivered,
        row.read_seq,
        row.unread,
        row.cleared_up_to,
        row.receipt_seq,
        time(row.last_at)
    );
    let settings = row.settings;
    for (is_set, name) in [(settings.muted, "muted"), (settings.pinned, "pinned"), (settings.hidden, "hidden")] {
        if is_set {
            line += &format!("  {name}");
        }
    }
    line
}

fn hidden_row(key: &RowKey, ranges: &Ranges) -> String {
    let ranges: Vec<String> = ranges.to_wire().iter().map(|range| format!("{}-{}", range.from, range.to)).collect();
    format!("deleted {}  {}", key.id, ranges.join(" "))
}

fn device_row(key: &RowKey, device: &Device) -> String {
    format!("device {}  acked {}  seen {}", key.id, device.acked, time(device.last_seen_at))
}

/// Milliseconds since 1970 as UTC, ISO 8601.
fn time(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hours, minutes, seconds) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", of_day % 1000)
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years are counted from March, so
/// that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_shown_as_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(time(1_795_174_000_123), "2026-11-20T11:26:40.123Z");
        assert_eq!(time(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
    }
}
