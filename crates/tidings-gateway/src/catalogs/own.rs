//! What the installation itself publishes, as `/asyncapi.json` declares it: what tells of changes, of the life of custom
//! events, and the custom events of tenants, of which only their names' form is said.

use serde_json::{Value, json};
use tidings_contract::Declared;
use tidings_event::{EventType, Service};

use super::media_type;
use crate::audit;
use crate::custom_events::LifecycleEvent;
use crate::rulebook::{Route, Rulebook};

/// All of it, each under the topic that it goes to.
pub(super) fn own(rulebook: &Rulebook) -> Vec<Declared> {
    let actions = audit::ACTIONS.iter();
    let audited = actions.map(|action| (Service::Audit, format!("audit.{action}"), audited()));
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": text });
    let manifest = object(&[
        ("moduleId", text.clone()),
        ("version", json!({ "type": ["string", "null"] })),
        ("deleted", json!({ "type": "boolean" })),
        ("publishes", texts.clone()),
        ("subscribes", texts),
    ]);
    let disabled = object(&[
        ("subscriptionId", text),
        ("reason", json!({ "type": ["string", "null"] })),
    ]);
    let others = [
        (
            Service::ModuleRegistry,
            "module.registry.manifest.updated".to_owned(),
            manifest,
        ),
        (
            Service::Tidings,
            "tidings.subscription.disabled".to_owned(),
            disabled,
        ),
    ];
    let life = LifecycleEvent::ALL.iter();
    let life = life.map(|event| (Service::Tidings, event.as_str().to_owned(), event.schema()));
    let all = audited.chain(others).chain(life);
    let mut declared: Vec<Declared> = all
        .filter_map(|(service, name, data)| {
            // Each is a legal type, which the test of this module says too.
            let event_type = EventType::recorded(&name).ok()?;
            let route = rulebook.route(&event_type, false);
            Some(of(
                service,
                (name.clone(), json!({ "const": name })),
                data,
                route,
            ))
        })
        .collect();
    let types = json!({ "type": "string", "pattern": "^TENANT_CUSTOM:" });
    let custom = ("TENANT_CUSTOM".to_owned(), types);
    let anything = json!({ "description": "What its tenant has registered." });
    let route = Route::custom_events();
    declared.push(of(Service::Tidings, custom, anything, &route));
    declared
}

fn of(service: Service, (name, types): (String, Value), data: Value, route: &Route) -> Declared {
    Declared {
        sender: service.as_str().to_owned(),
        title: format!("Service {}", service.as_str()),
        name,
        types,
        data,
        topic: route.topic.clone(),
        envelope: media_type(route.envelope),
    }
}

fn audited() -> Value {
    object(&[
        ("action", json!({ "type": "string" })),
        ("actor", json!({ "type": "object" })),
        ("target", json!({ "type": "object" })),
        ("at", json!({ "type": "string", "format": "date-time" })),
    ])
}

fn object(members: &[(&str, Value)]) -> Value {
    let properties = members.iter();
    let properties = properties.map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    json!({
        "type": "object",
        "properties": properties.collect::<serde_json::Map<_, _>>(),
        "required": names,
    })
}

#[cfg(test)]
mod tests {
    use tidings_contract::installation;

    use super::*;

    #[test]
    fn everything_that_the_installation_publishes_is_declared_on_its_topic() {
        let declared = own(&Rulebook::new(Vec::new()));
        let expected = audit::ACTIONS.len() + LifecycleEvent::ALL.len() + 3;
        assert_eq!(declared.len(), expected);
        let whole = installation("1.0.0", &[], &declared);
        for (topic, name) in [
            (
                "platform.custom.events.lifecycle",
                "CUSTOM_EVENT_REGISTERED",
            ),
            ("platform.custom.events", "TENANT_CUSTOM"),
            ("platform.data.events", "audit.tenant.written"),
            ("platform.data.events", "module.registry.manifest.updated"),
        ] {
            let message = &whole["channels"][topic]["messages"][name];
            assert_eq!(message["name"], name, "{topic}");
        }
        let registered = &whole["channels"]["platform.custom.events.lifecycle"]["messages"]["CUSTOM_EVENT_REGISTERED"]
            ["payload"]["properties"];
        assert_eq!(
            registered["data"],
            LifecycleEvent::Registered.schema(),
            "{registered}"
        );
    }
}
