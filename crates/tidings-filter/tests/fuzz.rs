//! Whatever stands in a filter and whatever the event: nothing panics, the two ways of asking agree, and the index passes
//! over no filter that holds. Runs a few seconds as a test, and as long as wanted with `make fuzz`.

use bolero::check;
use serde_json::{Value, json};
use tidings_event::json::RawJson;
use tidings_event::{Attribute, Data, Event, TenantId};
use tidings_filter::cesql::{Effort, Expression};
use tidings_filter::{Filter, Index, Subject};
use uuid::Uuid;

const SEGMENTS: [&str; 4] = ["crm", "deal", "closed", "x1"];
const PATTERNS: [&str; 6] = ["crm", "deal", "closed", "*", "**", ""];
const NAMES: [&str; 8] = [
    "type", "source", "subject", "tenantid", "n", "flag", "missing", "Big",
];
const TEXTS: [&str; 10] = [
    "",
    "crm",
    "crm.deal",
    "/shop/7",
    "acme",
    "5",
    "true",
    "é\u{1f600}",
    "a%_b",
    "-2147483648",
];
const NUMBERS: [&str; 8] = [
    "0",
    "-0.0",
    "5",
    "5.0",
    "1e400",
    "18446744073709551615",
    "-9223372036854775808",
    "0.1",
];
const POINTERS: [&str; 8] = ["", "/", "/n", "/a/0", "/a/-", "/a~1b", "/a~2", "n"];
const OPERATORS: [&str; 10] = [
    "eq", "ne", "gt", "gte", "lt", "lte", "in", "exists", "prefix", "like",
];
/// Parts of expressions; in a row they are one now and then.
const TOKENS: [&str; 30] = [
    "n",
    "flag",
    "subject",
    "missing",
    "5",
    "0",
    "-2147483648",
    "2147483648",
    "'crm'",
    "\"é%\"",
    "TRUE",
    "FALSE",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "-",
    "+",
    "*",
    "/",
    "%",
    "=",
    "!=",
    "<=",
    "LIKE '%_'",
    "EXISTS n",
    "IN ('5', 5)",
    "(",
    ")",
    "SUBSTRING('abc', n)",
];

/// A fuzzer's bytes, read as choices.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn of<'t>(&mut self, table: &[&'t str]) -> &'t str {
        table[usize::from(self.next()) % table.len()]
    }

    fn list<T>(&mut self, most: u8, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.next() % (most + 1)).map(|_| item(self)).collect()
    }

    fn value(&mut self, depth: u8) -> Value {
        match self.next() % 8 {
            0 => Value::Null,
            1 => json!(self.next().is_multiple_of(2)),
            2 | 3 => serde_json::from_str(self.of(&NUMBERS)).unwrap_or_default(),
            4 if depth > 0 => json!(self.list(3, |it| it.value(depth - 1))),
            5 if depth > 0 => {
                let members = self.list(3, |it| {
                    let name = it.of(&["n", "a", "a/b", ""]).to_owned();
                    (name, it.value(depth - 1))
                });
                Value::Object(members.into_iter().collect())
            }
            _ => json!(self.of(&TEXTS)),
        }
    }

    fn expression(&mut self) -> String {
        let count = self.next() % 9;
        let tokens: Vec<_> = (0..count).map(|_| self.of(&TOKENS)).collect();
        tokens.join(" ")
    }

    fn dialect(&mut self, depth: u8) -> Value {
        match self.next() % 8 {
            name @ 0..=2 => {
                let name = ["exact", "prefix", "suffix"][usize::from(name)];
                let attributes =
                    self.list(2, |it| (it.of(&NAMES).to_owned(), json!(it.of(&TEXTS))));
                json!({ name: Value::Object(attributes.into_iter().collect()) })
            }
            3 if depth > 0 => json!({ "all": self.list(3, |it| it.dialect(depth - 1)) }),
            4 if depth > 0 => json!({ "any": self.list(3, |it| it.dialect(depth - 1)) }),
            5 if depth > 0 => json!({ "not": self.dialect(depth - 1) }),
            6 => self.value(2),
            _ => json!({ "sql": self.expression() }),
        }
    }

    fn data(&mut self) -> Value {
        let mut clause = json!({ "pointer": self.of(&POINTERS) });
        for _ in 0..=self.next() % 2 {
            let operator = self.of(&OPERATORS);
            clause[operator] = self.value(2);
        }
        clause
    }

    fn filter(&mut self) -> Value {
        let types = self.list(3, |it| {
            let segments: Vec<_> = (0..=it.next() % 4).map(|_| it.of(&PATTERNS)).collect();
            json!(segments.join("."))
        });
        let dialects = self.list(2, |it| it.dialect(4));
        let data = self.list(2, Self::data);
        json!({ "types": types, "dialects": dialects, "data": data })
    }

    fn event(&mut self) -> Option<Event> {
        let segments: Vec<_> = (0..2 + self.next() % 3)
            .map(|_| self.of(&SEGMENTS))
            .collect();
        let data = match self.next() % 4 {
            0 => Data::None,
            1 => Data::Text(self.of(&TEXTS).into()),
            _ => Data::Json(RawJson::parse(&self.value(3).to_string()).ok()?.0),
        };
        let subject = self.of(&TEXTS);
        Some(Event {
            event_id: Uuid::nil(),
            id: "e-1".into(),
            source: self.of(&TEXTS).into(),
            event_type: segments.join(".").parse().ok()?,
            tenant: "acme".parse().ok()?,
            schema_version: "1.0.0".parse().ok()?,
            time: "2026-01-01T00:00:00.000Z".into(),
            received_at_ms: 0,
            traceparent: None,
            subject: (!subject.is_empty()).then(|| subject.into()),
            data_schema: None,
            data_content_type: None,
            extensions: vec![
                ("n".into(), Attribute::Integer(i32::from(self.next()) - 128)),
                (
                    "flag".into(),
                    Attribute::Boolean(self.next().is_multiple_of(2)),
                ),
            ],
            data,
        })
    }
}

#[test]
fn whatever_is_read_as_a_filter_answers_one_way_and_is_found() {
    check!().with_type().for_each(|bytes: &Vec<u8>| {
        let mut choices = Choices(bytes.iter());
        let event = choices.event().expect("only choices of legal parts");
        let documents = choices.list(6, Choices::filter);
        let filters: Vec<_> = documents.iter().map(Filter::parse).collect();
        let (acme, globex): (TenantId, TenantId) =
            (event.tenant.clone(), "globex".parse().expect("a legal id"));
        let mut index = Index::default();
        for (key, filter) in filters.iter().enumerate() {
            match filter {
                Ok(filter) => index.insert(&acme, filter.types(), &key),
                Err(error) => assert!(!error.path.is_empty() && !error.reason.is_empty()),
            }
        }
        let found = index.wanting(&acme, &event.event_type);
        assert!(index.wanting(&globex, &event.event_type).is_empty());
        let subject = Subject::new(&event);
        for (key, filter) in filters.iter().enumerate() {
            let Ok(filter) = filter else { continue };
            let judged = filter.judge(&subject);
            let document = &documents[key];
            assert_eq!(
                filter.matches(&subject),
                judged.is_ok(),
                "{document}: {judged:?}"
            );
            let of_type = !judged.is_err_and(|unmet| unmet.path == "types");
            assert_eq!(found.contains(&key), of_type, "{document}");
            // What is read once is read the same again.
            assert_eq!(Filter::parse(document).as_ref(), Ok(filter));
        }
    });
}

#[test]
fn any_text_as_a_document_or_an_expression() {
    check!()
        .with_type()
        .for_each(|(text, bytes): &(String, Vec<u8>)| {
            let event = Choices(bytes.iter())
                .event()
                .expect("only choices of legal parts");
            let subject = Subject::new(&event);
            if let Ok(document) = serde_json::from_str::<Value>(text)
                && let Ok(filter) = Filter::parse(&document)
            {
                assert_eq!(filter.matches(&subject), filter.judge(&subject).is_ok());
            }
            let built = Choices(bytes.iter()).expression();
            for text in [text, &built] {
                let Ok(expression) = Expression::parse(text) else {
                    continue;
                };
                assert_eq!(expression.text(), text);
                let (_, fault) = expression.evaluate(&subject, &Effort::default());
                // With a fault it does not hold, whatever its value.
                assert!(
                    fault.is_none() || expression.holds(&subject, &Effort::default()).is_err(),
                    "{text}"
                );
            }
        });
}
