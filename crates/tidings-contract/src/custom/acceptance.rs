//! Whether a schema accepts everything that another accepts, shown from their structure.
//!
//! The old side is a list of schemas that all hold for the same value (a schema, what it refers to, its `allOf`); the
//! new side is one schema, and each of its keywords must follow from one of the old. Where a keyword does not, the old
//! side is split over its `anyOf`, `oneOf` and `if`. What cannot be shown is a [`Gap`]; that is not to say that
//! it is wrong. Work is counted, and nothing is shown when it runs out.

mod arrays;
mod combined;
mod kinds;
mod numbers;
mod objects;
mod sameness;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use jsonschema::ValidatorMap;
use serde_json::Value;

pub(super) use kinds::{Kinds, kinds};
pub(super) use numbers::equal;

use super::Schema;
use super::canonical::canonical;
use crate::Contract;

/// So many steps are taken before giving up.
const STEPS: usize = 10_000;
/// So deep two schemas are followed. Longer than any chain of schemas, splits included.
const DEEPEST: usize = 300;

const TOO_INTRICATE: &str = "the schemas are too intricate to be compared";

static ANYTHING: Value = Value::Bool(true);
static NOTHING: Value = Value::Bool(false);

/// A schema at its place in its document.
#[derive(Debug, Clone)]
pub(super) struct Place<'s> {
    pub(super) document: &'s Value,
    pub(super) pointer: String,
    pub(super) schema: &'s Value,
    /// Whether the alternatives of this schema are being gone through already.
    split: bool,
}

impl<'s> Place<'s> {
    pub(super) fn root(document: &'s Value) -> Self {
        Self {
            document,
            pointer: String::new(),
            schema: document,
            split: false,
        }
    }

    /// A keyword's value.
    pub(super) fn get(&self, keyword: &str) -> Option<&'s Value> {
        self.schema.get(keyword)
    }

    /// The schema that a keyword holds.
    pub(super) fn part(&self, keyword: &str) -> Option<Self> {
        Some(self.below(format!("/{keyword}"), self.get(keyword)?))
    }

    /// The schemas that a keyword holds, in order.
    pub(super) fn parts(&self, keyword: &str) -> Vec<Self> {
        let parts = self
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let place = |(index, part)| self.below(format!("/{keyword}/{index}"), part);
        parts.enumerate().map(place).collect()
    }

    /// The schemas that a keyword holds, by name.
    pub(super) fn named(&self, keyword: &str) -> Vec<(&'s str, Self)> {
        let parts = self
            .get(keyword)
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let place = |(name, part): (&'s String, &'s Value)| {
            let pointer = format!("/{keyword}/{}", crate::reference::escaped(name));
            (name.as_str(), self.below(pointer, part))
        };
        parts.map(place).collect()
    }

    fn below(&self, place: String, schema: &'s Value) -> Self {
        let pointer = format!("{}{place}", self.pointer);
        Self {
            document: self.document,
            pointer,
            schema,
            split: false,
        }
    }

    /// A schema that is written nowhere, at this place.
    fn instead(&self, schema: &'static Value) -> Self {
        Self {
            schema,
            ..self.clone()
        }
    }

    /// What it refers to.
    pub(super) fn target(&self) -> Option<Self> {
        let target = self.get("$ref")?.as_str()?.strip_prefix('#')?;
        let pointer = crate::reference::percent_decoded(target)?;
        let schema = self.document.pointer(&pointer)?;
        Some(Self {
            document: self.document,
            pointer,
            schema,
            split: false,
        })
    }

    fn is_in_same_document(&self, other: &Self) -> bool {
        std::ptr::eq(self.document, other.document)
    }
}

/// Something that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where in the new schema.
    pub(super) pointer: String,
    /// What it refuses now, or may refuse.
    pub(super) detail: String,
}

/// The gaps between two schemas; none if the new one accepts all that the old one accepts.
pub(super) fn gaps(old: &Schema, new: &Schema) -> Vec<Gap> {
    let mut judge = Judge {
        old,
        new,
        parts: [OnceCell::new(), OnceCell::new()],
        steps: 0,
        depth: 0,
        patterns: RefCell::default(),
        gaps: Vec::new(),
    };
    judge.covers(&[Place::root(old.document())], &Place::root(new.document()));
    judge.gaps
}

pub(super) struct Judge<'s> {
    old: &'s Schema,
    new: &'s Schema,
    /// The validators of the parts of each document, once asked for.
    parts: [OnceCell<Option<ValidatorMap>>; 2],
    steps: usize,
    depth: usize,
    /// The patterns of members' names, compiled.
    patterns: RefCell<HashMap<&'s str, Option<Contract>>>,
    gaps: Vec<Gap>,
}

impl<'s> Judge<'s> {
    fn gap(&mut self, at: &Place<'_>, keyword: &str, detail: impl Into<String>) {
        let pointer = format!("{}{keyword}", at.pointer);
        self.gaps.push(Gap {
            pointer,
            detail: detail.into(),
        });
    }

    /// Counts a step; whether there are any left.
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.steps <= STEPS
    }

    /// Whether the new schema is shown to accept all that the old ones accept, leaving no gaps behind.
    fn silently(&mut self, old: &[Place<'s>], new: &Place<'s>) -> bool {
        let before = self.gaps.len();
        self.covers(old, new);
        let shown = self.gaps.len() == before;
        self.gaps.truncate(before);
        shown
    }

    /// Notes a gap for each thing that the new schema asks and the old ones do not promise.
    fn covers(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        if !self.step() || self.depth == DEEPEST {
            self.gap(new, "", TOO_INTRICATE);
            return;
        }
        self.depth += 1;
        let old = conjuncts(old);
        let before = self.gaps.len();
        if !self.at_once(&old, new) {
            self.keyword_by_keyword(&old, new);
            if self.gaps.len() > before && self.by_alternatives(&old, new) {
                self.gaps.truncate(before);
            }
        }
        self.depth -= 1;
    }

    /// The cases that need no look at single keywords; whether it was one of them.
    fn at_once(&mut self, old: &[Place<'s>], new: &Place<'s>) -> bool {
        let promised = kinds_of(old);
        if promised.is_empty() || new.schema == &ANYTHING {
            return true;
        }
        if old.iter().any(|old| self.same(old, new)) {
            return true;
        }
        if new.schema == &NOTHING {
            self.gap(new, "", "nothing is accepted here any more");
            return true;
        }
        if old.iter().any(|old| lists_more(new, old)) {
            return true;
        }
        let Some(values) = finite(old, promised) else {
            return false;
        };
        let Some(refused) = values.iter().find(|value| !self.accepts(new, value)) else {
            return true;
        };
        // Alternatives of the old side may rule the value out.
        if old
            .iter()
            .any(|old| !old.split && alternatives(old).is_some())
        {
            return false;
        }
        let keyword = ["/enum", "/const"]
            .into_iter()
            .find(|it| new.get(&it[1..]).is_some());
        let detail = format!("the value {} may be refused now", shortened(refused));
        self.gap(new, keyword.unwrap_or_default(), detail);
        true
    }

    fn keyword_by_keyword(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let promised = kinds_of(old);
        self.types(promised, new);
        if promised.meets(Kinds::NUMBER) {
            self.numbers(old, new);
        }
        if promised.meets(Kinds::STRING) {
            self.strings(old, new);
        }
        if promised.meets(Kinds::ARRAY) {
            self.arrays(old, new);
        }
        if promised.meets(Kinds::OBJECT) {
            self.objects(old, new);
        }
        self.combined(old, new);
    }

    fn types(&mut self, promised: Kinds, new: &Place<'s>) {
        let accepted = kinds::typed(new.schema);
        if !accepted.contains(promised) {
            let lost = promised.without(accepted);
            self.gap(
                new,
                "/type",
                format!("{lost} is not accepted here any more"),
            );
        }
        for keyword in ["const", "enum"] {
            if new.get(keyword).is_some() {
                let detail = "only certain values are accepted here now";
                self.gap(new, &format!("/{keyword}"), detail);
            }
        }
    }

    /// Whether a schema accepts a value, by its validator; `false` where there is none.
    fn accepts(&mut self, place: &Place<'s>, value: &Value) -> bool {
        let Some(members) = place.schema.as_object() else {
            return place.schema == &ANYTHING;
        };
        let plain = ["type", "enum", "const"];
        let judging = |keyword: &&String| super::vocabulary::asserts(keyword);
        if members
            .keys()
            .filter(judging)
            .all(|keyword| plain.contains(&keyword.as_str()))
        {
            return kinds::allows(place.schema, value);
        }
        if !self.step() {
            return false;
        }
        let (which, schema) = if std::ptr::eq(place.document, self.old.document()) {
            (0, self.old)
        } else {
            (1, self.new)
        };
        let map = self.parts[which].get_or_init(|| schema.parts());
        let validator = map.as_ref().and_then(|map| part(map, &place.pointer));
        validator.is_some_and(|validator| validator.is_valid(value))
    }

    /// Splits the old side over the alternatives of one of its schemas; whether each is covered.
    fn by_alternatives(&mut self, old: &[Place<'s>], new: &Place<'s>) -> bool {
        let splittable = |at: &usize| !old[*at].split && alternatives(&old[*at]).is_some();
        let Some(at) = (0..old.len()).find(splittable) else {
            return false;
        };
        let branches = alternatives(&old[at]).unwrap_or_default();
        branches.into_iter().all(|branch| {
            let mut old = old.to_vec();
            old[at].split = true;
            old.extend(branch);
            self.silently(&old, new)
        })
    }
}

/// The validator of the part at a pointer.
pub(super) fn part<'m>(map: &'m ValidatorMap, pointer: &str) -> Option<&'m jsonschema::Validator> {
    map.get(&format!("#{pointer}"))
}

/// What every value of these schemas is held to: they themselves, what they refer to, and their `allOf`.
fn conjuncts<'s>(schemas: &[Place<'s>]) -> Vec<Place<'s>> {
    let mut all = schemas.to_vec();
    let mut next = 0;
    while next < all.len() && all.len() < 64 {
        let mut more = all[next].parts("allOf");
        more.extend(all[next].target());
        for place in more {
            let known = |other: &Place<'_>| {
                other.is_in_same_document(&place) && other.pointer == place.pointer
            };
            if !all.iter().any(known) {
                all.push(place);
            }
        }
        next += 1;
    }
    all
}

/// The cases of which each value of a schema is one, at least; each is what then holds besides.
fn alternatives<'s>(schema: &Place<'s>) -> Option<Vec<Vec<Place<'s>>>> {
    for keyword in ["oneOf", "anyOf"] {
        let branches = schema.parts(keyword);
        if (1..=16).contains(&branches.len()) {
            return Some(branches.into_iter().map(|branch| vec![branch]).collect());
        }
    }
    let condition = schema.part("if")?;
    let then = [Some(condition), schema.part("then")]
        .into_iter()
        .flatten()
        .collect();
    let otherwise = schema.part("else").into_iter().collect();
    Some(vec![then, otherwise])
}

/// The kinds of value that all of these schemas allow.
fn kinds_of(schemas: &[Place<'_>]) -> Kinds {
    schemas
        .iter()
        .fold(Kinds::ALL, |all, place| all.and(kinds(place.schema)))
}

/// Whether a schema that only lists values lists all that another does, told without comparing each with each.
fn lists_more(new: &Place<'_>, old: &Place<'_>) -> bool {
    let values = new.get("enum").and_then(Value::as_array);
    let before = old.get("enum").and_then(Value::as_array);
    let (Some(values), Some(before)) = (values, before) else {
        return false;
    };
    let members = new.schema.as_object().into_iter().flatten();
    if members
        .filter(|(keyword, _)| super::vocabulary::asserts(keyword))
        .count()
        > 1
    {
        return false;
    }
    let mut by_form: HashMap<String, Vec<&Value>> = HashMap::new();
    for value in values {
        by_form.entry(canonical(value)).or_default().push(value);
    }
    before.iter().all(|value| {
        let alike = by_form.get(&canonical(value));
        alike.is_some_and(|alike| alike.iter().any(|other| equal(other, value)))
    })
}

/// All the values that these schemas may accept, if one of them lists them.
fn finite(schemas: &[Place<'_>], promised: Kinds) -> Option<Vec<Value>> {
    const MOST: usize = 300;
    for place in schemas {
        let values = match (place.get("const"), place.get("enum")) {
            (Some(value), _) => vec![value.clone()],
            (None, Some(Value::Array(values))) if values.len() <= MOST => values.clone(),
            _ => continue,
        };
        let fits = |value: &Value| {
            promised.contains(Kinds::of(value))
                && schemas
                    .iter()
                    .all(|place| kinds::allows(place.schema, value))
        };
        return Some(values.into_iter().filter(fits).collect());
    }
    let both = [Value::Bool(false), Value::Bool(true), Value::Null];
    let few = Kinds::NULL.or(Kinds::BOOLEAN);
    let possible = |value: &Value| promised.contains(Kinds::of(value));
    few.contains(promised)
        .then(|| both.into_iter().filter(possible).collect())
}

/// A value as a sentence may hold it.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        return text;
    }
    text.chars().take(40).chain(std::iter::once('…')).collect()
}
