//! What is bound to statements, and how numbers and keys of the contract look in CQL.

use scylla::cluster::metadata::ColumnType;
use scylla::serialize::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};

use crate::store::{RowKey, Section, TimelineId};

/// `section` of the row that is written first in every partition.
pub(super) const ANCHOR: i8 = -1;
/// `section` of erasures that still have to reach an older bucket; n = the entry, value = what it becomes.
/// Beyond all sections of the contract, of which each takes two numbers.
pub(super) const ERASURE: i8 = 100;

const _: () = {
    let mut index = 0;
    while index < Section::ALL.len() {
        assert!(Section::ALL[index] as i8 * 2 + 1 < ERASURE, "a section would be taken for erasures");
        index += 1;
    }
};

/// One bound value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound<'a> {
    Text(&'a str),
    Big(i64),
    Int(i32),
    Small(i16),
    Tiny(i8),
    Blob(&'a [u8]),
    Attempt([u8; 16]),
    Null,
}

impl SerializeValue for Bound<'_> {
    fn serialize<'b>(
        &self,
        typ: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Self::Text(text) => text.serialize(typ, writer),
            Self::Big(number) => number.serialize(typ, writer),
            Self::Int(number) => number.serialize(typ, writer),
            Self::Small(number) => number.serialize(typ, writer),
            Self::Tiny(number) => number.serialize(typ, writer),
            Self::Blob(bytes) => bytes.serialize(typ, writer),
            Self::Attempt(bytes) => bytes.serialize(typ, writer),
            Self::Null => Ok(writer.set_null()),
        }
    }
}

/// Numbers of entries, times, terms: far below 2^63.
pub(super) fn big(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Back again; never negative, as nothing negative is written.
pub(super) fn unsigned(n: Option<i64>) -> u64 {
    n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// The name in the partition key.
pub(super) fn name(timeline: &TimelineId) -> &str {
    match timeline {
        TimelineId::Conversation(id) => id.as_str(),
        TimelineId::User(id) => id.as_str(),
    }
}

/// A clustering key, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) section: i8,
    pub(super) n: i64,
    pub(super) id: String,
}

impl Key {
    /// Of a row of the contract.
    pub(super) fn of(key: &RowKey) -> Self {
        Self { id: key.id.to_string(), ..Self::first(key.section, key.n) }
    }

    /// The first a row of this section and number can have.
    pub(super) fn first(section: Section, n: u64) -> Self {
        let high = i8::from(n > i64::MAX as u64);
        Self { section: section as i8 * 2 + high, n: (n & i64::MAX as u64) as i64, id: String::new() }
    }

    /// The first key beyond all of this section and number.
    pub(super) fn beyond(section: Section, n: u64) -> Self {
        match n.checked_add(1) {
            Some(next) => Self::first(section, next),
            None => Self { section: section as i8 * 2 + 2, n: 0, id: String::new() },
        }
    }

    /// The key right after this one.
    pub(super) fn successor(mut self) -> Self {
        self.id.push('\0');
        self
    }

    /// Back to the contract's key.
    pub(super) fn row_key(&self, section: Section) -> RowKey {
        let high = u64::from(self.section % 2 == 1) << 63;
        RowKey { section, n: unsigned(Some(self.n)) | high, id: self.id.as_str().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_come_back() {
        let mut keys = Vec::new();
        for section in Section::ALL {
            for n in [0, 1, 255, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX] {
                for id in ["", "a", "a\0", "b"] {
                    keys.push(RowKey { section, n, id: id.into() });
                }
            }
        }
        assert!(keys.is_sorted());
        let coded: Vec<Key> = keys.iter().map(Key::of).collect();
        assert!(coded.is_sorted());
        for (key, coded) in keys.iter().zip(&coded) {
            assert_eq!(coded.row_key(key.section), *key);
            assert!(Key::first(key.section, key.n) <= *coded && *coded < Key::beyond(key.section, key.n));
            assert!(coded.clone().successor() > *coded);
        }
    }
}
