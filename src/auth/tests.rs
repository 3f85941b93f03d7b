//! The promises of tokens.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_795_174_000_000;
const NOW: u64 = NOW_MS / 1000;
const SECRET: &str = "a secret of the tests";

fn clock() -> Clock {
    Clock::simulated(NOW_MS)
}

fn judge(claims: &Value) -> Result<Identity, Rejected> {
    judge_with(&Header::default(), claims, SECRET)
}

fn judge_with(header: &Header, claims: &Value, secret: &str) -> Result<Identity, Rejected> {
    let token = jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).expect("a token");
    Verifier::with_secret(SECRET, clock()).verify(&token)
}

fn claims(changes: &[(&str, Value)]) -> Value {
    let mut claims = json!({"sub": "alice", "aud": "everline", "exp": NOW + 60});
    let object = claims.as_object_mut().expect("an object");
    for (name, value) in changes {
        object.remove(*name);
        if !value.is_null() {
            object.insert((*name).to_owned(), value.clone());
        }
    }
    claims
}

#[tokio::test(start_paused = true)]
async fn a_minted_token_names_user_device_and_end() {
    let (user, device) = ("alice".parse().expect("a user"), "phone".parse().expect("a device"));
    let token = Minter::new(SECRET, clock()).mint(&user, Some(&device), Duration::from_secs(3600));
    let identity = Verifier::with_secret(SECRET, clock()).verify(&token).expect("valid");
    assert_eq!(identity.user, user);
    assert_eq!(identity.device, Some(device));
    assert_eq!(identity.valid_until_ms, NOW_MS + 3_600_000 + LEEWAY_MS);
    assert_eq!(identity.issued_at_ms, Some(NOW_MS));
}

#[tokio::test(start_paused = true)]
async fn every_claim_that_is_needed_is_needed() {
    assert!(judge(&claims(&[])).is_ok());
    assert!(judge(&claims(&[("aud", json!(["other", "everline"]))])).is_ok());
    assert!(judge(&claims(&[("exp", json!(NOW as f64 + 60.5))])).is_ok());
    for (name, value) in [
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!("no spaces")),
        ("sub", json!(7)),
        ("exp", Value::Null),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("aud", Value::Null),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("device_id", json!("no spaces")),
        ("iat", json!("then")),
        ("nbf", json!("later")),
    ] {
        assert_eq!(judge(&claims(&[(name, value.clone())])), Err(Rejected::Invalid), "{name} {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_may_differ_by_five_seconds() {
    assert!(judge(&claims(&[("exp", json!(NOW - 5))])).is_ok());
    assert_eq!(judge(&claims(&[("exp", json!(NOW - 6))])), Err(Rejected::Expired));
    for name in ["nbf", "iat"] {
        assert!(judge(&claims(&[(name, json!(NOW + 5))])).is_ok());
        assert_eq!(judge(&claims(&[(name, json!(NOW + 6))])), Err(Rejected::Invalid), "{name}");
    }
    let expired_and_wrong = claims(&[("exp", json!(NOW - 60)), ("aud", json!("other"))]);
    assert_eq!(judge(&expired_and_wrong), Err(Rejected::Invalid));
}

#[tokio::test(start_paused = true)]
async fn the_key_decides_the_algorithm_not_the_token() {
    let good = claims(&[]);
    assert_eq!(judge_with(&Header::default(), &good, "another secret"), Err(Rejected::Invalid));
    for other in [Algorithm::HS384, Algorithm::HS512] {
        assert_eq!(judge_with(&Header::new(other), &good, SECRET), Err(Rejected::Invalid));
    }
    let verifier = Verifier::with_secret(SECRET, clock());
    // {"alg":"none","typ":"JWT"} . {"sub":"alice","aud":"everline","exp":9999999999}
    let body = "eyJzdWIiOiJhbGljZSIsImF1ZCI6ImV2ZXJsaW5lIiwiZXhwIjo5OTk5OTk5OTk5fQ";
    for token in ["", "a", "a.b", "a.b.c", "..", &format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.")] {
        assert_eq!(verifier.verify(token), Err(Rejected::Invalid), "{token}");
    }
}

const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
const RSA_PRIVATE: &str = include_str!("testdata/rsa.pem");
const EC_PUBLIC: &str = include_str!("testdata/p256.pub.pem");
const EC_PRIVATE: &str = include_str!("testdata/p256.pem");
const ED_PUBLIC: &str = include_str!("testdata/ed25519.pub.pem");
const ED_PRIVATE: &str = include_str!("testdata/ed25519.pem");
const P384_PUBLIC: &str = include_str!("testdata/p384.pub.pem");

#[tokio::test(start_paused = true)]
async fn each_kind_of_public_key_takes_its_own_algorithm_only() {
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("a key");
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).expect("a key");
    let ed = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).expect("a key");
    let tokens = [(Algorithm::RS256, &rsa), (Algorithm::ES256, &ec), (Algorithm::EdDSA, &ed)]
        .map(|(algorithm, key)| jsonwebtoken::encode(&Header::new(algorithm), &claims(&[]), key).expect("a token"));
    for (index, pem) in [RSA_PUBLIC, EC_PUBLIC, ED_PUBLIC].into_iter().enumerate() {
        let verifier = Verifier::with_public_key(pem.as_bytes(), clock()).expect("a usable key");
        for (other, token) in tokens.iter().enumerate() {
            assert_eq!(verifier.verify(token).is_ok(), index == other, "{index} {other}");
        }
        // The classic confusion: the public key's text taken as an HMAC secret.
        let confused =
            jsonwebtoken::encode(&Header::default(), &claims(&[]), &EncodingKey::from_secret(pem.as_bytes()));
        assert_eq!(verifier.verify(&confused.expect("a token")), Err(Rejected::Invalid));
    }
    let pss = jsonwebtoken::encode(&Header::new(Algorithm::PS256), &claims(&[]), &rsa).expect("a token");
    let verifier = Verifier::with_public_key(RSA_PUBLIC.as_bytes(), clock()).expect("a usable key");
    assert_eq!(verifier.verify(&pss), Err(Rejected::Invalid));
}

#[tokio::test(start_paused = true)]
async fn unusable_keys_are_refused() {
    let refused = |pem: &str| Verifier::with_public_key(pem.as_bytes(), clock()).err();
    assert_eq!(refused(RSA_PRIVATE), Some(KeyError::Private));
    assert_eq!(refused(ED_PRIVATE), Some(KeyError::Private));
    assert_eq!(refused(P384_PUBLIC), Some(KeyError::Unusable));
    assert_eq!(refused("not a key"), Some(KeyError::Unusable));
}
