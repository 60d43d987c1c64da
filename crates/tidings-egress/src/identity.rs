//! Who we are to a receiver that asks: a client certificate and its key, as PEM. The key is in no message of ours.

use std::fmt;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The longest certificate chain and the longest key, in bytes of PEM each.
const MAX_BYTES: usize = 32_768;
/// The most certificates of a chain.
const MAX_CHAIN: usize = 10;

/// A client certificate with its chain, and its private key.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: Zeroizing<String>,
    fingerprint: String,
    name: [u8; 32],
}

/// Why two texts are no identity. Neither is repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Over the limit.
    #[error("certificate and key may have {MAX_BYTES} bytes each")]
    TooLong,
    /// No chain of 1 to 10.
    #[error("the certificate must be PEM, 1 to {MAX_CHAIN} sections CERTIFICATE and nothing else")]
    Certificate,
    /// Not one key.
    #[error("the key must be PEM, one section PRIVATE KEY that is not encrypted, and nothing else")]
    Key,
    /// The library takes neither together.
    #[error("the key is of no known kind, or not that of the certificate")]
    Pair,
}

impl Identity {
    /// Of a chain, the own certificate first, and its key.
    pub fn new(certificate: &str, key: &str) -> Result<Self, InvalidIdentity> {
        if certificate.len() > MAX_BYTES || key.len() > MAX_BYTES {
            return Err(InvalidIdentity::TooLong);
        }
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let chain: Result<Vec<_>, _> = chain.collect();
        let chain = chain.map_err(|_| InvalidIdentity::Certificate)?;
        let sections = |text: &str| text.matches("-----BEGIN ").count();
        let whole = chain.len() == sections(certificate) && chain.len() <= MAX_CHAIN;
        let own = chain.first().filter(|_| whole);
        let own = own.ok_or(InvalidIdentity::Certificate)?;
        let fingerprint: Vec<_> = Sha256::digest(own)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let read = PrivateKeyDer::from_pem_slice(key.as_bytes());
        if read.is_err() || sections(key) != 1 {
            return Err(InvalidIdentity::Key);
        }
        let name = Sha256::new()
            .chain_update(certificate)
            .chain_update([0])
            .chain_update(key);
        Ok(Self {
            certificate: certificate.to_owned(),
            key: Zeroizing::new(key.to_owned()),
            fingerprint: fingerprint.concat(),
            name: name.finalize().into(),
        })
    }

    /// The chain, as it was given.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, as it was given. A secret.
    pub fn key(&self) -> &Zeroizing<String> {
        &self.key
    }

    /// SHA-256 of the certificate, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What clients are kept by: the same for the same certificate and key only.
    pub(crate) fn name(&self) -> [u8; 32] {
        self.name
    }

    /// Both, as TLS wants them.
    pub(crate) fn parsed(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), InvalidIdentity> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain: Result<Vec<_>, _> = chain.collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let chain = chain.map_err(|_| InvalidIdentity::Certificate)?;
        Ok((chain, key.map_err(|_| InvalidIdentity::Key)?))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}
