//! Payloads made from two schemas, to find one that the first accepts and the second refuses.
//!
//! Values are made bottom up. At each place those come first that the old schema's part accepts and the new one's
//! refuses, and a parent takes its parts' values in that order, so that a difference deep down reaches the root within
//! few tries. Nothing is random, every list is bounded, and what comes out has passed both validators.

use std::collections::BTreeSet;

use jsonschema::ValidatorMap;
use serde_json::{Map, Number, Value, json};

use super::Schema;
use super::acceptance::{Place, part};

/// So many values are kept for one place.
const KEPT: usize = 12;
/// So many are made for one place before the best are kept.
const MADE: usize = 160;
/// So many places are visited in all.
const VISITS: usize = 400;
/// Strings and arrays are made so long at most.
const LONGEST: usize = 300;

/// A payload that the old schema accepts and the new one refuses, the shortest of those found.
pub fn counter_example(old: &Schema, new: &Schema) -> Option<Value> {
    let found = samples(old, new).into_iter();
    let telling = found.filter(|value| old.accepts(value) && !new.accepts(value));
    telling.min_by_key(|value| value.to_string().len())
}

/// Payloads at and around the limits of two schemas, most of them accepted by the old one.
pub(super) fn samples(old: &Schema, new: &Schema) -> Vec<Value> {
    let mut maker = Maker {
        old: old.parts(),
        new: new.parts(),
        visits: 0,
    };
    let roots = [Place::root(old.document()), Place::root(new.document())];
    maker.values(
        &[(Side::Old, roots[0].clone()), (Side::New, roots[1].clone())],
        MADE,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

type Sided<'s> = (Side, Place<'s>);

struct Maker {
    old: Option<ValidatorMap>,
    new: Option<ValidatorMap>,
    visits: usize,
}

impl Maker {
    fn accepts(&self, (side, place): &Sided<'_>, value: &Value) -> bool {
        let map = if *side == Side::Old {
            &self.old
        } else {
            &self.new
        };
        let validator = map.as_ref().and_then(|map| part(map, &place.pointer));
        validator.is_none_or(|validator| validator.is_valid(value))
    }

    /// Values for a place that these schemas describe, the most telling first.
    fn values(&mut self, described: &[Sided<'_>], kept: usize) -> Vec<Value> {
        self.visits += 1;
        if self.visits > VISITS {
            return vec![Value::Null];
        }
        let all = unfolded(described);
        let mut made = plain(&all);
        made.extend(self.arrays(&all));
        made.extend(self.objects(&all));
        let mut seen = BTreeSet::new();
        made.retain(|value| seen.insert(value.to_string()));
        made.truncate(3 * MADE);
        let of = |side: Side| described.iter().filter(move |(its, _)| *its == side);
        let rank = |value: &Value| {
            let old = of(Side::Old).all(|place| self.accepts(place, value));
            let new = of(Side::New).all(|place| self.accepts(place, value));
            (!old, new)
        };
        made.sort_by_cached_key(rank);
        // Some that the old part refuses stay: it may be one alternative of several, and what `contains` does not count
        // may matter beside what it counts.
        let refused = made
            .iter()
            .position(|value| rank(value).0)
            .unwrap_or(made.len());
        let mut others = made.split_off(refused);
        made.truncate(kept - kept / 4);
        let room = kept - made.len();
        if others.len() > room {
            others.drain(room / 2..others.len() - room.div_ceil(2));
        }
        made.extend(others);
        made
    }

    fn arrays<'s>(&mut self, all: &[Sided<'s>]) -> Vec<Value> {
        let listed = all
            .iter()
            .map(|(_, it)| it.parts("prefixItems").len())
            .max()
            .unwrap_or(0);
        let named = [
            "items",
            "unevaluatedItems",
            "contains",
            "prefixItems",
            "minItems",
            "maxItems",
            "uniqueItems",
        ];
        if !all
            .iter()
            .any(|(_, it)| named.iter().any(|keyword| it.get(keyword).is_some()))
        {
            return vec![json!([]), json!([1])];
        }
        let rest: Vec<Sided<'_>> = parts(all, &["items", "unevaluatedItems", "contains"]);
        let rest = self.values(&rest, KEPT);
        let listed: Vec<Vec<Value>> = (0..listed)
            .map(|position| {
                let at = |(side, it): &Sided<'s>| {
                    let item = it.parts("prefixItems").into_iter().nth(position);
                    item.or_else(|| it.part("items")).map(|item| (*side, item))
                };
                let at: Vec<Sided<'_>> = all.iter().filter_map(at).collect();
                self.values(&at, KEPT)
            })
            .collect();
        let first: Vec<Value> = listed
            .iter()
            .filter_map(|values| values.first().cloned())
            .collect();
        let mut made: Vec<Value> = vec![json!([]), Value::Array(first.clone())];
        for (position, values) in listed.iter().enumerate() {
            made.push(Value::Array(first[..position].to_vec()));
            for value in values {
                let mut items = first.clone();
                items[position] = value.clone();
                made.push(Value::Array(items.clone()));
                items.truncate(position + 1);
                made.push(Value::Array(items));
            }
        }
        for value in &rest {
            for length in lengths(all, ["minItems", "maxItems", "minContains", "maxContains"]) {
                let more = length.saturating_sub(first.len());
                let repeated = std::iter::repeat_n(value, more);
                made.push(first.iter().chain(repeated).cloned().collect());
                let various = rest.iter().cycle().take(more);
                made.push(first.iter().chain(various).cloned().collect());
            }
            made.push(first.iter().chain([value]).cloned().collect());
            made.extend(rest.iter().map(|other| json!([value, other])));
        }
        made
    }

    fn objects(&mut self, all: &[Sided<'_>]) -> Vec<Value> {
        let mut members: Vec<(String, Vec<Value>)> = Vec::new();
        for name in names(all) {
            let described: Vec<Sided<'_>> = all
                .iter()
                .flat_map(|(side, it)| member(it, &name).map(|it| (*side, it)))
                .collect();
            let values = self.values(&described, KEPT);
            members.push((name, values));
        }
        let with = |wanted: &dyn Fn(&str) -> bool| -> Map<String, Value> {
            let wanted = members.iter().filter(|(name, _)| wanted(name));
            let first = |(name, values): &(String, Vec<Value>)| {
                Some((name.clone(), values.first()?.clone()))
            };
            wanted.filter_map(first).collect()
        };
        let required = |side: Option<Side>| -> BTreeSet<&str> {
            let places = all
                .iter()
                .filter(|(its, _)| side.is_none_or(|side| side == *its));
            places
                .flat_map(|(_, it)| texts(it.get("required")))
                .collect()
        };
        let (olds, every) = (required(Some(Side::Old)), required(None));
        let known = |name: &str| {
            all.iter()
                .any(|(_, it)| it.named("properties").iter().any(|(its, _)| *its == name))
        };
        let old_known = |name: &str| {
            all.iter().any(|(side, it)| {
                *side == Side::Old && it.named("properties").iter().any(|(its, _)| *its == name)
            })
        };
        let bases = [
            with(&|name| olds.contains(name)),
            with(&|name| every.contains(name)),
            with(&old_known),
            with(&known),
        ];
        let mut made: Vec<Value> = vec![json!({})];
        // The first value of every member before the second of any: the list is cut.
        for (rank, base) in (0..KEPT).flat_map(|rank| bases.iter().map(move |base| (rank, base))) {
            if rank == 0 {
                made.push(Value::Object(base.clone()));
                made.extend(base.keys().map(|name| without(base, name)));
            }
            for (name, values) in &members {
                let mut with = base.clone();
                if let Some(value) = values.get(rank) {
                    with.insert(name.clone(), value.clone());
                    made.push(Value::Object(with));
                }
            }
            if rank == 1 && base == &bases[0] {
                made.extend(pairs(&members, base));
                made.extend(crowds(all, base));
            }
            if made.len() > 4 * MADE {
                break;
            }
        }
        made
    }
}

fn without(base: &Map<String, Value>, name: &str) -> Value {
    let mut base = base.clone();
    base.remove(name);
    Value::Object(base)
}

/// Two members besides the required ones: what one asks of the other shows only then.
fn pairs(members: &[(String, Vec<Value>)], base: &Map<String, Value>) -> Vec<Value> {
    const FEW: usize = 8;
    let mut made = Vec::new();
    for (index, (one, values)) in members.iter().take(FEW).enumerate() {
        for (other, others) in members.iter().take(FEW).skip(index + 1) {
            for (value, its) in values
                .iter()
                .take(3)
                .flat_map(|value| others.iter().take(3).map(move |its| (value, its)))
            {
                let mut with = base.clone();
                with.insert(one.clone(), value.clone());
                with.insert(other.clone(), its.clone());
                made.push(Value::Object(with));
            }
        }
    }
    made
}

/// Objects as large as a bound on their size.
fn crowds(all: &[Sided<'_>], base: &Map<String, Value>) -> Vec<Value> {
    let sized = |(_, it): &Sided<'_>| {
        it.get("minProperties").is_some() || it.get("maxProperties").is_some()
    };
    if !all.iter().any(sized) {
        return Vec::new();
    }
    let crowd = |length: usize| {
        let mut members = base.clone();
        for index in 0..length.saturating_sub(base.len()) {
            members.insert(format!("member{index}"), Value::Null);
        }
        Value::Object(members)
    };
    lengths(all, ["minProperties", "maxProperties", "", ""])
        .into_iter()
        .map(crowd)
        .collect()
}

/// The schemas and all that they apply to the same value.
fn unfolded<'s>(described: &[Sided<'s>]) -> Vec<Sided<'s>> {
    let mut all = described.to_vec();
    let mut next = 0;
    while next < all.len() && all.len() < 64 {
        let (side, place) = all[next].clone();
        let mut more: Vec<Place<'s>> = place.target().into_iter().collect();
        for keyword in ["allOf", "anyOf", "oneOf"] {
            more.extend(place.parts(keyword));
        }
        for keyword in ["if", "then", "else", "not"] {
            more.extend(place.part(keyword));
        }
        more.extend(
            place
                .named("dependentSchemas")
                .into_iter()
                .map(|(_, it)| it),
        );
        all.extend(more.into_iter().map(|place| (side, place)));
        next += 1;
    }
    all
}

fn parts<'s>(all: &[Sided<'s>], keywords: &[&str]) -> Vec<Sided<'s>> {
    let of = |(side, it): &Sided<'s>| {
        let found: Vec<Sided<'s>> = keywords
            .iter()
            .filter_map(|keyword| Some((*side, it.part(keyword)?)))
            .collect();
        found
    };
    all.iter().flat_map(of).collect()
}

/// What a schema says of a member of this name.
fn member<'s>(place: &Place<'s>, name: &str) -> impl Iterator<Item = Place<'s>> {
    let named = place
        .named("properties")
        .into_iter()
        .find(|(its, _)| *its == name);
    let patterns = place.named("patternProperties").into_iter();
    let fitting = patterns.filter(|(pattern, _)| stock(pattern).iter().any(|it| it == name));
    let known: Vec<Place<'s>> = named.into_iter().chain(fitting).map(|(_, it)| it).collect();
    let others = ["additionalProperties", "unevaluatedProperties"];
    let unknown = |keyword: &&str| place.part(keyword).filter(|_| known.is_empty());
    let others: Vec<Place<'s>> = others.iter().filter_map(unknown).collect();
    known.into_iter().chain(others)
}

/// Names that the schemas speak of, and some that they do not.
fn names(all: &[Sided<'_>]) -> Vec<String> {
    const MOST: usize = 60;
    let mut names = BTreeSet::new();
    let mut objects = false;
    for (_, place) in all {
        names.extend(
            place
                .named("properties")
                .into_iter()
                .map(|(name, _)| name.to_owned()),
        );
        names.extend(texts(place.get("required")).map(str::to_owned));
        let dependents = place.get("dependentRequired").and_then(Value::as_object);
        for (name, others) in dependents.into_iter().flatten() {
            names.insert(name.clone());
            names.extend(texts(Some(others)).map(str::to_owned));
        }
        names.extend(
            place
                .named("dependentSchemas")
                .into_iter()
                .map(|(name, _)| name.to_owned()),
        );
        for (pattern, _) in place.named("patternProperties") {
            names.extend(stock(pattern));
        }
        let asked = [
            "additionalProperties",
            "unevaluatedProperties",
            "propertyNames",
            "properties",
            "required",
        ];
        objects |= asked.iter().any(|keyword| place.get(keyword).is_some());
    }
    let mut names: Vec<String> = names.into_iter().take(MOST).collect();
    if objects {
        names.extend(["other".to_owned(), "X".to_owned()]);
    }
    names
}

fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Strings of many shapes, those first that look like what a pattern spells out.
fn stock(pattern: &str) -> Vec<String> {
    let spelt: String = pattern
        .chars()
        .filter(|it| it.is_alphanumeric() || "_-:".contains(*it))
        .collect();
    let spelt: String = spelt.chars().take(20).collect();
    let mut made = vec![format!("{spelt}1"), format!("{spelt}a"), spelt];
    made.retain(|text| !text.is_empty());
    made
}

/// The bounds under these keywords, and one beside each.
fn lengths(all: &[Sided<'_>], keywords: [&str; 4]) -> Vec<usize> {
    let mut lengths = BTreeSet::new();
    for (_, place) in all {
        for bound in keywords
            .iter()
            .filter_map(|keyword| place.get(keyword)?.as_u64())
        {
            let bound = usize::try_from(bound).unwrap_or(LONGEST).min(LONGEST);
            lengths.extend([bound.saturating_sub(1), bound, bound + 1]);
        }
    }
    lengths.into_iter().take(12).collect()
}

/// Values other than arrays and objects made of parts.
fn plain(all: &[Sided<'_>]) -> Vec<Value> {
    const LISTED: usize = 40;
    let mut made = Vec::new();
    for (_, place) in all {
        for keyword in ["const", "default", "example"] {
            made.extend(place.get(keyword).cloned());
        }
        for keyword in ["enum", "examples"] {
            let values = place
                .get(keyword)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            made.extend(values.take(LISTED).cloned());
        }
        for keyword in [
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ] {
            made.extend(place.get(keyword).into_iter().flat_map(near));
        }
        if let Some(pattern) = place.get("pattern").and_then(Value::as_str) {
            made.extend(stock(pattern).into_iter().map(Value::String));
        }
        if let Some(format) = place.get("format").and_then(Value::as_str) {
            made.extend(of_format(format).iter().map(|text| json!(text)));
        }
    }
    for length in lengths(all, ["minLength", "maxLength", "", ""]) {
        made.push(Value::String("a".repeat(length)));
    }
    made.extend([
        json!("a"),
        json!(""),
        json!("A-1"),
        json!("other value"),
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(1.5),
        json!(1_000_000),
        json!(true),
        json!(false),
        Value::Null,
        json!("1"),
        json!("abc"),
        json!("2024-05-01T10:00:00Z"),
        json!("a@b.example"),
    ]);
    made
}

/// Numbers at and beside a bound.
fn near(bound: &Value) -> Vec<Value> {
    let Some(number) = bound.as_f64() else {
        return Vec::new();
    };
    let beside = [
        number - 1.0,
        number + 1.0,
        number - 0.5,
        number + 0.5,
        number / 2.0,
        number * 2.0,
        number * 3.0,
    ];
    let mut made = vec![bound.clone()];
    if let Some(number) = bound.as_i64() {
        let whole = [
            number.saturating_sub(1),
            number.saturating_add(1),
            number.saturating_mul(3),
        ];
        made.extend(whole.map(Value::from));
    }
    made.extend(
        beside
            .into_iter()
            .filter_map(Number::from_f64)
            .map(Value::Number),
    );
    made
}

fn of_format(format: &str) -> &'static [&'static str] {
    match format {
        "date-time" => &["2024-05-01T10:00:00Z"],
        "date" => &["2024-05-01"],
        "time" => &["10:00:00Z"],
        "duration" => &["P1D"],
        "email" | "idn-email" => &["a@b.example"],
        "hostname" | "idn-hostname" => &["b.example"],
        "ipv4" => &["192.0.2.1"],
        "ipv6" => &["2001:db8::1"],
        "uri" | "iri" => &["https://b.example/x"],
        "uri-reference" | "iri-reference" => &["/x"],
        "uri-template" => &["/x/{y}"],
        "uuid" => &["2eb8aa08-aa98-11ea-b4aa-73b441d16380"],
        "json-pointer" => &["/a/b"],
        "relative-json-pointer" => &["0/a"],
        "regex" => &["^a"],
        _ => &[],
    }
}
