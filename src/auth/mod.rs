//! Who a client is: checks tokens and, for tests and operators, makes them.
//!
//! A token is a JWT with `sub`, `exp` and `aud` = `everline`, optionally `device_id`, `iat`, `nbf`. One
//! algorithm only is accepted, the one the configured key is for: what the token's own header says is
//! never a choice. It must not print tokens, and must not tell a caller why a token is invalid: an
//! attacker learns from it. A mistake here lets anybody be anybody.

mod key;

use serde::{Deserialize, Serialize};

use crate::config::Clock;
use crate::protocol::{DeviceId, ErrorCode, UserId};

use key::Key;
pub use key::KeyError;

/// The `aud` every token must name.
pub const AUDIENCE: &str = "everline";
/// Clocks of issuer and server may differ by so much, either way.
pub const LEEWAY_MS: u64 = 5_000;

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user (`sub`).
    pub user: UserId,
    /// The only device it is good for, if it names one.
    pub device: Option<DeviceId>,
    /// Not good any more after this moment, leeway included: milliseconds since 1970.
    pub valid_until_ms: u64,
    /// When it was issued (`iat`), milliseconds since 1970: for revocation.
    pub issued_at_ms: Option<u64>,
}

/// A token that is not accepted. Nothing more is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Everything is right but for the time, which is over.
    #[error("token expired")]
    Expired,
    /// Anything else.
    #[error("token invalid")]
    Invalid,
}

impl Rejected {
    /// The code of the contract.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::TokenExpired,
            Self::Invalid => ErrorCode::InvalidToken,
        }
    }
}

/// Claims as read; anything mistyped makes the token invalid.
#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    exp: f64,
    aud: Audience,
    device_id: Option<DeviceId>,
    iat: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn is_ours(&self) -> bool {
        match self {
            Self::One(name) => name == AUDIENCE,
            Self::Many(names) => names.iter().any(|name| name == AUDIENCE),
        }
    }
}

/// Checks tokens against one key and one clock.
pub struct Verifier {
    key: Key,
    clock: Clock,
}

impl Verifier {
    /// For tokens signed with a shared secret (HS256).
    pub fn with_secret(secret: &str, clock: Clock) -> Self {
        Self { key: Key::secret(secret), clock }
    }

    /// For tokens signed with the private half of this key; PEM. RSA means RS256, P-256 means ES256,
    /// Ed25519 means EdDSA.
    pub fn with_public_key(pem: &[u8], clock: Clock) -> Result<Self, KeyError> {
        Ok(Self { key: Key::public(pem)?, clock })
    }

    /// Who the token says its bearer is, as of now.
    pub fn verify(&self, token: &str) -> Result<Identity, Rejected> {
        let claims: Claims = self.key.open(token).ok_or(Rejected::Invalid)?;
        let now = self.clock.now_ms();
        let exp = millis(claims.exp).ok_or(Rejected::Invalid)?;
        let iat = claims.iat.map(|at| millis(at).ok_or(Rejected::Invalid)).transpose()?;
        let nbf = claims.nbf.map(|at| millis(at).ok_or(Rejected::Invalid)).transpose()?;
        let too_early = |at: Option<u64>| at.is_some_and(|at| at > now.saturating_add(LEEWAY_MS));
        if !claims.aud.is_ours() || too_early(nbf) || too_early(iat) {
            return Err(Rejected::Invalid);
        }
        let valid_until_ms = exp.saturating_add(LEEWAY_MS);
        if now > valid_until_ms {
            return Err(Rejected::Expired);
        }
        Ok(Identity { user: claims.sub, device: claims.device_id, valid_until_ms, issued_at_ms: iat })
    }
}

/// Seconds since 1970, possibly with a fraction, as milliseconds.
fn millis(seconds: f64) -> Option<u64> {
    let ms = seconds * 1000.0;
    // Far below what 64 bits hold, so the conversion is exact enough and cannot wrap.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 0 to 1e15")]
    (ms.is_finite() && (0.0..=1e15).contains(&ms)).then_some(ms as u64)
}

/// Makes tokens, with the secret [`Verifier::with_secret`] checks them with.
pub struct Minter {
    secret: String,
    clock: Clock,
}

#[derive(Serialize)]
struct NewClaims<'a> {
    sub: &'a str,
    aud: &'static str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
}

impl Minter {
    /// Signs with this secret (HS256).
    pub fn new(secret: &str, clock: Clock) -> Self {
        Self { secret: secret.to_owned(), clock }
    }

    /// A token for a user, good for `ttl` from now (whole seconds, at least one).
    pub fn mint(&self, user: &UserId, device: Option<&DeviceId>, ttl: std::time::Duration) -> String {
        let iat = self.clock.now_ms() / 1000;
        let exp = iat.saturating_add(ttl.as_secs().max(1));
        let device_id = device.map(DeviceId::as_str);
        key::sign(&self.secret, &NewClaims { sub: user, aud: AUDIENCE, iat, exp, device_id })
    }
}

#[cfg(test)]
mod tests;
