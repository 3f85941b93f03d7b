//! What a number of users needs: the cost of one message as a formula, times the load.
//!
//! Pure arithmetic; the terms are those of docs/capacity.md, where each is held against counters of a
//! run. Runs no server. How it can hurt: a figure of another machine taken for one's own; so every rate is
//! a flag, and what is assumed is printed with the result.

use std::fmt::Write as _;

/// `plan`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Users in all.
    #[arg(long)]
    pub(crate) users: f64,
    /// Messages a user sends a day, on average.
    #[arg(long, default_value_t = 40.0)]
    pub(crate) messages_per_day: f64,
    /// Connections of one user that are open at the peak, on average.
    #[arg(long, default_value_t = 0.25)]
    pub(crate) online: f64,
    /// The busiest second over the mean second of a day.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) peak: f64,
    /// Share of messages in groups; the rest is one-to-one.
    #[arg(long, default_value_t = 0.4)]
    pub(crate) group_share: f64,
    /// Members of the group a group message goes to, on average.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) group_members: f64,
    /// Share of messages in large conversations.
    #[arg(long, default_value_t = 0.01)]
    pub(crate) large_share: f64,
    /// Connections that follow the large conversation a message goes to.
    #[arg(long, default_value_t = 5_000.0)]
    pub(crate) large_online: f64,
    /// Entries that share one conditional round of a user's timeline at the peak (1: none do).
    #[arg(long, default_value_t = 1.0)]
    pub(crate) entries_per_round: f64,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 200.0)]
    pub(crate) body: f64,
    /// Days messages are kept.
    #[arg(long, default_value_t = 365.0)]
    pub(crate) keep_days: f64,
    /// Copies the database keeps.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) replication: f64,
    /// Conditional rounds a core of the database does a second, its share of all copies included.
    /// Measured: Apache Cassandra, three nodes and the client on two cores. ScyllaDB: measure yours.
    #[arg(long, default_value_t = 346.0)]
    pub(crate) rounds_per_core: f64,
    /// Processor time of an Everline node for a message and for each delivery, microseconds.
    #[arg(long, default_value_t = 27.0)]
    pub(crate) message_us: f64,
    #[arg(long, default_value_t = 2.8)]
    pub(crate) delivery_us: f64,
    /// Memory of an idle connection with its user's lane and rows, KiB, the kernel's part included.
    #[arg(long, default_value_t = 16.0)]
    pub(crate) connection_kib: f64,
    /// Cores and memory of a machine, and how far it is filled.
    #[arg(long, default_value_t = 16.0)]
    pub(crate) cores: f64,
    #[arg(long, default_value_t = 64.0)]
    pub(crate) memory_gib: f64,
    #[arg(long, default_value_t = 0.5)]
    pub(crate) fill: f64,
    /// Disk of a database machine, TB, half of it kept free for compaction.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) disk_tb: f64,
}

/// Bytes beside the body that a message leaves in its conversation: header, names, dedupe row; 240 are counted
/// (docs/capacity.md), the rest is taken for keys and what a database adds.
const MESSAGE_BYTES: f64 = 330.0;
/// Bytes of a sync entry, of which 60 are counted; kept for days only, so for a week.
const ENTRY_BYTES: f64 = 110.0;
const SYNC_DAYS: f64 = 7.0;

/// What one message costs the store and the bus, everything warm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Conditional rounds: one of the conversation, one of each member's timeline.
    pub(crate) rounds: f64,
    /// Plain writes: a mark put and taken for a burst, here of one message.
    pub(crate) writes: f64,
    /// Reads: everything needed is in memory.
    pub(crate) reads: f64,
    /// Hints on the bus.
    pub(crate) hints: f64,
    /// Sync entries written, beside the message itself.
    pub(crate) entries: f64,
    /// Frames to connections.
    pub(crate) frames: f64,
}

impl Cost {
    /// A message to `members` whose timelines are written, `online` connections each.
    pub(crate) fn small(members: f64, online: f64, entries_per_round: f64) -> Self {
        Self {
            rounds: 1.0 + members / entries_per_round,
            writes: 2.0,
            reads: 0.0,
            hints: members,
            entries: members,
            frames: members * online,
        }
    }

    /// A message of a large conversation: its own log only, whatever the number of members. Nothing is
    /// delivered, so there is no mark.
    pub(crate) fn large(followers: f64) -> Self {
        Self { rounds: 1.0, writes: 0.0, reads: 0.0, hints: 1.0, entries: 0.0, frames: followers }
    }

    fn plus(self, share: f64, other: Self) -> Self {
        Self {
            rounds: self.rounds + share * other.rounds,
            writes: self.writes + share * other.writes,
            reads: self.reads + share * other.reads,
            hints: self.hints + share * other.hints,
            entries: self.entries + share * other.entries,
            frames: self.frames + share * other.frames,
        }
    }
}

/// Machines, and what decides about their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) cost: Cost,
    pub(crate) messages_a_second: f64,
    pub(crate) connections: f64,
    pub(crate) nodes_by_processor: f64,
    pub(crate) nodes_by_memory: f64,
    pub(crate) database_by_rounds: f64,
    pub(crate) database_by_disk: f64,
    pub(crate) stored_tb: f64,
}

impl Plan {
    pub(crate) fn of(args: &Args) -> Self {
        let direct = 1.0 - args.group_share - args.large_share;
        let cost = Cost::default()
            .plus(direct, Cost::small(2.0, args.online, args.entries_per_round))
            .plus(args.group_share, Cost::small(args.group_members, args.online, args.entries_per_round))
            .plus(args.large_share, Cost::large(args.large_online));
        let a_day = args.users * args.messages_per_day;
        let messages = a_day / 86_400.0 * args.peak;
        let connections = args.users * args.online;
        let busy_us = messages * (args.message_us + cost.frames.max(cost.entries) * args.delivery_us);
        let stored = a_day
            * ((args.body + MESSAGE_BYTES) * args.keep_days + cost.entries * ENTRY_BYTES * SYNC_DAYS)
            * args.replication;
        let stored_tb = stored / 1e12;
        let machines = |need: f64, one: f64| (need / one).ceil().max(1.0);
        Self {
            cost,
            messages_a_second: messages,
            connections,
            nodes_by_processor: machines(busy_us / 1e6, args.cores * args.fill),
            nodes_by_memory: machines(connections * args.connection_kib / 1024.0 / 1024.0, args.memory_gib * args.fill),
            database_by_rounds: machines(messages * cost.rounds, args.rounds_per_core * args.cores * args.fill),
            database_by_disk: machines(stored_tb, args.disk_tb / 2.0),
            stored_tb,
        }
    }

    /// For people.
    pub(crate) fn table(&self, args: &Args) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<46}{value:>16}");
        };
        line("users", grouped(args.users));
        line("messages a second at the peak", grouped(self.messages_a_second));
        line("connections at the peak", grouped(self.connections));
        line("one message: conditional rounds", format!("{:.2}", self.cost.rounds));
        line("one message: plain writes / reads", format!("{:.0} / {:.0}", self.cost.writes, self.cost.reads));
        line("one message: hints / frames", format!("{:.1} / {:.1}", self.cost.hints, self.cost.frames));
        line("conditional rounds a second", grouped(self.messages_a_second * self.cost.rounds));
        line("stored, all copies (TB)", format!("{:.1}", self.stored_tb));
        line("Everline machines, by processor", grouped(self.nodes_by_processor));
        line("Everline machines, by memory", grouped(self.nodes_by_memory));
        line("database machines, by conditional rounds", grouped(self.database_by_rounds));
        line("database machines, by disk", grouped(self.database_by_disk));
        let _ = writeln!(
            out,
            "a machine: {} cores, {} GiB, filled to {:.0} %; {} rounds per core and second, {} + {} us a message \
             and delivery: figures of a small test machine, measure your own",
            args.cores,
            args.memory_gib,
            args.fill * 100.0,
            args.rounds_per_core,
            args.message_us,
            args.delivery_us
        );
        out
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[expect(clippy::print_stdout, reason = "the plan is the output")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let shares = args.group_share + args.large_share;
    anyhow::ensure!((0.0..=1.0).contains(&shares), "--group-share and --large-share together are at most 1");
    anyhow::ensure!(args.users >= 1.0 && args.messages_per_day > 0.0, "--users and --messages-per-day are above 0");
    print!("{}", Plan::of(args).table(args));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_costs_the_same_for_any_number_of_members() {
        assert_eq!(Cost::large(10.0).rounds, Cost::large(100_000.0).rounds);
        assert_eq!(Cost::small(2.0, 1.0, 1.0).rounds, 3.0);
        assert_eq!(Cost::small(100.0, 1.0, 4.0).rounds, 26.0);
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([grouped(7.0), grouped(1234.0), grouped(1e9)], ["7", "1,234", "1,000,000,000"]);
    }
}
