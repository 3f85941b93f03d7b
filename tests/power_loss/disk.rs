//! A disk that forgets: what was written and what is durable, kept apart.
//!
//! A file's data and length are durable once it is synced, a name once its directory is. When power is cut
//! each sector (512 bytes) keeps any of the contents it had since it was last durable, a file any of its
//! lengths, and of the names any subset (or a prefix) of what was done to them: whatever order a disk
//! might have chosen, and torn writes. A sync that fails has dropped what it should have written: a later
//! one succeeds and does not make up for it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use rand::Rng;
use rand::rngs::StdRng;

pub(crate) const ROOT: u64 = 1;
const PAGE: u64 = 4096;
const SECTOR: u64 = 512;

/// What the operating system is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    NotFound,
    Exists,
    NotEmpty,
    NotDir,
    /// Input/output error: also everything once power is cut.
    Io,
    Full,
}

/// What goes wrong, when so many operations of its kind are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Power is cut before this operation (any that changes something).
    Cut(u64),
    /// This write fails once.
    Write(u64),
    /// This sync fails once, and what it should have written is gone.
    Sync(u64),
    /// From this write on there is no room.
    Full(u64),
}

/// Bytes of a file; pages never written are zeros.
#[derive(Debug, Clone, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Debug, Default)]
struct File {
    live: Content,
    durable: Content,
    pending: Vec<Op>,
}

type Names = BTreeMap<OsString, u64>;

#[derive(Debug)]
enum Node {
    File(File),
    Dir { live: Names, durable: Names },
}

/// One change of names, atomic.
#[derive(Debug, Clone)]
enum NameOp {
    Set(u64, OsString, u64),
    Remove(u64, OsString),
    Move { from: (u64, OsString), to: (u64, OsString), ino: u64 },
}

/// Names as they are, or as they are without power.
#[derive(Debug, Clone, Copy)]
enum Which {
    Live,
    Durable,
}

#[derive(Debug)]
pub(crate) struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
    names: Vec<NameOp>,
    fault: Option<Fault>,
    is_cut: bool,
    /// Whether a fault has struck.
    pub(crate) struck: bool,
}

impl Content {
    fn page(&mut self, no: u64) -> &mut [u8; PAGE as usize] {
        self.pages.entry(no).or_insert_with(|| Box::new([0; PAGE as usize]))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.len = self.len.max(at + bytes.len() as u64);
        self.write_within(at, bytes);
    }

    fn write_within(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (no, offset) = (at / PAGE, (at % PAGE) as usize);
            let take = bytes.len().min(PAGE as usize - offset);
            self.page(no)[offset..offset + take].copy_from_slice(&bytes[..take]);
            (at, bytes) = (at + take as u64, &bytes[take..]);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|no, _| no * PAGE < len);
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(at, bytes) => self.write(*at, bytes),
            Op::Len(len) => self.set_len(*len),
        }
    }

    fn read(&self, at: u64, size: usize) -> Vec<u8> {
        let end = self.len.min(at + size as u64);
        let mut out = Vec::with_capacity(size);
        let mut at = at;
        while at < end {
            let (no, offset) = (at / PAGE, (at % PAGE) as usize);
            let take = (PAGE as usize - offset).min((end - at) as usize);
            match self.pages.get(&no) {
                Some(page) => out.extend_from_slice(&page[offset..offset + take]),
                None => out.resize(out.len() + take, 0),
            }
            at += take as u64;
        }
        out
    }
}

impl File {
    fn sync(&mut self) {
        for op in self.pending.drain(..) {
            self.durable.apply(&op);
        }
    }

    /// What is left of it without power.
    fn survivor(&self, rng: &mut StdRng) -> Content {
        let mode = rng.random_range(0..6);
        match mode {
            0 => return self.live.clone(),
            1 => return self.durable.clone(),
            _ => {}
        }
        // The states the file went through; each sector takes one of them, and so does the length.
        let mut states = vec![self.durable.clone()];
        let mut touched = BTreeMap::new();
        for op in &self.pending {
            let mut next = states[states.len() - 1].clone();
            next.apply(op);
            if let Op::Write(at, bytes) = op {
                let sectors = at / SECTOR..(at + bytes.len() as u64).div_ceil(SECTOR);
                sectors.for_each(|sector| touched.entry(sector).or_insert_with(Vec::new).push(states.len()));
            }
            states.push(next);
            if states.len() > 200 {
                break;
            }
        }
        let mut left = self.durable.clone();
        left.set_len(states[rng.random_range(0..states.len())].len);
        for (sector, since) in touched {
            let chosen = match rng.random_range(0..=since.len()) {
                0 => continue,
                taken => since[taken - 1],
            };
            let at = sector * SECTOR;
            let bytes = states[chosen].read(at, SECTOR as usize);
            let room = left.len.saturating_sub(at).min(bytes.len() as u64) as usize;
            left.write_within(at, &bytes[..room]);
        }
        left
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        let root = Node::Dir { live: Names::new(), durable: Names::new() };
        let nodes = HashMap::from([(ROOT, root)]);
        Self { nodes, next: ROOT + 1, names: Vec::new(), fault: None, is_cut: false, struck: false }
    }

    pub(crate) fn arm(&mut self, fault: Fault) {
        (self.fault, self.struck) = (Some(fault), false);
    }

    /// Cuts power now.
    pub(crate) fn cut(&mut self) {
        (self.is_cut, self.struck) = (true, true);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// What is there when power comes back.
    pub(crate) fn survivor(&self, rng: &mut StdRng) -> Self {
        let mut left = Self::new();
        left.next = self.next;
        let mut numbers: Vec<&u64> = self.nodes.keys().collect();
        // In one order, so that a seed gives one disk.
        numbers.sort_unstable();
        for ino in numbers {
            let node = match &self.nodes[ino] {
                Node::File(file) => {
                    let content = file.survivor(rng);
                    Node::File(File { live: content.clone(), durable: content, pending: Vec::new() })
                }
                Node::Dir { durable, .. } => Node::Dir { live: durable.clone(), durable: Names::new() },
            };
            left.nodes.insert(*ino, node);
        }
        let as_prefix = rng.random_bool(0.5);
        let prefix = rng.random_range(0..=self.names.len());
        for (no, op) in self.names.iter().enumerate() {
            if if as_prefix { no < prefix } else { rng.random_bool(0.5) } {
                left.change_names(op, Which::Live);
            }
        }
        for node in left.nodes.values_mut() {
            if let Node::Dir { live, durable } = node {
                durable.clone_from(live);
            }
        }
        left
    }

    /// Counts an operation of a kind; the fault strikes at its moment.
    fn step(&mut self, is_write: bool, is_sync: bool) -> Result<(), Fail> {
        if self.is_cut {
            return Err(Fail::Io);
        }
        let strikes = self.fault.as_mut().is_some_and(|fault| {
            let (left, counts) = match fault {
                Fault::Cut(left) => (left, true),
                Fault::Write(left) | Fault::Full(left) => (left, is_write),
                Fault::Sync(left) => (left, is_sync),
            };
            *left = left.saturating_sub(u64::from(counts));
            counts && *left == 0
        });
        if !strikes {
            return Ok(());
        }
        self.struck = true;
        match self.fault.take() {
            Some(Fault::Full(_)) => {
                self.fault = Some(Fault::Full(1));
                return Err(Fail::Full);
            }
            Some(Fault::Cut(_)) => self.is_cut = true,
            _ => {}
        }
        Err(Fail::Io)
    }

    fn dir(&mut self, ino: u64) -> Result<&mut Names, Fail> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Dir { live, .. }) => Ok(live),
            Some(Node::File(_)) => Err(Fail::NotDir),
            None => Err(Fail::NotFound),
        }
    }

    fn file(&mut self, ino: u64) -> Result<&mut File, Fail> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(Fail::NotFound),
        }
    }

    /// Does a change of names to what the program sees, or to what outlives the power.
    fn change_names(&mut self, op: &NameOp, which: Which) {
        let mut set = |dir: u64, name: &OsString, ino: Option<u64>| {
            let Some(Node::Dir { live, durable }) = self.nodes.get_mut(&dir) else { return };
            let names = match which {
                Which::Live => live,
                Which::Durable => durable,
            };
            match ino {
                Some(ino) => names.insert(name.clone(), ino),
                None => names.remove(name),
            };
        };
        match op {
            NameOp::Set(dir, name, ino) => set(*dir, name, Some(*ino)),
            NameOp::Remove(dir, name) => set(*dir, name, None),
            NameOp::Move { from, to, ino } => {
                set(from.0, &from.1, None);
                set(to.0, &to.1, Some(*ino));
            }
        }
    }

    fn name(&mut self, op: NameOp) {
        self.change_names(&op, Which::Live);
        self.names.push(op);
    }

    pub(crate) fn look_up(&mut self, dir: u64, name: &OsStr) -> Result<u64, Fail> {
        if self.is_cut {
            return Err(Fail::Io);
        }
        self.dir(dir)?.get(name).copied().ok_or(Fail::NotFound)
    }

    /// Kind (true: directory) and length.
    pub(crate) fn about(&self, ino: u64) -> Result<(bool, u64), Fail> {
        match self.nodes.get(&ino) {
            _ if self.is_cut => Err(Fail::Io),
            Some(Node::File(file)) => Ok((false, file.live.len)),
            Some(Node::Dir { .. }) => Ok((true, 0)),
            None => Err(Fail::NotFound),
        }
    }

    pub(crate) fn create(&mut self, dir: u64, name: &OsStr, is_dir: bool) -> Result<u64, Fail> {
        self.step(false, false)?;
        if self.dir(dir)?.contains_key(name) {
            return Err(Fail::Exists);
        }
        let ino = self.next;
        self.next += 1;
        let node = match is_dir {
            true => Node::Dir { live: Names::new(), durable: Names::new() },
            false => Node::File(File::default()),
        };
        self.nodes.insert(ino, node);
        self.name(NameOp::Set(dir, name.to_owned(), ino));
        Ok(ino)
    }

    pub(crate) fn remove(&mut self, dir: u64, name: &OsStr) -> Result<(), Fail> {
        self.step(false, false)?;
        let ino = self.look_up(dir, name)?;
        if matches!(&self.nodes[&ino], Node::Dir { live, .. } if !live.is_empty()) {
            return Err(Fail::NotEmpty);
        }
        self.name(NameOp::Remove(dir, name.to_owned()));
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Fail> {
        self.step(false, false)?;
        let ino = self.look_up(from.0, from.1)?;
        let owned = |(dir, name): (u64, &OsStr)| (dir, name.to_owned());
        self.name(NameOp::Move { from: owned(from), to: owned(to), ino });
        Ok(())
    }

    pub(crate) fn list(&mut self, dir: u64) -> Result<Vec<(u64, bool, OsString)>, Fail> {
        if self.is_cut {
            return Err(Fail::Io);
        }
        let names = self.dir(dir)?.clone();
        let kind = |ino: &u64| matches!(self.nodes[ino], Node::Dir { .. });
        Ok(names.iter().map(|(name, ino)| (*ino, kind(ino), name.clone())).collect())
    }

    pub(crate) fn read(&mut self, ino: u64, at: u64, size: usize) -> Result<Vec<u8>, Fail> {
        if self.is_cut {
            return Err(Fail::Io);
        }
        Ok(self.file(ino)?.live.read(at, size))
    }

    fn change(&mut self, ino: u64, op: Op) -> Result<(), Fail> {
        // Faults are for what matters: the witness may fail to be written, that is only told.
        let counts = !self.is_witness(ino);
        self.step(counts, false)?;
        let file = self.file(ino)?;
        file.live.apply(&op);
        file.pending.push(op);
        Ok(())
    }

    pub(crate) fn write(&mut self, ino: u64, at: u64, bytes: &[u8]) -> Result<(), Fail> {
        self.change(ino, Op::Write(at, bytes.to_vec()))
    }

    pub(crate) fn set_len(&mut self, ino: u64, len: u64) -> Result<(), Fail> {
        self.change(ino, Op::Len(len))
    }

    fn is_witness(&self, ino: u64) -> bool {
        let named = |names: &Names| names.get(OsStr::new("witness")) == Some(&ino);
        self.nodes.values().any(|node| matches!(node, Node::Dir { live, .. } if named(live)))
    }

    pub(crate) fn sync(&mut self, ino: u64) -> Result<(), Fail> {
        let counts = !self.is_witness(ino);
        let stepped = self.step(false, counts);
        let is_cut = self.is_cut;
        if let Some(Node::Dir { .. }) = self.nodes.get(&ino) {
            stepped?;
            return self.sync_dir(ino);
        }
        let file = self.file(ino)?;
        match stepped {
            Ok(()) => file.sync(),
            Err(fail) => {
                if !is_cut {
                    file.pending.clear();
                }
                return Err(fail);
            }
        }
        Ok(())
    }

    fn sync_dir(&mut self, ino: u64) -> Result<(), Fail> {
        let touches = |op: &NameOp| match op {
            NameOp::Set(dir, ..) | NameOp::Remove(dir, _) => *dir == ino,
            NameOp::Move { from, to, .. } => from.0 == ino || to.0 == ino,
        };
        let (done, rest) = std::mem::take(&mut self.names).into_iter().partition::<Vec<_>, _>(touches);
        self.names = rest;
        for op in done {
            self.change_names(&op, Which::Durable);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn survivors(disk: &Disk) -> Vec<Option<Vec<u8>>> {
        let read = |seed| {
            let mut left = disk.survivor(&mut StdRng::seed_from_u64(seed));
            let ino = left.look_up(ROOT, OsStr::new("file")).ok()?;
            left.read(ino, 0, 99_999).ok()
        };
        (0..400).map(read).collect()
    }

    #[test]
    fn what_is_synced_survives_and_what_is_not_may_be_there_torn_or_gone() {
        let mut disk = Disk::new();
        let file = disk.create(ROOT, OsStr::new("file"), false).unwrap();
        disk.write(file, 0, &[1; 1024]).unwrap();
        disk.sync(file).unwrap();
        let found = survivors(&disk);
        assert!(found.contains(&None), "its name was not synced");
        assert!(found.iter().flatten().all(|bytes| *bytes == [1; 1024]));
        disk.sync(ROOT).unwrap();
        disk.write(file, 0, &[2; 1024]).unwrap();
        disk.set_len(file, 2000).unwrap();
        let found = survivors(&disk);
        let begins = |first: u8, second: u8| {
            found.iter().flatten().any(|bytes| bytes[..512] == [first; 512] && bytes[512..1024] == [second; 512])
        };
        assert!(!found.contains(&None));
        assert!(begins(1, 1) && begins(1, 2) && begins(2, 1) && begins(2, 2), "torn in every way");
        assert!([1024, 2000].iter().all(|len| found.iter().flatten().any(|bytes| bytes.len() == *len)));
    }

    #[test]
    fn a_failed_sync_drops_what_it_should_have_written() {
        let mut disk = Disk::new();
        let file = disk.create(ROOT, OsStr::new("file"), false).unwrap();
        disk.sync(ROOT).unwrap();
        disk.write(file, 0, &[1; 10]).unwrap();
        disk.arm(Fault::Sync(1));
        assert_eq!(disk.sync(file), Err(Fail::Io));
        assert_eq!(disk.sync(file), Ok(()));
        assert!(survivors(&disk).iter().flatten().any(|bytes| bytes.is_empty()));
    }
}
