//! Who an event belongs to and who sends it: tenants, modules and kernel services.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A name that cannot be used: which kind, and what its rule is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    value: String,
    rule: &'static str,
}

/// The unit of isolation. 1 to 128 characters of `[A-Za-z0-9._:@-]`, starting with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant that the installation's own events belong to (manifest updates, for example).
    pub fn platform() -> Self {
        Self("platform".into())
    }

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        wide_name("tenant id", text).map(Self)
    }
}

/// 1 to 128 letters, digits or any of `._:@-`, starting with a letter or digit.
fn wide_name(kind: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if text.len() <= 128 && starts_well && text.bytes().all(legal) {
        Ok(text.into())
    } else {
        Err(InvalidName {
            kind,
            value: clipped(text),
            rule: "use 1 to 128 letters, digits or any of . _ : @ -, starting with a letter or digit",
        })
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({})", self.0)
    }
}

/// The id of a workspace (source C), unique in the installation. The same form as a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceId(Arc<str>);

impl WorkspaceId {
    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        wide_name("workspace id", text).map(Self)
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of an extension (source C) in its workspace: `[a-z][a-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtensionId(Arc<str>);

impl ExtensionId {
    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExtensionId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        plain_name("extension id", text).map(Self)
    }
}

impl fmt::Display for ExtensionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a module (source A), as in its manifest and its tokens: `[a-z][a-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(Arc<str>);

impl ModuleId {
    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModuleId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        plain_name("module id", text).map(Self)
    }
}

/// 1 to 64 lower-case letters, digits, `_` or `-`, starting with a letter.
fn plain_name(kind: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
    let mut bytes = text.bytes();
    let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if starts_well && text.len() <= 64 && bytes.all(legal) {
        Ok(text.into())
    } else {
        Err(InvalidName {
            kind,
            value: clipped(text),
            rule: "use 1 to 64 lower-case letters, digits, _ or -, starting with a letter",
        })
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a catalogue is called by, as in its URL: `[a-z][a-z0-9_-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CatalogName(Arc<str>);

impl CatalogName {
    /// The name as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CatalogName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        plain_name("catalogue name", text).map(Self)
    }
}

impl fmt::Display for CatalogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service of the kernel. Each alone may publish its own namespace (source A, "Kernel Event Whitelist").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// `iam`, the publisher of `auth.*`.
    Iam,
    /// `money`, the publisher of `money.*`.
    Money,
    /// `billing`, the publisher of `billing.*`.
    Billing,
    /// `audit`, the publisher of `audit.*`.
    Audit,
    /// `module-registry`, the publisher of `module.registry.*`, and the one service that writes manifests.
    ModuleRegistry,
    /// `tidings`, the publisher of `tidings.*`: this product itself. No credential speaks for it.
    Tidings,
}

impl Service {
    /// Every service there is.
    pub const ALL: [Self; 6] = [
        Self::Iam,
        Self::Money,
        Self::Billing,
        Self::Audit,
        Self::ModuleRegistry,
        Self::Tidings,
    ];

    /// The name as it stands in a token's `service` claim.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iam => "iam",
            Self::Money => "money",
            Self::Billing => "billing",
            Self::Audit => "audit",
            Self::ModuleRegistry => "module-registry",
            Self::Tidings => "tidings",
        }
    }
}

impl FromStr for Service {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::ALL
            .into_iter()
            .find(|service| service.as_str() == text)
            .ok_or_else(|| InvalidName {
                kind: "service",
                value: clipped(text),
                rule: "the kernel services are iam, money, billing, audit and module-registry",
            })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// At most 80 characters of what somebody sent, for quoting it back.
pub(crate) fn clipped(text: &str) -> String {
    if text.chars().nth(80).is_none() {
        text.to_owned()
    } else {
        text.chars().take(79).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_or_refused() {
        for good in ["acme", "01j9p3kz5f00000000000000", "org_x", "a"] {
            assert_eq!(good.parse::<TenantId>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", " ", "-a", "a b", "a/b", "a\nb", "é", too_long.as_str()] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
        for bad in ["", "Crm", "1crm", "crm.x", &"m".repeat(65)] {
            assert!(bad.parse::<ModuleId>().is_err(), "{bad:?}");
            assert!(bad.parse::<CatalogName>().is_err(), "{bad:?}");
        }
        assert_eq!("module-registry".parse(), Ok(Service::ModuleRegistry));
        assert!("IAM".parse::<Service>().is_err());
    }
}
