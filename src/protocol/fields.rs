//! Top-level fields of one JSON object as borrowed text, and strict readers for them.
//!
//! Every reader names the field it failed on. Null counts as absent. Of a key given twice the last
//! one counts, as in most JSON readers. Nothing is copied before it has passed its check.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::body::Body;
use super::ids::InvalidId;
use super::limits::MAX_SAFE_INTEGER;

/// A field at fault, and why.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) reason: &'static str,
}

const MISSING: &str = "is missing";

/// The fields of one object, in the order of the text.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// `None` when the text is not a JSON object.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, raw)| (&**key, *raw))
    }

    /// The last value of that name; null is none.
    pub(super) fn raw(&self, field: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(key, _)| key == field)?;
        (found.1.get() != "null").then_some(found.1)
    }

    pub(super) fn need(&self, field: &'static str) -> Result<&'a RawValue, Fault> {
        self.raw(field).ok_or(Fault { field, reason: MISSING })
    }

    /// An integer in 0 ..= 2^53-1.
    pub(super) fn number(&self, field: &'static str) -> Result<Option<u64>, Fault> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let number = as_number(raw);
        number.map(Some).ok_or(Fault { field, reason: "must be an integer from 0 to 2^53-1" })
    }

    pub(super) fn need_number(&self, field: &'static str) -> Result<u64, Fault> {
        self.number(field)?.ok_or(Fault { field, reason: MISSING })
    }

    /// A `conv_seq` of something that exists: from 1.
    pub(super) fn position(&self, field: &'static str) -> Result<Option<u64>, Fault> {
        match self.number(field)? {
            Some(0) => Err(Fault { field, reason: "must be at least 1" }),
            number => Ok(number),
        }
    }

    pub(super) fn need_position(&self, field: &'static str) -> Result<u64, Fault> {
        self.position(field)?.ok_or(Fault { field, reason: MISSING })
    }

    /// An integer in 1 ..= `max`; `default` when absent.
    pub(super) fn limit(&self, field: &'static str, default: u32, max: u32) -> Result<u32, Fault> {
        let number = self.number(field)?.unwrap_or(u64::from(default));
        u32::try_from(number)
            .ok()
            .filter(|limit| (1..=max).contains(limit))
            .ok_or(Fault { field, reason: "is out of range" })
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<Option<bool>, Fault> {
        match self.raw(field).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Fault { field, reason: "must be true or false" }),
        }
    }

    pub(super) fn text(&self, field: &'static str) -> Result<Option<Cow<'a, str>>, Fault> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let text = as_text(raw);
        text.map(Some).ok_or(Fault { field, reason: "must be a string" })
    }

    /// A string whose size, as `measure` counts it, is within `allowed`.
    pub(super) fn sized(
        &self,
        field: &'static str,
        allowed: std::ops::RangeInclusive<usize>,
        measure: fn(&str) -> usize,
    ) -> Result<Option<String>, Fault> {
        match self.text(field)? {
            Some(text) if allowed.contains(&measure(&text)) => Ok(Some(text.into_owned())),
            Some(_) => Err(Fault { field, reason: "is empty or too long" }),
            None => Ok(None),
        }
    }

    pub(super) fn id<T: for<'t> TryFrom<&'t str, Error = InvalidId>>(
        &self,
        field: &'static str,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        let id = T::try_from(&text).map_err(|_| Fault { field, reason: "is not a valid id" })?;
        Ok(Some(id))
    }

    pub(super) fn need_id<T: for<'t> TryFrom<&'t str, Error = InvalidId>>(
        &self,
        field: &'static str,
    ) -> Result<T, Fault> {
        self.id(field)?.ok_or(Fault { field, reason: MISSING })
    }

    /// An array of ids with a number of items within `allowed`.
    pub(super) fn ids<T: for<'t> TryFrom<&'t str, Error = InvalidId>>(
        &self,
        field: &'static str,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<Vec<T>>, Fault> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let items = as_array(raw).ok_or(Fault { field, reason: "must be an array" })?;
        if !allowed.contains(&items.len()) {
            return Err(Fault { field, reason: "has too few or too many items" });
        }
        let id = |item: &RawValue| T::try_from(&as_text(item)?).ok();
        let ids = items.into_iter().map(id).collect::<Option<Vec<T>>>();
        ids.map(Some).ok_or(Fault { field, reason: "holds something that is not a valid id" })
    }

    /// A word of a closed set, read by the type's own `Deserialize`.
    pub(super) fn word<T: Deserialize<'a>>(&self, field: &'static str) -> Result<Option<T>, Fault> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let fault = Fault { field, reason: "is not one of the words allowed" };
        // Serde also takes `{"word":null}` for a word.
        match serde_json::from_str(raw.get()) {
            Ok(word) if raw.get().starts_with('"') => Ok(Some(word)),
            _ => Err(fault),
        }
    }

    pub(super) fn object(&self, field: &'static str) -> Result<Option<Body>, Fault> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let body = Body::from_raw(raw);
        body.map(Some).map_err(|_| Fault { field, reason: "must be an object" })
    }
}

/// An integer without sign, fraction or exponent, up to 2^53-1.
pub(super) fn as_number(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    let digits = text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits {
        text.parse().ok()?
    } else {
        return None;
    };
    (number <= MAX_SAFE_INTEGER).then_some(number)
}

/// A string; borrowed when it has no escapes.
pub(super) fn as_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(text).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

pub(super) fn as_array(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A key, borrowed when it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
