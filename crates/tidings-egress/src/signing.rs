//! Signatures of the Standard Webhooks specification: `v1` (HMAC-SHA256) and `v1a` (Ed25519).
//!
//! Signed is `id.timestamp.body`. The published library signs text only, and a body may be any bytes here.

use std::fmt;
use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

/// The shortest symmetric secret, in bytes.
const MIN_BYTES: usize = 24;
/// The longest.
const MAX_BYTES: usize = 64;

/// What a subscription's messages are signed with. Never shown by `Debug`.
#[derive(Clone)]
pub enum Secret {
    /// `whsec_` and 24 to 64 bytes in base64.
    Symmetric(Zeroizing<Vec<u8>>),
    /// `whsk_` and the 32 bytes of an Ed25519 key in base64.
    Asymmetric(Box<SigningKey>),
}

/// A text that is no secret. It is not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Another prefix.
    #[error("a secret begins with whsec_ (HMAC-SHA256) or whsk_ (Ed25519)")]
    Prefix,
    /// What follows is not base64.
    #[error("what follows the prefix is not base64")]
    Base64,
    /// The wrong number of bytes.
    #[error("a secret has {MIN_BYTES} to {MAX_BYTES} bytes behind whsec_, or 32 behind whsk_")]
    Length,
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let decoded = |text: &str| {
            let bytes = STANDARD.decode(text).map_err(|_| InvalidSecret::Base64);
            bytes.map(Zeroizing::new)
        };
        if let Some(text) = text.strip_prefix("whsec_") {
            let bytes = decoded(text)?;
            return match bytes.len() {
                MIN_BYTES..=MAX_BYTES => Ok(Self::Symmetric(bytes)),
                _ => Err(InvalidSecret::Length),
            };
        }
        let bytes = decoded(text.strip_prefix("whsk_").ok_or(InvalidSecret::Prefix)?)?;
        let mut key: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| InvalidSecret::Length)?;
        let signing = SigningKey::from_bytes(&key);
        key.zeroize();
        Ok(Self::Asymmetric(Box::new(signing)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A symmetric one of these bytes, which ought to be random.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self::Symmetric(Zeroizing::new(bytes.to_vec()))
    }

    /// The text form, with its prefix.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Symmetric(bytes) => format!("whsec_{}", STANDARD.encode(bytes.as_slice())),
            Self::Asymmetric(key) => format!("whsk_{}", STANDARD.encode(key.as_bytes())),
        })
    }

    /// What a receiver verifies with: the secret itself, or `whpk_` and the public key.
    pub fn to_verifying_text(&self) -> Zeroizing<String> {
        match self {
            Self::Symmetric(_) => self.to_text(),
            Self::Asymmetric(key) => {
                let key = STANDARD.encode(key.verifying_key().as_bytes());
                Zeroizing::new(format!("whpk_{key}"))
            }
        }
    }

    /// One entry of the header `webhook-signature`. The timestamp is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Self::Symmetric(key) => {
                let signature = authenticated(key, id, timestamp, body).finalize();
                format!("v1,{}", STANDARD.encode(signature.into_bytes()))
            }
            Self::Asymmetric(key) => {
                let signature = key.sign(&signed(id, timestamp, body));
                format!("v1a,{}", STANDARD.encode(signature.to_bytes()))
            }
        }
    }
}

fn authenticated(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    mac
}

fn signed(id: &str, timestamp: i64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{timestamp}.").as_bytes(), body].concat()
}

/// Whether any entry of a header `webhook-signature` is good. `secret` is what
/// [`Secret::to_verifying_text`] gives. The age of the timestamp is the caller's question.
pub fn verify(
    secret: &str,
    id: &str,
    timestamp: i64,
    body: &[u8],
    header: &str,
) -> Result<bool, InvalidSecret> {
    if let Some(text) = secret.strip_prefix("whpk_") {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidSecret::Base64)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| InvalidSecret::Length)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidSecret::Length)?;
        let signed = signed(id, timestamp, body);
        return Ok(entries(header, "v1a").any(|signature| {
            let signature = ed25519_dalek::Signature::from_slice(&signature);
            signature.is_ok_and(|signature| key.verify_strict(&signed, &signature).is_ok())
        }));
    }
    let Secret::Symmetric(key) = secret.parse()? else {
        return Err(InvalidSecret::Prefix);
    };
    let good = |signature: Vec<u8>| {
        let mac = authenticated(&key, id, timestamp, body);
        mac.verify_slice(&signature).is_ok()
    };
    Ok(entries(header, "v1").any(good))
}

/// The signatures of a version in a header.
fn entries<'a>(header: &'a str, version: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    header.split(' ').filter_map(move |entry| {
        let (of, signature) = entry.split_once(',')?;
        (of == version).then(|| STANDARD.decode(signature).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_has_its_published_signature() {
        let secret: Secret = SECRET.parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = secret.sign(id, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(secret.to_text().as_str(), SECRET);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn a_signature_holds_for_its_own_id_time_body_and_key_only() {
        let key = STANDARD.encode([7; 32]);
        for text in [SECRET.to_owned(), format!("whsk_{key}")] {
            let secret: Secret = text.parse().unwrap();
            let verifying = secret.to_verifying_text();
            let body = b"\xff\x00 not text";
            let header = format!("v1,AAAA v2,x {}", secret.sign("m1", 5, body));
            let check =
                |id: &str, time, body: &[u8]| verify(&verifying, id, time, body, &header).unwrap();
            assert!(check("m1", 5, body));
            assert!(!check("m2", 5, body));
            assert!(!check("m1", 6, body));
            assert!(!check("m1", 5, b"other"));
            let other = Secret::from_random([1; 32]);
            let stranger = verify(&other.to_text(), "m1", 5, body, &header);
            assert!(!stranger.unwrap());
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for (text, expected) in [
            ("", InvalidSecret::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", InvalidSecret::Prefix),
            ("whsec_%%%", InvalidSecret::Base64),
            ("whsec_AAAA", InvalidSecret::Length),
            ("whsk_AAAA", InvalidSecret::Length),
        ] {
            assert_eq!(text.parse::<Secret>().unwrap_err(), expected, "{text}");
        }
        assert!(verify("whpk_AAAA", "m", 1, b"", "v1a,AA").is_err());
    }
}
