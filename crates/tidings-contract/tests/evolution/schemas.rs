//! Schemas that hit the cases where versions go wrong, what somebody might make of them, and payloads near both.

use serde_json::{Map, Value, json};

use crate::choices::Choices;

const NAMES: [&str; 4] = ["a", "b", "c", "x-d"];
const PATTERNS: [&str; 3] = ["^x-", "^[ab]$", "c"];
const FORMATS: [&str; 4] = ["date", "uuid", "ipv4", "email"];
const TYPES: [&str; 7] = [
    "string", "integer", "number", "boolean", "null", "array", "object",
];

fn constant(choices: &mut Choices<'_>) -> Value {
    let values = [
        json!("a"),
        json!("bc"),
        json!(1),
        json!(2.5),
        json!(1.0),
        json!(true),
        json!(false),
        Value::Null,
        json!([]),
        json!(["a"]),
        json!({}),
        json!({ "a": 1 }),
        json!(""),
        json!(0),
        json!(6),
    ];
    choices.one(&values).clone()
}

/// A schema at most so many levels deep.
pub(crate) fn schema(choices: &mut Choices<'_>, levels: usize) -> Value {
    if choices.once_in(12) {
        return Value::Bool(choices.below(4) != 0);
    }
    let kinds = if levels > 0 { 10 } else { 5 };
    match choices.below(kinds) {
        0 => number(choices),
        1 => text(choices),
        2 => json!({ "const": constant(choices) }),
        3 => json!({ "enum": values(choices) }),
        4 => typed(choices),
        5 | 6 => object(choices, levels - 1),
        7 => array(choices, levels - 1),
        8 => combined(choices, levels - 1),
        _ => referring(choices, levels - 1),
    }
}

fn values(choices: &mut Choices<'_>) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for _ in 0..=choices.below(4) {
        let value = constant(choices);
        // Equal numbers of different spelling are duplicates to the meta-schema.
        let known = |other: &Value| {
            *other == value || (other.is_number() && other.as_f64() == value.as_f64())
        };
        if !values.iter().any(known) {
            values.push(value);
        }
    }
    values
}

fn typed(choices: &mut Choices<'_>) -> Value {
    if choices.once_in(2) {
        return json!({ "type": choices.one(&TYPES) });
    }
    let (one, other) = (choices.below(TYPES.len()), choices.below(TYPES.len() - 1));
    json!({ "type": [TYPES[one], TYPES[(one + 1 + other) % TYPES.len()]] })
}

fn put(into: &mut Value, keyword: &str, value: impl Into<Value>) {
    into[keyword] = value.into();
}

fn number(choices: &mut Choices<'_>) -> Value {
    let mut made = json!({ "type": choices.one(&["integer", "number"]) });
    let bounds = [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ];
    for keyword in bounds {
        if choices.once_in(3) {
            let values = [
                json!(1),
                json!(2),
                json!(3),
                json!(6),
                json!(0.5),
                json!(2.5),
            ];
            put(&mut made, keyword, choices.one(&values).clone());
        }
    }
    made
}

fn text(choices: &mut Choices<'_>) -> Value {
    let mut made = json!({ "type": "string" });
    for keyword in ["minLength", "maxLength"] {
        if choices.once_in(3) {
            put(&mut made, keyword, choices.below(4));
        }
    }
    if choices.once_in(4) {
        put(&mut made, "pattern", *choices.one(&PATTERNS));
    }
    if choices.once_in(4) {
        put(&mut made, "format", *choices.one(&FORMATS));
    }
    made
}

fn array(choices: &mut Choices<'_>, levels: usize) -> Value {
    let mut made = json!({ "type": "array" });
    for keyword in ["minItems", "maxItems", "minContains", "maxContains"] {
        if choices.once_in(4) {
            put(&mut made, keyword, choices.below(4));
        }
    }
    for keyword in ["items", "contains", "unevaluatedItems"] {
        if choices.once_in(3) {
            put(&mut made, keyword, schema(choices, levels));
        }
    }
    if choices.once_in(3) {
        let tuple: Vec<Value> = (0..=choices.below(2))
            .map(|_| schema(choices, levels))
            .collect();
        put(&mut made, "prefixItems", tuple);
    }
    if choices.once_in(4) {
        put(&mut made, "uniqueItems", true);
    }
    made
}

fn names(choices: &mut Choices<'_>) -> Vec<&'static str> {
    NAMES.into_iter().filter(|_| choices.once_in(3)).collect()
}

fn object(choices: &mut Choices<'_>, levels: usize) -> Value {
    let mut made = json!({ "type": "object", "properties": {} });
    for name in NAMES {
        if choices.once_in(2) {
            made["properties"][name] = schema(choices, levels);
        }
    }
    if choices.once_in(2) {
        put(&mut made, "required", names(choices));
    }
    match choices.below(6) {
        0 | 1 => put(&mut made, "additionalProperties", false),
        2 => put(&mut made, "additionalProperties", schema(choices, levels)),
        3 => put(&mut made, "unevaluatedProperties", false),
        _ => {}
    }
    if choices.once_in(4) {
        let pattern = *choices.one(&PATTERNS);
        put(
            &mut made,
            "patternProperties",
            json!({ pattern: schema(choices, levels) }),
        );
    }
    if choices.once_in(5) {
        let (name, others) = (*choices.one(&NAMES), names(choices));
        put(&mut made, "dependentRequired", json!({ name: others }));
    }
    if choices.once_in(6) {
        let name = *choices.one(&NAMES);
        put(
            &mut made,
            "dependentSchemas",
            json!({ name: schema(choices, levels) }),
        );
    }
    for keyword in ["minProperties", "maxProperties"] {
        if choices.once_in(6) {
            put(&mut made, keyword, choices.below(4));
        }
    }
    if choices.once_in(7) {
        put(&mut made, "propertyNames", text(choices));
    }
    made
}

fn combined(choices: &mut Choices<'_>, levels: usize) -> Value {
    let mut made = if choices.once_in(2) {
        object(choices, levels)
    } else {
        json!({})
    };
    match choices.below(6) {
        0 => put(&mut made, "not", schema(choices, levels)),
        1 => {
            put(&mut made, "if", schema(choices, levels));
            put(&mut made, "then", schema(choices, levels));
            if choices.once_in(2) {
                put(&mut made, "else", schema(choices, levels));
            }
        }
        keyword => {
            let keyword = ["anyOf", "oneOf", "allOf", "oneOf"][keyword - 2];
            let parts: Vec<Value> = (0..=choices.below(3))
                .map(|_| schema(choices, levels))
                .collect();
            put(&mut made, keyword, parts);
        }
    }
    if choices.once_in(4) {
        put(&mut made, "unevaluatedProperties", choices.once_in(2));
    }
    made
}

/// A reference to the definition that every root has.
fn referring(choices: &mut Choices<'_>, levels: usize) -> Value {
    let mut made = if choices.once_in(3) {
        object(choices, levels)
    } else {
        json!({})
    };
    put(&mut made, "$ref", "#/$defs/shared");
    made
}

/// A whole schema. Its definition refers no further.
pub(crate) fn root(choices: &mut Choices<'_>) -> Value {
    let mut made = schema(choices, 2);
    if made.is_boolean() {
        made = json!({ "allOf": [made] });
    }
    made["$defs"] = json!({ "shared": schema(choices, 0) });
    made
}

/// What somebody might make of a schema: one to three changes somewhere in it.
pub(crate) fn evolved(old: &Value, choices: &mut Choices<'_>) -> Value {
    let mut new = old.clone();
    for _ in 0..=choices.below(3) {
        change(&mut new, choices, 3);
    }
    if choices.once_in(6) {
        // The same, behind a reference.
        let mut definitions = new["$defs"].take();
        if let Some(members) = new.as_object_mut() {
            members.remove("$defs");
        }
        definitions["moved"] = new;
        new = json!({ "$defs": definitions, "$ref": "#/$defs/moved" });
    }
    new
}

fn change(at: &mut Value, choices: &mut Choices<'_>, levels: usize) {
    let Some(members) = at.as_object_mut() else {
        *at = schema(choices, levels.saturating_sub(1));
        return;
    };
    let keywords: Vec<String> = members.keys().cloned().collect();
    if keywords.is_empty() {
        *at = schema(choices, levels.saturating_sub(1));
        return;
    }
    let keyword = choices.one(&keywords).clone();
    if choices.once_in(5) && keyword != "$defs" {
        members.remove(&keyword);
        if keyword == "if" {
            members.remove("then");
        }
        return;
    }
    if choices.once_in(5) {
        add(members, choices, levels);
        return;
    }
    let Some(value) = members.get_mut(&keyword) else {
        return;
    };
    alter(&keyword, value, choices, levels);
}

fn alter(keyword: &str, value: &mut Value, choices: &mut Choices<'_>, levels: usize) {
    let below = levels.saturating_sub(1);
    match (keyword, value) {
        ("$defs", Value::Object(parts)) => {
            parts.insert("shared".to_owned(), schema(choices, 0));
        }
        ("properties" | "patternProperties" | "dependentSchemas", Value::Object(parts)) => {
            let names: Vec<String> = parts.keys().cloned().collect();
            if names.is_empty() || choices.once_in(3) {
                parts.insert((*choices.one(&NAMES)).to_owned(), schema(choices, below));
            } else if choices.once_in(4) {
                parts.remove(choices.one(&names));
            } else if let Some(part) = parts.get_mut(choices.one(&names)) {
                change(part, choices, below);
            }
        }
        ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(parts)) => {
            match choices.below(4) {
                0 => parts.push(schema(choices, below)),
                1 if parts.len() > 1 => drop(parts.pop()),
                2 => parts.reverse(),
                _ => {
                    let index = choices.below(parts.len().max(1));
                    if let Some(part) = parts.get_mut(index) {
                        change(part, choices, below);
                    }
                }
            }
        }
        ("enum", Value::Array(listed)) => {
            if choices.once_in(3) && listed.len() > 1 {
                listed.pop();
            } else {
                *listed = [listed.clone(), values(choices)].concat();
                let mut seen: Vec<Value> = Vec::new();
                listed.retain(|value| {
                    let known = seen
                        .iter()
                        .any(|it| it == value || (it.is_number() && it.as_f64() == value.as_f64()));
                    seen.push(value.clone());
                    !known
                });
            }
        }
        ("required", required) => *required = json!(names(choices)),
        ("type", kind) => *kind = typed(choices)["type"].take(),
        ("const", value) => *value = constant(choices),
        ("$ref" | "dependentRequired" | "uniqueItems", _) => {}
        ("pattern", pattern) => *pattern = json!(choices.one(&PATTERNS)),
        ("format", format) => *format = json!(choices.one(&FORMATS)),
        (_, Value::Number(number)) => {
            let moved = number.as_f64().unwrap_or(1.0) + [1.0, -1.0, 2.0][choices.below(3)];
            let moved = moved.max(if keyword == "multipleOf" { 0.5 } else { 0.0 });
            let sizes = keyword.starts_with("min") || keyword.starts_with("max");
            #[expect(clippy::cast_possible_truncation, reason = "small numbers made here")]
            let whole = Value::from(moved as i64);
            let fits = keyword != "multipleOf" || moved >= 1.0;
            if (sizes || moved.fract() == 0.0)
                && fits
                && let Value::Number(whole) = whole
            {
                *number = whole;
            }
        }
        (_, part) => change(part, choices, below),
    }
}

/// A keyword of some new schema is added.
fn add(members: &mut Map<String, Value>, choices: &mut Choices<'_>, levels: usize) {
    let more = schema(choices, levels.saturating_sub(1));
    for (keyword, value) in more.as_object().into_iter().flatten() {
        if choices.once_in(2) {
            members
                .entry(keyword.clone())
                .or_insert_with(|| value.clone());
        }
    }
}

/// A payload for the old schema, with an eye on the new one; the first few are as plain as can be.
pub(crate) fn payload(old: &Value, new: &Value, index: usize, choices: &mut Choices<'_>) -> Value {
    let described = if index.is_multiple_of(4) { new } else { old };
    made(described, described, choices, 6)
}

fn made(of: &Value, root: &Value, choices: &mut Choices<'_>, levels: usize) -> Value {
    let Some(members) = of.as_object().filter(|_| levels > 0) else {
        return constant(choices);
    };
    let target = members
        .get("$ref")
        .and_then(Value::as_str)
        .filter(|_| choices.once_in(2) || members.len() < 3);
    if let Some(target) = target.and_then(|target| root.pointer(target.strip_prefix('#')?)) {
        return made(target, root, choices, levels - 1);
    }
    if choices.once_in(9) {
        return constant(choices);
    }
    if let Some(only) = members.get("const") {
        return only.clone();
    }
    if let Some(Value::Array(values)) = members.get("enum").filter(|it| it != &&json!([])) {
        return choices.one(values).clone();
    }
    for keyword in ["oneOf", "anyOf", "allOf"] {
        if let Some(Value::Array(parts)) = members.get(keyword).filter(|it| it != &&json!([]))
            && (members.len() < 3 || choices.once_in(2))
        {
            return made(choices.one(parts), root, choices, levels - 1);
        }
    }
    let kind = match members.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => choices.one(kinds).as_str().unwrap_or_default().to_owned(),
        _ => (*choices.one(&TYPES)).to_owned(),
    };
    match kind.as_str() {
        "integer" => json!(*choices.one(&[0, 1, 2, 3, 4, 6, 12, -1])),
        "number" => choices
            .one(&[
                json!(0.5),
                json!(2.5),
                json!(3),
                json!(6),
                json!(1.0),
                json!(5.0),
            ])
            .clone(),
        "string" => json!(choices.one(&[
            "",
            "a",
            "b",
            "c",
            "ab",
            "x-d",
            "abc",
            "x-abc",
            "2024-05-01",
            "192.0.2.1",
            "a@b.example",
            "2eb8aa08-aa98-11ea-b4aa-73b441d16380",
            "abcdef",
        ])),
        "boolean" => json!(choices.once_in(2)),
        "null" => Value::Null,
        "array" => items(members, root, choices, levels),
        _ => parts(members, root, choices, levels),
    }
}

fn items(of: &Map<String, Value>, root: &Value, choices: &mut Choices<'_>, levels: usize) -> Value {
    let none = Vec::new();
    let tuple = of
        .get("prefixItems")
        .and_then(Value::as_array)
        .unwrap_or(&none);
    let length = if choices.once_in(2) {
        tuple.len()
    } else {
        choices.below(4)
    };
    let rest = ["items", "contains", "unevaluatedItems"]
        .into_iter()
        .find_map(|it| of.get(it));
    let anything = json!({});
    (0..length)
        .map(|at| {
            let described = tuple.get(at).or(rest).unwrap_or(&anything);
            made(described, root, choices, levels - 1)
        })
        .collect()
}

fn parts(of: &Map<String, Value>, root: &Value, choices: &mut Choices<'_>, levels: usize) -> Value {
    let mut object = Map::new();
    let required = of.get("required").cloned().unwrap_or_default();
    let anything = json!({});
    for name in NAMES.into_iter().chain(["other", "ca"]) {
        let needed = required
            .as_array()
            .is_some_and(|names| names.iter().any(|it| it == name));
        let described = of.get("properties").and_then(|it| it.get(name));
        let odds = if described.is_some() { 2 } else { 6 };
        if needed || choices.once_in(odds) {
            let described = described
                .or_else(|| of.get("additionalProperties"))
                .unwrap_or(&anything);
            object.insert(name.to_owned(), made(described, root, choices, levels - 1));
        }
    }
    Value::Object(object)
}
