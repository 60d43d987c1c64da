//! The description of every operation, collected from the handlers.

use serde::Serialize;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, Ref, ResponseBuilder, Server};
use utoipa::{OpenApi, ToSchema};

use crate::request::SESSION;
use crate::surface::{
    api_keys, catalogs, chat, cloudevents, custom_events, dead_letters, deliveries, documents,
    emits, events, extensions, modules, operations, publish, replays, sessions, subscriptions,
    workspaces,
};

/// An event to publish (source A).
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
    #[schema(example = "1.0.0")]
    schema_version: Option<String>,
    /// Accepted, and overwritten from the credential.
    tenant_id: Option<String>,
}

/// An event of a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchEvent {
    #[serde(flatten)]
    event: PublishBody,
    /// 1 to 255 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// 1 to 1,000 events, 16 MiB in all.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchBody {
    events: Vec<BatchEvent>,
}

/// A payload to emit (source D).
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

/// An event: its CloudEvents JSON with its place in the log.
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
    /// Absent of an event without data.
    data: Option<serde_json::Value>,
    /// Base64, instead of `data`, where that is neither JSON nor text.
    #[serde(rename = "data_base64")]
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
    field: Option<String>,
    limit: Option<u64>,
    actual: Option<u64>,
    retry_after: Option<u64>,
    path: Option<String>,
    expected: Option<String>,
    got: Option<String>,
    errors: Option<Vec<serde_json::Value>>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Tidings", description = "A multi-tenant event platform"),
    paths(
        publish::publish,
        publish::publish_batch,
        publish::explain,
        cloudevents::publish,
        events::get,
        events::list,
        events::stream,
        modules::list,
        modules::get,
        modules::put,
        modules::delete,
        catalogs::list,
        catalogs::get,
        catalogs::put,
        catalogs::delete,
        catalogs::installation,
        custom_events::register,
        custom_events::list,
        custom_events::versions,
        custom_events::get,
        custom_events::patch,
        custom_events::diff,
        custom_events::dry_run,
        api_keys::create,
        api_keys::list,
        api_keys::revoke,
        subscriptions::create,
        subscriptions::list,
        subscriptions::get,
        subscriptions::patch,
        subscriptions::delete,
        subscriptions::pause,
        subscriptions::resume,
        subscriptions::seek,
        subscriptions::skip_backlog,
        subscriptions::secret,
        subscriptions::rotate,
        subscriptions::test,
        deliveries::trace,
        deliveries::explain,
        deliveries::missed,
        deliveries::parked,
        deliveries::release,
        emits::emit,
        emits::list,
        emits::health,
        dead_letters::list,
        dead_letters::get,
        dead_letters::replay,
        dead_letters::replay_all,
        dead_letters::delete,
        replays::of_history,
        replays::list,
        replays::get,
        replays::cancel,
        replays::resume,
        sessions::begin,
        sessions::end,
        workspaces::tenant,
        workspaces::put_tenant,
        workspaces::put,
        workspaces::put_member,
        workspaces::delete_member,
        workspaces::publish,
        extensions::put,
        extensions::get,
        extensions::delete,
        extensions::subscribe,
        extensions::subscription,
        extensions::unsubscribe,
        extensions::deliveries,
        dead_letters::list_of_workspace,
        dead_letters::get_of_workspace,
        dead_letters::replay_of_workspace,
        dead_letters::replay_all_of_workspace,
        dead_letters::delete_of_workspace,
        chat::messages,
        operations::healthz,
        operations::readyz,
        operations::metrics,
        documents::openapi,
        documents::docs,
        documents::problem,
    ),
    components(schemas(Problem))
)]
struct Document;

/// The OpenAPI document as JSON text.
pub fn document(public_url: &str) -> String {
    let mut document = Document::openapi();
    document.servers = Some(vec![Server::new(public_url)]);
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
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
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            operation
                .responses
                .responses
                .insert("default".to_owned(), problem.clone().into());
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
