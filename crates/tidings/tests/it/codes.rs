//! No code that cannot be provoked: each is brought about here through the front door, or by the
//! test that makes the fault it tells of.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidings_event::Code;

use crate::catalogs::{apply, small};
use crate::custom_events::{REGISTRATIONS, favorited, named, nested, on_plan, patch, wide, with};
use crate::emits::{emit, generic};
use crate::emits_kept::accepted_of;
use crate::harness::{Answer, BATCH, PUBLISH, Server};

/// The answer that has the code.
type Provoke = fn(&Server) -> Answer;

const PROVOKED: [(Code, Provoke); 45] = [
    (Code::InvalidJson, |server| publish(server, "{")),
    (Code::InvalidEvent, |server| publish(server, "{}")),
    (Code::InvalidEventType, |server| {
        publish(server, r#"{"type":"Crm","data":{}}"#)
    }),
    (Code::InvalidCloudEvent, |server| {
        let call = server.call("POST", "/v1/cloudevents");
        let call = call.header("Content-Type", "application/cloudevents+json");
        call.bearer(&server.crm("acme")).body("{}").send()
    }),
    (Code::InvalidIdempotencyKey, |server| {
        keyed(server, "", "created")
    }),
    (Code::BatchTooLarge, |server| {
        let event = json!({ "type": "crm.contact.created", "data": {} });
        let body = json!({ "events": vec![event; 1001] });
        server.post(BATCH, &server.crm("acme"), &body)
    }),
    (Code::EventPayloadTooLarge, |server| {
        let data = json!({ "text": "x".repeat(1024 * 1024) });
        let body = json!({ "type": "crm.contact.created", "data": data });
        server.post(PUBLISH, &server.crm("acme"), &body)
    }),
    (Code::InvalidSchemaVersion, |server| {
        let event = r#"{"type":"crm.contact.created","data":{},"schemaVersion":"1"}"#;
        publish(server, event)
    }),
    (Code::InvalidRequest, |server| {
        server.get("/v1/events?limit=0", &server.crm("acme"))
    }),
    (Code::TargetNotAllowed, |server| {
        let target = json!({ "kind": "webhook", "url": "http://[::ffff:10.0.0.1]/" });
        let body = json!({ "name": "inward", "target": target });
        server.post("/v1/subscriptions", &server.crm("acme"), &body)
    }),
    (Code::Unauthenticated, |server| {
        server.call("GET", "/v1/events").send()
    }),
    (Code::EventPublishForbidden, |server| {
        publish(server, r#"{"type":"shop.order.placed","data":{}}"#)
    }),
    (Code::KernelEventPublishForbidden, |server| {
        publish(server, r#"{"type":"auth.user.created","data":{}}"#)
    }),
    (Code::Forbidden, |server| {
        let call = server.call("PUT", "/v1/modules/crm/manifest");
        let call = call.bearer(&server.crm("acme"));
        call.json(&json!({ "id": "crm", "version": "9.0.0" }))
            .send()
    }),
    (Code::WorkspaceForbidden, |server| {
        let body = json!({ "eventKey": "crm.deal.closed" });
        let path = "/api/workspaces/nowhere/events/publish";
        server.post(
            path,
            &server.token(&["--tenant", "acme", "--user", "ada"]),
            &body,
        )
    }),
    (Code::CsrfRejected, |server| {
        let call = server.call("POST", "/v1/events/explain");
        let call = call.header("Cookie", "tidings_session=any");
        let call = call.header("Origin", "https://evil.example");
        call.json(&json!({})).send()
    }),
    (Code::NotFound, |server| {
        server.call("GET", "/nowhere").send()
    }),
    (Code::MethodNotAllowed, |server| {
        server.call("GET", PUBLISH).send()
    }),
    (Code::UnsupportedMediaType, |server| {
        let call = server.call("POST", PUBLISH).bearer(&server.crm("acme"));
        call.header("Content-Type", "text/plain").body("{}").send()
    }),
    (Code::IdempotencyKeyReused, |server| {
        keyed(server, "once", "created").expect(201);
        keyed(server, "once", "updated")
    }),
    (Code::EventSchemaViolation, |server| {
        let catalog = small("crm.invoice.sent").to_string();
        apply(server, "crm", &catalog);
        publish(server, r#"{"type":"crm.invoice.sent","data":{}}"#)
    }),
    (Code::InvalidNamespace, |server| {
        registers(server, &in_namespace("Lettings"))
    }),
    (Code::ReservedNamespace, |server| {
        registers(server, &in_namespace("events"))
    }),
    (Code::NamespaceNotAllowed, |server| {
        registers(server, &in_namespace("sales"))
    }),
    (Code::InvalidEventName, |server| {
        registers(server, &named("Favorited"))
    }),
    (Code::InvalidVersionFormat, |server| {
        registers(server, &favorited("1.0"))
    }),
    (Code::CannotRegisterGenericEvent, |server| {
        let body = with(in_namespace("platformxe"), "name", json!("generic"));
        registers(server, &body)
    }),
    (Code::VersionAlreadyExists, |server| {
        registers(server, &named("twice")).expect(201);
        registers(server, &named("twice"))
    }),
    (Code::VersionDowngrade, |server| {
        follows(server, "down", "0.9.0", json!({}))
    }),
    (Code::VersionInvalidJump, |server| {
        follows(server, "jump", "1.0.2", json!({}))
    }),
    (Code::PatchMustBeByteEqual, |server| {
        follows(server, "patched", "1.0.1", json!({ "minProperties": 1 }))
    }),
    (Code::MinorMustBeBackwardsCompatible, |server| {
        follows(server, "minor", "1.1.0", json!({ "minProperties": 1 }))
    }),
    (Code::SchemaTooDeep, |server| {
        registers(server, &with(named("deep"), "payloadSchema", nested(6)))
    }),
    (Code::SchemaTooWide, |server| {
        registers(server, &with(named("wide"), "payloadSchema", wide(51)))
    }),
    (Code::InvalidJsonSchema, |server| {
        let schema = json!({ "type": "text" });
        registers(server, &with(named("odd"), "payloadSchema", schema))
    }),
    (Code::PayloadExampleDoesNotMatchSchema, |server| {
        let example = json!({ "propertyId": 1 });
        registers(server, &with(named("example"), "payloadExample", example))
    }),
    (Code::RegistrationQuotaExceeded, |server| {
        let token = on_plan(server, "full", "BASIC");
        for number in 0..5 {
            let body = named(&format!("event-{number}"));
            server.post(REGISTRATIONS, &token, &body).expect(201);
        }
        server.post(REGISTRATIONS, &token, &named("more"))
    }),
    (Code::CannotArchiveGenericEvent, |server| {
        let archived = json!({ "status": "archived" });
        let token = on_plan(server, "codes", "PRO");
        patch(server, &token, "platformxe/generic/1.0.0", &archived)
    }),
    (Code::PlanUpgradeRequired, |server| {
        let token = on_plan(server, "small", "FREE");
        server.post(REGISTRATIONS, &token, &named("one"))
    }),
    (Code::EventNotRegistered, |server| {
        emits(server, "lettings.none", &json!({}))
    }),
    (Code::EventNotPublished, |server| {
        let draft = with(named("draft"), "status", json!("draft"));
        registers(server, &draft).expect(201);
        emits(server, "lettings.draft", &json!({}))
    }),
    (Code::PayloadInvalid, |server| {
        emits(server, "platformxe.generic", &json!({ "kind": 7 }))
    }),
    (Code::PayloadTooLarge, |server| {
        let payload = json!({ "kind": "x".repeat(256 * 1024) });
        emits(server, "platformxe.generic", &payload)
    }),
    (Code::ChainDepthExceeded, |server| {
        let token = on_plan(server, "chain", "FREE");
        let mut body = generic();
        loop {
            let answer = emit(server, &token, &body);
            if answer.status != 202 {
                return answer;
            }
            body["causationId"] = answer.json()["eventId"].clone();
        }
    }),
    (Code::MonthlyEmitQuotaExceeded, |server| {
        let token = on_plan(server, "loud", "FREE");
        assert_eq!(accepted_of(&[(server, &token)], 20, 50), 1_000);
        emit(server, &token, &generic())
    }),
];

/// What needs a fault below the process or a setting of its own, with the test that makes it and asserts the code.
const BY_FAULTS: [(Code, &str); 7] = [
    (Code::RateLimited, include_str!("limits.rs")),
    (Code::Internal, include_str!("../chaos/flips.rs")),
    (Code::BrokerUnavailable, include_str!("../chaos/fsync.rs")),
    (Code::IdempotencyKeyInUse, include_str!("keys_in_use.rs")),
    (Code::Overloaded, include_str!("bodies.rs")),
    (Code::StorageFull, include_str!("../chaos/full.rs")),
    (Code::BusRelayFailed, include_str!("emits_kept.rs")),
];

/// Of a tenant on the plan Pro.
fn registers(server: &Server, body: &Value) -> Answer {
    server.post(REGISTRATIONS, &on_plan(server, "codes", "PRO"), body)
}

fn in_namespace(namespace: &str) -> Value {
    with(named("aa"), "namespace", json!(namespace))
}

/// A version after 1.0.0, which takes everything.
fn follows(server: &Server, name: &str, version: &str, schema: Value) -> Answer {
    let first = with(named(name), "payloadSchema", json!({}));
    registers(server, &first).expect(201);
    let next = with(first, "version", json!(version));
    registers(server, &with(next, "payloadSchema", schema))
}

fn emits(server: &Server, name: &str, payload: &Value) -> Answer {
    let body = json!({ "name": name, "payload": payload });
    emit(server, &on_plan(server, "codes", "PRO"), &body)
}

fn publish(server: &Server, body: &str) -> Answer {
    let call = server.call("POST", PUBLISH).bearer(&server.crm("acme"));
    let call = call.header("Content-Type", "application/json");
    call.body(body).send()
}

fn keyed(server: &Server, key: &str, name: &str) -> Answer {
    let call = server.call("POST", PUBLISH).bearer(&server.crm("acme"));
    let body = json!({ "type": format!("crm.contact.{name}"), "data": {} });
    call.header("Idempotency-Key", key).json(&body).send()
}

#[test]
fn every_code_is_provoked() {
    let server = Server::start();
    for (code, provoke) in PROVOKED {
        provoke(&server).problem(code.status(), code.as_str());
    }
    for (code, test) in BY_FAULTS {
        let quoted = format!("\"{}\"", code.as_str());
        assert!(test.contains(&quoted), "nothing asserts {quoted}");
    }
}

#[test]
fn every_code_stands_in_one_table() {
    let provoked = PROVOKED.iter().map(|(code, _)| *code);
    let by_faults = BY_FAULTS.iter().map(|(code, _)| *code);
    let rows = provoked.chain(by_faults);
    let rows: Vec<&str> = rows.map(Code::as_str).collect();
    let distinct: BTreeSet<&str> = rows.iter().copied().collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(distinct, all);
    assert_eq!(rows.len(), all.len(), "a code stands twice");
}
