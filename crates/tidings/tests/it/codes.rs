//! No code that cannot be provoked: each is brought about here through the front door, or by the
//! test that makes the fault it tells of.

use std::collections::BTreeSet;

use serde_json::json;
use tidings_event::Code;

use crate::catalogs::{apply, small};
use crate::harness::{Answer, BATCH, PUBLISH, Server};

/// The answer that has the code.
type Provoke = fn(&Server) -> Answer;

const PROVOKED: [(Code, Provoke); 21] = [
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
];

/// What needs a fault below the process or a setting of its own, with the test that makes it and asserts the code.
const BY_FAULTS: [(Code, &str); 4] = [
    (Code::RateLimited, include_str!("limits.rs")),
    (Code::Internal, include_str!("../chaos/flips.rs")),
    (Code::BrokerUnavailable, include_str!("../chaos/fsync.rs")),
    (Code::StorageFull, include_str!("../chaos/full.rs")),
];

/// What the registry of custom events refuses, asserted by the tests of its rules.
const OF_REGISTRATION: [Code; 17] = [
    Code::InvalidNamespace,
    Code::ReservedNamespace,
    Code::NamespaceNotAllowed,
    Code::InvalidEventName,
    Code::InvalidVersionFormat,
    Code::CannotRegisterGenericEvent,
    Code::VersionAlreadyExists,
    Code::VersionDowngrade,
    Code::VersionInvalidJump,
    Code::PatchMustBeByteEqual,
    Code::MinorMustBeBackwardsCompatible,
    Code::SchemaTooDeep,
    Code::SchemaTooWide,
    Code::InvalidJsonSchema,
    Code::PayloadExampleDoesNotMatchSchema,
    Code::RegistrationQuotaExceeded,
    Code::CannotArchiveGenericEvent,
];

/// What emits of custom events are refused with, asserted by the tests of their rules.
const OF_EMITS: [Code; 8] = [
    Code::PlanUpgradeRequired,
    Code::EventNotRegistered,
    Code::EventNotPublished,
    Code::PayloadInvalid,
    Code::PayloadTooLarge,
    Code::ChainDepthExceeded,
    Code::MonthlyEmitQuotaExceeded,
    Code::BusRelayFailed,
];

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
    let registrations = (&OF_REGISTRATION[..], include_str!("custom_events.rs"));
    let emits = concat!(include_str!("emits.rs"), include_str!("emits_kept.rs"));
    let emits = (&OF_EMITS[..], emits);
    for (codes, test) in [registrations, emits] {
        for code in codes {
            let quoted = format!("\"{}\"", code.as_str());
            assert!(test.contains(&quoted), "nothing asserts {quoted}");
        }
    }
}

#[test]
fn every_code_stands_in_one_table() {
    let provoked = PROVOKED.iter().map(|(code, _)| *code);
    let by_faults = BY_FAULTS.iter().map(|(code, _)| *code);
    let of_custom_events = OF_REGISTRATION.into_iter().chain(OF_EMITS);
    let rows = provoked.chain(by_faults).chain(of_custom_events);
    let rows: Vec<&str> = rows.map(Code::as_str).collect();
    let distinct: BTreeSet<&str> = rows.iter().copied().collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(distinct, all);
    assert_eq!(rows.len(), all.len(), "a code stands twice");
}
