//! Catalogues that hold together, and what is said of others.

use super::*;

const CPAAS: &str = include_str!("../../../../examples/catalogs/cpaas.asyncapi.yaml");
const MARKETPLACE: &str = include_str!("../../../../examples/catalogs/marketplace.asyncapi.yaml");

#[test]
fn the_shipped_catalogues_hold_together() {
    for (text, service, sent, received) in [
        (CPAAS, "cpaas-orchestrator-svc", 5, 2),
        (MARKETPLACE, "marketplace-svc", 12, 6),
    ] {
        let catalog = Catalog::parse(text).unwrap();
        let of = |test: &dyn Fn(&Channel) -> bool| {
            catalog.channels.values().filter(|one| test(one)).count()
        };
        assert_eq!(of(&|one| one.sender.as_deref() == Some(service)), sent);
        assert_eq!(
            of(&|one| one.receivers.iter().any(|it| it == service)),
            received
        );
        assert!(
            catalog
                .channels
                .values()
                .all(|one| !one.binary && one.sender.is_some())
        );
    }
}

#[test]
fn the_shipped_catalogues_refuse_nothing_that_the_sources_do_not() {
    let catalogs = [CPAAS, MARKETPLACE].map(|text| Catalog::parse(text).unwrap());
    let accepts = |topic: &str, data: Value| {
        let event_type: EventType = topic.parse().unwrap();
        let mut all = catalogs.iter();
        let channel = all.find_map(|it| it.channels.get(&event_type)).unwrap();
        channel.contract.accepts(&data)
    };
    let message = |status: &str, channel: &str, provider: &str| {
        json!({
            "tenantId": "t", "messageId": "m", "recipient": "r",
            "status": status, "channel": channel, "provider": provider,
        })
    };
    for (topic, data) in [
        ("requested", message("QUEUED", "PUSH", "Twilio")),
        ("failed", message("UNDELIVERABLE", "SMS", "TWILIO")),
    ] {
        let topic = format!("eventzr.cpaas.communication.{topic}.v1");
        assert!(accepts(&topic, data), "{topic}");
        assert!(!accepts(&topic, json!({ "tenantId": 7 })), "{topic}");
    }
    for (topic, data) in [
        (
            "eventzr.marketplace.order.cancelled.v1",
            json!({ "id": "o", "cancellationReason": "late", "refundStatus": "refunded" }),
        ),
        (
            "eventzr.marketplace.quote.submitted.v1",
            json!({ "id": "q", "listingId": "l", "amount": 5, "message": "" }),
        ),
        (
            "eventzr.marketplace.dispute.opened.v1",
            json!({ "id": "d", "orderId": "o", "reason": "r", "evidence": "a letter" }),
        ),
        (
            "eventzr.marketplace.rfp.broadcast.v1",
            json!({ "id": "r", "requirements": { "guests": 9 }, "targetLanes": [], "deadline": "2026-03-02T12:00:00Z" }),
        ),
        ("eventzr.event.created.v1", json!({ "id": "e" })),
        (
            "eventzr.reviews.review.created.v1",
            json!({ "id": "r", "rating": 0 }),
        ),
    ] {
        assert!(accepts(topic, data), "{topic}");
        assert!(!accepts(topic, json!({})), "{topic}");
    }
}

#[test]
fn parameters_of_a_content_type_change_no_envelope() {
    for (content_type, structured) in [
        ("application/cloudevents+json; charset=utf-8", true),
        ("Application/CloudEvents+JSON", true),
        ("application/cloudevents-batch+json", false),
        ("application/json", false),
    ] {
        assert_eq!(is_structured(content_type), structured, "{content_type}");
    }
}

#[test]
fn a_subject_is_made_from_tenant_and_data() {
    let subject = Subject::parse("listing:{data.id}").unwrap();
    assert_eq!(
        subject.of("acme", &json!({ "id": "7" })).as_deref(),
        Some("listing:7")
    );
    assert_eq!(subject.of("acme", &json!({})), None);
    assert_eq!(
        Subject::parse("{tenantid}")
            .unwrap()
            .of("acme", &json!({}))
            .as_deref(),
        Some("acme")
    );
    assert_eq!(subject.of("acme", &json!({ "id": "a\nb" })), None);
    assert!(Subject::parse("{secret}").is_none());
}

#[test]
fn a_schema_stands_alone_with_what_it_refers_to_and_no_more() {
    let document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": "t", "version": "1.0.0" },
        "channels": { "a": { "address": "shop.order.placed", "messages": { "m": {
            "contentType": "application/json", "payload": { "$ref": "#/components/schemas/A" },
        } } } },
        "components": { "schemas": {
            "A": { "properties": { "self": { "$ref": "#/components/schemas/A" },
                "x": { "$ref": "#/components/schemas/B~1b/properties/n" } } },
            "B/b": { "properties": { "n": { "type": "integer" } } },
            "C": { "type": "string" },
        } },
    });
    let catalog = Catalog::parse(&document.to_string()).unwrap();
    let channel = catalog.channels.values().next().unwrap();
    let schemas = channel.schema["components"]["schemas"].as_object().unwrap();
    assert_eq!(schemas.keys().collect::<Vec<_>>(), ["A", "B/b"]);
    let found = channel
        .contract
        .check(&json!({ "self": { "self": { "x": "1" } } }));
    assert_eq!(found[0].path, "/self/self/x");
}

#[test]
fn a_document_that_was_taken_is_read_again_whatever_its_names() {
    let mut document: Value = serde_saphyr::from_str(CPAAS).unwrap();
    document["channels"]["smsInbound"]["x-tidings-sender"] = json!("Bad Name");
    let text = document.to_string();
    assert!(Catalog::parse(&text).is_err());
    assert_eq!(Catalog::recorded(&text).unwrap().channels.len(), 7);
}

#[test]
fn all_faults_of_a_channel_are_named_at_once() {
    let document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": "t", "version": "1.0.0" },
        "channels": {
            "a": { "address": "Not A Topic", "x-tidings-sender": "Bad Name", "messages": { "m": {
                "contentType": "application/json", "x-tidings-subject": "{x}",
                "payload": { "type": "string" }, "examples": [{ "payload": 1 }],
            } } },
            "b": { "x-tidings-receivers": 1, "messages": {} },
            "c": { "address": "shop.order.placed", "messages": { "m": {
                "contentType": "application/json", "x-tidings-subject": "{x}", "payload": { "type": 1 },
            } } },
        },
    });
    let faults = Catalog::parse(&document.to_string()).unwrap_err();
    let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "/channels/a/address",
            "/channels/a/x-tidings-sender",
            "/channels/a/messages/m/x-tidings-subject",
            "/channels/a/messages/m/examples/0/payload/data",
            "/channels/b",
            "/channels/b/x-tidings-receivers",
            "/channels/b",
            "/channels/c/messages/m/x-tidings-subject",
            "/channels/c/messages/m/payload",
        ]
    );
}

#[test]
fn faults_name_their_places() {
    let check = |change: &dyn Fn(&mut Value), place: &str| {
        let mut document: Value = serde_saphyr::from_str(CPAAS).unwrap();
        change(&mut document);
        let faults = Catalog::parse(&document.to_string()).unwrap_err();
        assert!(
            faults.iter().any(|fault| fault.place == place),
            "{place}: {faults:?}"
        );
    };
    check(
        &|document| document["asyncapi"] = json!("2.6.0"),
        "/asyncapi",
    );
    check(&|document| document["info"] = json!({}), "/info/title");
    check(
        &|document| document["channels"]["smsInbound"]["address"] = json!("Not A Topic"),
        "/channels/smsInbound/address",
    );
    check(
        &|document| document["channels"]["smsInbound"]["messages"] = json!({}),
        "/channels/smsInbound",
    );
    check(
        &|document| document["components"]["schemas"]["X"] = json!({ "$ref": "http://x/y" }),
        "/components/schemas/X/$ref",
    );
    check(
        &|document| {
            document["components"]["messages"]["smsInbound"]["x-tidings-subject"] = json!("{x}");
        },
        "/channels/smsInbound/messages/smsInbound/x-tidings-subject",
    );
    // What no gateway would take, or no module could be called.
    check(
        &|document| document["channels"]["smsInbound"]["address"] = json!("auth.user.created"),
        "/channels/smsInbound/address",
    );
    for name in ["Bad Name", ""] {
        check(
            &|document| document["channels"]["smsInbound"]["x-tidings-sender"] = json!(name),
            "/channels/smsInbound/x-tidings-sender",
        );
        check(
            &|document| document["info"]["x-tidings-service"] = json!(name),
            "/info/x-tidings-service",
        );
    }
    // What would leave a channel without its sender, or its contract.
    let dangling = json!({ "$ref": "#/channels/none" });
    check(
        &|document| document["operations"]["publishSent"]["channel"] = dangling.clone(),
        "/operations/publishSent/channel",
    );
    check(
        &|document| document["operations"]["publishSent"]["action"] = json!("publish"),
        "/operations/publishSent/action",
    );
    check(
        &|document| document["channels"]["smsInbound"]["x-tidings-sender"] = json!(["sms"]),
        "/channels/smsInbound/x-tidings-sender",
    );
    check(
        &|document| {
            let info = document["info"].as_object_mut().unwrap();
            info.remove("x-tidings-service");
            let channel = document["channels"]["communicationSent"].as_object_mut();
            channel.unwrap().remove("x-tidings-sender");
        },
        "/channels/communicationSent/x-tidings-sender",
    );
    check(
        &|document| {
            let message = &mut document["components"]["messages"]["smsInbound"];
            message["contentType"] = json!("application/json");
            message["payload"] = json!({ "schemaFormat": "application/schema+json", "schema": {} });
        },
        "/channels/smsInbound/messages/smsInbound/payload",
    );
    assert!(Catalog::parse("[1, 2").is_err());
}

/// A catalogue of one topic whose data is held to the schema `d0` among these.
fn of_schemas(schemas: &Value) -> String {
    json!({
        "asyncapi": "3.0.0", "info": { "title": "t", "version": "1" },
        "channels": { "c": { "address": "a.b", "messages": { "m": {
            "contentType": "application/json", "payload": { "$ref": "#/components/schemas/d0" },
        } } } },
        "components": { "schemas": schemas },
    })
    .to_string()
}

/// Schemas of which each refers to the next, the last to nothing.
fn linked(length: usize, link: impl Fn(Value) -> Value) -> Value {
    let mut schemas = Map::new();
    for index in 0..length {
        let next = format!("#/components/schemas/d{}", index + 1);
        schemas.insert(format!("d{index}"), link(json!({ "$ref": next })));
    }
    schemas.insert(format!("d{length}"), json!({ "type": "object" }));
    Value::Object(schemas)
}

#[test]
fn a_schema_that_takes_for_ever_or_says_nothing_is_refused_and_one_that_stands_holds_up_nobody() {
    let twice = of_schemas(&linked(40, |next| json!({ "allOf": [next.clone(), next] })));
    let ring = json!({
        "d0": { "allOf": [{ "$ref": "#/components/schemas/d1" }] },
        "d1": { "$ref": "#/components/schemas/d0" },
    });
    let long = of_schemas(&linked(20_000, |next| json!({ "items": next })));
    for (text, said) in [
        (&twice, "more than 10000 ways"),
        (&of_schemas(&ring), "in a circle (/components/schemas/d0)"),
        (&long, "256 is the limit"),
    ] {
        let faults = Catalog::parse(text).unwrap_err();
        assert!(faults[0].detail.contains(said), "{faults:?}");
        assert_eq!(faults[0].place, "/channels/c/messages/m/payload");
    }
    let standing = Catalog::recorded(&twice).unwrap();
    let contract = &standing.channels.values().next().unwrap().contract;
    assert!(
        contract.check(&json!({}))[0]
            .detail
            .contains("too many steps")
    );
    assert!(Catalog::recorded(&of_schemas(&ring)).is_ok());
}

#[test]
fn recursion_through_members_is_held_to_as_far_as_it_takes_few_steps() {
    let tree = |properties: Value| {
        let node = json!({ "type": "object", "properties": properties });
        let catalog = Catalog::parse(&of_schemas(&json!({ "d0": node }))).unwrap();
        catalog.channels.values().next().unwrap().contract.clone()
    };
    let nested = |depth: usize| (0..depth).fold(json!({}), |below, _| json!({ "a": below }));
    let node = json!({ "$ref": "#/components/schemas/d0" });
    let once = tree(json!({ "a": node }));
    assert!(once.accepts(&nested(60)));
    assert!(!once.accepts(&json!({ "a": { "a": 1 } })));
    let twice = tree(json!({ "a": { "allOf": [node.clone(), node] } }));
    assert!(twice.accepts(&nested(60)), "the validator remembers");
    let wrong = (0..60).fold(json!(1), |below, _| json!({ "a": below }));
    assert!(
        twice.check(&wrong)[0]
            .detail
            .contains("too large to say where")
    );
}

/// A text of blocks of several kinds, each of which holds others, as editors write it.
#[test]
fn a_tree_of_alternatives_is_held_to_its_schema_in_a_time_that_its_size_bounds() {
    let node = json!({ "$ref": "#/components/schemas/d0" });
    let kinds = [
        "doc", "para", "list", "item", "quote", "bold", "link", "text",
    ];
    let kind = |kind: &&str| {
        json!({
            "required": ["kind"],
            "properties": { "kind": { "const": kind }, "within": { "items": node.clone() } },
        })
    };
    let blocks = json!({ "oneOf": kinds.iter().map(kind).collect::<Vec<_>>() });
    let catalog = Catalog::parse(&of_schemas(&json!({ "d0": blocks }))).unwrap();
    let contract = &catalog.channels.values().next().unwrap().contract;
    let text = |leaf: &str| {
        (0..12).fold(json!({ "kind": leaf }), |below, at: usize| {
            json!({ "kind": kinds[at % kinds.len()], "within": [below.clone(), below] })
        })
    };
    let small = json!({ "kind": "doc", "within": [{ "kind": "text" }, { "kind": "quote" }] });
    assert_eq!(contract.check(&small), []);
    let deep = (0..40).fold(
        json!({ "kind": "text" }),
        |below, _| json!({ "kind": "list", "within": [below] }),
    );
    assert_eq!(contract.check(&deep), []);
    let many = text("text");
    assert!(many.to_string().len() > 150 << 10);
    assert_eq!(contract.check(&many), []);
    let wrong = json!({ "kind": "doc", "within": [{ "kind": "none" }] });
    assert!(!contract.check(&wrong).is_empty());
}

#[test]
fn references_that_are_meant_elsewhere_are_refused() {
    let of = |schema: Value| Catalog::parse(&of_schemas(&json!({ "d0": schema })));
    for (schema, place, said) in [
        (
            json!({ "$id": "https://acme.example/x", "items": { "$ref": "#/$defs/a" }, "$defs": { "a": {} } }),
            "/components/schemas/d0/items/$ref",
            "leave that out",
        ),
        (
            json!({ "items": { "$dynamicRef": "#/components/schemas/d0" } }),
            "/components/schemas/d0/items/$dynamicRef",
            "write $ref",
        ),
        (
            json!({ "items": { "$recursiveRef": "#" } }),
            "/components/schemas/d0/items/$recursiveRef",
            "write $ref",
        ),
    ] {
        let faults = of(schema).unwrap_err();
        assert_eq!(faults[0].place, place);
        assert!(faults[0].detail.contains(said), "{faults:?}");
    }
    let pasted = json!({ "$id": "https://acme.example/x", "type": "object" });
    assert!(of(pasted).is_ok(), "nothing in it refers to anything");
    let both = |next: Value| json!({ "dependencies": { "a": { "allOf": [next.clone(), next] } } });
    let faults = Catalog::parse(&of_schemas(&linked(40, both))).unwrap_err();
    assert!(faults[0].detail.contains("more than 10000 ways"));
}

#[test]
fn examples_are_looked_at_once_and_no_longer_than_anybody_waits() {
    let wrong = json!({ "payload": { "a": 1 } });
    let with_examples = |schemas: &Value, examples: Vec<Value>| {
        let mut document: Value = serde_saphyr::from_str(&of_schemas(schemas)).unwrap();
        document["channels"]["c"]["messages"]["m"]["examples"] = json!(examples);
        document.to_string()
    };
    let object = json!({ "d0": { "properties": { "a": { "type": "string" } } } });
    let text = with_examples(&object, vec![wrong]);
    assert!(Catalog::parse(&text).is_err());
    assert!(Catalog::recorded(&text).is_ok(), "it was taken before");
    let bounds: Vec<Value> = (0..5_000).map(|n| json!({ "minimum": -n })).collect();
    let costly = json!({ "d0": { "items": { "allOf": bounds } } });
    let example = json!({ "payload": vec![1; 100] });
    assert!(Catalog::parse(&with_examples(&costly, vec![example.clone()])).is_ok());
    let faults = Catalog::parse(&with_examples(&costly, vec![example; 100])).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].detail.contains("the document's examples"));
}

#[test]
fn what_is_wrong_with_a_large_text_is_not_said_at_the_price_of_a_copy_for_each_alternative() {
    let objects = vec![json!({ "type": "object" }); 900];
    let catalog = Catalog::parse(&of_schemas(&json!({ "d0": { "anyOf": objects } }))).unwrap();
    let contract = &catalog.channels.values().next().unwrap().contract;
    let said = |bytes| contract.check(&json!("x".repeat(bytes)))[0].detail.clone();
    assert!(said(1 << 20).contains("too large to say where"));
    assert!(!said(10).contains("too large"));
}

/// Threads that answer requests have stacks of 2 MiB.
#[test]
fn the_longest_chain_of_schemas_fits_the_stack_of_a_thread() {
    let mut schemas = linked(124, |next| json!({ "allOf": [next] }));
    let again = json!({ "$ref": "#/components/schemas/d0" });
    schemas["d124"] = json!({ "type": "object", "properties": { "a": again } });
    let catalog = Catalog::parse(&of_schemas(&schemas)).unwrap();
    let contract = catalog.channels.values().next().unwrap().contract.clone();
    let held = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let nested = |leaf: Value| json!({ "a": { "a": leaf } });
            (
                contract.check(&nested(json!({}))),
                contract.check(&nested(json!(1))),
            )
        });
    let (good, bad) = held.unwrap().join().unwrap();
    println!("{good:?} {bad:?}");
    assert!(!bad.is_empty());
}

#[test]
fn a_change_behind_many_references_is_found() {
    let mut schemas = linked(100, |next| next);
    let old = Catalog::parse(&of_schemas(&schemas)).unwrap();
    schemas["d100"]["type"] = json!("array");
    let new = Catalog::parse(&of_schemas(&schemas)).unwrap();
    assert_eq!(crate::diff(&old, &new).len(), 1);
    assert!(crate::diff(&old, &old).is_empty());
}
