//! Bytes: variable-length numbers, deltas, length-prefixed strings, and the checksum every stored value
//! ends with.
//!
//! Must not know what the numbers mean. Reading never panics: every function of [`Reader`] gives `None`
//! on bytes that cannot be what was written.
//!
//! How it can hurt: a change here makes every directory unreadable; raise the format in `open` with it.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes a checksum adds to a value.
const SUM: usize = 4;

/// Seven bits a byte, low ones first; the high bit says that more follow.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The mask keeps it in a byte.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number near `old`, in either direction.
pub(super) fn put_delta(out: &mut Vec<u8>, new: u64, old: u64) {
    let delta = new.wrapping_sub(old) as i64;
    put_varint(out, ((delta << 1) ^ (delta >> 63)) as u64);
}

/// A wide number near `old`: attempts differ mostly in their low half.
pub(super) fn put_wide_delta(out: &mut Vec<u8>, new: u128, old: u128) {
    put_delta(out, (new >> 64) as u64, (old >> 64) as u64);
    put_delta(out, new as u64, old as u64);
}

/// Length, then the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes written things off the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u64_be(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn delta(&mut self, old: u64) -> Option<u64> {
        let raw = self.varint()?;
        let delta = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        Some(old.wrapping_add(delta as u64))
    }

    pub(super) fn wide_delta(&mut self, old: u128) -> Option<u128> {
        let high = self.delta((old >> 64) as u64)?;
        let low = self.delta(old as u64)?;
        Some(u128::from(high) << 64 | u128::from(low))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// How many things follow, each of at least one byte: never more than bytes are left, so that a
    /// damaged count cannot ask for memory.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.rest.len()).then_some(count)
    }
}

/// Appends the checksum; it covers the key too, so that a value under another key is noticed.
pub(super) fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &value);
    value.extend_from_slice(&sum.to_be_bytes());
    value
}

/// The value without its checksum; `None` when it is not what was sealed under this key.
pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, sum) = sealed.split_at_checked(sealed.len().checked_sub(SUM)?)?;
    (checksum(key, value).to_be_bytes() == sum).then_some(value)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    xxh3_64_with_seed(value, xxh3_64(key)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_read(a: u64, b: u64, wide: u128, old: u128, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_delta(&mut out, b, a);
            put_wide_delta(&mut out, wide, old);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Some(a));
            prop_assert_eq!(reader.delta(a), Some(b));
            prop_assert_eq!(reader.wide_delta(old), Some(wide));
            prop_assert_eq!(reader.bytes(), Some(&bytes[..]));
            prop_assert!(reader.rest().is_empty());
        }

        #[test]
        fn a_changed_byte_or_key_is_noticed(key: Vec<u8>, value: Vec<u8>, at: usize, bit in 0u8..8) {
            let sealed = seal(&key, value.clone());
            prop_assert_eq!(unseal(&key, &sealed), Some(&value[..]));
            let mut damaged = sealed.clone();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert_eq!(unseal(&key, &damaged), None);
            let mut other = key.clone();
            other.push(7);
            prop_assert_eq!(unseal(&other, &sealed), None);
        }
    }

    #[test]
    fn short_and_overlong_numbers_are_refused() {
        assert_eq!(Reader::new(&[0x80]).varint(), None);
        assert_eq!(Reader::new(&[0xff; 10]).varint(), None);
        assert_eq!(Reader::new(&[5, 1, 2]).count(), None);
    }
}
