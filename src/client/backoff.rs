//! When to connect again, or never: a pure function of how the connection ended.
//!
//! Full jitter, so that a thousand clients of a restarted server don't come back together.

use std::time::Duration;

use rand::Rng;

use super::error::StopReason;
use crate::protocol::{CloseCode, close_reconnects};

/// Shortest wait.
pub const SHORTEST: Duration = Duration::from_millis(500);
/// Longest wait.
pub const LONGEST: Duration = Duration::from_secs(20);
/// Within this a client comes back after a restart (1001, 1012).
pub const RESTART_SPREAD: Duration = Duration::from_secs(5);

/// How a connection ended, or why there was none.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// No connection, no answer, or one that makes no sense.
    Lost(&'static str),
    /// A close frame.
    Closed { code: u16, reason: String },
    /// The upgrade was refused.
    Http(u16),
    /// For good.
    Stop(StopReason),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    Stop(StopReason),
    Reconnect { wait: Duration, renew_token: bool },
}

/// `attempt`: connections in a row that did not get live, from 0.
pub(super) fn after(end: &End, attempt: u32, provider: bool, rng: &mut impl Rng) -> Next {
    let again = |wait| Next::Reconnect { wait, renew_token: false };
    match end {
        End::Stop(reason) => Next::Stop(reason.clone()),
        End::Closed { code, .. } if *code == CloseCode::TokenExpired.code() => {
            if provider {
                Next::Reconnect { wait: jittered(attempt, rng), renew_token: true }
            } else {
                Next::Stop(StopReason::TokenExpired)
            }
        }
        End::Closed { code, reason } if !close_reconnects(*code) => {
            Next::Stop(StopReason::Refused { code: *code, reason: reason.clone() })
        }
        End::Closed { code: 1001 | 1012, .. } => again(uniform(Duration::ZERO, RESTART_SPREAD, rng)),
        End::Closed { code: 1013, .. } => again(uniform(RESTART_SPREAD, LONGEST, rng)),
        End::Http(status @ (400 | 401 | 403)) => Next::Stop(StopReason::Http(*status)),
        End::Closed { .. } | End::Http(_) | End::Lost(_) => again(jittered(attempt, rng)),
    }
}

/// Between the shortest wait and a bound that doubles with each attempt up to the longest.
pub(super) fn jittered(attempt: u32, rng: &mut impl Rng) -> Duration {
    let bound = SHORTEST * 2_u32.saturating_pow(attempt.saturating_add(1).min(10));
    uniform(SHORTEST, bound.min(LONGEST), rng)
}

fn uniform(from: Duration, to: Duration, rng: &mut impl Rng) -> Duration {
    from + (to.saturating_sub(from)).mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn closed(code: u16) -> End {
        End::Closed { code, reason: String::new() }
    }

    fn waits(end: &End, attempt: u32) -> (f64, f64) {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut all = Vec::new();
        for _ in 0..2_000 {
            match after(end, attempt, true, &mut rng) {
                Next::Reconnect { wait, .. } => all.push(wait.as_secs_f64()),
                Next::Stop(reason) => all.push(f64::from(reason != StopReason::Closed) * 1e9),
            }
        }
        (all.iter().copied().fold(f64::MAX, f64::min), all.iter().copied().fold(0.0, f64::max))
    }

    fn assert_spread(end: &End, attempt: u32, from: f64, to: f64) {
        let (least, most) = waits(end, attempt);
        let slack = (to - from) * 0.02;
        assert!(least >= from && least < from + slack, "{end:?} {attempt}: {least} not near {from}");
        assert!(most <= to && most > to - slack, "{end:?} {attempt}: {most} not near {to}");
    }

    #[test]
    fn waits_are_spread_over_their_whole_range_and_bounded() {
        let lost = End::Lost("");
        for (attempt, to) in [(0, 1.0), (1, 2.0), (2, 4.0), (5, 20.0), (31, 20.0), (u32::MAX, 20.0)] {
            assert_spread(&lost, attempt, 0.5, to);
        }
        for code in [1001, 1012] {
            assert_spread(&closed(code), 9, 0.0, 5.0);
        }
        assert_spread(&closed(1013), 0, 5.0, 20.0);
    }

    #[test]
    fn codes_say_whether_to_come_back() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut comes_back = |end: End| matches!(after(&end, 0, false, &mut rng), Next::Reconnect { .. });
        for code in [1000, 1001, 1006, 1011, 1012, 1013, 4400, 4408, 4429, 4499] {
            assert!(comes_back(closed(code)), "{code}");
        }
        for code in [1003, 1007, 1009, 4401, 4500, 4503, 4504, 4509, 4599] {
            assert!(!comes_back(closed(code)), "{code}");
        }
        assert!(comes_back(End::Http(503)) && comes_back(End::Http(429)) && comes_back(End::Http(404)));
        assert!(!comes_back(End::Http(403)) && !comes_back(End::Stop(StopReason::OtherUser)));
        let renews = after(&closed(4401), 0, true, &mut rng);
        assert!(matches!(renews, Next::Reconnect { renew_token: true, .. }));
        let keeps = after(&closed(4408), 0, true, &mut rng);
        assert!(matches!(keeps, Next::Reconnect { renew_token: false, .. }));
    }
}
