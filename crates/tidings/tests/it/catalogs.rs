//! Catalogues: who may publish what they carry, what its data must be, and how it is written.

use serde_json::{Value, json};

use crate::harness::{Answer, ON_ITS_FOLDER, PUBLISH, Server};

pub(crate) const CPAAS: &str = include_str!("../../../../examples/catalogs/cpaas.asyncapi.yaml");
const MARKETPLACE: &str = include_str!("../../../../examples/catalogs/marketplace.asyncapi.yaml");
const EXPLAIN: &str = "/v1/events/explain";
const SENT: &str = "eventzr.cpaas.communication.sent.v1";
const LISTED: &str = "eventzr.marketplace.listing.created.v1";

/// Of one topic, sent by `crm`; its data has a number.
pub(crate) fn small(topic: &str) -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Small", "version": "1.0.0" },
        "channels": { "one": {
            "address": topic,
            "x-tidings-sender": "crm",
            "messages": { "m": { "contentType": "application/json", "payload": {
                "type": "object",
                "required": ["count"],
                "properties": { "count": { "type": "integer", "minimum": 0 } },
            } } },
        } },
    })
}

fn put(server: &Server, path: &str, token: &str, document: &str) -> Answer {
    let call = server.call("PUT", path).bearer(token);
    let call = call.header("Content-Type", "application/yaml");
    call.body(document).send()
}

/// Puts a catalogue in force as an operator.
pub(crate) fn apply(server: &Server, name: &str, document: &str) -> Value {
    let operator = server.token(&["--role", "OPERATOR"]);
    let path = format!("/v1/catalogs/{name}");
    put(server, &path, &operator, document).expect(200).json()
}

fn sender(server: &Server, module: &str) -> String {
    server.token(&["--tenant", "acme", "--module", module])
}

/// The source's own example of a topic, as it stands in the catalogue: an envelope.
fn sent() -> Value {
    json!({
        "specversion": "1.0",
        "type": SENT,
        "source": "cpaas-orchestrator-svc",
        "id": "evt-550e8400-e29b-41d4-a716-446655440000",
        "time": "2026-02-24T12:00:00.000Z",
        "datacontenttype": "application/json",
        "subject": "tenant-uuid",
        "data": {
            "tenantId": "tenant-uuid",
            "messageId": "msg_abc123",
            "channel": "WHATSAPP",
            "recipient": "+14155552671",
            "status": "SENT",
            "provider": "META_WHATSAPP",
            "cost_usd": 0.0055,
        },
    })
}

/// The other source's.
fn listed() -> Value {
    json!({
        "specversion": "1.0",
        "id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        "type": LISTED,
        "source": "marketplace-svc",
        "time": "2026-03-02T12:00:00.000Z",
        "datacontenttype": "application/json",
        "subject": "listing:uuid",
        "tenantid": "00000000-0000-0000-0000-000000000001",
        "data": {
            "id": "listing-uuid",
            "title": "Premium Catering Service",
            "lane": "vendora",
            "sellerId": "seller-uuid",
            "price": 5000,
            "currency": "USD",
        },
    })
}

#[test]
fn envelopes_have_the_members_of_the_sources_and_no_others() {
    let server = Server::start();
    apply(&server, "cpaas", CPAAS);
    apply(&server, "marketplace", MARKETPLACE);
    let check = |example: &Value, tenant: &str, subject: &str| {
        let module = example["source"].as_str().unwrap();
        let token = server.token(&["--tenant", tenant, "--module", module]);
        let body = json!({ "type": example["type"], "data": example["data"] });
        let explained = server.post(EXPLAIN, &token, &body).expect(200).json();
        assert_eq!(explained["verdict"], "accepted", "{explained}");
        assert_eq!(explained["topic"], example["type"]);
        let mut envelope = explained["envelope"].clone();
        let id = envelope["id"].as_str().unwrap();
        assert_eq!(id.len(), 36, "{id}");
        let time = envelope["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-03-02T12:00:00.000Z".len(), "{time}");
        let mut expected = example.clone();
        expected["tenantid"] = tenant.into();
        expected["subject"] = subject.into();
        for own in ["id", "time"] {
            envelope[own] = expected[own].clone();
        }
        assert_eq!(envelope, expected);
        let receipt = server.post(PUBLISH, &token, &body).expect(201).json();
        assert_eq!(receipt["topic"], example["type"]);

        // Brought as a CloudEvent, its id, time and subject stay, and it comes back as it was.
        let call = server.call("POST", "/v1/cloudevents").bearer(&token);
        let call = call.header("Content-Type", "application/cloudevents+json");
        let receipt = call.body(example.to_string()).send().expect(201).json();
        let path = format!("/v1/events/{}", receipt["eventId"].as_str().unwrap());
        let event = server.get(&path, &token).expect(200).json();
        assert_eq!(event["schemaversion"], "1.0.0");
        for (name, value) in example.as_object().unwrap() {
            let value = if name == "tenantid" {
                &json!(tenant)
            } else {
                value
            };
            assert_eq!(&event[name], value, "{name}");
        }
    };
    check(&sent(), "tenant-uuid", "tenant-uuid");
    let tenant = "00000000-0000-0000-0000-000000000001";
    check(&listed(), tenant, "listing:listing-uuid");
}

#[test]
fn only_the_sender_publishes_and_only_what_fits_while_it_is_enforced() {
    let server = Server::start();
    apply(&server, "cpaas", CPAAS);
    let good = json!({ "type": SENT, "data": sent()["data"] });
    let own = sender(&server, "cpaas-orchestrator-svc");
    server.post(PUBLISH, &own, &good).expect(201);

    let refused = server.post(PUBLISH, &server.crm("acme"), &good);
    let detail = refused.problem(403, "EVENT_PUBLISH_FORBIDDEN")["detail"].clone();
    let detail = detail.as_str().unwrap();
    assert!(
        detail.contains("'cpaas'") && detail.contains("'cpaas-orchestrator-svc'"),
        "{detail}"
    );
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let key = |module: Option<&str>| {
        let body = json!({ "name": "k", "scopes": ["publish:eventzr.**"], "module": module });
        let made = server.post("/v1/api-keys", &admin, &body);
        made.expect(201).json()["key"].as_str().unwrap().to_owned()
    };
    let (of_sender, of_other, of_none) = (
        key(Some("cpaas-orchestrator-svc")),
        key(Some("crm")),
        key(None),
    );
    server.post(PUBLISH, &of_sender, &good).expect(201);
    for token in [of_other, of_none, admin.clone()] {
        let refused = server.post(PUBLISH, &token, &good);
        refused.problem(403, "EVENT_PUBLISH_FORBIDDEN");
    }

    let mut bad = good.clone();
    bad["data"]["cost_usd"] = json!("much");
    bad["data"].as_object_mut().unwrap().remove("messageId");
    let problem = server.post(PUBLISH, &own, &bad);
    let problem = problem.problem(422, "EVENT_SCHEMA_VIOLATION");
    let errors = problem["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{problem}");
    let cost = errors.iter().find(|one| one["path"] == "/cost_usd");
    let cost = cost.unwrap_or_else(|| panic!("{problem}"));
    assert_eq!(
        (&cost["expected"], &cost["got"]),
        (&json!("number"), &json!("string"))
    );
    assert!(
        errors.iter().any(|one| one["got"] == "nothing"),
        "{problem}"
    );
    assert!(problem["path"].is_string() && problem["expected"].is_string());
    assert!(!problem.to_string().contains("much"), "{problem}");
    let explained = server.post(EXPLAIN, &own, &bad).expect(200).json();
    let last = explained["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["step"], &last["code"]),
        (&json!("contract"), &json!("EVENT_SCHEMA_VIOLATION"))
    );
    assert_eq!(last["errors"].as_array().unwrap().len(), 2, "{last}");
    assert!(last["path"].is_string() && last["got"].is_string());
    let batch = json!({ "events": [good, bad] });
    let refused = server.post(crate::harness::BATCH, &own, &batch);
    let refused = refused.problem(422, "EVENT_SCHEMA_VIOLATION");
    assert_eq!(refused["errors"][0]["index"], 1, "{refused}");
    assert!(refused["errors"][0]["path"].is_string(), "{refused}");

    let call = server.call("POST", "/v1/cloudevents").bearer(&own);
    let mut foreign = sent();
    foreign["source"] = json!("another-svc");
    let call = call.header("Content-Type", "application/cloudevents+json");
    let refused = call.body(foreign.to_string()).send();
    let refused = refused.problem(422, "EVENT_SCHEMA_VIOLATION");
    assert_eq!(refused["field"], "source");
}

#[test]
fn without_enforcement_manifests_decide_and_the_topic_stays() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let document = small("crm.contact.created").to_string();
    let path = "/v1/catalogs/small";
    let token = server.crm("acme");
    let any = json!({ "type": "crm.contact.created", "data": { "count": -1 } });
    let loose = put(
        &server,
        &format!("{path}?enforce=false"),
        &operator,
        &document,
    );
    assert_eq!(loose.expect(200).json()["enforce"], false);
    let receipt = server.post(PUBLISH, &token, &any).expect(201).json();
    assert_eq!(receipt["topic"], "crm.contact.created");
    // Binary: the value is the data alone.
    let explained = server.post(EXPLAIN, &token, &any).expect(200).json();
    assert_eq!(explained["envelope"], any["data"]);
    let shop = sender(&server, "shop");
    let refused = server.post(PUBLISH, &shop, &any);
    refused.problem(403, "EVENT_PUBLISH_FORBIDDEN");

    let tight = put(&server, path, &operator, &document).expect(200).json();
    assert_eq!(
        (&tight["changed"], &tight["revision"]),
        (&json!(true), &json!(2))
    );
    let refused = server.post(PUBLISH, &token, &any);
    let refused = refused.problem(422, "EVENT_SCHEMA_VIOLATION");
    assert_eq!(refused["path"], "/count");
    assert_eq!(
        (&refused["expected"], &refused["got"]),
        (&json!("at least 0"), &json!("integer"))
    );
    let other = json!({ "type": "crm.contact.updated", "data": {} });
    let receipt = server.post(PUBLISH, &token, &other).expect(201).json();
    assert_eq!(receipt["topic"], "platform.data.events");

    let gone = server.call("DELETE", path).bearer(&operator);
    gone.send().expect(204);
    let receipt = server.post(PUBLISH, &token, &any).expect(201).json();
    assert_eq!(receipt["topic"], "platform.data.events");
    let again = server.call("DELETE", path).bearer(&operator).send();
    again.problem(404, "NOT_FOUND");
    server.get(path, &token).problem(404, "NOT_FOUND");
    // What was written before reads back: topic of its own, binary.
    assert_eq!(server.count(&token), 3);
}

#[test]
fn a_catalogue_is_given_out_as_it_came_and_listed_and_told_of() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    let path = "/v1/catalogs/cpaas";
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    for token in [&server.crm("acme"), &admin] {
        put(&server, path, token, CPAAS).problem(403, "FORBIDDEN");
    }
    let first = put(&server, path, &registry, CPAAS).expect(200).json();
    assert_eq!(
        (&first["changed"], &first["revision"]),
        (&json!(true), &json!(1))
    );
    let again = put(&server, path, &operator, CPAAS).expect(200).json();
    assert_eq!(
        (&again["changed"], &again["revision"]),
        (&json!(false), &json!(1))
    );
    let given = server.get(path, &server.crm("acme")).expect(200);
    assert_eq!(given.header("content-type"), Some("application/yaml"));
    assert_eq!(given.text(), CPAAS);
    let small = small("shop.order.placed").to_string();
    apply(&server, "small", &small);
    let given = server.get("/v1/catalogs/small", &admin).expect(200);
    assert_eq!(given.header("content-type"), Some("application/json"));
    assert_eq!(given.text(), small);

    let list = server.get("/v1/catalogs", &admin).expect(200).json();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["cpaas", "small"]);
    assert_eq!(list["items"][0]["topics"], 7);
    assert_eq!(list["items"][0]["service"], "cpaas-orchestrator-svc");

    // A restart has them in force again.
    let server = server.restart();
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    assert_eq!(server.get("/v1/catalogs", &admin).expect(200).json(), list);
    let operator = server.token(&["--role", "OPERATOR"]);
    let gone = server.call("DELETE", path).bearer(&operator);
    gone.send().expect(204);
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    let told = server
        .get("/v1/events?type=audit.catalog.*", &registry)
        .expect(200)
        .json();
    let told: Vec<_> = told["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["data"])
        .collect();
    let actions: Vec<_> = told.iter().map(|data| &data["action"]).collect();
    assert_eq!(
        actions,
        ["catalog.written", "catalog.written", "catalog.deleted"]
    );
    assert_eq!(told[0]["target"]["id"], "cpaas");
    assert_eq!(told[0]["actor"]["name"], "module-registry");
}

#[test]
fn what_cannot_be_applied_is_refused_with_all_its_faults() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let path = "/v1/catalogs/small";
    let mut wrong = small("shop.order.placed");
    wrong["asyncapi"] = json!("2.6.0");
    wrong["channels"]["two"] = json!({ "address": "Not A Topic" });
    let problem = put(&server, path, &operator, &wrong.to_string());
    let problem = problem.problem(400, "INVALID_REQUEST");
    let paths: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["path"])
        .collect();
    let all = ["/asyncapi", "/channels/two/address", "/channels/two"];
    assert_eq!(paths, all);
    put(&server, path, &operator, "[1, 2").problem(400, "INVALID_REQUEST");
    let kernel = small("auth.user.created").to_string();
    let problem = put(&server, path, &operator, &kernel).problem(400, "INVALID_REQUEST");
    assert!(
        problem["detail"].as_str().unwrap().contains("'iam'"),
        "{problem}"
    );
    put(&server, "/v1/catalogs/Small", &operator, "{}").problem(400, "INVALID_REQUEST");
    let odd = format!("{path}?force=true");
    put(&server, &odd, &operator, "{}").problem(400, "INVALID_REQUEST");
    let call = server.call("PUT", path).bearer(&operator);
    let call = call.header("Content-Type", "text/html").body("<p>");
    call.send().problem(415, "UNSUPPORTED_MEDIA_TYPE");

    apply(&server, "first", &small("shop.order.placed").to_string());
    apply(&server, "same", &small("shop.order.placed").to_string());
    let mut other = small("shop.order.placed");
    other["channels"]["one"]["x-tidings-sender"] = json!("shop");
    let problem = put(&server, path, &operator, &other.to_string());
    let problem = problem.problem(400, "INVALID_REQUEST");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("'first'"),
        "{problem}"
    );
    server.get(path, &operator).problem(404, "NOT_FOUND");
}

/// Else its sender could write there what other events' readers take for theirs.
#[test]
fn no_catalogue_takes_a_topic_that_other_events_go_to() {
    let routes = "[[routes]]\ntypes = ['shop.**']\ntopic = 'shop.all'\nenvelope = 'structured'\n\
                  [[routes]]\ntypes = ['shop.order.placed']\ntopic = 'shop.order.placed'\nenvelope = 'binary'\n";
    let server = Server::start_with(&format!("{ON_ITS_FOLDER}{routes}"));
    let operator = server.token(&["--role", "OPERATOR"]);
    for topic in [
        "platform.data.events",
        "platform.workspace.events",
        "platform.custom.events",
        "platform.custom.events.lifecycle",
        "shop.all",
        "platform.workspace_events",
    ] {
        let document = small(topic).to_string();
        for path in ["/v1/catalogs/small", "/v1/catalogs/small?dryRun=true"] {
            let problem = put(&server, path, &operator, &document).problem(400, "INVALID_REQUEST");
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(&format!("'{topic}' is a topic")),
                "{problem}"
            );
        }
    }
    apply(&server, "small", &small("shop.order.placed").to_string());
    apply(&server, "one", &small("crm.lead_won").to_string());
    let alike = small("crm.lead.won").to_string();
    let problem = put(&server, "/v1/catalogs/other", &operator, &alike);
    let problem = problem.problem(400, "INVALID_REQUEST");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("'crm.lead.won' differs from 'crm.lead_won'"),
        "{problem}"
    );
    apply(&server, "one", &alike);
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let mut document = small("shop.order.placed");
    document["channels"]["one"]["x-tidings-receivers"] = json!(["mail"]);
    apply(&server, "shop", &document.to_string());
    let manifest = json!({
        "id": "ledger", "version": "1.0.0",
        "events": { "publishes": [], "subscribes": ["shop.**"] },
    });
    let call = server.call("PUT", "/v1/modules/ledger/manifest");
    call.bearer(&operator).json(&manifest).send().expect(200);
    let before = server.get("/v1/catalogs/shop", &operator).text();
    document["channels"]["one"]["messages"]["m"]["payload"]["required"] = json!([]);
    let path = "/v1/catalogs/shop?dryRun=true";
    let asked = put(&server, path, &operator, &document.to_string())
        .expect(200)
        .json();
    assert_eq!(
        (&asked["changed"], &asked["dryRun"]),
        (&json!(true), &json!(true))
    );
    let change = &asked["changes"][0];
    assert_eq!(change["type"], "shop.order.placed");
    assert_eq!(
        (&change["path"], &change["breaks"]),
        (&json!("/count"), &json!("receivers"))
    );
    assert_eq!(change["services"], json!(["mail", "ledger"]));
    assert_eq!(server.get("/v1/catalogs/shop", &operator).text(), before);
}

#[test]
fn the_document_of_everything_has_catalogues_and_manifests() {
    let server = Server::start();
    apply(&server, "cpaas", CPAAS);
    apply(&server, "marketplace", MARKETPLACE);
    let document = server
        .get("/asyncapi.json", &server.crm("acme"))
        .expect(200)
        .json();
    let addresses: Vec<&str> = document["channels"]
        .as_object()
        .unwrap()
        .values()
        .map(|channel| channel["address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses.len(), 28, "{addresses:?}");
    assert!(addresses.contains(&SENT) && addresses.contains(&LISTED));
    let messages = &document["channels"]["platform.data.events"]["messages"];
    assert!(messages["crm.contact.created"].is_object(), "{messages}");
    assert!(messages["audit.tenant.written"].is_object(), "{messages}");
    server
        .call("GET", "/asyncapi.json")
        .send()
        .problem(401, "UNAUTHENTICATED");
}
