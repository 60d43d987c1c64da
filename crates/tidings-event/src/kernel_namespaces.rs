//! Which types belong to a kernel service. Compiled in: no configuration opens them (source A).

use crate::{EventType, Service};

const OWNERS: [(&str, Service); 6] = [
    ("auth", Service::Iam),
    ("money", Service::Money),
    ("billing", Service::Billing),
    ("audit", Service::Audit),
    ("module.registry", Service::ModuleRegistry),
    ("tidings", Service::Tidings),
];

/// The one service that may publish this type, if it is a kernel event.
pub fn owner_of(event_type: &EventType) -> Option<Service> {
    if event_type.is_lifecycle() {
        return Some(Service::Tidings);
    }
    OWNERS.into_iter().find_map(|(namespace, owner)| {
        let rest = event_type.as_str().strip_prefix(namespace)?;
        (rest.is_empty() || rest.starts_with('.')).then_some(owner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_ends_at_a_dot() {
        let check = |event_type: &str, owner| {
            assert_eq!(
                owner_of(&event_type.parse().unwrap()),
                owner,
                "{event_type}"
            );
        };
        check("auth.user.created", Some(Service::Iam));
        check(
            "module.registry.manifest.updated",
            Some(Service::ModuleRegistry),
        );
        check("module.registry", Some(Service::ModuleRegistry));
        check("module.registryx.a", None);
        check("module.other", None);
        check("authx.user", None);
        check("crm.auth.user", None);
        let tells = EventType::recorded("CUSTOM_EVENT_REGISTERED").unwrap();
        assert_eq!(owner_of(&tells), Some(Service::Tidings));
    }
}
