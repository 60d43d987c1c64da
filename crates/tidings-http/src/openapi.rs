//! The description of every operation, collected from the handlers.

pub(crate) mod subscription;

use serde::Serialize;
use utoipa::openapi::path::{Operation, Parameter, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, Server};
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

use crate::request::SESSION;
use crate::surface::{
    api_keys, catalogs, chat, cloudevents, custom_events, dead_letters, deliveries, documents,
    emits, events, extensions, modules, operations, publish, replays, sessions, subscriptions,
    workspaces,
};

/// An event to publish.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishBody {
    /// 2 to 8 dot-separated segments of `[a-z][a-z0-9_-]*`, 128 characters at most.
    #[schema(example = "crm.contact.created", max_length = 128)]
    r#type: String,
    /// At most 1 MB as sent.
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// `MAJOR.MINOR.PATCH`; `1.0.0` if absent.
    #[schema(example = "1.0.0", nullable = false)]
    schema_version: Option<String>,
    /// Accepted, and overwritten from the credential.
    #[schema(nullable = false)]
    tenant_id: Option<String>,
}

/// An event of a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchEvent {
    #[serde(flatten)]
    event: PublishBody,
    /// 1 to 255 visible ASCII characters.
    #[schema(nullable = false)]
    idempotency_key: Option<String>,
}

/// A CloudEvent in the JSON format. Extension attributes are members too: strings, booleans, or whole numbers of 32 bits.
#[derive(Serialize, ToSchema)]
pub(crate) struct CloudEventBody {
    /// `1.0`
    specversion: String,
    /// With `source` the idempotency key.
    id: String,
    /// A URI reference.
    source: String,
    /// 2 to 8 dot-separated segments of `[a-z][a-z0-9_-]*`, 128 characters at most.
    #[schema(example = "crm.contact.created", max_length = 128)]
    r#type: String,
    /// RFC 3339; when it is received if absent.
    time: Option<String>,
    subject: Option<String>,
    /// A URI.
    dataschema: Option<String>,
    /// What `data` is; JSON if absent.
    datacontenttype: Option<String>,
    /// `MAJOR.MINOR.PATCH`; `1.0.0` if absent.
    schemaversion: Option<String>,
    /// W3C trace context; the request's if absent.
    traceparent: Option<String>,
    /// At most 1 MB as sent; a string where `datacontenttype` is not JSON.
    data: Option<serde_json::Value>,
    /// Base64, instead of `data`.
    data_base64: Option<String>,
}

/// The receipt of a CloudEvent, or those of a batch in the order of its events.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the answer")]
pub(crate) enum CloudEventsAnswer {
    One(publish::Receipt),
    Batch(publish::Receipts),
}

/// 1 to 1,000 events, 16 MiB in all.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchBody {
    events: Vec<BatchEvent>,
}

/// A payload to emit.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EmitBody {
    /// Namespace and name of a registered event, or `platformxe.generic`.
    #[schema(example = "platformxe.generic")]
    name: String,
    /// At most 256 KB as sent, and what the schema of the version wants.
    payload: serde_json::Value,
    /// `MAJOR.MINOR.PATCH`; the latest published one if absent.
    version: Option<String>,
    /// 1 to 255 visible ASCII characters; as the header `Idempotency-Key`.
    idempotency_key: Option<String>,
    /// The event that caused it.
    causation_id: Option<String>,
}

/// What to explain: an event to publish, or a payload to emit.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the body")]
pub(crate) enum ToExplain {
    Publish(PublishBody),
    Emit(EmitBody),
}

/// An event: its CloudEvents JSON with its place in the log. Extension attributes of its publisher are members too.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventBody {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    time: String,
    tenantid: String,
    schemaversion: String,
    #[schema(nullable = false)]
    subject: Option<String>,
    #[schema(nullable = false)]
    datacontenttype: Option<String>,
    #[schema(nullable = false)]
    dataschema: Option<String>,
    /// W3C trace context.
    #[schema(nullable = false)]
    traceparent: Option<String>,
    /// The workspace that it was published in.
    #[schema(nullable = false)]
    workspaceid: Option<String>,
    /// Who published it in a workspace.
    #[schema(nullable = false)]
    actor: Option<String>,
    /// The event that caused it.
    #[schema(nullable = false)]
    causationid: Option<String>,
    /// How many events lie before it in a chain of causes.
    #[schema(nullable = false)]
    chaindepth: Option<u32>,
    /// Of a copy in another topic: the event that it is a copy of.
    #[schema(nullable = false)]
    copyof: Option<String>,
    /// Absent of an event without data.
    data: Option<serde_json::Value>,
    /// Base64, instead of `data`, where that is neither JSON nor text.
    #[serde(rename = "data_base64")]
    #[schema(nullable = false)]
    data_base64: Option<String>,
    event_id: String,
    topic: String,
    partition: u32,
    offset: u64,
    received_at: String,
}

/// Where the time of a delivery went, in ms.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedgerBody {
    /// From the log to its queue.
    log: i64,
    /// Behind another of its key.
    key: i64,
    /// For the rate limit, or for one of the attempts at once to end.
    rate_limit: i64,
    /// For the breaker of its host to close.
    breaker: i64,
    /// For others to go with in one message.
    batch: i64,
    /// Between attempts.
    back_off: i64,
    /// Connecting.
    connect: i64,
    /// In the subscriber.
    subscriber: i64,
}

/// A message with several events.
#[derive(Serialize, ToSchema)]
pub(crate) struct InBatchBody {
    /// Its `webhook-id`.
    id: String,
    /// How many it had.
    events: usize,
}

/// A page of events, oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventList {
    items: Vec<EventBody>,
    next_cursor: Option<String>,
}

/// An event that may stand in the log, and the key to ask again under.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AcceptedEvent {
    event_id: Uuid,
    idempotency_key: String,
}

/// What is answered instead of success (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    instance: String,
    code: String,
    trace_id: String,
    #[schema(nullable = false)]
    field: Option<String>,
    #[schema(nullable = false)]
    limit: Option<u64>,
    #[schema(nullable = false)]
    actual: Option<u64>,
    #[schema(nullable = false)]
    retry_after: Option<u64>,
    /// What was accepted all the same (`bus_relay_failed`), or may have been (`events.broker.unavailable`), with its idempotency key.
    #[schema(nullable = false)]
    event_id: Option<Uuid>,
    #[schema(nullable = false)]
    idempotency_key: Option<String>,
    /// The same of each, where they are several.
    #[schema(nullable = false)]
    events: Option<Vec<AcceptedEvent>>,
    #[schema(nullable = false)]
    path: Option<String>,
    #[schema(nullable = false)]
    expected: Option<String>,
    #[schema(nullable = false)]
    got: Option<String>,
    /// A payload that was good and would be no more.
    #[schema(nullable = false)]
    counter_example: Option<serde_json::Value>,
    #[schema(nullable = false)]
    errors: Option<Vec<serde_json::Value>>,
}

/// What each room describes. The id of an operation is made of both names, as in `customEvents.dryRun`: generators of clients
/// call their functions so.
macro_rules! rooms {
    ($($room:ident: $($operation:ident)+;)+) => {
        fn rooms() -> Vec<(&'static str, utoipa::openapi::OpenApi)> {
            vec![$({
                #[derive(OpenApi)]
                #[openapi(paths($($room::$operation),+))]
                struct Room;
                (stringify!($room), Room::openapi())
            }),+]
        }
    };
}

rooms! {
    publish: publish publish_batch explain;
    cloudevents: publish;
    events: get list stream;
    modules: list get put delete;
    catalogs: list get put delete installation;
    custom_events: register list versions get patch diff dry_run;
    api_keys: create list revoke;
    subscriptions: create list get patch delete pause resume seek skip_backlog secret rotate test;
    deliveries: trace explain missed parked release;
    emits: emit list health;
    dead_letters: list get replay replay_all delete list_of_workspace get_of_workspace replay_of_workspace
        replay_all_of_workspace delete_of_workspace;
    replays: of_history list get cancel resume;
    sessions: begin end;
    workspaces: tenants tenant put_tenant put put_member delete_member publish;
    extensions: put get delete rotate subscribe subscription unsubscribe deliveries;
    chat: messages;
    operations: healthz readyz metrics;
    documents: openapi docs problem;
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Tidings", description = "A multi-tenant event platform"),
    components(schemas(Problem))
)]
struct Document;

/// What a credential is.
const BEARER: &str = "A signed JWT, or an API key (`tdk_…`). Claims of a token: `sub`; `tenant_id`, which only the role \
    OPERATOR needs not; `module` or `service`, neither of them for a user; `roles`, of which ADMIN and OPERATOR are known; \
    `exp`, and `nbf` where it is given; `iss` and `aud` where the installation asks for them. RS256, ES256 or EdDSA by the \
    keys of the identity provider, HS256 by the shared secret, or a token of `tidings token` where neither is configured.";

/// The OpenAPI document as JSON text.
pub fn document(public_url: &str) -> String {
    let mut document = Document::openapi();
    for (room, mut operations) in rooms() {
        for operation in operations.paths.paths.values_mut().flat_map(each) {
            let name = operation.operation_id.take().unwrap_or_default();
            operation.operation_id = Some(format!("{}.{}", camel_case(room), camel_case(&name)));
        }
        document.merge(operations);
    }
    document.servers = Some(vec![Server::new(public_url)]);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(BEARER));
    let bearer = SecurityScheme::Http(bearer.build());
    if let Some(components) = &mut document.components {
        components.add_security_scheme("bearer", bearer);
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION)));
        components.add_security_scheme("session", cookie);
    }
    let problem = ResponseBuilder::new()
        .description("A problem; `code` says which")
        .content(
            "application/problem+json",
            Content::new(Some(Ref::from_schema_name("Problem"))),
        )
        .build();
    for (path, item) in &mut document.paths.paths {
        let secured = ["/v1/", "/api/", "/asyncapi.json"];
        let secured = secured.iter().any(|begin| path.starts_with(begin));
        for operation in each(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                never_null(parameter);
            }
            operation
                .responses
                .responses
                .insert("default".to_owned(), problem.clone().into());
            for (status, answer) in &mut operation.responses.responses {
                if let RefOr::T(answer) = answer
                    && answer.description.is_empty()
                {
                    answer.description = reason(status);
                }
            }
            if secured {
                let either = ["bearer", "session"];
                let either =
                    either.map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
                operation.security = Some(either.into());
            }
        }
    }
    document
        .to_json()
        .expect("the document is made of strings and numbers")
}

/// What an answer with this status says when nothing else is said of it.
fn reason(status: &str) -> String {
    let status = status.parse::<axum::http::StatusCode>().ok();
    let reason = status.and_then(|status| status.canonical_reason());
    reason.unwrap_or_default().to_owned()
}

/// The operations of a path.
fn each(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let operations = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.patch,
        &mut item.delete,
    ];
    operations.into_iter().flatten()
}

/// A parameter that is not given is absent: neither a header nor a query has a null.
fn never_null(parameter: &mut Parameter) {
    let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else {
        return;
    };
    if let SchemaType::Array(types) = &mut schema.schema_type {
        types.retain(|it| *it != Type::Null);
        if let [only] = &types[..] {
            schema.schema_type = SchemaType::Type(only.clone());
        }
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let begin = letters.next().map(|it| it.to_ascii_uppercase());
        name + &begin.into_iter().chain(letters).collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn operations(document: &Value) -> impl Iterator<Item = (String, &String, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, item)| {
            let item = item.as_object().unwrap().iter();
            item.map(move |(method, operation)| (format!("{method} {path}"), path, operation))
        })
    }

    /// What generators of clients refuse a document for.
    #[test]
    fn every_parameter_stands_where_it_is_read() {
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        for (name, path, operation) in operations(&document) {
            let parts = path.split('/').filter_map(|part| {
                let part = part.strip_prefix('{')?;
                part.strip_suffix('}')
            });
            let named: BTreeSet<&str> = parts.collect();
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let in_path = parameters.filter(|it| it["in"] == "path");
            let declared: BTreeSet<&str> = in_path.map(|it| it["name"].as_str().unwrap()).collect();
            assert_eq!(declared, named, "{name}");
        }
    }

    #[test]
    fn every_operation_has_an_id_of_its_own() {
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        let ids = operations(&document).map(|(_, _, it)| it["operationId"].as_str().unwrap());
        let mut ids: Vec<&str> = ids.collect();
        assert!(ids.contains(&"customEvents.dryRun"), "{ids:?}");
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    /// What is refused as null is not declared to be one.
    #[test]
    fn what_may_be_absent_may_be_null_only_where_it_is_read_as_absent() {
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        let member = |schema: &str, name: &str| {
            document["components"]["schemas"][schema]["properties"][name]["type"].clone()
        };
        for name in ["schemaVersion", "tenantId"] {
            assert_eq!(member("PublishBody", name), "string", "{name}");
        }
        assert_eq!(member("Problem", "retryAfter"), "integer");
        assert_eq!(member("Receipt", "topic"), "string");
        let or_null = serde_json::json!(["string", "null"]);
        assert_eq!(member("EmitBody", "version"), or_null);
        assert_eq!(member("CloudEventBody", "time"), or_null);
        for (name, _, operation) in operations(&document) {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(
                    parameter["schema"]["type"].is_string(),
                    "{name}: {parameter}"
                );
            }
        }
    }

    /// Names as clients see them, and no word that only this repository explains.
    #[test]
    fn what_is_described_is_what_a_client_sees() {
        fn walk(value: &Value, place: &str, see: &mut impl FnMut(&str, &str, &Value)) {
            let members = value.as_object().into_iter().flatten();
            for (name, inner) in members {
                see(place, name, inner);
                walk(inner, name, see);
            }
            for inner in value.as_array().into_iter().flatten() {
                walk(inner, place, see);
            }
        }
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        walk(&document, "", &mut |place, name, inner| {
            if place == "properties" && name != "data_base64" {
                assert!(!name.contains('_'), "{name}");
            }
            if place == "required" {
                assert!(!name.contains('_'), "{name}");
            }
            if let ("description" | "summary", Some(text)) = (name, inner.as_str()) {
                let ours = ["ource A", "ource B", "ource C", "ource D", "ource E", ".md"];
                assert!(!ours.iter().any(|it| text.contains(it)), "{text}");
            }
        });
        for (name, _, operation) in operations(&document) {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let text = answer["description"].as_str().unwrap();
                assert!(!text.is_empty(), "{name} {status}");
                let empty = ["202", "204", "303"].contains(&status.as_str());
                assert!(empty || answer["content"].is_object(), "{name} {status}");
            }
        }
    }

    #[test]
    fn a_subscription_is_described_member_by_member() {
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        let schemas = &document["components"]["schemas"];
        let shown = schemas["SubscriptionShown"].to_string();
        assert!(shown.contains("#/components/schemas/SubscriptionDocument"));
        for name in ["name", "filter", "target", "delivery", "requireConformance"] {
            for schema in [
                "SubscriptionBody",
                "SubscriptionDocument",
                "SubscriptionPatch",
            ] {
                let member = &schemas[schema]["properties"][name];
                assert!(member.is_object(), "{schema} {name}");
            }
        }
        for name in ["subject", "traceparent", "workspaceid", "copyof"] {
            let member = &schemas["EventBody"]["properties"][name];
            assert_eq!(member["type"], "string", "{name}");
        }
        for path in [
            "/v1/events/custom/emit",
            "/v1/events/publish/batch",
            "/v1/events/explain",
        ] {
            let given = document["paths"][path]["post"]["parameters"].to_string();
            assert!(given.contains("traceparent"), "{path}");
        }
    }

    #[test]
    fn cloudevents_are_described_in_each_mode() {
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        let operation = &document["paths"]["/v1/cloudevents"]["post"];
        let content = operation["requestBody"]["content"].as_object().unwrap();
        let modes: Vec<&String> = content.keys().collect();
        let structured = "application/cloudevents+json";
        assert_eq!(
            modes,
            ["*/*", structured, "application/cloudevents-batch+json"]
        );
        for status in ["200", "201"] {
            let answer = &operation["responses"][status]["content"]["application/json"]["schema"];
            let either = "#/components/schemas/CloudEventsAnswer";
            assert_eq!(answer["$ref"], either, "{status}");
            let batch = &document["paths"]["/v1/events/publish/batch"]["post"]["responses"];
            assert!(batch[status].is_object(), "{status}");
        }
    }

    /// An answer without a schema tells a client nothing; those named here are documents of others, or text.
    #[test]
    fn every_json_answer_has_its_members() {
        let others = [
            "get /asyncapi.json",
            "get /openapi.json",
            "get /v1/catalogs/{name}",
            "get /v1/modules/{moduleId}/manifest",
        ];
        let document: Value = serde_json::from_str(&super::document("http://127.0.0.1")).unwrap();
        for (name, _, operation) in operations(&document) {
            let answers = operation["responses"].as_object().unwrap().iter();
            for (status, answer) in answers {
                let schema = &answer["content"]["application/json"]["schema"];
                let told = schema.is_null() || schema["$ref"].is_string();
                assert!(told || others.contains(&&*name), "{name}: {status}");
            }
        }
    }
}
