//! Source D: what tells of the life of custom events.

use serde_json::{Value, json};
use tidings_contract::custom::Schema;
use tidings_gateway::custom_events::LifecycleEvent;

use crate::custom_events::{DRY_RUN, REGISTRATIONS, favorited, named, on_plan, patch, with};
use crate::emits::emit;
use crate::harness::{PUBLISH, Server};
use crate::receiver::eventually;

/// The tenant's lifecycle events in the order of the bus, once there are so many.
fn told(server: &Server, token: &str, count: usize) -> Vec<(String, Value)> {
    eventually("the lifecycle events", || {
        let page = server.get("/v1/events?limit=1000", token).expect(200);
        let items = page.json()["items"].as_array().cloned()?;
        let of_life = |event: &Value| {
            let name = event["type"].as_str()?.to_owned();
            assert!(
                !name.starts_with("CUSTOM_EVENT_")
                    || event["topic"] == "platform.custom.events.lifecycle"
            );
            name.starts_with("CUSTOM_EVENT_")
                .then(|| (name, event["data"].clone()))
        };
        let found: Vec<(String, Value)> = items.iter().filter_map(of_life).collect();
        (found.len() >= count).then_some(found)
    })
}

#[test]
fn each_change_is_told_of_in_source_ds_order_as_the_catalogue_says() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "BASIC");
    server
        .post(REGISTRATIONS, &token, &favorited("1.0.0"))
        .expect(201);
    let draft = with(favorited("1.1.0"), "status", json!("draft"));
    server.post(REGISTRATIONS, &token, &draft).expect(201);
    server
        .post(DRY_RUN, &token, &favorited("9.0.0"))
        .expect(200);
    let jump = server.post(REGISTRATIONS, &token, &favorited("9.0.0"));
    jump.problem(400, "version_invalid_jump");
    let of = "lettings/property.favorited/1.1.0";
    patch(&server, &token, of, &json!({ "status": "published" })).expect(200);
    let behind = server.post(REGISTRATIONS, &token, &favorited("1.0.1"));
    behind.problem(402, "plan_upgrade_required");
    patch(&server, &token, of, &json!({ "status": "archived" })).expect(200);
    for name in ["bb", "cc", "dd", "ee"] {
        let draft = with(named(name), "status", json!("draft"));
        server.post(REGISTRATIONS, &token, &draft).expect(201);
    }
    let full = server.post(REGISTRATIONS, &token, &named("ff"));
    full.problem(402, "registration_quota_exceeded");

    let draft = "REQUESTED VALIDATED PERSISTED ";
    let expected = [
        "GENERIC_SEEDED REQUESTED VALIDATED PERSISTED MATERIALISED REGISTERED ",
        draft,
        "REQUESTED VALIDATION_FAILED ",
        "MATERIALISED REGISTERED INVALIDATED ",
        "REQUESTED VALIDATION_FAILED ",
        "INVALIDATED ",
        &draft.repeat(4),
        "REQUESTED VALIDATED QUOTA_EXCEEDED",
    ];
    let expected = expected.concat();
    let found = told(&server, &token, expected.split(' ').count());
    let names: Vec<&str> = found
        .iter()
        .map(|(name, _)| name.trim_start_matches("CUSTOM_EVENT_"))
        .collect();
    assert_eq!(names.join(" "), expected);
    for (name, data) in &found {
        let event = LifecycleEvent::ALL.iter().find(|it| it.as_str() == name);
        let schema = Schema::new(event.expect("it is in the catalogue").schema()).unwrap();
        assert_eq!(schema.refusals(data), [], "{name} {data}");
    }
    let superseded = found.iter().find(|(name, _)| name.ends_with("INVALIDATED"));
    let data = &superseded.expect("one").1;
    assert_eq!(
        (&data["version"], &data["reason"]),
        (&json!("1.0.0"), &json!("superseded"))
    );
    assert_eq!(data["supersededBy"], "1.1.0");
}

#[test]
fn a_version_that_a_smaller_plan_took_out_of_force_does_not_come_back() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    let of = |version: &str| format!("lettings/property.favorited/{version}");
    for version in ["1.0.0", "1.0.1"] {
        let made = server.post(REGISTRATIONS, &token, &favorited(version));
        made.expect(201);
    }
    on_plan(&server, "acme", "BASIC");
    let archived = json!({ "status": "archived" });
    patch(&server, &token, &of("1.0.1"), &archived).expect(200);
    let older = server.get(&format!("{REGISTRATIONS}/{}", of("1.0.0")), &token);
    assert_eq!(older.expect(200).json()["status"], "superseded");
    let payload = json!({ "propertyId": "p", "subjectId": "s" });
    let body = json!({ "name": "lettings.property.favorited", "payload": payload });
    emit(&server, &token, &body).problem(409, "event_not_published");
    let found = told(&server, &token, 13);
    let gone = found
        .iter()
        .filter(|(name, _)| name.ends_with("INVALIDATED"));
    let gone: Vec<_> = gone
        .map(|(_, data)| (&data["version"], &data["reason"]))
        .collect();
    assert_eq!(
        gone,
        [
            (&json!("1.0.1"), &json!("archived")),
            (&json!("1.0.0"), &json!("superseded"))
        ]
    );
}

#[test]
fn nobody_publishes_what_only_custom_events_are_called() {
    let server = Server::start();
    on_plan(&server, "acme", "PRO");
    let service = server.token(&["--tenant", "acme", "--service", "audit"]);
    for name in [
        "CUSTOM_EVENT_REGISTERED",
        "TENANT_CUSTOM:acme:lettings.property.favorited@1.0.0",
    ] {
        let body = json!({ "type": name, "data": {} });
        for token in [&server.crm("acme"), &service] {
            let refused = server.post(PUBLISH, token, &body);
            refused.problem(400, "INVALID_EVENT_TYPE");
        }
        // A filter takes them as they are.
        let page = server.get(&format!("/v1/events?type={name}"), &server.crm("acme"));
        page.expect(200);
        let subscription = json!({
            "name": "life", "filter": { "types": [name] },
            "target": { "kind": "webhook", "url": "http://localhost:1/h" },
        });
        let made = server.post("/v1/subscriptions", &server.crm("acme"), &subscription);
        made.expect(201);
    }
}
