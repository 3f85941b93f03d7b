//! Pairs of users, one writing to the other: what a message costs when nothing is shared.

use anyhow::Result;

use crate::load::{Kills, Load, Timing, body_text};
use crate::part::{Part, Sending};
use crate::stats::Report;
use crate::target::Target;

/// `oneone`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Pairs; each is two users with a device each, one of them sends.
    #[arg(long, default_value_t = 100)]
    pub(crate) pairs: usize,
    #[command(flatten)]
    pub(crate) timing: Timing,
}

/// The devices of a one-to-one load.
pub(crate) fn load(args: &Args, kills: Kills) -> Result<Load> {
    let mut parts = Vec::with_capacity(args.pairs * 2);
    for pair in 0..args.pairs {
        let sender = u32::try_from(pair)?;
        let (from, to) = (format!("pair{pair:05}a"), format!("pair{pair:05}b"));
        let every = args.timing.every(args.pairs);
        let sending = Sending {
            sender,
            fan_out: 2,
            conv_id: format!("d:{from}:{to}"),
            body: body_text(args.timing.body),
            outstanding: if every.is_some() { 10_000 } else { args.timing.outstanding },
            every,
            offset: every.unwrap_or_default().mul_f64(f64::from(sender) / f64::from(u32::try_from(args.pairs)?)),
            limit: args.timing.limit(pair, args.pairs),
        };
        let part = |user, index, sending| Part {
            user,
            index,
            sending,
            follows: sender..sender + 1,
            reconnect: !kills.is_empty(),
        };
        parts.push(part(from, pair * 2, Some(sending)));
        parts.push(part(to, pair * 2 + 1, None));
    }
    Ok(Load { parts, senders: args.pairs, timing: args.timing.clone(), kills })
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    let mut report = Report::new("oneone");
    report.setting("pairs", args.pairs);
    args.timing.note(&mut report);
    load(args, Vec::new())?.run(target).await?.into_report(&mut report);
    Ok(report)
}
