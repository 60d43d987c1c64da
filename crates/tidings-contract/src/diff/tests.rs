//! What each change of a schema is called, and whom it breaks.

use super::*;

fn catalog(data: &Value) -> Catalog {
    let document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": "t", "version": "1.0.0" },
        "channels": { "a": {
            "address": "shop.order.created.v1",
            "x-tidings-sender": "shop", "x-tidings-receivers": ["mail"],
            "messages": { "m": { "contentType": "application/json", "payload": { "$ref": "#/components/schemas/D" } } },
        }},
        "components": { "schemas": { "D": data, "Money": { "type": "integer" } } },
    });
    Catalog::parse(&document.to_string()).unwrap()
}

#[test]
fn each_rule_names_whom_it_breaks() {
    let base = json!({
        "type": "object", "required": ["id"],
        "properties": { "id": { "type": "string" }, "state": { "enum": ["a", "b"] } },
    });
    let check = |change: &dyn Fn(&mut Value), path: &str, broken: Broken| {
        let mut changed = base.clone();
        change(&mut changed);
        let found = diff(&catalog(&base), &catalog(&changed));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].broken), (path, broken));
    };
    check(
        &|s| s["required"] = json!(["id", "state"]),
        "/state",
        Broken::Senders,
    );
    check(&|s| s["required"] = json!([]), "/id", Broken::Receivers);
    check(
        &|s| s["properties"]["id"]["type"] = json!("integer"),
        "/id",
        Broken::Everybody,
    );
    check(
        &|s| s["properties"]["state"]["enum"] = json!(["a"]),
        "/state",
        Broken::Senders,
    );
    check(
        &|s| s["properties"]["state"]["enum"] = json!(["a", "b", "c"]),
        "/state",
        Broken::Receivers,
    );
    check(
        &|s| s["properties"]["more"] = json!({}),
        "/more",
        Broken::Nobody,
    );
    check(
        &|s| s["properties"]["id"]["pattern"] = json!("^x"),
        "/id",
        Broken::Everybody,
    );
    check(
        &|s| s["properties"]["state"]["items"] = json!({ "type": "string" }),
        "/state/*",
        Broken::Senders,
    );
    let gone = |s: &mut Value| {
        s["properties"].as_object_mut().unwrap().remove("state");
    };
    check(&gone, "/state", Broken::Receivers);
    assert_eq!(diff(&catalog(&base), &catalog(&base)), []);
    let (one, same) = (catalog(&base), catalog(&base));
    let other = catalog(&json!({ "type": "object" }));
    let first = |catalog: &Catalog| catalog.channels.values().next().unwrap().clone();
    assert!(agree(&first(&one), &first(&same)));
    assert!(!agree(&first(&one), &first(&other)));
}

#[test]
fn schemas_that_are_referred_to_are_compared_once_wherever_they_stand() {
    let with = |data: &Value, money: &Value, tree: &Value| {
        let mut document = catalog(&json!({})).document;
        let schemas = &mut document["components"]["schemas"];
        *schemas = json!({ "D": data, "Money": money, "Tree": tree });
        Catalog::parse(&document.to_string()).unwrap()
    };
    let tree = |depth: &str| {
        let own = json!({ "$ref": "#/components/schemas/Tree" });
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut members: Map<String, Value> = names
            .map(|name| (name.to_owned(), own.clone()))
            .into_iter()
            .collect();
        members.insert("depth".into(), json!({ "type": depth }));
        json!({ "properties": members })
    };
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    let (few, many) = (tree("integer"), tree("string"));
    let both = json!({ "allOf": [{ "$ref": "#/components/schemas/Money" }],
        "anyOf": [{ "$ref": "#/components/schemas/Tree" }] });
    let check = |data: &Value, new: (&Value, &Value), path: &str, detail: &str| {
        let (old, new) = (with(data, &text, &few), with(data, new.0, new.1));
        let found = diff(&old, &new);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].path.as_str(), found[0].detail.as_str()),
            (path, detail)
        );
        assert_eq!(found[0].broken, Broken::Everybody);
    };
    check(&both, (&number, &few), "", "its type is another");
    check(&both, (&text, &many), "", "its anyOf is another");
    let own = json!({ "$ref": "#/components/schemas/Tree" });
    check(&own, (&text, &many), "/depth", "its type is another");
}

#[test]
fn what_stands_beside_a_reference_is_compared_too() {
    let with =
        |money: &Value| catalog(&json!({ "type": "object", "properties": { "price": money } }));
    let reference = json!({ "$ref": "#/components/schemas/Money" });
    let beside = |keyword: &str, value: Value| {
        let mut money = reference.clone();
        money[keyword] = value;
        money
    };
    let check = |old: &Value, new: &Value, expected: &[(&str, Broken)]| {
        let found = diff(&with(old), &with(new));
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.detail.as_str(), it.broken))
            .collect();
        assert_eq!(found, expected, "{old} {new}");
    };
    let (few, more) = (beside("enum", json!([1])), beside("enum", json!([1, 2])));
    let everybody = [("what stands beside its $ref is another", Broken::Everybody)];
    check(&reference, &few, &everybody);
    check(&few, &reference, &everybody);
    check(&few, &more, &[("its values are others", Broken::Receivers)]);
    check(&few, &few, &[]);
    check(&reference, &beside("description", json!("in cents")), &[]);
    check(&reference, &json!({ "type": "integer" }), &[]);
}

#[test]
fn a_subject_and_items_that_come_or_go_are_changes() {
    let plain = catalog(&json!({ "type": "array" }));
    let items = catalog(&json!({ "type": "array", "items": { "type": "string" } }));
    let of = |old: &Catalog, new: &Catalog| {
        let found = diff(old, new);
        let found: Vec<_> = found.into_iter().map(|it| (it.path, it.broken)).collect();
        found
    };
    assert_eq!(of(&plain, &items), [("/*".to_owned(), Broken::Senders)]);
    assert_eq!(of(&items, &plain), [("/*".to_owned(), Broken::Receivers)]);
    let mut document = plain.document.clone();
    document["channels"]["a"]["messages"]["m"]["x-tidings-subject"] = json!("{tenantid}");
    let named = Catalog::parse(&document.to_string()).unwrap();
    assert_eq!(of(&plain, &named), [(String::new(), Broken::Receivers)]);
}

#[test]
fn a_schema_that_is_true_or_false_is_compared_as_what_it_says() {
    let with = |member: &Value| catalog(&json!({ "properties": { "a": member } }));
    let check = |old: &Value, new: &Value, expected: &[Broken]| {
        for (old, new, path) in [
            (with(old), with(new), "/a"),
            (catalog(old), catalog(new), ""),
        ] {
            let found = diff(&old, &new);
            let found: Vec<_> = found.iter().map(|it| (&*it.path, it.broken)).collect();
            let expected: Vec<_> = expected.iter().map(|broken| (path, *broken)).collect();
            assert_eq!(found, expected);
            let first = |catalog: &Catalog| catalog.channels.values().next().unwrap().clone();
            assert_eq!(agree(&first(&old), &first(&new)), expected.is_empty());
        }
    };
    let text = json!({ "type": "string" });
    check(&text, &json!(true), &[Broken::Receivers]);
    check(&json!(true), &text, &[Broken::Senders]);
    check(&json!(true), &json!(false), &[Broken::Everybody]);
    check(&json!(false), &json!(true), &[Broken::Everybody]);
    check(&json!(true), &json!({}), &[]);
    check(&json!({ "not": {} }), &json!(false), &[]);
}
