//! CESQL against its public conformance tests, unedited.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use tidings_filter::cesql::{Attributes, Effort, Expression, Kind, Value};

#[derive(Deserialize)]
struct Suite {
    name: String,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    expression: String,
    result: Option<serde_json::Value>,
    error: Option<String>,
    event: Option<BTreeMap<String, serde_json::Value>>,
    event_overrides: Option<BTreeMap<String, serde_json::Value>>,
}

/// The attributes of a case's event.
struct Event(BTreeMap<String, serde_json::Value>);

impl Attributes for Event {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        Some(value(self.0.get(name)?))
    }
}

fn value(json: &serde_json::Value) -> Value<'_> {
    match json {
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(number) => {
            let number = number.as_i64().expect("a whole number");
            Value::Integer(i32::try_from(number).expect("32 bits"))
        }
        serde_json::Value::String(text) => Value::Text(Cow::Borrowed(text)),
        other => panic!("no value of the language: {other}"),
    }
}

/// "If absent, any valid event can be passed": one with every optional attribute.
fn any_event() -> BTreeMap<String, serde_json::Value> {
    let event = serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "/any", "type": "any", "subject": "any",
        "time": "2018-04-26T14:48:09+02:00", "dataschema": "/any", "datacontenttype": "text/plain"
    });
    serde_json::from_value(event).expect("an object")
}

fn kind(name: &str) -> Kind {
    match name {
        "math" => Kind::Math,
        "cast" => Kind::Cast,
        "missingFunction" => Kind::MissingFunction,
        "functionEvaluation" => Kind::FunctionEvaluation,
        "missingAttribute" => Kind::MissingAttribute,
        other => panic!("an error of another kind: {other}"),
    }
}

fn check(case: &Case) -> Result<(), String> {
    let parsed = Expression::parse(&case.expression);
    if case.error.as_deref() == Some("parse") {
        return match parsed {
            Err(_) => Ok(()),
            Ok(expression) => Err(format!("it was read as {expression:?}")),
        };
    }
    let expression = parsed.map_err(|error| error.to_string())?;
    let mut attributes = case.event.clone().unwrap_or_else(any_event);
    attributes.extend(case.event_overrides.clone().unwrap_or_default());
    let event = Event(attributes);
    let (result, fault) = expression.evaluate(&event, &Effort::default());
    let wanted = case.error.as_deref().map(kind);
    let got = fault.as_ref().map(|fault| fault.kind);
    if got != wanted {
        return Err(format!("error {fault:?} instead of {wanted:?}"));
    }
    match &case.result {
        Some(wanted) if result != value(wanted) => Err(format!("{result:?} instead of {wanted}")),
        _ => Ok(()),
    }
}

#[test]
fn every_case_of_the_conformance_tests_passes() {
    let (mut cases, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tck")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let suite: Suite = serde_saphyr::from_str(&text).unwrap();
        for case in &suite.tests {
            cases += 1;
            if let Err(reason) = check(case) {
                failures.push(format!("{}: {}: {reason}", suite.name, case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(cases, 275, "the files hold so many");
}
