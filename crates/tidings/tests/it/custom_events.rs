//! Source D: what may be registered, and what it becomes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidings_contract::custom::RESERVED_NAMESPACES;

use crate::harness::{Answer, Server};
use crate::workspaces::{admin, put, user};

pub(crate) const REGISTRATIONS: &str = "/v1/events/custom/registrations";
pub(crate) const DRY_RUN: &str = "/v1/events/custom/dry-run";

/// Puts a tenant on a plan; it may register under its own name and under `lettings`.
pub(crate) fn on_plan(server: &Server, tenant: &str, plan: &str) -> String {
    let operator = server.token(&["--role", "OPERATOR"]);
    let body = json!({ "slug": tenant, "plan": plan, "namespaces": [tenant, "lettings"] });
    put(server, &format!("/v1/tenants/{tenant}"), &operator, &body).expect(200);
    admin(server, tenant)
}

/// A published version of `lettings.property.favorited`, as source D has it.
pub(crate) fn favorited(version: &str) -> Value {
    json!({
        "namespace": "lettings",
        "name": "property.favorited",
        "version": version,
        "status": "published",
        "description": "Fired when a customer favorites a property",
        "payloadSchema": {
            "type": "object",
            "properties": {
                "propertyId": { "type": "string", "maxLength": 64 },
                "subjectId": { "type": "string", "maxLength": 64 },
                "favoritedAt": { "type": "string", "format": "date-time" },
            },
            "required": ["propertyId", "subjectId"],
            "additionalProperties": false,
        },
    })
}

pub(crate) fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

pub(crate) fn named(name: &str) -> Value {
    with(favorited("1.0.0"), "name", json!(name))
}

pub(crate) fn patch(server: &Server, token: &str, of: &str, body: &Value) -> Answer {
    let path = format!("{REGISTRATIONS}/{of}");
    server.call("PATCH", &path).bearer(token).json(body).send()
}

fn status(server: &Server, token: &str, version: &str) -> Value {
    let path = format!("{REGISTRATIONS}/lettings/property.favorited/{version}");
    server.get(&path, token).expect(200).json()["status"].clone()
}

/// A registration and its dry run refuse alike, and the first code of both is this one.
fn refused(server: &Server, token: &str, body: &Value, status: u16, code: &str) -> Value {
    let verdict = server.post(DRY_RUN, token, body).expect(200).json();
    let problem = server.post(REGISTRATIONS, token, body);
    let problem = problem.problem(status, code);
    assert_eq!(verdict["valid"], false, "{verdict}");
    let codes = |errors: &Value| -> Vec<String> {
        let errors = errors.as_array().expect("errors").iter();
        errors
            .map(|error| format!("{} {}", error["code"], error["field"]))
            .collect()
    };
    assert_eq!(codes(&verdict["errors"]), codes(&problem["errors"]));
    assert_eq!(verdict["errors"][0]["code"], code);
    problem
}

#[test]
fn a_version_is_registered_read_and_kept() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    let body = with(
        favorited("1.0.0"),
        "payloadExample",
        json!({ "propertyId": "p_1", "subjectId": "s_1" }),
    );
    let verdict = server.post(DRY_RUN, &token, &body).expect(200).json();
    let made = server.post(REGISTRATIONS, &token, &body).expect(201).json();
    assert_eq!(verdict["valid"], true, "{verdict}");
    for (name, value) in [
        (
            "canonicalName",
            "TENANT_CUSTOM:acme:lettings.property.favorited@1.0.0",
        ),
        ("schemaFlavour", "json-schema-2020-12"),
        ("semverBump", "initial"),
        ("status", "published"),
    ] {
        assert_eq!(made[name], value, "{made}");
        assert!(verdict[name] == value || name == "status", "{verdict}");
    }
    assert_eq!(made["schemaHash"].as_str().map(str::len), Some(64));
    assert_eq!(made["schemaHash"], verdict["schemaHash"]);
    assert_eq!(made["payloadSchema"], body["payloadSchema"]);
    assert_eq!(made["payloadExample"], body["payloadExample"]);

    let unread = with(body, "namespace", json!(5));
    let unread = server.post(REGISTRATIONS, &token, &unread);
    let unread = unread.problem(400, "INVALID_REQUEST");
    assert_eq!(unread["field"], "namespace", "{unread}");

    let server = server.restart();
    let one = format!("{REGISTRATIONS}/lettings/property.favorited");
    // Anybody of the tenant may read.
    let reader = user(&server, "acme", "ada");
    let version = format!("{one}/1.0.0");
    assert_eq!(server.get(&version, &reader).expect(200).json(), made);
    let event = server.get(&one, &reader).expect(200).json();
    assert_eq!(event["versions"], json!([made]));
    assert_eq!(event["latestPublished"], "1.0.0");
    for absent in [
        format!("{one}/1.0.1"),
        format!("{one}/x"),
        format!("{REGISTRATIONS}/lettings/other"),
        format!("{REGISTRATIONS}/UPPER/%20"),
    ] {
        let answer = server.get(&absent, &reader);
        answer.problem(404, "event_not_registered");
        let foreign = server.get(&version, &admin(&server, "globex"));
        foreign.problem(404, "event_not_registered");
    }
}

#[test]
fn a_list_has_the_generic_event_and_goes_on_where_it_ended() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    for name in ["zz", "aa"] {
        server.post(REGISTRATIONS, &token, &named(name)).expect(201);
    }
    let in_platform = with(named("late"), "namespace", json!("acme"));
    let draft = with(in_platform, "status", json!("draft"));
    server.post(REGISTRATIONS, &token, &draft).expect(201);
    let names = |query: &str| -> (Vec<String>, Value) {
        let path = format!("{REGISTRATIONS}?{query}");
        let page = server.get(&path, &token).expect(200).json();
        let items = page["items"].as_array().expect("items").iter();
        let text = |item: &Value| format!("{}.{}", item["namespace"], item["name"]);
        let names = items.map(|item| text(item).replace('"', ""));
        (names.collect(), page["nextCursor"].clone())
    };
    let all = [
        "acme.late",
        "lettings.aa",
        "lettings.zz",
        "platformxe.generic",
    ];
    assert_eq!(names(""), (all.map(str::to_owned).to_vec(), Value::Null));
    let (mut read, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let (page, next) = names(&query);
        read.extend(page);
        let Some(next) = next.as_str() else { break };
        query = format!("limit=1&cursor={next}");
    }
    assert_eq!(read, all);
    assert_eq!(names("status=draft").0, ["acme.late"]);
    assert_eq!(names("namespace=platformxe").0, ["platformxe.generic"]);
    assert_eq!(names("namespace=lettings&name=zz").0, ["lettings.zz"]);
    for bad in ["status=new", "limit=0", "limit=101", "cursor=x", "other=1"] {
        let answer = server.get(&format!("{REGISTRATIONS}?{bad}"), &token);
        answer.problem(400, "INVALID_REQUEST");
    }
    // Its own, and the generic one: nothing of another tenant's.
    let other = server.get(REGISTRATIONS, &admin(&server, "globex"));
    let items = other.expect(200).json()["items"].clone();
    assert_eq!(items.as_array().map(Vec::len), Some(1), "{items}");
}

/// Schemas nested so deep.
pub(crate) fn nested(depth: usize) -> Value {
    (1..depth).fold(
        json!({ "type": "string" }),
        |inner, _| json!({ "properties": { "a": inner } }),
    )
}

/// A schema of so many properties.
pub(crate) fn wide(count: usize) -> Value {
    let properties = (0..count).map(|index| (format!("p{index}"), json!({})));
    json!({ "properties": properties.collect::<serde_json::Map<_, _>>() })
}

#[test]
fn every_row_of_the_table_refuses_a_registration_and_its_dry_run_alike() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    server
        .post(REGISTRATIONS, &token, &favorited("1.0.0"))
        .expect(201);
    let mut longer = favorited("1.0.1");
    longer["payloadSchema"]["properties"]["propertyId"]["maxLength"] = json!(65);
    let mut narrower = favorited("1.1.0");
    narrower["payloadSchema"]["properties"]["propertyId"]["maxLength"] = json!(63);
    let generic = with(named("generic"), "namespace", json!("platformxe"));
    let fresh = |schema: Value| with(named("fresh"), "payloadSchema", schema);
    let rows = [
        (
            with(named("aa"), "namespace", json!("Lettings")),
            "invalid_namespace",
        ),
        (
            with(named("aa"), "namespace", json!("events")),
            "reserved_namespace",
        ),
        (
            with(named("aa"), "namespace", json!("sales")),
            "namespace_not_allowed",
        ),
        (named("Favorited"), "invalid_name"),
        (favorited("1.0"), "invalid_version_format"),
        (favorited("1.0.0-rc1"), "invalid_version_format"),
        (generic, "cannot_register_generic_event"),
        (favorited("1.0.0"), "version_already_exists"),
        (favorited("0.9.0"), "version_downgrade"),
        (favorited("1.0.2"), "version_invalid_jump"),
        (favorited("3.0.0"), "version_invalid_jump"),
        (longer, "patch_must_be_byte_equal"),
        (narrower, "minor_must_be_backwards_compatible"),
        (fresh(nested(6)), "schema_too_deep"),
        (fresh(wide(51)), "schema_too_wide"),
        (fresh(json!({ "type": "text" })), "invalid_json_schema"),
        (
            fresh(json!({ "$ref": "https://a.example/s" })),
            "invalid_json_schema",
        ),
        (fresh(json!({ "pattern": "(?=a)" })), "invalid_json_schema"),
        (
            with(named("fresh"), "payloadExample", json!({ "propertyId": 1 })),
            "payload_example_does_not_match_schema",
        ),
    ];
    for (body, code) in rows {
        let problem = refused(&server, &token, &body, 400, code);
        if code == "minor_must_be_backwards_compatible" {
            assert_eq!(problem["path"], "/properties/propertyId/maxLength");
            let example = &problem["counterExample"]["propertyId"];
            assert_eq!(example.as_str().map(str::len), Some(64), "{problem}");
        }
    }
}

#[test]
fn the_caps_may_be_reached_and_all_that_speaks_against_it_is_told() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    // At the caps, and just inside.
    for (name, body) in [("deep", nested(5)), ("wide", wide(50))] {
        let body = with(named(name), "payloadSchema", body);
        server.post(REGISTRATIONS, &token, &body).expect(201);
    }
    // All that speaks against it is told, in the table's order.
    let many = with(
        with(
            favorited("1.3.0"),
            "payloadSchema",
            json!({ "type": "text" }),
        ),
        "name",
        json!("N"),
    );
    let verdict = server.post(DRY_RUN, &token, &many).expect(200).json();
    let codes: Vec<&Value> = verdict["errors"].as_array().unwrap().iter().collect();
    let codes: Vec<&str> = codes.iter().filter_map(|it| it["code"].as_str()).collect();
    assert_eq!(codes, ["invalid_name", "invalid_json_schema"]);
}

#[test]
fn names_hold_to_their_regexes_and_namespaces_of_the_platform_are_closed() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let token = admin(&server, "acme");
    let longest = format!("n{}", "0".repeat(30));
    let grant = |namespaces: &[&str]| {
        let body = json!({ "slug": "acme", "plan": "ENTERPRISE", "namespaces": namespaces });
        put(&server, "/v1/tenants/acme", &operator, &body)
    };
    for never in RESERVED_NAMESPACES.into_iter().chain(["a.b", "Ab", "a"]) {
        let refused = grant(&["ab", never]).problem(400, "INVALID_REQUEST");
        assert_eq!(refused["field"], "namespaces", "{never}");
    }
    grant(&["ab", "a-", "a_9", &longest]).expect(200);
    let in_namespace = |namespace: &str| with(named("made"), "namespace", json!(namespace));
    let verdict = |body: &Value| server.post(DRY_RUN, &token, body).expect(200).json();
    for reserved in RESERVED_NAMESPACES {
        let body = in_namespace(reserved);
        refused(&server, &token, &body, 400, "reserved_namespace");
    }
    for good in ["ab", "a-", "a_9", &longest] {
        let said = verdict(&in_namespace(good));
        assert_eq!(said["valid"], true, "{good}: {said}");
    }
    let too_long = format!("{longest}0");
    for bad in [
        "", "a", "9a", "-a", "_a", "aB", "a.b", "a b", "ä-", "ab\n", &too_long,
    ] {
        let said = verdict(&in_namespace(bad));
        assert_eq!(said["errors"][0]["code"], "invalid_namespace", "{bad:?}");
    }
    let called = |name: &str| with(in_namespace("ab"), "name", json!(name));
    let longest = format!("n{}", ".".repeat(60));
    for good in ["aa", "a.", "a..b", "a-_.9", &longest] {
        let said = verdict(&called(good));
        assert_eq!(said["valid"], true, "{good}: {said}");
    }
    let too_long = format!("{longest}0");
    for bad in [
        "",
        "a",
        ".a",
        "9a",
        "aB",
        "a b",
        "a/b",
        "aa\u{301}",
        "ab\n",
        &too_long,
    ] {
        let said = verdict(&called(bad));
        assert_eq!(said["errors"][0]["code"], "invalid_name", "{bad:?}");
    }
}

#[test]
fn a_plan_has_room_for_so_many_events() {
    let server = Server::start();
    let quota = "registration_quota_exceeded";
    for (tenant, plan, room) in [("acme", "BASIC", 5), ("globex", "PRO", 25)] {
        let token = on_plan(&server, tenant, plan);
        for index in 0..room {
            let status = if index % 2 == 0 { "draft" } else { "published" };
            let body = with(named(&format!("event-{index}")), "status", json!(status));
            server.post(REGISTRATIONS, &token, &body).expect(201);
        }
        let problem = refused(&server, &token, &named("more"), 402, quota);
        assert_eq!(problem["expected"], format!("at most {room} events"));
        // Another version of one that is there needs no room, and archiving makes none.
        let next = with(named("event-1"), "version", json!("1.1.0"));
        server.post(REGISTRATIONS, &token, &next).expect(201);
        let archive = json!({ "status": "archived" });
        patch(&server, &token, "lettings/event-1/1.1.0", &archive).expect(200);
        refused(&server, &token, &named("more"), 402, quota);
        on_plan(&server, tenant, "ENTERPRISE");
        server
            .post(REGISTRATIONS, &token, &named("more"))
            .expect(201);
    }
    let token = on_plan(&server, "free", "FREE");
    refused(&server, &token, &named("one"), 402, "plan_upgrade_required");
}

#[test]
fn at_the_edge_of_a_plan_exactly_its_room_is_taken() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "BASIC");
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let asking = (0..16).map(|index| {
            let (server, token) = (&server, &token);
            scope.spawn(move || {
                let body = named(&format!("event-{index}"));
                server.post(REGISTRATIONS, token, &body).status
            })
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let count = |status: u16| outcomes.iter().filter(|it| **it == status).count();
    assert_eq!((count(201), count(402)), (5, 11), "{outcomes:?}");
    // One version, asked for by many at once, is registered once.
    let outcomes: BTreeSet<u16> = std::thread::scope(|scope| {
        let again = with(named("event-x"), "namespace", json!("globex"));
        on_plan(&server, "globex", "PRO");
        let token = admin(&server, "globex");
        let asking = (0..8).map(|_| {
            let (server, token, again) = (&server, token.clone(), again.clone());
            scope.spawn(move || server.post(REGISTRATIONS, &token, &again).status)
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(outcomes, BTreeSet::from([201, 400]));
}

#[test]
fn on_basic_the_latest_version_alone_is_in_force() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "BASIC");
    let register = |version: &str, status: &str| {
        let body = with(favorited(version), "status", json!(status));
        server.post(REGISTRATIONS, &token, &body)
    };
    register("1.0.0", "published").expect(201);
    register("1.1.0", "draft").expect(201);
    assert_eq!(status(&server, &token, "1.0.0"), "published");
    register("1.2.0", "published").expect(201);
    assert_eq!(status(&server, &token, "1.0.0"), "superseded");
    // What lies behind the latest is not published any more.
    let publish = json!({ "status": "published" });
    let of = |version: &str| format!("lettings/property.favorited/{version}");
    let late = patch(&server, &token, &of("1.1.0"), &publish);
    late.problem(402, "plan_upgrade_required");
    let back = patch(&server, &token, &of("1.0.0"), &publish);
    back.problem(400, "INVALID_REQUEST");
    let older_line = register("1.0.1", "published");
    older_line.problem(402, "plan_upgrade_required");
    register("2.0.0", "draft").expect(201);
    assert_eq!(status(&server, &token, "1.2.0"), "published");
    patch(&server, &token, &of("2.0.0"), &publish).expect(200);
    assert_eq!(status(&server, &token, "1.2.0"), "superseded");

    let token = on_plan(&server, "globex", "PRO");
    for version in ["1.0.0", "1.1.0", "1.0.1"] {
        let made = server.post(REGISTRATIONS, &token, &favorited(version));
        made.expect(201);
    }
    for version in ["1.0.0", "1.1.0", "1.0.1"] {
        assert_eq!(status(&server, &token, version), "published");
    }
}

#[test]
fn a_version_moves_on_and_its_schema_never_changes() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    let draft = with(favorited("1.0.0"), "status", json!("draft"));
    let made = server
        .post(REGISTRATIONS, &token, &draft)
        .expect(201)
        .json();
    let of = "lettings/property.favorited/1.0.0";
    let change = |body: Value| patch(&server, &token, of, &body);
    let told = change(json!({ "description": "other words" }))
        .expect(200)
        .json();
    assert_eq!(told["description"], "other words");
    assert_eq!(told["schemaHash"], made["schemaHash"]);
    let cleared = change(json!({ "description": null })).expect(200).json();
    assert_eq!(cleared["description"], Value::Null, "{cleared}");
    change(json!({ "description": "other words" })).expect(200);
    for bad in [
        json!({ "payloadSchema": {} }),
        json!({ "version": "1.0.1" }),
        json!({ "status": "superseded" }),
        json!({ "status": "new" }),
        json!({ "description": "x".repeat(2_001) }),
    ] {
        change(bad).problem(400, "INVALID_REQUEST");
    }
    let published = change(json!({ "status": "published" })).expect(200).json();
    assert_eq!(published["status"], "published");
    assert_eq!(published["description"], "other words");
    change(json!({ "status": "published" })).expect(200);
    change(json!({ "status": "draft" })).problem(400, "INVALID_REQUEST");
    change(json!({ "status": "archived" })).expect(200);
    change(json!({ "status": "published" })).problem(400, "INVALID_REQUEST");
    let absent = patch(
        &server,
        &token,
        "lettings/none/1.0.0",
        &json!({ "status": "archived" }),
    );
    absent.problem(404, "event_not_registered");
    let generic = patch(
        &server,
        &token,
        "platformxe/generic/1.0.0",
        &json!({ "status": "archived" }),
    );
    generic.problem(403, "cannot_archive_generic_event");
}

#[test]
fn two_versions_are_compared_place_by_place() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    server
        .post(REGISTRATIONS, &token, &favorited("1.0.0"))
        .expect(201);
    let mut next = favorited("2.0.0");
    next["payloadSchema"]["properties"]["propertyId"]["maxLength"] = json!(8);
    next["payloadSchema"]["properties"]["source"] = json!({ "type": "string" });
    let made = server.post(REGISTRATIONS, &token, &next).expect(201).json();
    assert_eq!(made["semverBump"], "major");
    let one = format!("{REGISTRATIONS}/lettings/property.favorited/diff");
    let diff = |query: &str| server.get(&format!("{one}?{query}"), &token);
    let found = diff("from=1.0.0&to=2.0.0").expect(200).json();
    assert_eq!(found["class"], "major");
    let places = found["differences"].as_array().unwrap().iter();
    let places: Vec<(&str, &str)> = places
        .filter_map(|it| Some((it["pointer"].as_str()?, it["class"].as_str()?)))
        .collect();
    let expected = [
        ("/properties/propertyId/maxLength", "major"),
        ("/properties/source", "minor"),
    ];
    assert_eq!(places, expected);
    assert!(found["counterExample"]["propertyId"].is_string(), "{found}");
    let same = diff("from=2.0.0&to=2.0.0").expect(200).json();
    assert_eq!(
        (&same["class"], &same["differences"]),
        (&Value::Null, &json!([]))
    );
    diff("from=1.0.0&to=1.0").problem(400, "invalid_version_format");
    diff("from=1.0.0").problem(400, "INVALID_REQUEST");
    diff("from=1.0.0&to=1.1.0").problem(404, "event_not_registered");
}

#[test]
fn who_may_register() {
    let server = Server::start();
    let root = on_plan(&server, "acme", "PRO");
    let ada = user(&server, "acme", "ada");
    let operator = server.token(&["--role", "OPERATOR"]);
    let key = |scope: &str| {
        let body = json!({ "name": "ci", "scopes": [scope] });
        let made = server.post("/v1/api-keys", &root, &body).expect(201).json();
        made["key"].as_str().expect("a key").to_owned()
    };
    let (reads, registers) = (key("events:read"), key("events:register"));
    for token in [&ada, &operator, &reads] {
        for path in [REGISTRATIONS, DRY_RUN] {
            let refused = server.post(path, token, &favorited("1.0.0"));
            refused.problem(403, "FORBIDDEN");
        }
        let of = "lettings/property.favorited/1.0.0";
        patch(&server, token, of, &json!({})).problem(403, "FORBIDDEN");
    }
    server
        .get(REGISTRATIONS, &operator)
        .problem(403, "FORBIDDEN");
    let module = server.crm("acme");
    for (token, version) in [(&registers, "1.0.0"), (&module, "1.1.0"), (&root, "1.2.0")] {
        let made = server.post(REGISTRATIONS, token, &favorited(version));
        made.expect(201);
    }
    for token in [&ada, &reads] {
        server.get(REGISTRATIONS, token).expect(200);
    }
}

#[test]
fn large_and_odd_bodies_are_refused() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    let values: Vec<String> = (0..30_000).map(|index| format!("value-{index}")).collect();
    let large = with(named("large"), "payloadSchema", json!({ "enum": values }));
    refused(&server, &token, &large, 400, "schema_too_wide");
    let huge = with(named("huge"), "description", json!("x".repeat(1 << 20)));
    server
        .post(REGISTRATIONS, &token, &huge)
        .problem(400, "INVALID_REQUEST");
    let send = |body: &str| {
        let call = server.call("POST", REGISTRATIONS).bearer(&token);
        let call = call.header("Content-Type", "application/json");
        call.body(body.to_owned()).send()
    };
    let twice = r#"{"namespace":"lettings","name":"twice","version":"1.0.0","payloadSchema":{"type":"object","type":"string"}}"#;
    send(twice).problem(400, "INVALID_JSON");
    send("{}").problem(400, "INVALID_REQUEST");
    let odd = r#"{"namespace":"lettings","name":"odd","version":"1.0.0","payloadSchema":{"properties":{"__proto__":{"type":"string"},"":{}}}}"#;
    let made = send(odd).expect(201).text();
    assert!(
        made.contains(r#"{"properties":{"__proto__":{"type":"string"},"":{}}}"#),
        "{made}"
    );
}
