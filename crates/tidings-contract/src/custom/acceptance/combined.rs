//! Keywords that combine schemas: `$ref`, `allOf`, `anyOf`, `oneOf`, `not`, `if`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::objects::strings;
use super::{ANYTHING, Judge, Kinds, NOTHING, Place, conjuncts, equal, finite, kinds_of};

/// So deep schemas are looked into to show that no value fits both.
const APART: usize = 8;

impl<'s> Judge<'s> {
    pub(super) fn combined(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        for part in new.target().into_iter().chain(new.parts("allOf")) {
            self.covers(old, &part);
        }
        if new.get("anyOf").is_some() {
            let branches = new.parts("anyOf");
            if !branches.iter().any(|branch| self.silently(old, branch)) {
                self.gap(
                    new,
                    "/anyOf",
                    "no single branch accepts all that was accepted",
                );
            }
        }
        if new.get("oneOf").is_some() {
            self.exactly_one(old, new);
        }
        if let Some(refused) = new.part("not") {
            self.refused(old, new, &refused);
        }
        if new.get("if").is_some() {
            self.conditional(old, new);
        }
    }

    /// Branches that exclude each other are as good as `anyOf`; others must be the same as they were.
    fn exactly_one(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        if old
            .iter()
            .any(|old| old.get("oneOf").is_some() && self.same_keyword("oneOf", old, new))
        {
            return;
        }
        let branches = new.parts("oneOf");
        let exclusive = branches.iter().enumerate().all(|(index, one)| {
            branches
                .iter()
                .skip(index + 1)
                .all(|other| self.apart(one, other, 0))
        });
        if !exclusive {
            let detail = "a value may now fit none of the branches, or more than one";
            self.gap(new, "/oneOf", detail);
        } else if !branches.iter().any(|branch| self.silently(old, branch)) {
            self.gap(
                new,
                "/oneOf",
                "no single branch accepts all that was accepted",
            );
        }
    }

    fn refused(&mut self, old: &[Place<'s>], new: &Place<'s>, refused: &Place<'s>) {
        if !kinds_of(old).meets(kinds_of(&conjuncts(std::slice::from_ref(refused)))) {
            return;
        }
        // All that is refused now was refused before.
        let shown = old.iter().any(|old| {
            old.part("not")
                .is_some_and(|its| self.silently(std::slice::from_ref(refused), &its))
        });
        if !shown {
            self.gap(new, "/not", "values that were accepted may be excluded now");
        }
    }

    fn conditional(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let same = old
            .iter()
            .find(|old| self.same_keyword("if", old, new))
            .cloned();
        for keyword in ["then", "else"] {
            let Some(asked) = new.part(keyword) else {
                continue;
            };
            let mut promised = old.to_vec();
            promised.extend(same.as_ref().and_then(|same| same.part(keyword)));
            self.covers(&promised, &asked);
        }
    }

    /// Whether no value fits both schemas.
    fn apart(&mut self, one: &Place<'s>, other: &Place<'s>, depth: usize) -> bool {
        if !self.step() || depth > APART {
            return false;
        }
        let one = conjuncts(std::slice::from_ref(one));
        let other = conjuncts(std::slice::from_ref(other));
        let never = |all: &[Place<'_>]| all.iter().any(|place| place.schema == &NOTHING);
        let (kinds, its) = (kinds_of(&one), kinds_of(&other));
        if !kinds.meets(its) || never(&one) || never(&other) {
            return true;
        }
        if let (Some(values), Some(others)) = (finite(&one, kinds), finite(&other, its)) {
            let shared = |value: &Value| others.iter().any(|other| may_be_equal(value, other));
            return !values.iter().any(shared);
        }
        let required = |all: &[Place<'s>]| -> BTreeSet<&'s str> {
            all.iter()
                .flat_map(|place| strings(place.get("required")))
                .collect()
        };
        let common: Vec<&str> = required(&one)
            .intersection(&required(&other))
            .copied()
            .collect();
        kinds.and(its) == Kinds::OBJECT
            && common.into_iter().any(|name| {
                let (one, other) = (property(&one, name), property(&other, name));
                one.iter()
                    .any(|one| other.iter().any(|other| self.apart(one, other, depth + 1)))
            })
    }
}

fn property<'s>(all: &[Place<'s>], name: &str) -> Vec<Place<'s>> {
    let named = |place: &Place<'s>| {
        place
            .named("properties")
            .into_iter()
            .find(|(its, _)| *its == name)
            .map(|(_, it)| it)
    };
    let found: Vec<Place<'s>> = all.iter().filter_map(named).collect();
    match (found.is_empty(), all.first()) {
        (true, Some(first)) => vec![first.instead(&ANYTHING)],
        _ => found,
    }
}

/// Whether two values might be equal: numbers beyond exact doubles are taken to be.
fn may_be_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(two)) => {
            one.as_f64() == two.as_f64() || equal(&Value::Number(one.clone()), other)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| may_be_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| {
                    other
                        .get(name)
                        .is_some_and(|other| may_be_equal(one, other))
                })
        }
        _ => one == other,
    }
}
