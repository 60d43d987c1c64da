//! Filters on events, and why they do not hold.

use serde_json::json;
use tidings_event::json::RawJson;
use tidings_event::{Attribute, Data, Event};
use uuid::Uuid;

use super::*;

fn event() -> Event {
    let data = r#"{"amount":500,"deal":{"id":"d-1","tags":["a"]},"a/b":1.0,"none":null}"#;
    Event {
        event_id: Uuid::nil(),
        id: "e-1".into(),
        source: "/shop/7".into(),
        event_type: "crm.deal.closed".parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        schema_version: "1.0.0".parse().unwrap(),
        time: "2026-01-01T00:00:00.000Z".into(),
        received_at_ms: 0,
        traceparent: None,
        subject: Some("deal:d-1".into()),
        data_schema: None,
        data_content_type: Some("application/json".into()),
        extensions: vec![
            ("priority".into(), Attribute::Integer(5)),
            ("urgent".into(), Attribute::Boolean(true)),
        ],
        data: Data::Json(RawJson::parse(data).unwrap().0),
    }
}

/// That the filter holds, or its first unmet clause as `path: expected / got`.
fn check(filter: Value, expected: Result<(), &str>) {
    let parsed = Filter::parse(&filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    let event = event();
    let subject = Subject::new(&event);
    let judged = parsed.judge(&subject);
    assert_eq!(parsed.matches(&subject), judged.is_ok(), "{filter}");
    let judged =
        judged.map_err(|unmet| format!("{}: {} / {}", unmet.path, unmet.expected, unmet.got));
    assert_eq!(
        judged.as_ref().map_err(String::as_str).copied(),
        expected,
        "{filter}"
    );
}

#[test]
fn every_part_must_hold_and_the_first_that_does_not_is_named() {
    check(json!({}), Ok(()));
    check(json!({ "types": ["crm.deal.*", "a.b"] }), Ok(()));
    check(
        json!({ "data": [{ "pointer": "/amount", "ne": 500 }] }),
        Err("data[0].ne: not 500 / 500"),
    );
    check(
        json!({ "types": ["a.b", "c.**"] }),
        Err("types: a.b or c.** / crm.deal.closed"),
    );
    let dialect = |dialect: Value| json!({ "dialects": [dialect] });
    check(
        dialect(json!({ "exact": { "type": "crm.deal.closed", "id": "e-1" } })),
        Ok(()),
    );
    check(
        dialect(json!({ "exact": { "type": "crm.deal" } })),
        Err("dialects[0].exact.type: crm.deal / crm.deal.closed"),
    );
    check(dialect(json!({ "prefix": { "source": "/shop" } })), Ok(()));
    check(dialect(json!({ "suffix": { "subject": "d-1" } })), Ok(()));
    check(
        dialect(json!({ "exact": { "priority": "5", "urgent": "true" } })),
        Ok(()),
    );
    check(
        dialect(json!({ "suffix": { "dataschema": "x" } })),
        Err("dialects[0].suffix.dataschema: x / no such attribute"),
    );
    check(
        dialect(json!({ "not": { "exact": { "dataschema": "x" } } })),
        Ok(()),
    );
    check(
        dialect(json!({ "not": { "exact": { "id": "e-1" } } })),
        Err("dialects[0].not: false / true"),
    );
    check(
        dialect(json!({ "all": [{ "exact": { "id": "e-1" } }, { "prefix": { "id": "x" } }] })),
        Err("dialects[0].all[1].prefix.id: x / e-1"),
    );
    check(
        dialect(json!({ "any": [{ "exact": { "id": "x" } }, { "prefix": { "id": "e" } }] })),
        Ok(()),
    );
    check(
        dialect(json!({ "any": [{ "exact": { "id": "x" } }, { "exact": { "id": "y" } }] })),
        Err("dialects[0].any[0].exact.id: x / e-1"),
    );
    check(
        dialect(json!({ "sql": "priority > 4 AND source LIKE '/shop/%'" })),
        Ok(()),
    );
    check(
        dialect(json!({ "sql": "priority > 5" })),
        Err("dialects[0].sql: priority > 5 / false"),
    );
    check(
        dialect(json!({ "sql": "missing = 1" })),
        Err("dialects[0].sql: missing = 1 / there is no attribute missing"),
    );
}

#[test]
fn data_is_matched_by_pointer() {
    let data = |clause: Value| json!({ "data": [clause] });
    for holds in [
        json!({ "pointer": "/amount", "gte": 500, "lte": 500.0, "gt": -1, "lt": 1e9 }),
        json!({ "pointer": "/amount", "eq": 500.0, "ne": "500" }),
        json!({ "pointer": "/a~1b", "eq": 1 }),
        json!({ "pointer": "/deal/id", "prefix": "d-", "in": ["x", "d-1"], "gt": "d-0" }),
        json!({ "pointer": "/deal/tags/0", "eq": "a" }),
        json!({ "pointer": "/deal", "eq": { "tags": ["a"], "id": "d-1" } }),
        json!({ "pointer": "/missing", "exists": false, "ne": 1 }),
        json!({ "pointer": "/none", "exists": true, "eq": null }),
        json!({ "pointer": "", "exists": true }),
    ] {
        check(data(holds), Ok(()));
    }
    check(
        data(json!({ "pointer": "/amount", "gt": 500 })),
        Err("data[0].gt: 500 / 500"),
    );
    check(
        data(json!({ "pointer": "/missing", "eq": null })),
        Err("data[0].eq: null / nothing there"),
    );
    check(
        data(json!({ "pointer": "/deal/id", "gt": 1 })),
        Err("data[0].gt: 1 / \"d-1\""),
    );
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    let deep = (0..20).fold(
        json!({ "exact": { "id": "x" } }),
        |inner, _| json!({ "not": inner }),
    );
    for (filter, part) in [
        (json!([]), "filter: it must be an object"),
        (json!({ "type": [] }), "type: it is not a member"),
        (json!({ "types": "crm.**" }), "types: it must be a list"),
        (json!({ "types": ["crm.**.x"] }), "types[0]: "),
        (
            json!({ "types": vec!["a.b"; 101] }),
            "types: it may have 100",
        ),
        (
            json!({ "dialects": [{}] }),
            "dialects[0]: it must be an object with one member",
        ),
        (
            json!({ "dialects": [{ "like": {} }] }),
            "dialects[0].like: there is no such dialect",
        ),
        (
            json!({ "dialects": [{ "exact": {} }] }),
            "dialects[0].exact: it must be an object",
        ),
        (
            json!({ "dialects": [{ "exact": { "Id": "1" } }] }),
            "dialects[0].exact.Id: ",
        ),
        (
            json!({ "dialects": [{ "exact": { "id": "" } }] }),
            "dialects[0].exact.id: ",
        ),
        (
            json!({ "dialects": [{ "any": [] }] }),
            "dialects[0].any: it must be a list",
        ),
        (json!({ "dialects": [deep] }), "16 deep"),
        (
            json!({ "dialects": [{ "sql": "a = " }] }),
            "dialects[0].sql: the expression is empty, or ends before it is whole",
        ),
        (
            json!({ "dialects": [{ "sql": "a b" }] }),
            "dialects[0].sql: the expression cannot be read from \"b\" on",
        ),
        (
            json!({ "dialects": [{ "sql": "FOO(1)" }] }),
            "there is no function FOO/1",
        ),
        (
            json!({ "data": [{ "pointer": "amount", "eq": 1 }] }),
            "data[0].pointer: ",
        ),
        (
            json!({ "data": [{ "pointer": "/a~2", "eq": 1 }] }),
            "data[0].pointer: ",
        ),
        (
            json!({ "data": [{ "pointer": "/a" }] }),
            "data[0]: an operator is missing",
        ),
        (
            json!({ "data": [{ "pointer": "/a", "gt": true }] }),
            "data[0].gt: it must be a number",
        ),
        (
            json!({ "data": [{ "pointer": "/a", "like": 1 }] }),
            "data[0].like: there is no such",
        ),
    ] {
        let error = Filter::parse(&filter).unwrap_err().to_string();
        assert!(error.contains(part), "{filter}: {error}");
    }
}

#[test]
fn deep_or_long_expressions_are_refused_and_none_overflows_the_stack() {
    for text in [
        "(".repeat(4_000),
        "NOT ".repeat(1_000) + "TRUE",
        "-".repeat(4_000) + "a",
        "a IN (".repeat(600),
        "ABS(".repeat(1_000),
        "x".repeat(5_000),
    ] {
        assert!(
            crate::cesql::Expression::parse(&text).is_err(),
            "{}",
            &text[..20]
        );
    }
    // Flat ones may be long: they are one level deep each.
    let flat = vec!["a"; 819].join(" OR ");
    assert!(crate::cesql::Expression::parse(&flat).is_ok());
}

#[test]
fn what_all_expressions_of_a_filter_look_at_is_bounded() {
    let mut event = event();
    let long = "a".repeat(4_000);
    event
        .extensions
        .push(("long".into(), Attribute::Text(long)));
    let subject = Subject::new(&event);
    let judged = |dialects: &[String]| {
        let dialects: Vec<_> = dialects.iter().map(|sql| json!({ "sql": sql })).collect();
        let filter = Filter::parse(&json!({ "dialects": [{ "any": dialects }] })).unwrap();
        let judged = filter.judge(&subject);
        assert_eq!(filter.matches(&subject), judged.is_ok());
        judged.map_err(|unmet| unmet.got)
    };
    let too_much = Err("it looks at more than 65536 bytes of text".to_owned());
    let pattern = format!("'%{}b'", "a".repeat(1_900));
    assert_eq!(judged(&[format!("long LIKE {pattern}")]), too_much);
    let texts = vec!["long"; 700].join(",");
    assert_eq!(judged(&[format!("LENGTH(CONCAT({texts})) > 1")]), too_much);
    assert_eq!(
        judged(&[format!(
            "LENGTH(CONCAT_WS(long,{}))> 1",
            vec!["1"; 500].join(",")
        )]),
        too_much
    );
    let equal = vec!["long = 'b'"; 200].join(" OR ");
    assert_eq!(judged(&[equal]), too_much);
    // What one clause has taken the next does not have.
    let one = "long LIKE '%b%'".to_owned();
    let many = |count: usize, last: &str| {
        let mut clauses = vec![one.clone(); count];
        clauses.push(last.to_owned());
        judged(&clauses).is_ok()
    };
    assert!(many(3, "LEFT(long, 2) = 'aa'"));
    assert!(!many(10, "LEFT(long, 2) = 'aa'"));
    // And what could not be looked at excludes nothing by failing.
    let costly = json!({ "sql": format!("long LIKE {pattern}") });
    let filter = json!({ "dialects": [{ "not": costly }] });
    let judged = Filter::parse(&filter).unwrap().judge(&subject).unwrap_err();
    assert_eq!(
        (judged.path.as_str(), judged.got.as_str()),
        ("dialects[0]", "more")
    );
}

#[test]
fn no_filter_holds_for_a_copy_and_the_reason_is_that_it_is_one() {
    let mut copy = event();
    let mark = Attribute::Text("e-0".into());
    copy.extensions.push((COPY_ATTRIBUTE.into(), mark));
    let subject = Subject::new(&copy);
    for filter in [
        json!({}),
        json!({ "types": ["crm.**"] }),
        json!({ "dialects": [{ "sql": "TRUE" }] }),
    ] {
        let filter = Filter::parse(&filter).unwrap();
        assert!(!filter.matches(&subject) && !filter.holds_beside_types(&subject));
        let unmet = filter.judge(&subject).unwrap_err();
        assert_eq!(
            (unmet.path.as_str(), unmet.got.as_str()),
            ("copyof", "the copy of e-0")
        );
    }
}

#[test]
fn the_filter_of_the_documentation_is_one_and_means_what_it_says() {
    let page = include_str!("../../../../docs/deliveries.md");
    let (_, section) = page.split_once("## Which events").unwrap();
    let (_, fenced) = section.split_once("```json\n").unwrap();
    let (filter, _) = fenced.split_once("```").unwrap();
    let filter = Filter::parse(&serde_json::from_str(filter).unwrap()).unwrap();
    let mut event = event();
    event.source = "/shop/7".into();
    let data = r#"{"amount":501,"customer":{"country":"DE"}}"#;
    event.data = Data::Json(RawJson::parse(data).unwrap().0);
    assert!(
        filter.judge(&Subject::new(&event)).is_err(),
        "it has no region"
    );
    event
        .extensions
        .push(("region".into(), Attribute::Text("eu".into())));
    assert_eq!(filter.judge(&Subject::new(&event)), Ok(()));
    let data = r#"{"amount":500,"customer":{"country":"DE"}}"#;
    event.data = Data::Json(RawJson::parse(data).unwrap().0);
    let unmet = filter.judge(&Subject::new(&event)).unwrap_err();
    assert_eq!(unmet.path, "data[0].gt");
}
