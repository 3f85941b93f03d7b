//! What a user's sync timeline stores for one entry: a pointer into a conversation, or an instruction
//! of the user's own whole. Bodies are never stored here, so a recall erases one place.

use bytes::Bytes;

use super::entry::Kind;
use crate::protocol::ConvId;
use crate::timeline::codec::{Reader, put_number, put_text};

/// Which instruction of the user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Own {
    /// Messages deleted for this user.
    Delete = 1,
    /// The conversation emptied for this user.
    Clear = 2,
    /// Read up to.
    Read = 3,
    /// The peer of a direct conversation read up to.
    Receipt = 4,
    /// Muted, pinned, hidden.
    Settings = 5,
}

/// A sync entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer<'a, C = &'a ConvId> {
    /// Entry `conv_seq` of a conversation.
    Log {
        /// What it is.
        kind: Kind,
        /// Whose.
        conv_id: C,
        /// Which.
        conv_seq: u64,
        /// The message it changes, or 0.
        target: u64,
    },
    /// An instruction of the user's own.
    Own {
        /// Which.
        own: Own,
        /// About which conversation.
        conv_id: C,
        /// Its text on the wire.
        text: &'a str,
    },
}

impl Pointer<'_, &ConvId> {
    /// As stored.
    pub fn store(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Log { kind, conv_id, conv_seq, target } => {
                out.extend_from_slice(&[1, *kind as u8]);
                put_text(&mut out, conv_id);
                put_number(&mut out, *conv_seq);
                put_number(&mut out, *target);
            }
            Self::Own { own, conv_id, text } => {
                out.extend_from_slice(&[2, *own as u8]);
                put_text(&mut out, conv_id);
                out.extend_from_slice(text.as_bytes());
            }
        }
        Bytes::from(out)
    }
}

impl<'a> Pointer<'a, &'a str> {
    /// From what was stored; `None` when damaged.
    pub fn load(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (tag, which) = (reader.byte()?, reader.byte()?);
        let conv_id = reader.text()?;
        match tag {
            1 => {
                let (conv_seq, target) = (reader.number()?, reader.number()?);
                Some(Self::Log { kind: Kind::from_byte(which)?, conv_id, conv_seq, target })
            }
            2 => {
                let own = [Own::Delete, Own::Clear, Own::Read, Own::Receipt, Own::Settings]
                    .into_iter()
                    .find(|own| *own as u8 == which)?;
                Some(Self::Own { own, conv_id, text: std::str::from_utf8(reader.rest()).ok()? })
            }
            _ => None,
        }
    }
}
