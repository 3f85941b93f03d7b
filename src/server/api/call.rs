//! One request as its handler reads it: path, query, key, content. Everything that is read is checked.

use std::collections::HashMap;

use axum::http::HeaderValue;
use serde::Serialize;

use super::problem::Problem;
use crate::protocol::api::Input;
use crate::protocol::limits::{MAX_PAGE, MAX_SAFE_INTEGER};
use crate::protocol::{ErrorCode, InvalidId, MsgId, ParseLimits};

/// See the module.
pub(super) struct Call {
    path: HashMap<String, String>,
    query: HashMap<String, String>,
    /// `Idempotency-Key`, if there was one.
    pub(super) key: Option<MsgId>,
    content: String,
    parse: ParseLimits,
}

/// What a handler answers.
pub(super) type Answered = Result<String, Problem>;

/// An answer as text.
pub(super) fn answer<T: Serialize>(value: &T) -> Answered {
    serde_json::to_string(value).map_err(|_| Problem::code(ErrorCode::Unavailable))
}

impl Call {
    pub(super) fn new(
        path: HashMap<String, String>,
        query: &str,
        key: Option<&HeaderValue>,
        content: String,
        parse: ParseLimits,
    ) -> Result<Self, Problem> {
        let key = match key.map(|key| key.to_str().ok().and_then(|key| MsgId::parse(key).ok())) {
            Some(None) => return Err(Problem::field("Idempotency-Key", "must be 1-64 printable ASCII characters")),
            key => key.flatten(),
        };
        Ok(Self { path, query: pairs(query), key, content, parse })
    }

    /// The key, or one nobody uses again.
    pub(super) fn key_or_new(&self) -> Result<MsgId, Problem> {
        match &self.key {
            Some(key) => Ok(key.clone()),
            None => fresh(),
        }
    }

    /// A name in the path.
    pub(super) fn id<T: for<'t> TryFrom<&'t str, Error = InvalidId>>(
        &self,
        name: &str,
        field: &'static str,
    ) -> Result<T, Problem> {
        let text = self.path.get(name).map(String::as_str).unwrap_or_default();
        T::try_from(text).map_err(|_| Problem::field(field, "is not a valid id"))
    }

    /// The content.
    pub(super) fn content<T: Input>(&self) -> Result<T, Problem> {
        Ok(T::parse(&self.content, &self.parse)?)
    }

    /// A number of the query.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        let digits = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        let number = number.filter(|number| *number <= MAX_SAFE_INTEGER);
        number.map(Some).ok_or_else(|| Problem::field(name, "must be an integer from 0 to 2^53-1"))
    }

    /// `limit`: 1 to `max`, or `default`.
    pub(super) fn limit(&self, default: u32, max: u32) -> Result<u32, Problem> {
        let limit = u32::try_from(self.number("limit")?.unwrap_or(u64::from(default))).ok();
        limit.filter(|limit| (1..=max).contains(limit)).ok_or_else(|| Problem::field("limit", "is out of range"))
    }

    /// `page`.
    pub(super) fn page(&self) -> Result<Option<&str>, Problem> {
        match self.query.get("page").map(String::as_str) {
            Some(page) if page.is_empty() || page.len() > MAX_PAGE => {
                Err(Problem::field("page", "is empty or too long"))
            }
            page => Ok(page),
        }
    }

    /// One of the words allowed, or the first of them.
    pub(super) fn word(&self, name: &'static str, allowed: &[&'static str]) -> Result<&'static str, Problem> {
        let first = allowed.first().copied().unwrap_or_default();
        let Some(text) = self.query.get(name) else { return Ok(first) };
        let word = allowed.iter().copied().find(|word| word == text);
        word.ok_or_else(|| Problem::field(name, "is not one of the words allowed"))
    }
}

/// A key nobody uses again.
pub(super) fn fresh() -> Result<MsgId, Problem> {
    let name = format!("api-{:032x}", rand::random::<u128>());
    MsgId::parse(&name).map_err(|_| Problem::code(ErrorCode::Unavailable))
}

/// Names and values of a query; of a name given twice the last counts.
fn pairs(query: &str) -> HashMap<String, String> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Takes percent-encoding away; what is not valid stays as it is.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0);
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = after;
            }
            (b'+', _) => {
                out.push(b' ');
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whatever_it_holds() {
        let query = pairs("page=1%7Eg%3aa&limit=&x&a=b=c&&%zz=%e4%&sp=a+b&limit=7");
        let get = |name: &str| query.get(name).map(String::as_str);
        assert_eq!((get("page"), get("limit"), get("x")), (Some("1~g:a"), Some("7"), Some("")));
        assert_eq!((get("a"), get("sp")), (Some("b=c"), Some("a b")));
        assert!(get("%zz").is_some());
    }
}
