//! Keys and signatures: the only file that touches the JWT library. Times are not judged here.

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A key file that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It must be the public half.
    #[error("is a private key; give the public one")]
    Private,
    /// No PEM, or another kind of key.
    #[error("is not a public key in PEM (RSA, P-256 or Ed25519)")]
    Unusable,
}

/// Length of an uncompressed point on P-256.
const P256_POINT: usize = 65;

/// A key and the one algorithm it is for.
pub(super) struct Key {
    key: DecodingKey,
    validation: Validation,
}

impl Key {
    pub(super) fn secret(secret: &str) -> Self {
        Self::new(DecodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
    }

    pub(super) fn public(pem: &[u8]) -> Result<Self, KeyError> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            return Ok(Self::new(key, Algorithm::RS256));
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Ok(Self::new(key, Algorithm::EdDSA));
        }
        match DecodingKey::from_ec_pem(pem) {
            Ok(key) if is_p256(&key) => Ok(Self::new(key, Algorithm::ES256)),
            _ => Err(KeyError::Unusable),
        }
    }

    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut validation = Validation::new(algorithm);
        // Claims are judged by the caller, by our clock: here only the signature counts.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { key, validation }
    }

    /// The claims, if the signature is right and made with this key's algorithm.
    pub(super) fn open<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        jsonwebtoken::decode(token, &self.key, &self.validation).ok().map(|data| data.claims)
    }
}

fn is_p256(key: &DecodingKey) -> bool {
    matches!(key.kind(), DecodingKeyKind::SecretOrDer(point) if point.len() == P256_POINT)
}

/// A token of these claims, HS256.
pub(super) fn sign<T: Serialize>(secret: &str, claims: &T) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .expect("a map of texts and numbers is JSON, and HMAC takes any secret")
}
