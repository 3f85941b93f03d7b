//! The signature of a webhook: HMAC-SHA256 over the timestamp, a dot and the body.
//!
//! The timestamp is signed with the body, so that an old request cannot be played again as a new one.

use aws_lc_rs::hmac;
use std::fmt::Write as _;

/// `sha256=` and 64 hexadecimal digits; `timestamp` as in the header `Everline-Timestamp`.
pub fn signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    let mut text = "sha256=".to_owned();
    for byte in context.sign().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_other_programs_compute() {
        // printf '1795174000123.{"events":[]}' | openssl dgst -sha256 -hmac 'a secret'
        let known = "sha256=75e4bc2e522f61c3e9f414cd050571714006fbf367a1bb1d9c7466cdf6491ce9";
        assert_eq!(signature("a secret", "1795174000123", br#"{"events":[]}"#), known);
        assert_ne!(signature("a secret", "1795174000124", br#"{"events":[]}"#), known);
        assert_ne!(signature("another", "1795174000123", br#"{"events":[]}"#), known);
        assert_ne!(signature("a secret", "1795174000123", br#"{"events": []}"#), known);
    }
}
