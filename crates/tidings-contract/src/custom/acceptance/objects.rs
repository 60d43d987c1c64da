//! What objects are held to: members by name, by pattern and all others; which must be there, and how many.

use std::collections::BTreeSet;

use serde_json::Value;

use super::numbers::Side;
use super::{ANYTHING, Judge, NOTHING, Place};
use crate::Contract;
use crate::custom::vocabulary::IN_PLACE;
use crate::reference::escaped;

/// So many schemas are looked at for whether they evaluate a member; past that, they may.
const LOOKED_AT: usize = 200;

impl<'s> Judge<'s> {
    pub(super) fn objects(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        self.member_count(old, new);
        for name in strings(new.get("required")) {
            if !requires(old, name) {
                self.gap(
                    new,
                    "/required",
                    format!("the property {name:?} is required now"),
                );
            }
        }
        self.members(old, new);
        self.patterned(old, new);
        self.others(old, new);
        self.dependents(old, new);
        if let Some(asked) = new.part("propertyNames") {
            let promised = old.iter().filter_map(|old| old.part("propertyNames"));
            let mut promised: Vec<Place<'s>> = promised.collect();
            promised.push(asked.instead(string()));
            self.covers(&promised, &asked);
        }
    }

    fn member_count(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let required: BTreeSet<&str> = old
            .iter()
            .flat_map(|old| strings(old.get("required")))
            .collect();
        let asked = new.get("minProperties").and_then(Value::as_u64);
        if asked.is_none_or(|asked| asked > required.len() as u64) {
            self.size(old, new, "minProperties", Side::Least);
        }
        self.size(old, new, "maxProperties", Side::Most);
    }

    /// Each name that either side knows.
    fn members(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let mut names = BTreeSet::new();
        for place in old.iter().chain([new]) {
            names.extend(place.named("properties").into_iter().map(|(name, _)| name));
        }
        for name in names {
            if !self.step() {
                return self.gap(new, "", super::TOO_INTRICATE);
            }
            let mut asked = self.named(new, name);
            let others = asked.is_empty();
            asked.extend(all_others(new).filter(|_| others));
            if asked.is_empty() {
                continue;
            }
            let promised = self.promised(old, name, new);
            for asked in asked {
                if others && asked.schema == &NOTHING {
                    let gone = !self.silently(&promised, &asked);
                    if gone {
                        let place = format!("/properties/{}", escaped(name));
                        let detail = format!("the property {name:?} may not be given any more");
                        self.gap(new, &place, detail);
                    }
                } else {
                    self.covers(&promised, &asked);
                }
            }
        }
    }

    /// Names that fit a pattern of the new schema. Those that properties name have been looked at; any other one
    /// is held to one of the old patterns or to what the old schema says of all others.
    fn patterned(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        for (pattern, asked) in new.named("patternProperties") {
            let shown = old.iter().any(|old| {
                let patterns = old.named("patternProperties");
                let same = patterns.iter().find(|(its, _)| *its == pattern);
                if let Some((_, promised)) = same
                    && self.silently(std::slice::from_ref(promised), &asked)
                {
                    return true;
                }
                let promised = patterns.into_iter().map(|(_, promised)| promised);
                let rest = all_others(old).unwrap_or_else(|| old.instead(&ANYTHING));
                promised
                    .chain([rest])
                    .all(|promised| self.silently(&[promised], &asked))
            });
            if !shown {
                let detail = format!("members whose names fit {pattern:?} may be refused now");
                self.gap(&asked, "", detail);
            }
        }
    }

    /// Names that the new schema does not know, and so holds to what it says of all others.
    fn others(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let Some(asked) = all_others(new) else {
            return self.unevaluated(old, new);
        };
        let kept = |pattern: &str| {
            new.named("patternProperties")
                .iter()
                .any(|(its, _)| *its == pattern)
        };
        let shown = old.iter().any(|old| {
            let patterns = old.named("patternProperties").into_iter();
            let lost = patterns
                .filter(|(pattern, _)| !kept(pattern))
                .map(|(_, schema)| schema);
            let rest = all_others(old).unwrap_or_else(|| old.instead(&ANYTHING));
            lost.chain([rest])
                .all(|promised| self.silently(&[promised], &asked))
        });
        if !shown {
            let detail = "members that no property names may be refused now";
            self.gap(&asked, "", detail);
        }
    }

    /// `unevaluatedProperties` beside keywords that evaluate in place: nothing is shown unless those are the same, and
    /// what this schema evaluates itself has only become more.
    fn unevaluated(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let Some(asked) = new.part("unevaluatedProperties") else {
            return;
        };
        if asked.schema == &ANYTHING {
            return;
        }
        let shown = old.iter().any(|old| {
            let Some(promised) = old.part("unevaluatedProperties") else {
                return false;
            };
            let subset = |keyword: &str| {
                let names = new.named(keyword);
                let known = |name: &str| names.iter().any(|(its, _)| *its == name);
                old.named(keyword).iter().all(|(name, _)| known(name))
            };
            let kept = old.get("additionalProperties").is_none()
                && subset("properties")
                && subset("patternProperties");
            kept && IN_PLACE
                .iter()
                .all(|keyword| self.same_keyword(keyword, old, new))
                && self.silently(&[promised], &asked)
        });
        if !shown {
            let detail = "which members are left over cannot be shown to be accepted";
            self.gap(&asked, "", detail);
        }
    }

    fn dependents(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let dependents = new.get("dependentRequired").and_then(Value::as_object);
        for (name, asked) in dependents.into_iter().flatten() {
            if self.is_closed(old, name, new) {
                continue;
            }
            let promised = |asked: &str| {
                let depends = |old: &Place<'_>| {
                    let its = old.get("dependentRequired").and_then(|it| it.get(name));
                    strings(its).any(|its| its == asked)
                };
                asked == name || requires(old, asked) || old.iter().any(depends)
            };
            for asked in strings(Some(asked)).filter(|asked| !promised(asked)) {
                let place = format!("/dependentRequired/{}", escaped(name));
                let detail = format!("the property {asked:?} is required beside {name:?} now");
                self.gap(new, &place, detail);
            }
        }
        for (name, asked) in new.named("dependentSchemas") {
            if self.is_closed(old, name, new) {
                continue;
            }
            let mut promised = old.to_vec();
            for old in old {
                let its = old.named("dependentSchemas").into_iter();
                promised.extend(
                    its.filter(|(its, _)| *its == name)
                        .map(|(_, schema)| schema),
                );
            }
            self.covers(&promised, &asked);
        }
    }
}

impl<'s> Judge<'s> {
    /// Whether the old schemas let no object have this member.
    fn is_closed(&self, old: &[Place<'s>], name: &str, new: &Place<'s>) -> bool {
        self.promised(old, name, new)
            .iter()
            .any(|schema| schema.schema == &NOTHING)
    }

    /// What the old schemas hold a member to.
    fn promised(&self, old: &[Place<'s>], name: &str, new: &Place<'s>) -> Vec<Place<'s>> {
        let mut promised = Vec::new();
        for place in old {
            let found = self.named(place, name);
            if found.is_empty() {
                let left_over = || {
                    let evaluated = may_evaluate(place, name, &mut LOOKED_AT.clone());
                    place.part("unevaluatedProperties").filter(|_| !evaluated)
                };
                promised.extend(all_others(place).or_else(left_over));
            }
            promised.extend(found);
        }
        if promised.is_empty() {
            promised.push(new.instead(&ANYTHING));
        }
        promised
    }

    /// What a schema holds a member to by its name, or by patterns that it fits.
    fn named(&self, place: &Place<'s>, name: &str) -> Vec<Place<'s>> {
        let properties = place.named("properties").into_iter();
        let patterns = place.named("patternProperties").into_iter();
        let named = properties.filter(|(its, _)| *its == name);
        let fitting = patterns.filter(|(pattern, _)| self.fits(pattern, name));
        named.chain(fitting).map(|(_, schema)| schema).collect()
    }

    /// Whether a name fits a pattern, as the validators see it.
    fn fits(&self, pattern: &'s str, name: &str) -> bool {
        let mut patterns = self.patterns.borrow_mut();
        let compiled = patterns
            .entry(pattern)
            .or_insert_with(|| Contract::compile(serde_json::json!({ "pattern": pattern })).ok());
        let name = Value::String(name.to_owned());
        compiled
            .as_ref()
            .is_some_and(|compiled| compiled.accepts(&name))
    }
}

/// What a schema holds all members to that it does not know.
fn all_others<'s>(place: &Place<'s>) -> Option<Place<'s>> {
    let plain = || {
        place
            .part("unevaluatedProperties")
            .filter(|_| is_plain(place))
    };
    place.part("additionalProperties").or_else(plain)
}

/// Whether a schema has no keyword that can evaluate members or items from elsewhere.
pub(super) fn is_plain(place: &Place<'_>) -> bool {
    IN_PLACE.iter().all(|keyword| place.get(keyword).is_none())
}

/// Whether what a schema applies in place might evaluate a member of this name. Patterns count as if they always fit.
fn may_evaluate(place: &Place<'_>, name: &str, left: &mut usize) -> bool {
    if *left == 0 {
        return true;
    }
    *left -= 1;
    let mut within: Vec<Place<'_>> = place.target().into_iter().collect();
    for keyword in ["if", "then", "else", "not"] {
        within.extend(place.part(keyword));
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        within.extend(place.parts(keyword));
    }
    within.extend(
        place
            .named("dependentSchemas")
            .into_iter()
            .map(|(_, schema)| schema),
    );
    within.iter().any(|place| {
        let open = [
            "additionalProperties",
            "unevaluatedProperties",
            "patternProperties",
        ];
        open.iter().any(|keyword| place.get(keyword).is_some())
            || place
                .named("properties")
                .iter()
                .any(|(its, _)| *its == name)
            || may_evaluate(place, name, left)
    })
}

/// Whether one of the schemas requires a member.
pub(super) fn requires(schemas: &[Place<'_>], name: &str) -> bool {
    schemas
        .iter()
        .any(|place| strings(place.get("required")).any(|its| its == name))
}

pub(super) fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn string() -> &'static Value {
    static STRING: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| serde_json::json!({ "type": "string" }));
    &STRING
}
