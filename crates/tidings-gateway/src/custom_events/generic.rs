//! `platformxe.generic`, which every tenant has. It stands in no store: it is the same for all.

use std::sync::LazyLock;

use serde_json::json;
use tidings_contract::custom::{EventPath, Schema, Version};
use tidings_event::TenantId;
use tidings_store::CustomEventRow;

use super::Status;

/// Its one version.
pub(super) const VERSION: Version = Version {
    major: 1,
    minor: 0,
    patch: 0,
};

const DESCRIPTION: &str =
    "The event that every organisation has: route by kind, and carry anything in data.";

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let schema = json!({
        "type": "object",
        "properties": {
            "kind": { "type": "string" },
            "summary": { "type": "string" },
            "data": { "type": "object" },
        },
        "required": ["kind"],
        "additionalProperties": false,
    });
    Schema::new(schema).expect("it holds the caps")
});

/// What its payloads are held to.
pub(super) fn schema() -> &'static Schema {
    &SCHEMA
}

/// It as it would be kept.
pub(super) fn row(tenant: &TenantId, since_ms: i64) -> CustomEventRow {
    let path = EventPath::generic();
    CustomEventRow {
        tenant: tenant.clone(),
        namespace: path.namespace.to_string(),
        name: path.name.to_string(),
        version: [VERSION.major, VERSION.minor, VERSION.patch],
        status: Status::Published.as_str().to_owned(),
        description: Some(DESCRIPTION.to_owned()),
        payload_schema: SCHEMA.document().to_string(),
        payload_example: None,
        schema_hash: SCHEMA.hash().to_owned(),
        schema_flavour: SCHEMA.flavour().as_str().to_owned(),
        semver_bump: "initial".to_owned(),
        created_at_ms: since_ms,
        updated_at_ms: since_ms,
    }
}
