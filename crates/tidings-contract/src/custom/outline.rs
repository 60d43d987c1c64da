//! The caps on a schema, checked before anything walks it recursively or compiles it.
//!
//! Every place where a schema stands is visited once, with a stack of its own. Depth counts schemas, not nested
//! JSON; properties count where they stand. Then the places are joined by containment and reference: a loop is
//! refused, and so are more than [`MAX_PATHS`] ways through them, for that is what a validator would walk.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::refusal::quoted;
use super::vocabulary::subschemas;
use super::{Code, Flavour, Refusal};
use crate::reference::{escaped, pointer_of};
use crate::ways::ways;

/// The deepest schema; the root is 1 and the schema of a property 2.
pub const MAX_DEPTH: usize = 5;
/// The most properties, by name or pattern, in all schemas together.
pub const MAX_PROPERTIES: usize = 50;
/// The most ways to come from the root to a schema, through what it contains and refers to.
pub const MAX_PATHS: usize = 10_000;
/// The most schemas on such a way.
const MAX_CHAIN: usize = 128;
/// The deepest nesting of plain JSON, in constants for example.
const MAX_NESTING: usize = tidings_event::json::MAX_DEPTH;
/// The most regular expressions.
pub(super) const MAX_PATTERNS: usize = 100;
/// The longest of them, in bytes: to read one takes some 500 times its size.
const MAX_PATTERN_BYTES: usize = 4_096;

/// What was seen on the way.
#[derive(Debug)]
pub(super) struct Outline {
    /// Which dialect the keywords speak.
    pub(super) flavour: Flavour,
    /// Every regular expression, with its place.
    pub(super) patterns: Vec<(String, String)>,
    /// How many places hold a schema.
    pub(super) schemas: usize,
}

struct Place {
    pointer: String,
    next: Vec<usize>,
    reference: Option<String>,
}

#[derive(Default)]
struct Survey {
    places: Vec<Place>,
    properties: usize,
    openapi: bool,
    patterns: Vec<(String, String)>,
}

fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidJsonSchema, pointer, detail)
}

/// Holds a schema to the caps.
pub(super) fn outline(schema: &Value) -> Result<Outline, Refusal> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(invalid("", "a schema is an object, or true or false"));
    }
    shallow(schema)?;
    let mut survey = Survey::default();
    let mut waiting = vec![(String::new(), schema, 1, None)];
    while let Some((pointer, schema, depth, parent)) = waiting.pop() {
        let index = survey.visit(pointer, schema, depth)?;
        if let Some(parent) = parent {
            let parent: &mut Place = &mut survey.places[parent];
            parent.next.push(index);
        }
        if let Value::Object(members) = schema {
            for (place, part) in subschemas(members) {
                let pointer = format!("{}{place}", survey.places[index].pointer);
                waiting.push((pointer, part, depth + 1, Some(index)));
            }
            if waiting.len() > MAX_PATHS {
                return Err(too_many_paths());
            }
        }
    }
    let schemas = survey.places.len();
    let edges = survey.joined()?;
    paths(&survey.places, &edges)?;
    let flavour = if survey.openapi {
        Flavour::OpenApi31
    } else {
        Flavour::JsonSchema202012
    };
    Ok(Outline {
        flavour,
        patterns: survey.patterns,
        schemas,
    })
}

/// Refuses JSON that later walks could not follow, without following it by recursion.
fn shallow(schema: &Value) -> Result<(), Refusal> {
    let mut waiting = vec![(schema, 1)];
    while let Some((value, depth)) = waiting.pop() {
        if depth > MAX_NESTING {
            let detail = format!("the schema is nested deeper than {MAX_NESTING} levels of JSON");
            return Err(Refusal::new(Code::SchemaTooDeep, "", detail));
        }
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => {
                waiting.extend(members.values().map(|member| (member, depth + 1)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn too_many_paths() -> Refusal {
    let detail = format!(
        "there are more than {MAX_PATHS} ways to evaluate this schema; use fewer combinations and references"
    );
    let refusal = Refusal::new(Code::SchemaTooWide, "", detail);
    refusal.wanting(format!("at most {MAX_PATHS} ways"), "more")
}

impl Survey {
    fn visit(&mut self, pointer: String, schema: &Value, depth: usize) -> Result<usize, Refusal> {
        if depth > MAX_DEPTH {
            let detail = format!("schemas are nested {depth} deep here; {MAX_DEPTH} is the limit");
            let refusal = Refusal::new(Code::SchemaTooDeep, pointer, detail);
            return Err(refusal.wanting(format!("depth {MAX_DEPTH}"), format!("depth {depth}")));
        }
        if self.places.len() == MAX_PATHS {
            return Err(too_many_paths());
        }
        let reference = match schema {
            Value::Bool(_) => None,
            Value::Object(members) => self.keywords(&pointer, members)?,
            _ => return Err(invalid(pointer, "a schema is an object, or true or false")),
        };
        self.places.push(Place {
            pointer,
            next: Vec::new(),
            reference,
        });
        Ok(self.places.len() - 1)
    }

    /// Looks at one schema's keywords; gives the target of its reference.
    fn keywords(
        &mut self,
        pointer: &str,
        members: &Map<String, Value>,
    ) -> Result<Option<String>, Refusal> {
        for (keyword, instead) in REFUSED {
            if members.contains_key(*keyword) {
                let detail = format!("{} cannot be used here: {instead}", quoted(keyword));
                return Err(invalid(format!("{pointer}/{keyword}"), detail));
            }
        }
        for keyword in ["$id", "$schema"].iter().filter(|_| !pointer.is_empty()) {
            if members.contains_key(*keyword) {
                let detail = format!("{keyword} belongs to the root of the schema alone");
                return Err(invalid(format!("{pointer}/{keyword}"), detail));
            }
        }
        if let Some(dialect) = members.get("$schema") {
            self.dialect(dialect)?;
        }
        if let Some(id) = members.get("$id") {
            // It is taken away before the schema is compiled, so nobody else would see it.
            let fits = |id: &str| id.split_once('#').is_none_or(|(_, after)| after.is_empty());
            if !id.as_str().is_some_and(fits) {
                return Err(invalid("/$id", "$id is a URI reference without a fragment"));
            }
        }
        self.openapi |= OPENAPI.iter().any(|keyword| members.contains_key(*keyword));
        self.count(pointer, members)?;
        members
            .get("$ref")
            .map(|target| reference(pointer, target))
            .transpose()
    }

    fn dialect(&mut self, dialect: &Value) -> Result<(), Refusal> {
        let Some(name) = dialect.as_str() else {
            return Err(invalid("/$schema", "$schema is a URI, as text"));
        };
        if name.starts_with("https://spec.openapis.org/oas/3.1/dialect/") {
            self.openapi = true;
        } else if name.trim_end_matches('#') != "https://json-schema.org/draft/2020-12/schema" {
            let detail = format!(
                "$schema is {}: write it for https://json-schema.org/draft/2020-12/schema, or leave it out",
                quoted(name)
            );
            return Err(invalid("/$schema", detail));
        }
        Ok(())
    }

    fn count(&mut self, pointer: &str, members: &Map<String, Value>) -> Result<(), Refusal> {
        for keyword in ["properties", "patternProperties"] {
            let named = members.get(keyword).and_then(Value::as_object);
            self.properties += named.map_or(0, Map::len);
            if self.properties > MAX_PROPERTIES {
                let detail = format!(
                    "the schema has more than {MAX_PROPERTIES} properties, counted over all its levels"
                );
                let refusal =
                    Refusal::new(Code::SchemaTooWide, format!("{pointer}/{keyword}"), detail);
                return Err(refusal.wanting(format!("at most {MAX_PROPERTIES} properties"), "more"));
            }
        }
        if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
            self.patterns
                .push((format!("{pointer}/pattern"), pattern.to_owned()));
        }
        let named = members.get("patternProperties").and_then(Value::as_object);
        for pattern in named.into_iter().flat_map(Map::keys) {
            let place = format!("{pointer}/patternProperties/{}", escaped(pattern));
            self.patterns.push((place, pattern.clone()));
        }
        if self.patterns.len() > MAX_PATTERNS {
            let detail = format!("the schema has more than {MAX_PATTERNS} regular expressions");
            return Err(Refusal::new(Code::SchemaTooWide, pointer, detail));
        }
        let too_long = |(_, pattern): &&(String, String)| pattern.len() > MAX_PATTERN_BYTES;
        if let Some((place, pattern)) = self.patterns.iter().find(too_long) {
            let detail = format!("the regular expression has more than {MAX_PATTERN_BYTES} bytes");
            let refusal = Refusal::new(Code::SchemaTooWide, place, detail);
            let (most, bytes) = (MAX_PATTERN_BYTES, pattern.len());
            return Err(refusal.wanting(format!("at most {most} bytes"), format!("{bytes}")));
        }
        Ok(())
    }

    /// For each place, those it contains and the one it refers to.
    fn joined(&self) -> Result<Vec<Vec<usize>>, Refusal> {
        let by_pointer: HashMap<&str, usize> = self
            .places
            .iter()
            .enumerate()
            .map(|(index, place)| (place.pointer.as_str(), index))
            .collect();
        self.places
            .iter()
            .map(|place| {
                let mut next = place.next.clone();
                if let Some(target) = &place.reference {
                    let target = by_pointer.get(target.as_str()).ok_or_else(|| {
                        let detail = format!("no schema stands at #{target}");
                        invalid(format!("{}/$ref", place.pointer), detail)
                    })?;
                    next.push(*target);
                }
                Ok(next)
            })
            .collect()
    }
}

/// Where a reference leads, as a pointer in the spelling of this crate.
pub(super) fn reference(pointer: &str, target: &Value) -> Result<String, Refusal> {
    let place = format!("{pointer}/$ref");
    let Some(target) = target.as_str() else {
        return Err(invalid(place, "$ref must be a text"));
    };
    if target == "#" {
        return Err(invalid(
            place,
            "the schema refers to itself: recursion is not supported",
        ));
    }
    let fragment = target.strip_prefix("#/").ok_or_else(|| {
        let why = if target.starts_with('#') {
            "names an anchor"
        } else {
            "leaves the document"
        };
        let detail = format!(
            "$ref {} {why}: write #/$defs/<name> and put the schema there",
            quoted(target)
        );
        invalid(place.clone(), detail).wanting("#/…", quoted(target))
    })?;
    pointer_of(&format!("#/{fragment}"))
        .ok_or_else(|| invalid(place, format!("$ref {} is not a URI", quoted(target))))
}

/// Refuses more ways through the places than there may be; a place met again on its own way is a loop.
fn paths(places: &[Place], edges: &[Vec<usize>]) -> Result<(), Refusal> {
    let found = ways(edges, [0]);
    if let Some(&(at, _)) = found.back.first() {
        let detail = "the schema refers to itself here: recursion is not supported";
        let place = &places[at];
        let keyword = place.reference.as_ref().map_or("", |_| "/$ref");
        return Err(invalid(format!("{}{keyword}", place.pointer), detail));
    }
    if found.count > MAX_PATHS {
        return Err(too_many_paths());
    }
    if found.chain > MAX_CHAIN {
        let detail = format!(
            "references follow each other over {} schemas; {MAX_CHAIN} is the limit",
            found.chain
        );
        return Err(Refusal::new(Code::SchemaTooDeep, "", detail));
    }
    Ok(())
}

/// Keywords of OpenAPI 3.1 that JSON Schema does not have.
const OPENAPI: [&str; 4] = ["discriminator", "example", "externalDocs", "xml"];

/// Keywords that are of another draft, or lead where nothing can be counted, with what to write instead.
const REFUSED: &[(&str, &str)] = &[
    ("nullable", "write type: [.., \"null\"]"),
    ("$dynamicRef", "write $ref: #/$defs/<name>"),
    ("$recursiveRef", "write $ref: #/$defs/<name>"),
    ("$vocabulary", "it belongs to meta-schemas"),
    (
        "dependencies",
        "write dependentRequired or dependentSchemas",
    ),
];
