//! What is kept of secrets: encrypted with a key that is not in the store (XChaCha20-Poly1305).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

/// Bytes of a nonce: so many that random ones do not meet.
const NONCE: usize = 24;

/// Encrypts what must not be readable in the store, and reads it back.
#[derive(Clone)]
pub struct Vault(XChaCha20Poly1305);

/// A text that this key has not written, for this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was not encrypted with this installation's key, or is damaged")]
pub struct Sealed;

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// With a key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// A new key, as it is kept: 32 bytes in base64.
    pub fn new_key() -> String {
        STANDARD.encode(random::<32>())
    }

    /// From a key as it is kept.
    pub fn from_key(text: &str) -> Option<Self> {
        let key: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
        Some(Self::new(&key))
    }

    /// Encrypts. `place` says where the text will stand; it cannot be read at another.
    pub fn close(&self, place: &str, text: &str) -> String {
        let nonce: [u8; NONCE] = random();
        let payload = Payload {
            msg: text.as_bytes(),
            aad: place.as_bytes(),
        };
        let closed = self.0.encrypt(&XNonce::from(nonce), payload);
        let closed = closed.expect("the text is far below the cipher's limit");
        STANDARD.encode([&nonce[..], &closed].concat())
    }

    /// Decrypts what was closed for this place.
    pub fn open(&self, place: &str, closed: &str) -> Result<Zeroizing<String>, Sealed> {
        let bytes = STANDARD.decode(closed).map_err(|_| Sealed)?;
        let (nonce, closed) = bytes.split_first_chunk::<NONCE>().ok_or(Sealed)?;
        let payload = Payload {
            msg: closed,
            aad: place.as_bytes(),
        };
        let text = self.0.decrypt(&XNonce::from(*nonce), payload);
        let text = String::from_utf8(text.map_err(|_| Sealed)?).map_err(|_| Sealed)?;
        Ok(Zeroizing::new(text))
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back_with_its_key_at_its_place_only() {
        let (vault, other) = (Vault::new(&[1; 32]), Vault::new(&[2; 32]));
        let closed = vault.close("subscription 1", "whsec_x");
        assert_ne!(closed, vault.close("subscription 1", "whsec_x"));
        assert_eq!(
            vault.open("subscription 1", &closed).unwrap().as_str(),
            "whsec_x"
        );
        assert_eq!(vault.open("subscription 2", &closed), Err(Sealed));
        assert_eq!(other.open("subscription 1", &closed), Err(Sealed));
        for bad in ["", "%", "AAAA"] {
            assert_eq!(vault.open("", bad), Err(Sealed));
        }
    }
}
