//! What an input does to the files of a directory.
//!
//! ```text
//! input := 0 closed | 1 left by a crash, u8 | edit ...
//! edit  := file u8 | kind u8 | at u16 | length u8 | what that kind needs          (numbers little endian)
//! ```
//! Numbers are taken modulo what there is, so that nearly every input means something.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::embedded_support::Files;

/// Edits of one input; more are hardly another damage.
const MOST: usize = 8;
/// Length of what is zeroed or copied, in bytes for each unit.
const UNIT: usize = 32;

#[derive(Debug)]
enum Kind {
    /// Other bytes.
    Write(Vec<u8>),
    /// Bytes upside down: what they were is not needed to change them.
    Invert(usize),
    /// The file ends here.
    Cut,
    /// A part that never came to the disk.
    Zeros(usize),
    /// What belongs elsewhere: of this file, from there.
    Copy { from: u8, at: u16, len: usize },
    /// More behind the end.
    Append(Vec<u8>),
}

#[derive(Debug)]
struct Edit {
    file: u8,
    at: u16,
    kind: Kind,
}

/// See the module.
#[derive(Debug)]
pub struct Edits {
    pub crashed: bool,
    edits: Vec<Edit>,
}

impl Edits {
    pub fn read(data: &[u8]) -> Self {
        let mut input = Unstructured::new(data);
        let crashed = input.arbitrary::<u8>().is_ok_and(|byte| byte % 2 == 1);
        let mut edits = Vec::new();
        while !input.is_empty() && edits.len() < MOST {
            edits.extend(edit(&mut input));
        }
        Self { crashed, edits }
    }

    pub fn apply(&self, files: &mut Files) {
        let count = files.len();
        for Edit { file, at, kind } in &self.edits {
            let copied = match kind {
                Kind::Copy { from, at, len } => {
                    let source = files.values().nth(usize::from(*from) % count).unwrap();
                    let at = place(*at, source);
                    source.iter().skip(at).take(*len).copied().collect()
                }
                _ => Vec::new(),
            };
            let bytes = files.values_mut().nth(usize::from(*file) % count).unwrap();
            let at = place(*at, bytes);
            match kind {
                Kind::Write(new) => write(bytes, at, new),
                Kind::Invert(len) => bytes.iter_mut().skip(at).take(*len).for_each(|byte| *byte = !*byte),
                Kind::Cut => bytes.truncate(at),
                Kind::Zeros(len) => bytes.iter_mut().skip(at).take(*len).for_each(|byte| *byte = 0),
                Kind::Copy { .. } => write(bytes, at, &copied),
                Kind::Append(new) => bytes.extend_from_slice(new),
            }
        }
    }
}

fn edit(input: &mut Unstructured<'_>) -> Result<Edit> {
    let (file, kind) = (input.arbitrary()?, input.arbitrary::<u8>()?);
    let (at, len) = (input.arbitrary()?, usize::from(input.arbitrary::<u8>()?));
    let kind = match kind % 6 {
        0 => Kind::Write(input.bytes(len.min(input.len()))?.to_vec()),
        1 => Kind::Invert(len % 8 + 1),
        2 => Kind::Cut,
        3 => Kind::Zeros((len + 1) * UNIT),
        4 => Kind::Copy { from: input.arbitrary()?, at: input.arbitrary()?, len: (len + 1) * UNIT },
        _ => Kind::Append(input.bytes(len.min(input.len()))?.to_vec()),
    };
    Ok(Edit { file, at, kind })
}

fn place(at: u16, bytes: &[u8]) -> usize {
    usize::from(at) % (bytes.len() + 1)
}

/// Over what stands there, and beyond the end.
fn write(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    bytes.resize(bytes.len().max(at + new.len()), 0);
    bytes.splice(at..at + new.len(), new.iter().copied());
}
