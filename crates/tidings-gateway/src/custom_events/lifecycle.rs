//! What tells of the life of custom events: real events of the tenant, to which it can subscribe by their exact names.
//! The catalogue of them is written from here (`docs/custom-events-lifecycle.md`).
//!
//! None of them ever causes another: only registering and emitting do.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tidings_contract::custom::{Bump, Schema};
use tidings_event::{Service, TenantId};
use tidings_store::{CustomEventRow, OutboxRow};

use super::registry::canonical;
use super::verdict::{Request, Verdict, member};
use crate::outbox::Outbox;
use crate::rulebook::Route;

macro_rules! lifecycle {
    ($($name:ident = $code:literal, $when:literal, $members:expr;)*) => {
        /// An event of the life of custom events.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum LifecycleEvent { $(#[doc = $when] $name,)* }

        impl LifecycleEvent {
            /// Each of them, in source D's order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its type.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// When it is told, as a sentence.
            pub const fn when(self) -> &'static str {
                match self { $(Self::$name => $when,)* }
            }

            /// The members of its data; a name that ends with `?` may be missing.
            const fn members(self) -> &'static [&'static str] {
                match self { $(Self::$name => &$members,)* }
            }
        }
    };
}

lifecycle! {
    Requested = "CUSTOM_EVENT_REQUESTED", "Somebody asks to register a version.",
        ["namespace", "name", "version", "status"];
    Validated = "CUSTOM_EVENT_VALIDATED", "Nothing speaks against its names, its version and its schema.",
        ["namespace", "name", "version", "schemaHash", "schemaFlavour", "semverBump"];
    Persisted = "CUSTOM_EVENT_PERSISTED", "It is kept, as a draft or published.",
        ["canonicalName", "namespace", "name", "version", "status", "schemaHash"];
    Materialised = "CUSTOM_EVENT_MATERIALISED", "It is published: its canonical name has a topic.",
        ["canonicalName", "namespace", "name", "version", "topic"];
    Registered = "CUSTOM_EVENT_REGISTERED", "It is published, and can be emitted.",
        ["canonicalName", "namespace", "name", "version", "schemaHash"];
    EmitRequested = "CUSTOM_EVENT_EMIT_REQUESTED", "Somebody emits a payload that may be emitted.",
        ["canonicalName", "namespace", "name", "version", "eventId"];
    EmitRelayed = "CUSTOM_EVENT_EMIT_RELAYED", "The emit is on the bus.",
        ["canonicalName", "namespace", "name", "version", "eventId"];
    EmitDelivered = "CUSTOM_EVENT_EMIT_DELIVERED", "Every matching delivery has succeeded; at once when there is none.",
        ["canonicalName", "eventId"];
    EmitDeliveryFailed = "CUSTOM_EVENT_EMIT_DELIVERY_FAILED", "A delivery of the emit was given up.",
        ["canonicalName", "eventId"];
    ValidationFailed = "CUSTOM_EVENT_VALIDATION_FAILED", "A registration is refused for what it says.",
        ["namespace", "name", "version", "errors"];
    EmitRejected = "CUSTOM_EVENT_EMIT_REJECTED", "An emit is refused.",
        ["namespace?", "name", "version?", "code", "detail"];
    QuotaExceeded = "CUSTOM_EVENT_QUOTA_EXCEEDED", "The plan has no room for a registration, or for an emit in this month; the latter is told once a minute at most.",
        ["quota", "plan", "limit?", "used", "namespace?", "name?", "version?"];
    GenericSeeded = "CUSTOM_EVENT_GENERIC_SEEDED", "The tenant begins to use custom events; told once.",
        ["canonicalName", "namespace", "name", "version"];
    Invalidated = "CUSTOM_EVENT_INVALIDATED", "A version goes out of force.",
        ["canonicalName", "namespace", "name", "version", "reason", "supersededBy?"];
    ChainTruncated = "CUSTOM_EVENT_CHAIN_TRUNCATED", "An emit would have been too deep in a chain of causes.",
        ["namespace?", "name", "causationId", "depth"];
}

impl LifecycleEvent {
    /// The JSON Schema of its data.
    pub fn schema(self) -> Value {
        let members = self.members().iter();
        let properties = members.map(|member| {
            let name = member.trim_end_matches('?');
            (name.to_owned(), kind(name))
        });
        let properties: serde_json::Map<String, Value> = properties.collect();
        let required = self.members().iter().filter(|name| !name.ends_with('?'));
        json!({
            "type": "object",
            "properties": properties,
            "required": required.collect::<Vec<_>>(),
            "additionalProperties": false,
        })
    }

    /// The event, to be written with its change.
    pub(crate) fn row(self, outbox: &Outbox, tenant: &TenantId, data: &Value) -> OutboxRow {
        outbox.row(Service::Tidings, tenant.clone(), self.as_str(), data)
    }
}

/// What a member of the data is.
fn kind(member: &str) -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    match member {
        "canonicalName" => text("TENANT_CUSTOM:<tenant>:<namespace>.<name>@<version>"),
        "namespace" | "name" | "version" => text("As it was given, 80 characters at most"),
        "status" => json!({ "enum": ["draft", "published"] }),
        "schemaHash" => text("SHA-256 of the schema's canonical form, in hexadecimal"),
        "schemaFlavour" => json!({ "enum": ["json-schema-2020-12", "openapi-3.1"] }),
        "semverBump" => json!({ "enum": ["initial", "patch", "minor", "major"] }),
        "topic" => text("Where its events stand on the bus"),
        "eventId" | "causationId" => json!({ "type": "string", "format": "uuid" }),
        "code" => text("A problem code"),
        "detail" => text("A sentence"),
        "reason" => json!({ "enum": ["archived", "superseded"] }),
        "supersededBy" => text("The version that is in force instead"),
        "quota" => json!({ "enum": ["registrations", "emits"] }),
        "plan" => json!({ "enum": super::Plan::ALL.map(super::Plan::as_str) }),
        "errors" => json!({
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "code": { "type": "string" },
                    "field": { "type": "string" },
                    "pointer": { "type": "string" },
                    "detail": { "type": "string" },
                },
                "required": ["code", "pointer", "detail"],
                "additionalProperties": false,
            },
        }),
        _ => json!({ "type": "integer", "minimum": 0 }),
    }
}

/// The catalogue of all lifecycle events, as Markdown.
pub fn lifecycle_page() -> String {
    let mut page = String::from(
        "# What tells of the life of custom events\n\n\
         Each of these is an event of the tenant, on the topic `platform.custom.events.lifecycle`, published as service\n\
         `tidings`. A subscription names it exactly in `filter.types`. Nobody can publish one, and none causes another.\n\
         This page is written by the gateway itself; a test holds it to what the code says.\n\n\
         | type | told when |\n| --- | --- |\n",
    );
    for event in LifecycleEvent::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {} |", event.as_str(), event.when());
    }
    for event in LifecycleEvent::ALL {
        let schema = serde_json::to_string_pretty(&event.schema()).unwrap_or_default();
        let (name, when) = (event.as_str(), event.when());
        let _ = write!(page, "\n## {name}\n\n{when}\n\n```json\n{schema}\n```\n");
    }
    page
}

/// A text from outside as an event carries it.
pub(super) fn clipped(text: &str) -> String {
    const LONGEST: usize = 80;
    text.chars().take(LONGEST).collect()
}

fn called(request: &Request) -> Value {
    json!({
        "namespace": clipped(&request.namespace),
        "name": clipped(&request.name),
        "version": clipped(&request.version),
    })
}

fn with(mut data: Value, more: &[(&str, Value)]) -> Value {
    for (name, value) in more {
        data[*name] = value.clone();
    }
    data
}

/// What tells of a registration that somebody asks for.
pub(super) fn requested(request: &Request) -> Value {
    with(
        called(request),
        &[("status", json!(request.status.as_str()))],
    )
}

/// What tells that nothing speaks against its names, its version and its schema.
pub(super) fn validated(request: &Request, verdict: &Verdict) -> Value {
    let schema = verdict.schema.as_ref();
    let more = [
        ("schemaHash", json!(schema.map(Schema::hash))),
        (
            "schemaFlavour",
            json!(schema.map(|it| it.flavour().as_str())),
        ),
        ("semverBump", json!(verdict.bump.map(Bump::as_str))),
    ];
    with(called(request), &more)
}

/// What tells of all that speaks against a registration.
pub(super) fn validation_failed(request: &Request, verdict: &Verdict) -> Value {
    let errors = verdict.faults.iter().map(|fault| {
        let error = json!({
            "code": fault.code.as_str(),
            "pointer": fault.path.as_deref().unwrap_or_default(),
            "detail": fault.detail,
        });
        match member(fault.code) {
            Some(field) => with(error, &[("field", json!(field))]),
            None => error,
        }
    });
    let errors: Vec<Value> = errors.collect();
    with(called(request), &[("errors", json!(errors))])
}

/// What tells that the plan has no room for a registration.
pub(super) fn no_room(request: &Request, plan: super::Plan, used: u64) -> Value {
    let mut data = with(
        called(request),
        &[
            ("quota", json!("registrations")),
            ("plan", json!(plan.as_str())),
            ("used", json!(used)),
        ],
    );
    if let Some(limit) = plan.registrations() {
        data["limit"] = json!(limit);
    }
    data
}

/// What every event of a version that is kept says of it.
fn of(row: &CustomEventRow) -> Value {
    json!({
        "canonicalName": canonical(row),
        "namespace": row.namespace,
        "name": row.name,
        "version": super::verdict::version_of(row).to_string(),
    })
}

/// What tells that the tenant has the generic event.
pub(super) fn generic_seeded(generic: &CustomEventRow) -> Value {
    of(generic)
}

/// What tells that a version is kept.
pub(super) fn persisted(row: &CustomEventRow) -> Value {
    let more = [
        ("status", json!(row.status)),
        ("schemaHash", json!(row.schema_hash)),
    ];
    with(of(row), &more)
}

/// What tells that a version is published: that it has a topic, and that it can be emitted.
pub(super) fn published(row: &CustomEventRow) -> [(LifecycleEvent, Value); 2] {
    let topic = Route::custom_events().topic;
    let materialised = with(of(row), &[("topic", json!(topic.as_str()))]);
    let registered = with(of(row), &[("schemaHash", json!(row.schema_hash))]);
    [
        (LifecycleEvent::Materialised, materialised),
        (LifecycleEvent::Registered, registered),
    ]
}

/// What tells that a version is out of force, by hand or by a newer one.
pub(super) fn invalidated(row: &CustomEventRow, by: Option<&CustomEventRow>) -> Value {
    let reason = if by.is_some() {
        "superseded"
    } else {
        "archived"
    };
    let mut data = with(of(row), &[("reason", json!(reason))]);
    if let Some(by) = by {
        data["supersededBy"] = json!(super::verdict::version_of(by).to_string());
    }
    data
}

#[cfg(test)]
mod tests {
    use tidings_event::EventType;

    use super::*;

    /// Written anew by a run with `TIDINGS_WRITE=1`.
    #[test]
    fn the_page_is_what_the_code_says() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/custom-events-lifecycle.md"
        );
        if std::env::var_os("TIDINGS_WRITE").is_some() {
            std::fs::write(file, lifecycle_page()).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap() == lifecycle_page(),
            "{file} is not what the code says: run this test with TIDINGS_WRITE=1"
        );
    }

    #[test]
    fn every_name_is_one_and_every_schema_holds_the_caps() {
        for event in LifecycleEvent::ALL {
            assert!(EventType::recorded(event.as_str()).unwrap().is_lifecycle());
            Schema::new(event.schema()).unwrap();
        }
    }
}
