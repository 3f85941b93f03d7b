//! Names on the wire: users, devices, conversations and client-chosen keys.
//!
//! A value of these types has passed its check, so nobody downstream checks again. They are cheap
//! to clone (one counter) and compare bytewise. Nothing here knows whether a named thing exists.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{MAX_CONV_ID, MAX_MSG_ID, MAX_USER_ID};

/// A name that breaks its rule: empty, too long, or a character outside its set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct InvalidId(pub &'static str);

const fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'@' | b'-')
}

const fn is_conv_byte(byte: u8) -> bool {
    is_name_byte(byte) || byte == b':'
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $valid:path, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// [`InvalidId`] when the text breaks the rule of this type.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let fits = !text.is_empty() && text.len() <= $max;
                if fits && text.bytes().all($valid) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(InvalidId($what))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let check = |text: &str| $name::parse(text).ok();
                deserializer
                    .deserialize_str(Checked($what, check))
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max,
                    "pattern": $pattern,
                })
            }
        }
    };
}

/// Reads a string through a check without an owned copy in between.
struct Checked<F>(&'static str, F);

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Checked<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).ok_or_else(|| E::custom(InvalidId(self.0)))
    }
}

id! {
    /// A user: 1-64 of `A-Z a-z 0-9 . _ @ -`.
    UserId, "user_id", MAX_USER_ID, is_name_byte, "^[A-Za-z0-9._@-]+$"
}
id! {
    /// A device of a user: 1-64 of `A-Z a-z 0-9 . _ @ -`.
    DeviceId, "device_id", MAX_USER_ID, is_name_byte, "^[A-Za-z0-9._@-]+$"
}
id! {
    /// A conversation: 1-160 of `A-Z a-z 0-9 . _ @ - :`.
    ConvId, "conv_id", MAX_CONV_ID, is_conv_byte, "^[A-Za-z0-9._@:-]+$"
}
id! {
    /// A key the client (or the server API) chose: `client_msg_id`, `op_id`, `id`, `topic`.
    /// 1-64 printable ASCII characters, space included.
    MsgId, "id", MAX_MSG_ID, is_printable, "^[ -~]+$"
}

impl ConvId {
    /// The conversation every user is in from his first hello.
    pub const EVERYBODY: &'static str = "b:all";

    /// [`ConvId::EVERYBODY`] as a value.
    #[must_use]
    pub fn everybody() -> Self {
        Self(Arc::from(Self::EVERYBODY))
    }

    /// Whether this is [`ConvId::EVERYBODY`].
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        &*self.0 == Self::EVERYBODY
    }

    /// The log behind the notifications of one user: `s:<user>`. No request reaches it.
    #[must_use]
    pub fn notices(user: &UserId) -> Self {
        Self(Arc::from(format!("s:{user}")))
    }

    /// Whose notifications these are; `None` when the name is outside that space or malformed.
    #[must_use]
    pub fn notices_of(&self) -> Option<UserId> {
        UserId::parse(self.0.strip_prefix("s:")?).ok()
    }

    /// Whether the name is in a space no client may name: the logs behind notifications.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("s:")
    }

    /// The direct conversation of two users: `d:<a>:<b>`, sorted bytewise, whatever the order given.
    /// The same user twice gives `d:a:a`, which no rule accepts; the caller refuses it before.
    #[must_use]
    pub fn direct(one: &UserId, other: &UserId) -> Self {
        let (a, b) = if one <= other { (one, other) } else { (other, one) };
        Self(Arc::from(format!("d:{a}:{b}")))
    }

    /// Whether the name is in the space of direct conversations (`d:`), well formed or not.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.starts_with("d:")
    }

    /// The two users of a direct conversation. `None` when it is not one, is malformed, or is not
    /// sorted. `d:a:a` gives the same user twice: to oneself is another error than unsorted.
    #[must_use]
    pub fn direct_members(&self) -> Option<(UserId, UserId)> {
        let (a, b) = self.0.strip_prefix("d:")?.split_once(':')?;
        let pair = (UserId::parse(a).ok()?, UserId::parse(b).ok()?);
        (pair.0 <= pair.1).then_some(pair)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_conversation_is_sorted_and_splits_back() {
        let (a, b) = (UserId::parse("alice").unwrap(), UserId::parse("bob@x").unwrap());
        let conv = ConvId::direct(&b, &a);
        assert_eq!(conv, "d:alice:bob@x");
        assert_eq!(conv.direct_members(), Some((a.clone(), b)));
        assert_eq!(ConvId::direct(&a, &a).direct_members(), Some((a.clone(), a)));
        for bad in ["d:bob:alice", "d:alice", "d::bob", "d:a:b:c", "g:a:b", "d:", "d::"] {
            assert_eq!(ConvId::parse(bad).unwrap().direct_members(), None, "{bad}");
        }
    }

    #[test]
    fn names_outside_their_set_are_refused() {
        for bad in ["", "a b", "a:b", "ä", "a/b", "a\n", &"x".repeat(65)] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse(&"x".repeat(64)).is_ok());
        assert!(ConvId::parse(&"x".repeat(160)).is_ok());
        assert!(ConvId::parse(&"x".repeat(161)).is_err());
        assert!(MsgId::parse("a b~!\"").is_ok());
        assert!(MsgId::parse("tab\t").is_err());
        assert!(serde_json::from_str::<UserId>("\"a b\"").is_err());
        assert!(serde_json::from_str::<UserId>("\"\\u0061b\"").is_ok_and(|id| id == "ab"));
    }
}
