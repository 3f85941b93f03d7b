//! What happens in the replay of one file, decided before it begins: who joins, writes, takes back,
//! hides, reads, leaves, and whose devices come and go.
//!
//! Everything follows from the seed and the file, so a run can be repeated step by step (which steps
//! of different files meet, and when a kill falls, is up to the clock). Messages are named by their
//! place in the file; their conv_seq is known only when the server has given it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use anyhow::Result;
use everline::protocol::UserId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::log::{Log, user_of};

/// Keys people react with.
pub(crate) const KEYS: [&str; 4] = ["+1", "heart", "?", "lol"];

/// One thing to do. `message` and `target` are places in the file; users act for themselves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Invite {
        user: UserId,
        by: UserId,
    },
    Send {
        message: usize,
        user: UserId,
        reply_to: Option<usize>,
        mention: Option<UserId>,
    },
    /// The same message once more.
    Resend {
        message: usize,
        user: UserId,
    },
    /// Another message under the key of this one.
    Conflict {
        message: usize,
        user: UserId,
    },
    Recall {
        target: usize,
        by: UserId,
    },
    Edit {
        target: usize,
        by: UserId,
        version: u32,
    },
    React {
        target: usize,
        by: UserId,
        key: &'static str,
        add: bool,
    },
    Delete {
        from: usize,
        to: usize,
        by: UserId,
    },
    Clear {
        up_to: usize,
        by: UserId,
    },
    Read {
        up_to: usize,
        by: UserId,
    },
    Mute {
        by: UserId,
        muted: bool,
    },
    Promote {
        user: UserId,
    },
    Leave {
        user: UserId,
    },
    Remove {
        user: UserId,
    },
    Drop {
        user: UserId,
        device: usize,
    },
    Return {
        user: UserId,
        device: usize,
    },
}

/// What sort of device it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Device {
    /// The client library, connected with the user's first appearance.
    First,
    /// The client library on a device that comes later and loads everything.
    Late,
    /// A raw connection that checks every number of the stream.
    Witness,
}

/// The replay of one file.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) owner: UserId,
    /// Newcomers see what was said before.
    pub(crate) full: bool,
    pub(crate) steps: Vec<Step>,
}

/// Chances and lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Entries after which a device that is away is too old; sleepers stay away longer.
    pub(crate) sync_max_entries: usize,
}

/// The devices of each user.
pub(crate) type People = BTreeMap<UserId, Vec<Device>>;

/// Plans for all files; a user belongs to the first file he writes in, which decides when his devices
/// come and go.
pub(crate) fn plans(logs: &[Log], seed: u64, habits: Habits) -> Result<(Vec<Plan>, People)> {
    let mut people = People::new();
    let mut plans = Vec::with_capacity(logs.len());
    for (number, log) in logs.iter().enumerate() {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::try_from(number)?);
        plans.push(Planner::new(log, seed, habits)?.plan(&mut people)?);
    }
    Ok((plans, people))
}

struct Planner<'a> {
    log: &'a Log,
    random: StdRng,
    habits: Habits,
    steps: Vec<Step>,
    owner: UserId,
    users: HashMap<UserId, Mind>,
    /// Members now, in order of coming.
    present: Vec<UserId>,
    /// Sender of each message so far.
    said: Vec<UserId>,
    recalled: BTreeSet<usize>,
    edits: BTreeMap<usize, u32>,
    reactions: BTreeSet<(usize, UserId, &'static str)>,
    admins: BTreeSet<UserId>,
    /// What devices of this file's own users will do, by the message before which.
    turns: BinaryHeap<Reverse<(usize, Turn)>>,
    /// Devices of this file's own users that are on-line and may go.
    home: Vec<(UserId, usize)>,
}

/// A device's coming or going.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Turn {
    Come(UserId, usize),
    /// With the message it comes back at.
    Go(UserId, usize, usize),
}

/// What the planner knows of a user in this file.
#[derive(Default)]
struct Mind {
    /// Messages of his stays; the last one open when present.
    stays: Vec<(usize, Option<usize>)>,
    hidden: BTreeSet<usize>,
    cleared: Option<usize>,
}

impl Mind {
    fn sees(&self, message: usize) -> bool {
        let stayed = |(from, to): &(usize, Option<usize>)| *from <= message && to.is_none_or(|to| message < to);
        self.stays.iter().any(stayed)
            && !self.hidden.contains(&message)
            && self.cleared.is_none_or(|cleared| message > cleared)
    }
}

impl<'a> Planner<'a> {
    fn new(log: &'a Log, seed: u64, habits: Habits) -> Result<Self> {
        let first = log.lines.first().map_or("nobody", |line| line.nick.as_str());
        Ok(Self {
            log,
            random: StdRng::seed_from_u64(seed),
            habits,
            steps: Vec::new(),
            owner: user_of(first)?,
            users: HashMap::new(),
            present: Vec::new(),
            said: Vec::new(),
            recalled: BTreeSet::new(),
            edits: BTreeMap::new(),
            reactions: BTreeSet::new(),
            admins: BTreeSet::new(),
            turns: BinaryHeap::new(),
            home: Vec::new(),
        })
    }

    fn plan(mut self, people: &mut People) -> Result<Plan> {
        let full = self.random.random_bool(0.2);
        for (message, line) in self.log.lines.iter().enumerate() {
            let user = user_of(&line.nick)?;
            self.appear(message, &user, people);
            self.enter(message, &user);
            self.send(message, user);
            self.aftermath(message);
            self.devices(message);
        }
        while let Some(Reverse((_, turn))) = self.turns.pop() {
            if let Turn::Come(user, device) = turn {
                self.steps.push(Step::Return { user, device });
            }
        }
        Ok(Plan { name: self.log.name.clone(), owner: self.owner, full, steps: self.steps })
    }

    /// A user nobody has seen in any file gets his devices.
    fn appear(&mut self, message: usize, user: &UserId, people: &mut People) {
        if people.contains_key(user) {
            return;
        }
        let mut devices = vec![Device::First];
        for _ in 0..self.random.random_range(0..3_u8) {
            devices.push(match self.random.random_range(0..100) {
                0..60 => Device::First,
                60..75 => Device::Late,
                _ => Device::Witness,
            });
        }
        for (device, kind) in devices.iter().enumerate() {
            match kind {
                Device::Late => {
                    let later = message + self.random.random_range(20..400);
                    self.turns.push(Reverse((later, Turn::Come(user.clone(), device))));
                }
                Device::First if device > 0 && self.random.random_bool(0.35) => {
                    self.sleep(message, user, device);
                }
                Device::First | Device::Witness => self.home.push((user.clone(), device)),
            }
        }
        people.insert(user.clone(), devices);
    }

    /// After a little, the device will be away until about as much has passed as a sync timeline keeps:
    /// there are some more entries than messages.
    fn sleep(&mut self, message: usize, user: &UserId, device: usize) {
        let from = message + self.random.random_range(3..40);
        let kept = self.habits.sync_max_entries;
        let to = from + self.random.random_range(kept * 17 / 20..=kept * 11 / 10);
        self.turns.push(Reverse((from, Turn::Go(user.clone(), device, to))));
    }

    fn enter(&mut self, message: usize, user: &UserId) {
        if self.present.contains(user) {
            return;
        }
        let invited_by = self.present.choose(&mut self.random).cloned();
        if let Some(by) = invited_by {
            self.steps.push(Step::Invite { user: user.clone(), by });
        }
        self.present.push(user.clone());
        self.users.entry(user.clone()).or_default().stays.push((message, None));
    }

    fn send(&mut self, message: usize, user: UserId) {
        let reply_to = self.random.random_bool(0.1).then(|| self.target(&user)).flatten();
        let mention = self.random.random_bool(0.05).then(|| self.somebody()).flatten();
        self.said.push(user.clone());
        self.steps.push(Step::Send { message, user, reply_to, mention });
    }

    fn somebody(&mut self) -> Option<UserId> {
        self.present.choose(&mut self.random).cloned()
    }

    /// A message `user` sees and can act on, more likely a recent one.
    fn target(&mut self, user: &UserId) -> Option<usize> {
        let mind = self.users.get(user)?;
        let newest = self.said.len().checked_sub(1)?;
        let reach = if self.random.random_bool(0.7) { 40 } else { newest + 1 };
        for _ in 0..20 {
            let target = newest - self.random.random_range(0..reach.min(newest + 1));
            if mind.sees(target) && !self.recalled.contains(&target) {
                return Some(target);
            }
        }
        None
    }

    /// One of a user's own messages that he sees.
    fn own(&mut self, user: &UserId) -> Option<usize> {
        let mind = self.users.get(user)?;
        let said = self.said.iter().enumerate();
        let own: Vec<usize> = said
            .filter(|(message, sender)| *sender == user && mind.sees(*message) && !self.recalled.contains(message))
            .map(|(message, _)| message)
            .collect();
        own.choose(&mut self.random).copied()
    }

    /// What people do beside writing.
    fn aftermath(&mut self, message: usize) {
        let Some(by) = self.somebody() else { return };
        match self.random.random_range(0..1000) {
            0..15 => self.recall(by),
            15..30 => self.edit(by),
            30..60 => {
                if let (Some(target), Some(key)) = (self.target(&by), KEYS.choose(&mut self.random)) {
                    let reaction = (target, by.clone(), *key);
                    let add = !self.reactions.remove(&reaction);
                    if add {
                        self.reactions.insert(reaction);
                    }
                    self.steps.push(Step::React { target, by, key, add });
                }
            }
            60..75 => self.delete(by),
            75..115 => {
                if let Some(up_to) = self.target(&by) {
                    self.steps.push(Step::Read { up_to, by });
                }
            }
            115..125 => self.again(),
            125..127 => self.steps.push(Step::Mute { muted: self.random.random_bool(0.7), by }),
            127..130 => self.leave(message, by),
            130 => self.clear(by),
            131 if by != self.owner && self.admins.insert(by.clone()) => self.steps.push(Step::Promote { user: by }),
            _ => {}
        }
    }

    /// By its author, now and then by the owner of the group.
    fn recall(&mut self, by: UserId) {
        let by = if self.random.random_bool(0.2) { self.owner.clone() } else { by };
        let target = if by == self.owner { self.target(&by) } else { self.own(&by) };
        if let Some(target) = target {
            self.recalled.insert(target);
            self.steps.push(Step::Recall { target, by });
        }
    }

    fn edit(&mut self, by: UserId) {
        if let Some(target) = self.own(&by) {
            let version = self.edits.entry(target).or_default();
            *version += 1;
            let version = *version;
            self.steps.push(Step::Edit { target, by, version });
        }
    }

    fn clear(&mut self, by: UserId) {
        if let Some(up_to) = self.target(&by) {
            if let Some(mind) = self.users.get_mut(&by) {
                mind.cleared = mind.cleared.max(Some(up_to));
            }
            self.steps.push(Step::Clear { up_to, by });
        }
    }

    fn delete(&mut self, by: UserId) {
        let Some(from) = self.target(&by) else { return };
        let to = (from + self.random.random_range(0..4)).min(self.said.len() - 1);
        if let Some(mind) = self.users.get_mut(&by) {
            mind.hidden.extend(from..=to);
        }
        self.steps.push(Step::Delete { from, to, by });
    }

    /// A resend, of any age, whatever became of the message or its sender.
    fn again(&mut self) {
        let message = self.random.random_range(0..self.said.len());
        let Some(user) = self.said.get(message).cloned() else {
            return;
        };
        let conflict = self.random.random_bool(0.1) && self.present.contains(&user);
        self.steps.push(if conflict { Step::Conflict { message, user } } else { Step::Resend { message, user } });
    }

    fn leave(&mut self, message: usize, user: UserId) {
        if user == self.owner {
            return;
        }
        self.present.retain(|present| *present != user);
        self.admins.remove(&user);
        if let Some(stay) = self.users.get_mut(&user).and_then(|mind| mind.stays.last_mut()) {
            stay.1 = Some(message + 1);
        }
        let removed = self.random.random_bool(0.3);
        self.steps.push(if removed { Step::Remove { user } } else { Step::Leave { user } });
    }

    /// Devices go and come back.
    fn devices(&mut self, message: usize) {
        while self.turns.peek().is_some_and(|Reverse((at, _))| *at <= message) {
            match self.turns.pop() {
                Some(Reverse((_, Turn::Come(user, device)))) => {
                    self.home.push((user.clone(), device));
                    self.steps.push(Step::Return { user, device });
                }
                Some(Reverse((_, Turn::Go(user, device, to)))) => self.go(user, device, to),
                None => break,
            }
        }
        if self.home.is_empty() || !self.random.random_bool(0.15) {
            return;
        }
        let (user, device) = self.home.swap_remove(self.random.random_range(0..self.home.len()));
        let gone = match self.random.random_range(0..10) {
            0..6 => self.random.random_range(1..40),
            6..9 => self.random.random_range(40..250),
            _ => self.random.random_range(250..800),
        };
        self.go(user, device, message + gone);
    }

    fn go(&mut self, user: UserId, device: usize, back: usize) {
        self.turns.push(Reverse((back, Turn::Come(user.clone(), device))));
        self.steps.push(Step::Drop { user, device });
    }
}

#[cfg(test)]
mod tests;
