//! Durations as an operator writes them: `500ms 2s 5m 24h 7d`. No fractions, no sums.

use std::time::Duration;

/// Units from the longest to the shortest, in milliseconds; `ms` before `m` and `s`, which it ends like.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// Reads a number with its unit. `None` for anything else, also for what overflows.
pub fn parse(text: &str) -> Option<Duration> {
    let (number, unit_ms) = UNITS.iter().find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, ms)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = number.parse::<u64>().ok()?.checked_mul(*unit_ms)?;
    Some(Duration::from_millis(ms))
}

/// Whole milliseconds of a duration, at most `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in
            [("500ms", 500), ("2s", 2000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "5", "-1s", "+1s", "1.5s", "1 s", "1h30m", "5x", "99999999999999999999d"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
