//! Who is calling. A [`Caller`] exists only after authentication (or for the installation itself),
//! so a function that takes one cannot be reached without.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tidings_event::{
    ExtensionId, InvalidEventType, ModuleId, Service, TenantId, TypePattern, WorkspaceId,
};
use uuid::Uuid;

use crate::publish::refusal::Refusal;

/// An authenticated caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    principal: Principal,
    tenant: Option<TenantId>,
    admin: bool,
    receipt_scope: String,
}

/// What kind of caller it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A module, which publishes what its manifest declares.
    Module(ModuleId),
    /// A service of the kernel, which publishes its own namespace.
    Service(Service),
    /// A person, by the `sub` of the token.
    User(String),
    /// Someone who runs the installation, by the `sub` of the token.
    Operator(String),
    /// An extension in process, which publishes in its workspace.
    Extension {
        /// Which workspace.
        workspace: WorkspaceId,
        /// Which extension there.
        id: ExtensionId,
    },
    /// A server or a tool with a key made for it.
    ApiKey {
        /// The key's id.
        id: Uuid,
        /// What its maker called it.
        name: String,
        /// The module whose manifest bounds it, if any.
        module: Option<ModuleId>,
        /// What it may do.
        scopes: Vec<Scope>,
    },
}

impl Caller {
    /// For `access` alone: whoever can call this decides who is authenticated.
    pub(super) fn new(principal: Principal, tenant: Option<TenantId>, admin: bool) -> Self {
        let receipt_scope = match &principal {
            Principal::Module(module)
            | Principal::ApiKey {
                module: Some(module),
                ..
            } => {
                format!("module:{module}")
            }
            Principal::Service(service) => format!("service:{service}"),
            Principal::User(sub) => format!("user:{sub}"),
            Principal::Operator(sub) => format!("operator:{sub}"),
            Principal::ApiKey { id, .. } => format!("api-key:{id}"),
            Principal::Extension { workspace, id } => format!("extension:{workspace}/{id}"),
        };
        Self(Arc::new(Known {
            principal,
            tenant,
            admin,
            receipt_scope,
        }))
    }

    /// What kind of caller it is.
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    /// The module it publishes as, if any.
    pub fn module(&self) -> Option<&ModuleId> {
        match &self.0.principal {
            Principal::Module(module)
            | Principal::ApiKey {
                module: Some(module),
                ..
            } => Some(module),
            _ => None,
        }
    }

    /// The tenant it acts for. `None` only for operators.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant.as_ref()
    }

    /// The same, or what an operator is told who asks for a tenant's events, or whatever `what` is.
    pub(crate) fn tenant_with(&self, what: &str) -> Result<TenantId, Refusal> {
        self.tenant().cloned().ok_or_else(|| {
            Refusal::forbidden(format!(
                "An operator has no tenant, and so no {what}; use a token of the tenant."
            ))
        })
    }

    /// Refuses who may not do something with what belongs to the installation, as in "change any manifest": all but
    /// operators and the service that keeps the register.
    pub(crate) fn keeps_the_register(&self, to: &str) -> Result<(), Refusal> {
        let registry = Principal::Service(Service::ModuleRegistry);
        if self.is_operator() || *self.principal() == registry {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "{} may not {to}; only service 'module-registry' and operators may.",
            self.describe()
        )))
    }

    /// Whether it may administer its tenant: the role ADMIN, or an operator.
    pub fn is_admin(&self) -> bool {
        self.0.admin || self.is_operator()
    }

    /// Whether it runs the installation.
    pub fn is_operator(&self) -> bool {
        matches!(self.0.principal, Principal::Operator(_))
    }

    /// Whose idempotency keys its keys are among, within the tenant.
    pub fn receipt_scope(&self) -> &str {
        &self.0.receipt_scope
    }

    /// How a sentence names it, as in "Module 'crm' is not permitted to …".
    pub fn describe(&self) -> String {
        match &self.0.principal {
            Principal::Module(module) => format!("Module '{module}'"),
            Principal::Service(service) => format!("Service '{service}'"),
            Principal::User(sub) => format!("User '{sub}'"),
            Principal::Operator(_) => "Operator".to_owned(),
            Principal::ApiKey { name, .. } => format!("API key '{name}'"),
            Principal::Extension { id, .. } => format!("Extension '{id}'"),
        }
    }
}

/// The caller of the installation's own events: the service whose event it is, in the tenant
/// concerned.
pub fn on_behalf_of(service: Service, tenant: TenantId) -> Caller {
    Caller::new(Principal::Service(service), Some(tenant), false)
}

/// A user of a tenant, for tests.
#[cfg(test)]
pub(crate) fn user(tenant: &str, name: &str, admin: bool) -> Caller {
    let tenant = tenant.parse().expect("a legal tenant");
    Caller::new(Principal::User(name.to_owned()), Some(tenant), admin)
}

/// An operator, for tests.
#[cfg(test)]
pub(crate) fn operator(name: &str) -> Caller {
    Caller::new(Principal::Operator(name.to_owned()), None, false)
}

/// The caller of what an extension in process publishes, in its workspace and nowhere else.
pub(crate) fn of_extension(tenant: TenantId, workspace: WorkspaceId, id: ExtensionId) -> Caller {
    Caller::new(Principal::Extension { workspace, id }, Some(tenant), false)
}

/// One thing that an API key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// `publish:<type or pattern>`: publish these types.
    Publish(TypePattern),
    /// `events:read`: read the tenant's events.
    ReadEvents,
    /// `events:register`: register the tenant's custom events.
    RegisterEvents,
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// None of the three forms.
    #[error(
        "{0:?} is not a scope; use events:read, events:register, or publish: and an event type or pattern"
    )]
    Unknown(String),
    /// `publish:` with something that is no pattern.
    #[error("the scope {0:?} is not valid: {1}")]
    Pattern(String, #[source] InvalidEventType),
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let clipped = || text.chars().take(160).collect::<String>();
        if text == "events:read" {
            return Ok(Self::ReadEvents);
        }
        if text == "events:register" {
            return Ok(Self::RegisterEvents);
        }
        let pattern = text
            .strip_prefix("publish:")
            .ok_or_else(|| InvalidScope::Unknown(clipped()))?;
        pattern
            .parse()
            .map(Self::Publish)
            .map_err(|fault| InvalidScope::Pattern(clipped(), fault))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(pattern) => write!(f, "publish:{pattern}"),
            Self::ReadEvents => f.write_str("events:read"),
            Self::RegisterEvents => f.write_str("events:register"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_named_and_their_keys_scoped() {
        let tenant: TenantId = "acme".parse().unwrap();
        let check = |principal: Principal, scope: &str, name: &str| {
            let caller = Caller::new(principal, Some(tenant.clone()), false);
            assert_eq!(
                (caller.receipt_scope(), caller.describe().as_str()),
                (scope, name)
            );
        };
        let key = |module: Option<&str>| Principal::ApiKey {
            id: Uuid::nil(),
            name: "ci".into(),
            module: module.map(|id| id.parse().unwrap()),
            scopes: vec![],
        };
        check(
            Principal::Module("crm".parse().unwrap()),
            "module:crm",
            "Module 'crm'",
        );
        check(
            Principal::Service(Service::Iam),
            "service:iam",
            "Service 'iam'",
        );
        check(Principal::User("u1".into()), "user:u1", "User 'u1'");
        check(
            Principal::Operator("root".into()),
            "operator:root",
            "Operator",
        );
        check(key(Some("crm")), "module:crm", "API key 'ci'");
        check(
            key(None),
            "api-key:00000000-0000-0000-0000-000000000000",
            "API key 'ci'",
        );
        let own = on_behalf_of(Service::Audit, tenant.clone());
        assert_eq!(
            (own.tenant(), own.is_admin(), own.is_operator()),
            (Some(&tenant), false, false)
        );
    }

    #[test]
    fn scopes_are_read_and_written_alike() {
        for good in [
            "events:read",
            "events:register",
            "publish:crm.contact.created",
            "publish:crm.**",
        ] {
            assert_eq!(good.parse::<Scope>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "events:write",
            "publish",
            "publish:",
            "publish:Crm",
            "PUBLISH:crm.a",
            "*",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
    }
}
