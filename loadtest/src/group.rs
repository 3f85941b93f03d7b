//! One group, some members writing, all receiving: what fan-out costs.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::load::{Kills, Load, Timing, body_text};
use crate::part::{Part, Sending};
use crate::stats::Report;
use crate::target::{Door, Target};
use crate::wire::{Frame, Wire};

/// Members above which the contract's conversations are large and not written per member.
const LARGE: usize = 500;

/// `group`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Members of the group, a device each, all connected.
    #[arg(long, default_value_t = 100)]
    pub(crate) members: usize,
    /// How many of them send.
    #[arg(long, default_value_t = 10)]
    pub(crate) senders: usize,
    #[command(flatten)]
    pub(crate) timing: Timing,
}

fn member(number: usize) -> String {
    format!("member{number:05}")
}

/// Makes a group of `users`, the first of them its owner; gives its conv_id.
pub(crate) async fn create(door: &Door, users: &[String], op_id: &str) -> Result<String> {
    let owner = users.first().context("a group needs members")?;
    let mut wire = Wire::open(door.addr, 0).await?;
    wire.hello(&door.token(owner)?, "setup", None).await?;
    let request = json!({"type": "create", "id": "c", "members": users, "op_id": op_id});
    let answer = wire.ask("c", request.to_string()).await?;
    let conv_id = Frame::scan(&answer)?.conv_id.map(str::to_owned);
    wire.close().await;
    conv_id.with_context(|| format!("create was answered without conv_id: {answer}"))
}

/// The devices of a group load; makes the group.
pub(crate) async fn load(args: &Args, kills: Kills, door: &Door) -> Result<Load> {
    ensure!(
        args.members <= LARGE,
        "a group of more than {LARGE} members is large: it is not delivered by sync timelines, which \
         this command measures"
    );
    ensure!((1..=args.members).contains(&args.senders), "--senders: 1 to --members");
    let users: Vec<String> = (0..args.members).map(member).collect();
    let conv_id = create(door, &users, "load-group").await?;
    let (senders, fan_out) = (u32::try_from(args.senders)?, u64::try_from(args.members)?);
    let mut parts = Vec::with_capacity(users.len());
    for (index, user) in users.into_iter().enumerate() {
        let number = u32::try_from(index)?;
        let every = args.timing.every(args.senders);
        let sending = (number < senders).then(|| Sending {
            sender: number,
            fan_out,
            conv_id: conv_id.clone(),
            body: body_text(args.timing.body),
            outstanding: if every.is_some() { 10_000 } else { args.timing.outstanding },
            every,
            offset: every.unwrap_or_default().mul_f64(f64::from(number) / f64::from(senders)),
            limit: args.timing.limit(index, args.senders),
        });
        parts.push(Part { user, index, sending, follows: 0..senders, reconnect: !kills.is_empty() });
    }
    Ok(Load { parts, senders: args.senders, timing: args.timing.clone(), kills })
}

pub(crate) async fn run(args: &Args, target: &mut Target) -> Result<Report> {
    let mut report = Report::new("group");
    report.setting("members", args.members);
    report.setting("senders", args.senders);
    args.timing.note(&mut report);
    let load = load(args, Vec::new(), &target.door()).await?;
    load.run(target).await?.into_report(&mut report);
    Ok(report)
}
