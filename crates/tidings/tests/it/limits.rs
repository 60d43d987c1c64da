//! What a loud tenant meets: its rate, its number of streams; and that another tenant meets nothing.

use serde_json::{Value, json};

use crate::events::Stream;
use crate::harness::{BATCH, PUBLISH, Server};

const MODULES: &str = "/v1/modules";
const KEYS: &str = "/v1/api-keys";

#[test]
fn a_tenant_at_its_rate_gets_429_and_another_does_not() {
    let server = Server::start_with("[limits]\nrequests_per_second = 1\nburst = 3\n");
    server.declare("crm", &["crm.contact.created"]);
    let (loud, quiet) = (server.crm("loud"), server.crm("quiet"));
    let event = json!({ "type": "crm.contact.created", "data": {} });
    // Makes the topic: whoever had to wait for that would ask again, which counts.
    server.post(PUBLISH, &quiet, &event).expect(201);
    let answers: Vec<_> = (0..30)
        .map(|number| match number % 3 {
            0 => server.post(PUBLISH, &loud, &event),
            1 => server.post(BATCH, &loud, &json!({ "events": [event] })),
            _ => server.get(MODULES, &loud),
        })
        .collect();
    let (limited, admitted): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 429);
    assert!(admitted.len() >= 3, "the burst is {}", admitted.len());
    assert!(admitted.iter().all(|answer| answer.status < 300));
    assert!(!limited.is_empty(), "30 requests of one second's 1");
    for answer in limited {
        let problem = answer.problem(429, "RATE_LIMITED");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(problem["retryAfter"], 1);
    }
    server.post(PUBLISH, &quiet, &event).expect(201);
    for tenant in [&[][..], &["--tenant", "loud"]] {
        let operator = server.token(&[&["--role", "OPERATOR"], tenant].concat());
        for _ in 0..10 {
            server.get(MODULES, &operator).expect(200);
        }
    }
    // Who is not known is not counted: it is told so before its tenant's rate is asked for.
    server
        .get(MODULES, "nobody")
        .problem(401, "UNAUTHENTICATED");
}

#[test]
fn a_tenant_has_so_many_streams_and_a_place_is_free_when_one_ends() {
    let server = Server::start_with("[limits]\nstreams_per_tenant = 2\n");
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let first = Stream::open(&server, &token, None);
    let _second = Stream::open(&server, &token, None);
    let third = server.get("/v1/events/stream", &token);
    let problem = third.problem(429, "RATE_LIMITED");
    assert!(third.header("retry-after").is_some());
    assert_eq!(problem["limit"], 2);
    drop(Stream::open(&server, &server.crm("other"), None));
    drop(first);
    // The server learns of the end when it next looks; until then it may refuse, and after it must not.
    let begun = std::time::Instant::now();
    while let Err(status) = Stream::ask(&server, &token, None) {
        assert!(status.contains("429"), "{status}");
        assert!(begun.elapsed().as_secs() < 60, "the place is never free");
    }
}

#[test]
fn a_tenant_has_so_many_subscriptions_and_lists_them_page_by_page() {
    let config = "egress.allow_targets = ['127.0.0.1']\n[limits]\nsubscriptions_per_tenant = 3\n";
    let server = Server::start_with(config);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let body = json!({
        "name": "s", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": "http://127.0.0.1:9/" },
    });
    let make = |token: &str| server.post("/v1/subscriptions", token, &body);
    let mut ids: Vec<Value> = Vec::new();
    for _ in 0..3 {
        ids.push(make(&token).expect(201).json()["id"].clone());
    }
    let refused = make(&token);
    assert_eq!(refused.problem(429, "RATE_LIMITED")["limit"], 3);
    assert!(refused.header("retry-after").is_some());
    make(&server.crm("other")).expect(201);

    let page = |query: &str| server.get(&format!("/v1/subscriptions?{query}"), &token);
    let first = page("limit=2").expect(200).json();
    let next = first["nextCursor"]
        .as_str()
        .expect("there are more")
        .to_owned();
    let second = page(&format!("limit=2&cursor={next}")).expect(200).json();
    assert_eq!(second["nextCursor"], Value::Null);
    let items = [&first, &second].map(|page| page["items"].as_array().expect("items"));
    let listed: Vec<Value> = items
        .into_iter()
        .flatten()
        .map(|it| it["id"].clone())
        .collect();
    assert_eq!(listed, ids);
    assert_eq!(
        page("limit=3").expect(200).json()["nextCursor"],
        Value::Null
    );
    page("cursor=nowhere").problem(400, "INVALID_REQUEST");

    let path = format!("/v1/subscriptions/{}", ids[0].as_str().expect("an id"));
    server
        .call("DELETE", &path)
        .bearer(&token)
        .send()
        .expect(204);
    make(&token).expect(201);
}

#[test]
fn a_tenant_has_so_many_api_keys_and_lists_them_page_by_page() {
    let server = Server::start_with("[limits]\napi_keys_per_tenant = 3\n");
    let admin =
        |tenant: &str| server.token(&["--tenant", tenant, "--user", "ada", "--role", "ADMIN"]);
    let acme = admin("acme");
    let body = json!({ "name": "k", "scopes": ["events:read"] });
    let make = |token: &str| server.post(KEYS, token, &body);
    let id = |key: &Value| key["id"].as_str().expect("an id").to_owned();
    let mut ids: Vec<String> = (0..3)
        .map(|_| id(&make(&acme).expect(201).json()))
        .collect();
    let refused = make(&acme);
    assert_eq!(refused.problem(429, "RATE_LIMITED")["limit"], 3);
    assert!(refused.header("retry-after").is_some());
    make(&admin("other")).expect(201);
    let path = format!("{KEYS}/{}", ids[0]);
    let ended = server.call("DELETE", &path).bearer(&acme).send();
    ended.expect(204);
    ids.push(id(&make(&acme).expect(201).json()));
    make(&acme).problem(429, "RATE_LIMITED");

    let operator = server.token(&["--role", "OPERATOR"]);
    for (token, whose) in [(&acme, ""), (&operator, "&tenantId=acme")] {
        let page = |query: &str| server.get(&format!("{KEYS}?{query}{whose}"), token);
        let (mut listed, mut cursor): (Vec<String>, _) = (Vec::new(), String::new());
        for pages in [3, 1] {
            let read = page(&format!("limit=3{cursor}")).expect(200).json();
            let items = read["items"].as_array().expect("items");
            assert_eq!(items.len(), pages);
            listed.extend(items.iter().map(id));
            cursor = format!("&cursor={}", read["nextCursor"].as_str().unwrap_or("none"));
        }
        assert_eq!((listed, &*cursor), (ids.clone(), "&cursor=none"));
        assert_eq!(page("limit=4").json()["nextCursor"], Value::Null);
        page("cursor=nowhere").problem(400, "INVALID_REQUEST");
        page("limit=0").problem(400, "INVALID_REQUEST");
    }
}
