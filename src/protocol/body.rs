//! The content of a message, opaque to the server.
//!
//! A [`Body`] is the text of a JSON object, compact, otherwise exactly as its author wrote it: no
//! number is rounded and no key moved on the way. It is never taken apart on the hot path.
//! It is read back only from text held in memory (`serde_json::from_str`, `from_slice`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::MAX_NESTING;
use super::scan::scan;

/// Text that is not a JSON object, or breaks the rules of nesting, surrogates or numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a JSON object: {0}")]
pub struct InvalidBody(&'static str);

/// A JSON object as compact UTF-8 text; cheap to clone. `body` of messages, also `attributes`.
#[derive(Clone)]
pub struct Body(Arc<RawValue>);

impl Body {
    /// Checks `text` and takes white space outside strings away.
    ///
    /// # Errors
    /// When it is no JSON object, nests deeper than 32, or holds a lone surrogate or a number
    /// beyond 64 bits.
    pub fn parse(text: &str) -> Result<Self, InvalidBody> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|_| InvalidBody("not JSON"))?;
        Self::from_raw(raw)
    }

    /// The same for text that is known to be JSON.
    ///
    /// # Errors
    /// As [`Body::parse`].
    pub fn from_raw(raw: &RawValue) -> Result<Self, InvalidBody> {
        let text = raw.get();
        if !text.starts_with('{') {
            return Err(InvalidBody("another type"));
        }
        let seen = scan(text, MAX_NESTING).map_err(|_| InvalidBody("nesting, surrogate or number out of bounds"))?;
        let raw = if seen.compact { raw.to_owned() } else { owned(compact(text))? };
        Ok(Self(Arc::from(raw)))
    }

    /// The text of `value`.
    ///
    /// # Errors
    /// When it is no object or nests deeper than 32.
    pub fn from_value(value: &Value) -> Result<Self, InvalidBody> {
        if !value.is_object() {
            return Err(InvalidBody("another type"));
        }
        let text = value.to_string();
        scan(&text, MAX_NESTING).map_err(|_| InvalidBody("nested too deeply"))?;
        Ok(Self(Arc::from(owned(text)?)))
    }

    /// The compact text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Size in bytes, the one limits are about.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty: at least {}")]
    pub fn len(&self) -> usize {
        self.0.get().len()
    }

    /// As a tree; floats may round, so never write it back.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// Equality of JSON values: order of keys and ways to escape don't count. `1` and `1.0` differ.
    #[must_use]
    pub fn same_value(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() || self.to_value() == other.to_value()
    }
}

fn owned(text: String) -> Result<Box<RawValue>, InvalidBody> {
    RawValue::from_string(text).map_err(|_| InvalidBody("not JSON"))
}

/// Takes white space outside strings away; everything else stays as it is.
fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

impl PartialEq for Body {
    /// As [`Body::same_value`].
    fn eq(&self, other: &Self) -> bool {
        self.same_value(other)
    }
}

impl fmt::Debug for Body {
    /// The size only: a body is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        Self::from_raw(raw).map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Body {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Body".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Any JSON object; comes back equal as a JSON value.",
            "type": "object",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_and_everything_else_stays() {
        let body = Body::parse(" { \"a b\" : [ 1.50 , -0 , \"x \\\" y\" , \"\\\\\" ],\n\"ä\":1E2 } ").unwrap();
        assert_eq!(body.as_str(), r#"{"a b":[1.50,-0,"x \" y","\\"],"ä":1E2}"#);
        let exact = r#"{"n":0.1000000000000000055511151231257827,"u":18446744073709551615}"#;
        let body = Body::parse(exact).unwrap();
        assert_eq!(serde_json::to_string(&body).unwrap(), exact);
        assert_eq!(serde_json::from_str::<Body>(exact).unwrap().as_str(), exact);
    }

    #[test]
    fn bodies_compare_as_json_values() {
        let body = |text| Body::parse(text).unwrap();
        assert!(body(r#"{"a":1,"b":"A"}"#).same_value(&body(r#"{"b":"\u0041","a":1}"#)));
        assert!(!body(r#"{"a":1}"#).same_value(&body(r#"{"a":2}"#)));
        assert!(!body(r#"{"a":1}"#).same_value(&body(r#"{"a":1.0}"#)));
    }

    #[test]
    fn only_objects_within_bounds_are_bodies() {
        for bad in ["[]", "1", "null", "", "{", "{}x", r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#] {
            assert!(Body::parse(bad).is_err(), "{bad}");
        }
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Body::parse(&deep(31)).is_ok());
        assert!(Body::parse(&deep(32)).is_err());
        assert!(Body::from_value(&serde_json::json!([1])).is_err());
        assert_eq!(Body::from_value(&serde_json::json!({"a":1})).unwrap().as_str(), r#"{"a":1}"#);
    }
}
