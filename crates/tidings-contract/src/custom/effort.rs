//! How much work it is to hold a payload to a schema, found out before it is done.
//!
//! The caps on a schema bound the ways through it, not what they cost: ten thousand bounds on the items of an array are
//! few ways, and a billion comparisons for a payload of a hundred thousand numbers. This walks schema and payload together
//! as a validator would that never stops early, and gives up once it is too much.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::patterns::Patterns;
use crate::reference::pointer_of;

/// The most steps: some tens of milliseconds.
pub(crate) const MOST_STEPS: usize = 4_000_000;
/// The most schemas that are gone into, one within the other. Those that keep the caps go into 128.
const MOST_DEEP: usize = 512;
/// A step looks at so much of a text.
const STEP_BYTES: usize = 16;
/// And takes so many states of a regular expression one byte further.
const STEP_STATES: usize = 4;
/// What a step back led to is remembered where it went so many such steps.
const REMEMBERED_FROM: usize = 16;
/// Arrays of no more items than this are searched for equal ones by comparing each with each.
const FEW_ITEMS: usize = 15;

/// What it takes.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    /// Keywords looked at, about.
    pub(crate) steps: usize,
    /// Bytes of the payload that a validator copies to say why it fits no branch of `anyOf` or `oneOf`, at most.
    pub(crate) copied: usize,
}

/// It is more than is done for anybody.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuch;

/// Steps from a schema to one that it is part of, by the addresses of both.
pub(crate) type Back = HashSet<(usize, usize)>;

/// Where a value stands in memory.
pub(crate) fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// The effort of holding a payload to a schema.
pub(crate) fn effort(
    document: &Value,
    patterns: &Patterns,
    payload: &Value,
) -> Result<Effort, TooMuch> {
    effort_of(document, patterns, None, payload)
}

/// The same of a validator that remembers what came of a step back, as ours does when it is only asked whether a payload
/// fits.
pub(crate) fn effort_of(
    document: &Value,
    patterns: &Patterns,
    remembered: Option<&Back>,
    payload: &Value,
) -> Result<Effort, TooMuch> {
    let mut walk = Walk {
        document,
        patterns,
        effort: Effort::default(),
        depth: 0,
        targets: HashMap::new(),
        remembered,
        visits: 0,
        known: HashMap::new(),
    };
    walk.hold(payload, document)?;
    Ok(walk.effort)
}

struct Walk<'a> {
    document: &'a Value,
    patterns: &'a Patterns,
    effort: Effort,
    depth: usize,
    /// What each reference refers to, by its address.
    targets: HashMap<usize, Option<&'a Value>>,
    remembered: Option<&'a Back>,
    /// Steps back that were gone.
    visits: usize,
    /// The steps back, and all steps, that it takes to hold a value once more to what a step back leads to, by the addresses
    /// of both.
    known: HashMap<(usize, usize), (usize, usize)>,
}

impl<'a> Walk<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), TooMuch> {
        self.effort.steps = self.effort.steps.saturating_add(steps);
        if self.effort.steps > MOST_STEPS {
            return Err(TooMuch);
        }
        Ok(())
    }

    fn hold(&mut self, value: &Value, schema: &'a Value) -> Result<(), TooMuch> {
        self.spend(1)?;
        let Value::Object(keywords) = schema else {
            return Ok(());
        };
        if self.depth == MOST_DEEP {
            return Err(TooMuch);
        }
        self.depth += 1;
        // What a value was held to before is gone through again, twice, to find what was not evaluated.
        let again = ["unevaluatedItems", "unevaluatedProperties"];
        let again = again.iter().any(|keyword| keywords.contains_key(*keyword));
        let times = if again { 3 } else { 1 };
        for (keyword, held) in keywords {
            self.spend(1)?;
            for _ in 0..times {
                self.in_place(value, schema, keyword, held)?;
            }
            match value {
                Value::Object(members) => self.members(members, keywords, keyword, held)?,
                Value::Array(items) => self.items(items, keyword, held)?,
                Value::String(text) => match (keyword.as_str(), held) {
                    ("pattern", Value::String(pattern)) => self.matching(text, pattern)?,
                    ("format", Value::String(format)) => self.format(text, format)?,
                    ("maxLength" | "minLength", _) => self.text(text)?,
                    _ => {}
                },
                Value::Number(_) if keyword == "multipleOf" => self.spend(50)?,
                _ => {}
            }
            self.compare(value, keyword, held)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// The schemas that apply to the same value.
    fn in_place(
        &mut self,
        value: &Value,
        schema: &'a Value,
        keyword: &str,
        held: &'a Value,
    ) -> Result<(), TooMuch> {
        match (keyword, held) {
            ("$ref", reference) => {
                let document = self.document;
                let target = self.targets.entry(address(reference)).or_insert_with(|| {
                    let pointer = reference.as_str().and_then(pointer_of)?;
                    document.pointer(&pointer)
                });
                let Some(target) = *target else {
                    return Ok(());
                };
                let step = (address(schema), address(target));
                if self.remembered.is_some_and(|back| back.contains(&step)) {
                    self.hold_again(value, target)
                } else {
                    self.hold(value, target)
                }
            }
            ("if" | "then" | "else" | "not", schema) => self.hold(value, schema),
            ("allOf", Value::Array(branches)) => self.each(value, branches),
            ("anyOf" | "oneOf", Value::Array(branches)) => {
                let bytes = self.size(value)?;
                let copied = bytes.saturating_mul(branches.len());
                self.effort.copied = self.effort.copied.saturating_add(copied);
                self.each(value, branches)
            }
            ("dependencies" | "dependentSchemas", Value::Object(named)) => {
                self.each(value, named.values())
            }
            _ => Ok(()),
        }
    }

    /// A step back. The second with the same object or array costs as much as the first only where that went few such steps;
    /// one within the first is the end of a circle.
    fn hold_again(&mut self, value: &Value, schema: &'a Value) -> Result<(), TooMuch> {
        let pair = (address(schema), address(value));
        if let Some(&(visits, steps)) = self.known.get(&pair) {
            self.visits += visits;
            return self.spend(steps);
        }
        self.known.insert(pair, (0, 1));
        let (visits, steps) = (self.visits, self.effort.steps);
        self.visits += 1;
        self.hold(value, schema)?;
        if value.is_object() || value.is_array() {
            let visits = self.visits - visits;
            if visits < REMEMBERED_FROM {
                self.known.insert(pair, (visits, self.effort.steps - steps));
            }
        } else {
            self.known.remove(&pair);
        }
        Ok(())
    }

    fn each(
        &mut self,
        value: &Value,
        schemas: impl IntoIterator<Item = &'a Value>,
    ) -> Result<(), TooMuch> {
        for schema in schemas {
            self.hold(value, schema)?;
        }
        Ok(())
    }

    fn members(
        &mut self,
        members: &Map<String, Value>,
        keywords: &Map<String, Value>,
        keyword: &str,
        held: &'a Value,
    ) -> Result<(), TooMuch> {
        match (keyword, held) {
            ("properties", Value::Object(named)) => {
                for (name, schema) in named {
                    self.spend(look_up(members))?;
                    if let Some(member) = members.get(name) {
                        self.hold(member, schema)?;
                    }
                }
            }
            ("patternProperties", Value::Object(patterns)) => {
                for (name, member) in members {
                    for (pattern, schema) in patterns {
                        self.matching(name, pattern)?;
                        self.hold(member, schema)?;
                    }
                }
            }
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                let named = keywords.get("properties").and_then(Value::as_object);
                for (name, member) in members {
                    if named.is_none_or(|named| !named.contains_key(name)) {
                        self.hold(member, schema)?;
                    }
                }
            }
            ("propertyNames", schema) => {
                for name in members.keys() {
                    self.hold(&Value::String(name.clone()), schema)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn items(&mut self, items: &[Value], keyword: &str, held: &'a Value) -> Result<(), TooMuch> {
        match (keyword, held) {
            ("items" | "contains" | "unevaluatedItems", schema) => {
                for item in items {
                    self.hold(item, schema)?;
                }
            }
            ("prefixItems", Value::Array(schemas)) => {
                for (item, schema) in items.iter().zip(schemas) {
                    self.hold(item, schema)?;
                }
            }
            ("uniqueItems", Value::Bool(true)) => return self.distinct(items),
            _ => {}
        }
        Ok(())
    }

    /// Items are hashed, and those with the same hash compared, each with each.
    fn distinct(&mut self, items: &[Value]) -> Result<(), TooMuch> {
        let mut alike: HashMap<u64, (usize, usize)> = HashMap::new();
        for item in items {
            let before = self.effort.steps;
            self.size(item)?;
            let steps = self.effort.steps - before;
            let mut hasher = DefaultHasher::new();
            if items.len() > FEW_ITEMS {
                hash(item, &mut hasher);
            }
            let (count, size) = alike.entry(hasher.finish()).or_default();
            (*count, *size) = (*count + 1, *size + steps);
        }
        let compared = alike.values().filter(|(count, _)| *count > 1);
        self.spend(
            compared
                .map(|(count, size)| count.saturating_mul(*size))
                .sum(),
        )
    }

    /// Keywords whose own value is gone through.
    fn compare(&mut self, value: &Value, keyword: &str, held: &Value) -> Result<(), TooMuch> {
        match (keyword, held) {
            ("enum", Value::Array(options)) if value.is_object() || value.is_array() => {
                // Each may differ from it in its last part alone.
                let before = self.effort.steps;
                self.size(value)?;
                let one = self.effort.steps - before;
                self.spend(one.saturating_mul(options.len()))
            }
            ("enum", Value::Array(options)) => self.spend(options.len()),
            ("required", Value::Array(names)) => match value.as_object() {
                Some(members) => self.spend(names.len() * look_up(members)),
                None => Ok(()),
            },
            ("const", _) => self.size(value).map(drop),
            ("dependentRequired", Value::Object(named)) => {
                let lists = named.values().filter_map(Value::as_array);
                let all: usize = lists.map(Vec::len).sum();
                self.spend(all * value.as_object().map_or(0, look_up))
            }
            _ => Ok(()),
        }
    }

    /// Where no table helps, each byte takes all states further, and a state is entered by a byte.
    fn matching(&mut self, text: &str, pattern: &str) -> Result<(), TooMuch> {
        let states = self.patterns.get(pattern).copied().unwrap_or_default();
        let states = states.min(text.len());
        self.text(text)?;
        self.spend(text.len().saturating_mul(states) / STEP_STATES)
    }

    /// Names of hosts in other alphabets are normalised, and regular expressions parsed; the rest is read.
    fn format(&mut self, text: &str, format: &str) -> Result<(), TooMuch> {
        let steps = match format {
            "idn-hostname" | "idn-email" => 8 * text.len(),
            "regex" | "uri-template" => text.len(),
            _ => text.len() / 4,
        };
        self.spend(1 + steps)
    }

    fn text(&mut self, text: &str) -> Result<(), TooMuch> {
        self.spend(1 + text.len() / STEP_BYTES)
    }

    /// About how many bytes a value has.
    fn size(&mut self, value: &Value) -> Result<usize, TooMuch> {
        let mut bytes = size_of::<Value>();
        match value {
            Value::String(text) => {
                self.text(text)?;
                bytes += text.len();
            }
            Value::Array(items) => {
                self.spend(1)?;
                for item in items {
                    bytes += self.size(item)?;
                }
            }
            Value::Object(members) => {
                self.spend(1)?;
                for (name, member) in members {
                    bytes += name.len() + self.size(member)?;
                }
            }
            _ => self.spend(1)?,
        }
        Ok(bytes)
    }
}

/// What it takes to find a member by its name.
fn look_up(members: &Map<String, Value>) -> usize {
    1 + members.len() / STEP_BYTES
}

/// Gives a hasher what the validator gives its own, so that items have the same hash here wherever they have it there: the
/// brackets of arrays are left out, and whole numbers are floating-point ones.
fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0_u8.hash(hasher),
        Value::Bool(value) => value.hash(hasher),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            (if number == 0.0 { 0.0 } else { number })
                .to_bits()
                .hash(hasher);
        }
        Value::String(text) => text.hash(hasher),
        Value::Array(items) => items.iter().for_each(|item| hash(item, hasher)),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let mut hasher = DefaultHasher::new();
                name.hash(&mut hasher);
                hash(value, &mut hasher);
                hasher.finish()
            };
            members
                .iter()
                .map(member)
                .fold(0, |all, one| all ^ one)
                .hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::custom::Schema;

    fn numbers(count: usize) -> Value {
        json!(vec![1; count])
    }

    #[test]
    fn what_a_person_would_write_is_little() {
        let names: Vec<String> = (0..48).map(|n| format!("member_{n}")).collect();
        let properties: Map<String, Value> = names
            .iter()
            .map(|name| (name.clone(), json!({ "type": "string", "maxLength": 64 })))
            .collect();
        let record: Map<String, Value> = names
            .iter()
            .map(|name| (name.clone(), json!("a text of some length")))
            .collect();
        let schema = json!({
            "properties": { "records": { "items": {
                "properties": properties, "required": names, "additionalProperties": false,
            } } },
        });
        let records = vec![record; 120];
        let payload = json!({ "records": records });
        assert!(payload.to_string().len() > 200 << 10);
        let effort = effort(&schema, &Patterns::new(), &payload).unwrap();
        assert!(effort.steps < MOST_STEPS / 10, "{}", effort.steps);
    }

    /// Arrays of nothing, nested as the bits of a number say.
    fn empties(bits: usize, depth: usize) -> Value {
        if depth == 0 {
            return json!([]);
        }
        let inner = empties(bits >> 1, depth - 1);
        if bits & 1 == 1 {
            json!([inner, []])
        } else {
            json!([[], inner])
        }
    }

    #[test]
    fn patterns_that_people_write_may_meet_long_texts() {
        for (pattern, bytes) in [
            ("^[a-z0-9-]+$", 40_000),
            (r"^\S+@\S+\.\S+$", 2_000),
            (r"^\w{1,30}$", 1_000),
        ] {
            let schema = Schema::new(json!({ "pattern": pattern })).unwrap();
            let effort = schema.effort(&json!("a".repeat(bytes)));
            assert!(effort.is_some(), "{pattern}");
        }
    }

    #[test]
    fn whatever_a_payload_may_have_is_held_to_what_people_write() {
        let row = |n: usize| json!({ "kind": format!("k{}", n % 20), "of": n % 10 });
        let branch = |n: usize| {
            json!({
                "type": "object",
                "properties": { "kind": { "const": format!("k{n}") }, "of": { "type": "integer" } },
                "required": ["kind", "of"],
            })
        };
        let long = json!("a".repeat(250_000));
        let hashes = json!(vec!["0123456789abcdef".repeat(4); 3_800]);
        let objects: Vec<Value> = (0..3_000)
            .map(|n| json!({ "id": n, "in": "a list" }))
            .collect();
        let cases = [
            (json!({ "pattern": r"^\S" }), &long),
            (json!({ "pattern": r"\S$" }), &long),
            (json!({ "pattern": "^[a-z0-9-]+$" }), &long),
            (json!({ "pattern": "^(a+)+$" }), &long),
            (json!({ "items": { "pattern": "^[0-9a-f]{64}$" } }), &hashes),
            (json!({ "uniqueItems": true }), &json!(objects)),
            (
                json!({ "items": { "oneOf": (0..20).map(branch).collect::<Vec<_>>() } }),
                &json!((0..8_000).map(row).collect::<Vec<_>>()),
            ),
        ];
        for (schema, payload) in cases {
            let schema = Schema::new(schema).unwrap();
            assert_eq!(schema.check(payload), [], "{}", schema.document());
        }
    }

    #[test]
    fn items_that_a_set_takes_for_alike_are_compared_each_with_each() {
        let distinct = json!({ "uniqueItems": true });
        let steps = |items: Vec<Value>| {
            let effort = effort(&distinct, &Patterns::new(), &json!(items));
            effort.map(|it| it.steps).unwrap()
        };
        let apart = steps((0..100).map(|n| json!({ "n": n })).collect());
        let alike = steps((0..100).map(|n| empties(n, 7)).collect());
        let equal = steps((0..100).map(|n| json!((1_u64 << 60) + n)).collect());
        assert!(apart < 500, "{apart}");
        assert!(alike > 10_000 && equal > 10_000, "{alike}, {equal}");
    }

    #[test]
    fn what_nobody_should_wait_for_is_given_up_early() {
        let bounds: Vec<Value> = (1..9_900).map(|n| json!({ "maximum": -n })).collect();
        let options: Vec<Value> = (0..60).map(|n| json!([numbers(1_000), n])).collect();
        let nested: Vec<Value> = (0..6_000).map(|n| empties(n, 14)).collect();
        let large: Vec<u64> = (0..20_000).map(|n| u64::MAX - n).collect();
        let letters: String = ('a'..='z').cycle().take(250_000).collect();
        let cases = [
            (
                json!({ "pattern": "[a-m][a-z]{5000}[0-9]" }),
                json!(letters),
            ),
            (json!({ "uniqueItems": true }), json!(nested)),
            (json!({ "uniqueItems": true }), json!(large)),
            (json!({ "items": { "allOf": bounds } }), numbers(100_000)),
            (json!({ "items": { "anyOf": bounds } }), numbers(100_000)),
            (
                json!({ "items": { "$ref": "#/$defs/a" }, "$defs": { "a": { "allOf": bounds[..4_000] } } }),
                numbers(2_000),
            ),
            (
                json!({ "items": { "enum": options } }),
                json!(vec![json!([numbers(1_000), -1]); 80]),
            ),
            (
                json!({ "allOf": vec![json!({ "uniqueItems": true }); 100] }),
                numbers(100_000),
            ),
            (
                json!({ "allOf": vec![json!({ "maxLength": 1 }); 9_000] }),
                json!("x".repeat(200_000)),
            ),
        ];
        for (schema, payload) in cases {
            let schema = Schema::new(schema).unwrap();
            assert_eq!(schema.effort(&payload), None);
            assert!(!schema.check(&payload).is_empty());
        }
    }
}
