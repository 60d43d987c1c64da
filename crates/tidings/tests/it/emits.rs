//! Emits of custom events (source D): what they are held to, what they become, and what tells of them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::custom_events::{favorited, on_plan, with};
use crate::harness::{Answer, Server};
use crate::receiver::{Receiver, eventually};

const REGISTRATIONS: &str = "/v1/events/custom/registrations";
pub(crate) const EMIT: &str = "/v1/events/custom/emit";
pub(crate) const EMITS: &str = "/v1/events/custom/emits";
pub(crate) const HEALTH: &str = "/v1/events/custom/health";
const CANONICAL: &str = "TENANT_CUSTOM:org_x:lettings.property.favorited@1.0.0";
const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\ndelivery.retry_schedule = ['10ms']\n";

fn version(version: &str, status: &str) -> Value {
    with(favorited(version), "status", json!(status))
}

/// What an emit comes to. One that a bus which stalls did not take in time is accepted all the same; a repeat of its key
/// then answers with 200 what would have been 202.
pub(crate) fn emit(server: &Server, token: &str, body: &Value) -> Answer {
    let first = server.post(EMIT, token, body);
    if first.status != 502 {
        return first;
    }
    let accepted = first.problem(502, "bus_relay_failed");
    let mut again = body.clone();
    again["idempotencyKey"] = accepted["idempotencyKey"].clone();
    let mut answer = eventually("it is known what became of an emit", || {
        Some(server.post(EMIT, token, &again)).filter(|answer| answer.status != 502)
    });
    answer = answer.expect(200);
    assert_eq!(answer.json()["eventId"], accepted["eventId"]);
    answer.status = 202;
    answer
}

fn payload() -> Value {
    json!({ "propertyId": "p_123", "subjectId": "sub_456", "favoritedAt": "2026-05-04T10:00:00Z" })
}

pub(crate) fn generic() -> Value {
    json!({ "name": "platformxe.generic", "payload": { "kind": "user.signed_up" } })
}

/// The types of the lifecycle events of an emit, in the order of the log.
fn told_of(server: &Server, token: &str, event_id: &str) -> Vec<String> {
    let page = server.get(
        "/v1/events?topic=platform.custom.events.lifecycle&limit=1000",
        token,
    );
    let page = page.expect(200).json();
    let items = page["items"].as_array().expect("a list").iter();
    let of = items.filter(|event| event["data"]["eventId"] == event_id);
    of.map(|event| event["type"].as_str().expect("a type").to_owned())
        .collect()
}

pub(crate) fn told(server: &Server, token: &str, event_type: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/events?type={event_type}&limit=1000{cursor}");
        let page = server.get(&path, token).expect(200).json();
        let items = page["items"].as_array().expect("a list").iter();
        found.extend(items.map(|event| event["data"].clone()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

fn row(server: &Server, token: &str, event_id: &str) -> Option<Value> {
    let page = server
        .get(&format!("{EMITS}?limit=1000"), token)
        .expect(200)
        .json();
    let mut items = page["items"].as_array().expect("a list").iter();
    items.find(|item| item["eventId"] == event_id).cloned()
}

pub(crate) fn becomes(server: &Server, token: &str, event_id: &str, status: &str) -> Value {
    eventually(&format!("{event_id} is {status}"), || {
        row(server, token, event_id).filter(|row| row["deliveryStatus"] == status)
    })
}

fn id(answer: &Answer) -> String {
    answer.json()["eventId"].as_str().expect("an id").to_owned()
}

#[test]
fn an_emit_goes_to_those_who_name_it_and_its_life_is_told_in_order() {
    let server = Server::start_with(CONFIG);
    let token = on_plan(&server, "org_x", "PRO");
    server
        .post(REGISTRATIONS, &token, &version("1.0.0", "published"))
        .expect(201);
    let receiver = Receiver::start();
    let subscription = json!({
        "name": "favourites", "filter": { "types": [CANONICAL] },
        "target": { "kind": "webhook", "url": receiver.url },
    });
    server
        .post("/v1/subscriptions", &token, &subscription)
        .expect(201);
    let other = on_plan(&server, "org_y", "PRO");
    server
        .post("/v1/subscriptions", &other, &subscription)
        .expect(201);

    let body =
        json!({ "name": "lettings.property.favorited", "payload": payload(), "version": "1.0.0" });
    let answer = emit(&server, &token, &body).expect(202);
    let event_id = id(&answer);
    let wanted = json!({ "eventId": event_id, "canonicalName": CANONICAL, "status": "queued" });
    assert_eq!(answer.json(), wanted);

    let hit = receiver.until_taken(1)[0].json();
    for (name, value) in [
        ("id", event_id.as_str()),
        ("type", CANONICAL),
        ("tenantid", "org_x"),
        ("source", "/user/root"),
        ("schemaversion", "1.0.0"),
    ] {
        assert_eq!(hit[name], value, "{hit}");
    }
    assert_eq!(hit["data"], payload());
    becomes(&server, &token, &event_id, "DELIVERED");
    let life = ["REQUESTED", "RELAYED", "DELIVERED"].map(|it| format!("CUSTOM_EVENT_EMIT_{it}"));
    eventually("it is told", || {
        (told_of(&server, &token, &event_id) == life).then_some(())
    });
    let found = server
        .get(&format!("/v1/events/{event_id}"), &token)
        .expect(200)
        .json();
    assert_eq!(found["topic"], "platform.custom.events");
    server
        .get(&format!("/v1/events/{event_id}"), &other)
        .problem(404, "NOT_FOUND");
    assert_eq!(
        receiver.hits().len(),
        1,
        "nobody else's subscription gets it"
    );
    let rows = server.get(EMITS, &other).expect(200).json();
    assert_eq!(rows["items"], json!([]));
}

#[test]
fn one_that_nobody_wants_is_delivered_and_one_given_up_has_failed_until_it_is_replayed() {
    let server = Server::start_with(CONFIG);
    let token = on_plan(&server, "org_x", "FREE");
    let event_id = id(&emit(&server, &token, &generic()).expect(202));
    let life = ["REQUESTED", "RELAYED", "DELIVERED"].map(|it| format!("CUSTOM_EVENT_EMIT_{it}"));
    assert_eq!(told_of(&server, &token, &event_id), life);
    becomes(&server, &token, &event_id, "DELIVERED");
    eventually("the tenant is told of its event", || {
        (told(&server, &token, "CUSTOM_EVENT_GENERIC_SEEDED").len() == 1).then_some(())
    });

    let receiver = Receiver::start();
    receiver.answer(|_, _| 500);
    let subscription = json!({
        "name": "broken",
        "filter": { "types": ["TENANT_CUSTOM:org_x:platformxe.generic@1.0.0"] },
        "target": { "kind": "webhook", "url": receiver.url },
    });
    server
        .post("/v1/subscriptions", &token, &subscription)
        .expect(201);
    let event_id = id(&emit(&server, &token, &generic()).expect(202));
    let row = becomes(&server, &token, &event_id, "FAILED");
    assert!(
        row["error"].as_str().expect("why").contains("given up"),
        "{row}"
    );
    let failed = "CUSTOM_EVENT_EMIT_DELIVERY_FAILED";
    eventually("it is told", || {
        told_of(&server, &token, &event_id)
            .contains(&failed.to_owned())
            .then_some(())
    });
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(health["plan"], "FREE");
    assert_eq!(health["registrations"], json!({ "used": 0, "limit": 0 }));
    assert_eq!(
        health["emits"],
        json!({ "thisMonth": 2, "monthlyLimit": 1000 })
    );
    assert_eq!(health["recentFailures"][0]["eventId"], event_id);
    let key = json!({ "name": "sdk", "scopes": ["publish:**"] });
    let key = server.post("/v1/api-keys", &token, &key).expect(201).json();
    let key = key["key"].as_str().expect("a key");
    let health = server.get(HEALTH, key).expect(200).json();
    assert_eq!(
        health["recentFailures"],
        json!([]),
        "it may not read events"
    );

    receiver.answer(|_, _| 200);
    let letters = server.get("/v1/dead-letters", &token).expect(200).json();
    let letter = letters["items"][0]["id"].as_str().expect("a dead letter");
    let replay = format!("/v1/dead-letters/{letter}/replay");
    server.post(&replay, &token, &json!({})).expect(202);
    let row = becomes(&server, &token, &event_id, "DELIVERED");
    assert_eq!(row["error"], Value::Null);
    assert!(row["source"].as_str().expect("whose").starts_with('/'));
    assert_eq!(
        told_of(&server, &token, &event_id).last().expect("some"),
        "CUSTOM_EVENT_EMIT_DELIVERED"
    );
}

#[test]
fn each_refusal_has_its_code_emits_nothing_and_is_told() {
    let server = Server::start_with(CONFIG);
    let token = on_plan(&server, "org_x", "PRO");
    let name = "lettings.property.favorited";
    let good = json!({ "name": name, "payload": payload() });
    emit(&server, &token, &good).problem(404, "event_not_registered");
    server
        .post(REGISTRATIONS, &token, &version("1.0.0", "draft"))
        .expect(201);
    emit(&server, &token, &good).problem(409, "event_not_published");
    let path = format!("{REGISTRATIONS}/lettings/property.favorited/1.0.0");
    let status = |status: &str| {
        let body = json!({ "status": status });
        server
            .call("PATCH", &path)
            .bearer(&token)
            .json(&body)
            .send()
    };
    status("published").expect(200);
    emit(&server, &token, &good).expect(202);
    let with =
        |member: &str, value: Value| emit(&server, &token, &with(good.clone(), member, value));
    with("version", json!("1.0.1")).problem(404, "event_not_registered");
    with("version", json!("1.0")).problem(400, "invalid_version_format");
    with("name", json!("lettings")).problem(400, "invalid_name");
    with("name", json!("Lettings.x")).problem(400, "invalid_namespace");
    with("colour", json!("red")).problem(400, "INVALID_EVENT");
    with("name", Value::Null).problem(400, "INVALID_EVENT");
    with("causationId", json!("x")).problem(400, "INVALID_EVENT");
    with("idempotencyKey", json!("a b")).problem(400, "INVALID_IDEMPOTENCY_KEY");
    let wrong = with("payload", json!({ "propertyId": 7 })).problem(400, "payload_invalid");
    let paths: Vec<_> = wrong["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["path"])
        .collect();
    assert!(paths.contains(&&json!("/propertyId")), "{wrong}");
    let large = json!({ "propertyId": "x".repeat(256 * 1024), "subjectId": "s" });
    with("payload", large).problem(413, "payload_too_large");
    let operator = server.token(&["--role", "OPERATOR"]);
    emit(&server, &operator, &good).problem(403, "EVENT_PUBLISH_FORBIDDEN");
    status("archived").expect(200);
    emit(&server, &token, &good).problem(409, "event_not_published");
    let other = on_plan(&server, "org_y", "PRO");
    emit(&server, &other, &good).problem(404, "event_not_registered");

    // On the smallest plan the generic event alone is there.
    on_plan(&server, "org_x", "FREE");
    emit(&server, &token, &generic()).expect(202);
    let again = version("1.0.1", "published");
    server
        .post(REGISTRATIONS, &token, &again)
        .problem(402, "plan_upgrade_required");

    let codes = eventually("refusals are told", || {
        let told = told(&server, &token, "CUSTOM_EVENT_EMIT_REJECTED");
        (told.len() == 6).then_some(told)
    });
    let named = |data: &Value| (data["namespace"].clone(), data["name"].clone());
    let expected = (json!("lettings"), json!("property.favorited"));
    assert!(codes.iter().any(|data| named(data) == expected));
    let codes: BTreeSet<_> = codes
        .iter()
        .map(|data| data["code"].as_str().expect("a code"))
        .collect();
    let wanted = [
        "event_not_published",
        "event_not_registered",
        "payload_invalid",
        "payload_too_large",
    ];
    assert_eq!(codes, BTreeSet::from(wanted));
    let page = server.get("/v1/events?topic=platform.custom.events&limit=1000", &token);
    assert_eq!(
        page.expect(200).json()["items"].as_array().map(Vec::len),
        Some(2)
    );
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(
        health["emits"]["thisMonth"], 2,
        "what is refused does not count"
    );
}

#[test]
fn an_emit_is_explained_as_a_publish_is_and_nothing_is_emitted() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "PRO");
    let explain = |body: &Value| {
        let answer = server.post("/v1/events/explain", &token, body);
        answer.expect(200).json()
    };
    let mut body = json!({ "name": "lettings.property.favorited", "payload": payload() });
    let absent = explain(&body);
    assert_eq!(absent["verdict"], "refused");
    assert_eq!(absent["steps"][0]["code"], "event_not_registered");
    let registration = version("1.0.0", "published");
    server
        .post(REGISTRATIONS, &token, &registration)
        .expect(201);
    let filter = json!({ "types": [CANONICAL], "data": [{ "pointer": "/none", "exists": true }] });
    let target = json!({ "kind": "webhook", "url": "https://receiver.example.com/" });
    let subscription = json!({ "name": "favourites", "filter": filter, "target": target });
    let made = server.post("/v1/subscriptions", &token, &subscription);
    made.expect(201);
    let accepted = explain(&body);
    assert_eq!(accepted["verdict"], "accepted", "{accepted}");
    let told_of = &accepted["subscriptions"][0];
    assert_eq!(
        (&told_of["name"], &told_of["matched"]),
        (&json!("favourites"), &json!(false))
    );
    assert_eq!(told_of["reason"]["clause"], "data[0].exists", "{accepted}");
    assert_eq!(accepted["topic"], "platform.custom.events");
    assert_eq!(accepted["envelope"]["type"], CANONICAL);
    body["payload"] = json!({ "propertyId": "p" });
    let refused = explain(&body);
    let last = refused["steps"].as_array().expect("steps").last();
    let last = last.expect("the one that refused");
    assert_eq!(
        (&last["step"], &last["code"]),
        (&json!("contract"), &json!("payload_invalid"))
    );
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(health["emits"]["thisMonth"], 0);
    assert_eq!(told(&server, &token, "CUSTOM_EVENT_EMIT_REJECTED").len(), 0);
    body["payload"] = payload();
    body["idempotencyKey"] = json!("k-1");
    assert_eq!(explain(&body)["verdict"], "accepted");
    server.post(EMIT, &token, &body).expect(202);
    let repeated = explain(&body).to_string();
    assert!(
        repeated.contains("first result is answered again"),
        "{repeated}"
    );
    body["payload"]["propertyId"] = json!("another");
    let with_used_key = explain(&body);
    let last = with_used_key["steps"].as_array().expect("steps").last();
    let last = last.expect("the one that refused");
    assert_eq!(last["code"], "IDEMPOTENCY_KEY_REUSED", "{with_used_key}");
}

#[test]
fn a_dry_run_and_a_diff_say_how_many_real_payloads_would_fail() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "PRO");
    let first = version("1.0.0", "published");
    server.post(REGISTRATIONS, &token, &first).expect(201);
    for number in 0..12 {
        let payload = json!({ "propertyId": "p".repeat(number * 4), "subjectId": "s" });
        let body = json!({ "name": "lettings.property.favorited", "payload": payload });
        emit(&server, &token, &body).expect(202);
        emit(&server, &token, &generic()).expect(202);
    }
    let mut next = version("2.0.0", "draft");
    next["payloadSchema"]["properties"]["propertyId"]["maxLength"] = json!(20);
    let wanted = json!({ "tried": 12, "failing": 6 });
    let verdict = server.post("/v1/events/custom/dry-run", &token, &next);
    assert_eq!(verdict.expect(200).json()["payloads"], wanted);
    server.post(REGISTRATIONS, &token, &next).expect(201);
    let diff = format!("{REGISTRATIONS}/lettings/property.favorited/diff?from=1.0.0&to=2.0.0");
    let diff = server.get(&diff, &token).expect(200).json();
    assert_eq!(diff["payloads"], wanted, "{diff}");
}

#[test]
fn a_plan_without_registered_emits_says_so_of_an_event_that_is_there() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "BASIC");
    server
        .post(REGISTRATIONS, &token, &version("1.0.0", "published"))
        .expect(201);
    on_plan(&server, "org_x", "FREE");
    let body = json!({ "name": "lettings.property.favorited", "payload": {} });
    emit(&server, &token, &body).problem(402, "plan_upgrade_required");
}

#[test]
fn a_key_emits_once_whatever_version_is_the_latest_by_then() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "PRO");
    server
        .post(REGISTRATIONS, &token, &version("1.0.0", "published"))
        .expect(201);
    let mut body = json!({
        "name": "lettings.property.favorited", "payload": payload(), "idempotencyKey": "k-1",
    });
    let first = emit(&server, &token, &body).expect(202);
    assert_eq!(first.header("idempotency-key"), Some("k-1"));
    server
        .post(REGISTRATIONS, &token, &version("1.0.1", "published"))
        .expect(201);
    let again = emit(&server, &token, &body).expect(200);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let by_header = json!({ "name": body["name"], "payload": body["payload"] });
    let by_header = server
        .call("POST", EMIT)
        .bearer(&token)
        .header("Idempotency-Key", "k-1")
        .json(&by_header);
    assert_eq!(by_header.send().expect(200).json(), first.json());
    for header in ["k-2", "no key"] {
        let both = server.call("POST", EMIT).bearer(&token);
        let both = both.header("Idempotency-Key", header).json(&body).send();
        both.problem(400, "INVALID_IDEMPOTENCY_KEY");
    }
    body["causationId"] = first.json()["eventId"].clone();
    emit(&server, &token, &body).problem(422, "IDEMPOTENCY_KEY_REUSED");
    body["causationId"] = Value::Null;
    body["payload"]["subjectId"] = json!("other");
    emit(&server, &token, &body).problem(422, "IDEMPOTENCY_KEY_REUSED");
    body["idempotencyKey"] = json!("k-2");
    let latest = emit(&server, &token, &body).expect(202).json();
    assert_eq!(latest["canonicalName"], CANONICAL.replace("1.0.0", "1.0.1"));
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(health["emits"]["thisMonth"], 2);
}

#[test]
fn a_chain_of_causes_ends_at_fifty() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "FREE");
    let mut cause = id(&emit(&server, &token, &generic()).expect(202));
    let first = cause.clone();
    let with_cause = |cause: &str| {
        let mut body = generic();
        body["causationId"] = json!(cause);
        emit(&server, &token, &body)
    };
    for depth in 1..=50 {
        let caused = id(&with_cause(&cause).expect(202));
        if depth == 1 {
            let trace = server
                .get(&format!("/v1/events/{first}/trace"), &token)
                .expect(200)
                .json();
            assert_eq!(trace["caused"], json!([caused]));
        }
        cause = caused;
    }
    let last = server
        .get(&format!("/v1/events/{cause}"), &token)
        .expect(200)
        .json();
    assert_eq!(last["chaindepth"], 50);
    with_cause(&cause).problem(422, "chain_depth_exceeded");
    // Whoever emits because of what was told of it is no further from the first.
    let page = server.get(
        "/v1/events?topic=platform.custom.events.lifecycle&limit=1000",
        &token,
    );
    let page = page.expect(200).json();
    let mut items = page["items"].as_array().expect("a list").iter();
    let told_of_last = items.find(|event| event["data"]["eventId"] == cause.as_str());
    let told_of_last = told_of_last.expect("it is told")["eventId"]
        .as_str()
        .expect("an id");
    with_cause(told_of_last).problem(422, "chain_depth_exceeded");
    eventually("it is told", || {
        let told = told(&server, &token, "CUSTOM_EVENT_CHAIN_TRUNCATED");
        let named = |data: &Value| data["namespace"] == "platformxe" && data["name"] == "generic";
        (told.len() == 2 && told.iter().all(named)).then_some(())
    });
}

#[test]
fn a_key_of_a_server_emits_what_its_scopes_cover() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "PRO");
    server
        .post(REGISTRATIONS, &token, &version("1.0.0", "published"))
        .expect(201);
    let body = json!({ "name": "lettings.property.favorited", "payload": payload() });
    let with = |scope: &str| {
        let key = json!({ "name": "sdk", "scopes": [scope] });
        let key = server.post("/v1/api-keys", &token, &key).expect(201).json();
        emit(&server, key["key"].as_str().expect("a key"), &body)
    };
    for scope in [
        "publish:lettings.**",
        "publish:**",
        &format!("publish:{CANONICAL}"),
    ] {
        with(scope).expect(202);
    }
    for scope in [
        "publish:other.**",
        "events:read",
        &format!("publish:{}", CANONICAL.replace("1.0.0", "2.0.0")),
    ] {
        with(scope).problem(403, "EVENT_PUBLISH_FORBIDDEN");
    }
    let key = json!({ "name": "sdk", "scopes": ["publish:**"] });
    let key = server.post("/v1/api-keys", &token, &key).expect(201).json();
    let key = key["key"].as_str().expect("a key");
    server.get(EMITS, key).problem(403, "FORBIDDEN");
    server.get(HEALTH, key).expect(200);
    // A key that looks like one of the gateway's own is the tenant's all the same.
    let event_id = id(&emit(&server, key, &generic()).expect(202));
    let mut body = generic();
    body["idempotencyKey"] = json!(format!("{event_id}/CUSTOM_EVENT_EMIT_REQUESTED"));
    emit(&server, key, &body).expect(202);
}
