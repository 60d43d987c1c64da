//! What custom events are called: namespaces, names, and the canonical name that carries the tenant.

use std::fmt;

use tidings_event::TenantId;

use super::refusal::quoted;
use super::{Code, Refusal, Version};

/// Namespaces that no tenant may register under.
pub const RESERVED_NAMESPACES: [&str; 14] = [
    "identity",
    "fraud",
    "permissions",
    "messaging",
    "webhooks",
    "workflows",
    "auth",
    "platform",
    "platformxe",
    "events",
    "subscriptions",
    "domains",
    "templates",
    "generic",
];

/// The first word of every canonical name.
const PREFIX: &str = "TENANT_CUSTOM";

/// `^[a-z][a-z0-9_-]{1,30}$`; reserved ones too, for the platform's own event lives in one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

/// `^[a-z][a-z0-9_.-]{1,60}$`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventName(Box<str>);

/// `<namespace>.<name>`, as emits say it: the first dot ends the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventPath {
    /// The namespace.
    pub namespace: Namespace,
    /// The name in it.
    pub name: EventName,
}

/// `TENANT_CUSTOM:<tenant>:<namespace>.<name>@<version>`, by which subscribers match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalName {
    /// Whose event it is.
    pub tenant: TenantId,
    /// What it is called.
    pub path: EventPath,
    /// Which version.
    pub version: Version,
}

fn fits(text: &str, longest: usize, dots: bool) -> bool {
    let legal = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || b"_-".contains(&byte)
            || (dots && byte == b'.')
    };
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    starts_well && (2..=longest).contains(&text.len()) && text.bytes().all(legal)
}

impl Namespace {
    /// Holds a text to the regex. Whether a tenant may register there is [`Namespace::registrable`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if fits(text, 31, false) {
            return Ok(Self(text.into()));
        }
        let detail = format!(
            "the namespace {} is not valid: write 2 to 31 lower-case letters, digits, _ or -, a letter first",
            quoted(text)
        );
        let refusal = Refusal::new(Code::InvalidNamespace, "", detail);
        Err(refusal.wanting("^[a-z][a-z0-9_-]{1,30}$", quoted(text)))
    }

    /// The namespace as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to the platform.
    pub fn is_reserved(&self) -> bool {
        RESERVED_NAMESPACES.contains(&self.as_str())
    }

    /// Refuses what belongs to the platform, and what is not among those the tenant was granted.
    pub fn registrable(&self, allowed: &[&str]) -> Result<(), Refusal> {
        let (code, detail) = if self.is_reserved() {
            let detail = format!(
                "the namespace {} belongs to the platform; choose another",
                self.0
            );
            (Code::ReservedNamespace, detail)
        } else if !allowed.contains(&self.as_str()) {
            let detail = format!(
                "the namespace {} is not on this organisation's list; ask an operator to grant it",
                self.0
            );
            (Code::NamespaceNotAllowed, detail)
        } else {
            return Ok(());
        };
        Err(Refusal::new(code, "", detail))
    }
}

impl EventName {
    /// Holds a text to the regex.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if fits(text, 61, true) {
            return Ok(Self(text.into()));
        }
        let detail = format!(
            "the name {} is not valid: write 2 to 61 lower-case letters, digits, _, . or -, a letter first",
            quoted(text)
        );
        let refusal = Refusal::new(Code::InvalidName, "", detail);
        Err(refusal.wanting("^[a-z][a-z0-9_.-]{1,60}$", quoted(text)))
    }

    /// The name as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EventPath {
    /// Reads `<namespace>.<name>`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let Some((namespace, name)) = text.split_once('.') else {
            let detail = format!("{} has no dot: write <namespace>.<name>", quoted(text));
            return Err(Refusal::new(Code::InvalidName, "", detail));
        };
        Ok(Self {
            namespace: Namespace::parse(namespace)?,
            name: EventName::parse(name)?,
        })
    }

    /// `platformxe.generic`, the event that every tenant has.
    pub fn generic() -> Self {
        Self {
            namespace: Namespace("platformxe".into()),
            name: EventName("generic".into()),
        }
    }

    /// Whether a tenant may register here: not the generic event, not a reserved namespace, and one it was granted.
    pub fn registrable(&self, allowed: &[&str]) -> Result<(), Refusal> {
        if *self == Self::generic() {
            let detail =
                "\"platformxe.generic\" is managed by the platform; register an event of your own";
            return Err(Refusal::new(Code::CannotRegisterGenericEvent, "", detail));
        }
        self.namespace.registrable(allowed)
    }
}

impl CanonicalName {
    /// Reads a canonical name. Tenant ids may hold `:` and `@`, so it is read from its end; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, event) = text
            .strip_prefix(PREFIX)?
            .strip_prefix(':')?
            .rsplit_once(':')?;
        let (path, version) = event.rsplit_once('@')?;
        Some(Self {
            tenant: tenant.parse().ok()?,
            path: EventPath::parse(path).ok()?,
            version: Version::parse(version).ok()?,
        })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EventPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

impl fmt::Display for CanonicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}:{}:{}@{}", self.tenant, self.path, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_hold_to_their_regex() {
        for good in ["ab", "a-", "a_", "a9", "t-1", &"a".repeat(31)] {
            assert!(Namespace::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "9a",
            "-a",
            "_a",
            "Ab",
            "aB",
            "a.b",
            "a b",
            "ab\n",
            "äb",
            &"a".repeat(32),
        ] {
            let refusal = Namespace::parse(bad).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidNamespace, "{bad:?}");
        }
    }

    #[test]
    fn names_hold_to_their_regex() {
        for good in [
            "ab",
            "a.",
            "a..b",
            "a-",
            "property.favorited",
            &"a".repeat(61),
        ] {
            assert!(EventName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            ".a",
            "9a",
            "A.b",
            "a b",
            "ab\n",
            "a\u{0301}b",
            &"a".repeat(62),
        ] {
            let refusal = EventName::parse(bad).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidName, "{bad:?}");
        }
    }

    #[test]
    fn the_platforms_namespaces_and_those_of_others_are_refused() {
        let code = |path: &str, allowed: &[&str]| {
            EventPath::parse(path)
                .unwrap()
                .registrable(allowed)
                .map_err(|refusal| refusal.code)
        };
        for reserved in RESERVED_NAMESPACES {
            let path = format!("{reserved}.made");
            assert_eq!(
                code(&path, &[reserved]),
                Err(Code::ReservedNamespace),
                "{reserved}"
            );
        }
        assert_eq!(
            code("platformxe.generic", &[]),
            Err(Code::CannotRegisterGenericEvent)
        );
        assert_eq!(
            code("lettings.made", &["letting"]),
            Err(Code::NamespaceNotAllowed)
        );
        assert_eq!(code("lettings.made", &["lettings"]), Ok(()));
    }

    #[test]
    fn a_canonical_name_reads_back_whatever_the_tenant_is_called() {
        for tenant in ["org_x", "a:b", "a@1.0.0:x.yy@2"] {
            let written = format!("TENANT_CUSTOM:{tenant}:lettings.property.favorited@1.0.0");
            let name = CanonicalName::parse(&written).unwrap();
            assert_eq!((name.tenant.as_str(), name.to_string()), (tenant, written));
            assert_eq!(name.path.name.as_str(), "property.favorited");
        }
        for bad in [
            "",
            "TENANT_CUSTOM:a:b.cc",
            "TENANT_CUSTOM::bb.cc@1.0.0",
            "x:a:bb.cc@1.0.0",
        ] {
            assert_eq!(CanonicalName::parse(bad), None, "{bad}");
        }
    }
}
