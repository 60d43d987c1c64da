//! The embedded default's own signing key: an Ed25519 pair in the data folder, and the tokens it
//! mints. It needs no server, so that the command line can mint with it too.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use tidings_event::{ModuleId, Service, TenantId};
use zeroize::Zeroizing;

use super::jwks::KeySet;
use super::token::{self, Unauthenticated};

/// The key's file in the data folder.
pub const FILE_NAME: &str = "local-signing-key.pem";

const PEM_BEGIN: &str = "-----BEGIN";

/// Why there is no local key.
#[derive(Debug, thiserror::Error)]
pub enum LocalKeyError {
    /// No file: the folder is not a data folder, or `tidings serve` never ran on it.
    #[error("there is no signing key {0}; start 'tidings serve' on this data folder once")]
    Absent(PathBuf),
    /// The file cannot be read.
    #[error("the signing key {0} cannot be read: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// The file holds something else.
    #[error("{0} is not an Ed25519 private key in PKCS #8 PEM form")]
    Invalid(PathBuf),
    /// The file holds a key, but not the one that was made.
    #[error("the signing key {0} is damaged: it is not the key that its first line names")]
    Damaged(PathBuf),
    /// The file cannot be made.
    #[error("the signing key {0} cannot be written: {1}")]
    Write(PathBuf, #[source] io::Error),
}

/// What a token is to say.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Who it is for.
    pub subject: String,
    /// The tenant; only an operator does without.
    pub tenant: Option<TenantId>,
    /// The module that calls, if it is one.
    pub module: Option<ModuleId>,
    /// The service that calls, if it is one.
    pub service: Option<Service>,
    /// May administer its tenant.
    pub admin: bool,
    /// Runs the installation.
    pub operator: bool,
    /// `iss`, where the configuration wants one.
    pub issuer: Option<String>,
    /// `aud`, where the configuration wants one.
    pub audience: Option<String>,
}

impl Claims {
    /// Whether the gateway takes a token that says so: by the same rules, and with its reason where it does not.
    pub fn check(&self) -> Result<(), Unauthenticated> {
        token::check(self)
    }
}

/// The key pair.
pub struct LocalKey {
    signing: SigningKey,
    id: String,
}

impl LocalKey {
    /// The data folder's key, made now if there is none.
    pub fn load_or_create(folder: &Path) -> Result<Self, LocalKeyError> {
        match Self::load(folder) {
            Err(LocalKeyError::Absent(path)) => Self::create(&path),
            other => other,
        }
    }

    /// The data folder's key.
    pub fn load(folder: &Path) -> Result<Self, LocalKeyError> {
        let path = folder.join(FILE_NAME);
        let pem = match std::fs::read_to_string(&path) {
            Ok(pem) => Zeroizing::new(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LocalKeyError::Absent(path));
            }
            Err(error) => return Err(LocalKeyError::Read(path, error)),
        };
        let signing =
            SigningKey::from_pkcs8_pem(&pem).map_err(|_| LocalKeyError::Invalid(path.clone()))?;
        let this = Self::new(signing);
        // A key from elsewhere may come without the line; one of ours is another when a bit flips.
        if !pem.starts_with(PEM_BEGIN) && !pem.starts_with(&this.first_line()) {
            return Err(LocalKeyError::Damaged(path));
        }
        warn_if_readable_by_others(&path);
        Ok(this)
    }

    /// Stands before the PEM part, where RFC 7468 leaves room for text that readers skip.
    fn first_line(&self) -> String {
        format!("Key id: {}\n{PEM_BEGIN}", self.id)
    }

    fn create(path: &Path) -> Result<Self, LocalKeyError> {
        let failed = |error| LocalKeyError::Write(path.to_owned(), error);
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| failed(io::Error::other(error)))?;
        // Without the public half this is version 1 of PKCS #8, which every tool reads.
        let pem = KeypairBytes {
            secret_key: *seed,
            public_key: None,
        }
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| failed(io::Error::other(error)))?;
        let this = Self::new(SigningKey::from_bytes(&seed));
        let text = Zeroizing::new(pem.replacen(PEM_BEGIN, &this.first_line(), 1));
        write_durably(path, text.as_bytes()).map_err(failed)?;
        Ok(this)
    }

    fn new(signing: SigningKey) -> Self {
        let x = URL_SAFE_NO_PAD.encode(signing.verifying_key().as_bytes());
        // RFC 7638: the members in this order, without spaces.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self {
            signing,
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(thumbprint)),
        }
    }

    /// A token that says this and holds for so long.
    pub fn mint(&self, claims: &Claims, ttl: Duration, now_ms: i64) -> String {
        let issued = now_ms.div_euclid(1_000);
        let expires = issued.saturating_add_unsigned(ttl.as_secs());
        let roles = [(claims.admin, "ADMIN"), (claims.operator, "OPERATOR")];
        let roles: Vec<_> = roles
            .iter()
            .filter(|(held, _)| *held)
            .map(|(_, role)| role)
            .collect();
        let mut payload = serde_json::json!({
            "sub": claims.subject, "roles": roles, "iat": issued, "exp": expires,
        });
        let optional = [
            ("tenant_id", claims.tenant.as_ref().map(TenantId::as_str)),
            ("module", claims.module.as_ref().map(ModuleId::as_str)),
            ("service", claims.service.map(Service::as_str)),
            ("iss", claims.issuer.as_deref()),
            ("aud", claims.audience.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                payload[name] = value.into();
            }
        }
        let header = serde_json::json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(payload));
        let signature = self.signing.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    pub(super) fn key_set(&self) -> KeySet {
        KeySet::of_ed25519(&self.id, self.signing.verifying_key().as_bytes())
    }
}

/// The whole file or none of it, whenever the power goes: written beside, synced, renamed, folder
/// synced.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("pem.new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made anew with its mode, so that it is at no time readable by others.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Not a refusal: volume drivers that open files to a group would then keep the service from
/// starting.
fn warn_if_readable_by_others(path: &Path) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        let path = path.display();
        tracing::warn!(%path, "others may read the signing key; set its mode to 0600");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone_and_loaded_later() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            LocalKey::load(folder.path()),
            Err(LocalKeyError::Absent(_))
        ));
        let made = LocalKey::load_or_create(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let again = LocalKey::load_or_create(folder.path()).unwrap();
        assert_eq!(made.id, again.id);
        assert_eq!(
            made.signing.to_bytes(),
            LocalKey::load(folder.path()).unwrap().signing.to_bytes()
        );
    }

    #[test]
    fn what_a_crash_left_behind_does_not_stop_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("local-signing-key.pem.new"), "half").unwrap();
        LocalKey::load_or_create(folder.path()).unwrap();
        LocalKey::load(folder.path()).unwrap();
    }

    #[test]
    fn another_file_is_refused_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, "not a key").unwrap();
        let refused = LocalKey::load_or_create(folder.path());
        assert!(matches!(refused, Err(LocalKeyError::Invalid(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn a_flipped_bit_is_refused_or_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let made = LocalKey::load_or_create(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            match LocalKey::load(folder.path()) {
                Ok(key) => assert_eq!(key.signing.to_bytes(), made.signing.to_bytes(), "{bit}"),
                Err(error) => {
                    assert!(error.to_string().contains(FILE_NAME), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > whole.len() * 7, "{refused}");
    }

    #[test]
    fn a_key_from_elsewhere_needs_no_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let made = LocalKey::load_or_create(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, format!("Key id: {}", made.id));
        std::fs::write(&path, rest).unwrap();
        assert_eq!(LocalKey::load(folder.path()).unwrap().id, made.id);
    }
}
