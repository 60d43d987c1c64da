//! Bounds: of numbers, lengths and sizes; and what a string must look like.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::super::vocabulary::asserts_format;
use super::kinds::Kinds;
use super::{Judge, Place, kinds_of};

/// Compares two numbers exactly; `None` where doubles could deceive.
pub(crate) fn ordering(one: &Number, other: &Number) -> Option<Ordering> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let (Some(one), Some(other)) = (one.as_i128(), other.as_i128()) {
        return Some(one.cmp(&other));
    }
    let (both_doubles, one, other) = (
        one.is_f64() && other.is_f64(),
        one.as_f64()?,
        other.as_f64()?,
    );
    let exact = both_doubles || (one.abs() < EXACT && other.abs() < EXACT);
    exact.then(|| one.partial_cmp(&other)).flatten()
}

/// Whether two values are equal as JSON Schema sees it: 1 and 1.0 are.
pub(crate) fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || ordering(one, other) == Some(Ordering::Equal)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, one): (&String, &Value)| {
                other.get(name).is_some_and(|other| equal(one, other))
            };
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

/// Which way a bound holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Least,
    Most,
}

fn number<'s>(place: &Place<'s>, keyword: &str) -> Option<&'s Number> {
    match place.get(keyword)? {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

/// Whether a bound of the old schemas under this keyword is at least as tight.
fn tight(old: &[Place<'_>], keyword: &str, asked: &Number, side: Side, strictly: bool) -> bool {
    old.iter()
        .filter_map(|old| number(old, keyword))
        .any(|promised| {
            let order = ordering(promised, asked);
            let tighter = if side == Side::Least {
                Ordering::Greater
            } else {
                Ordering::Less
            };
            order == Some(tighter) || (!strictly && order == Some(Ordering::Equal))
        })
}

impl<'s> Judge<'s> {
    /// A keyword that bounds a size.
    pub(super) fn size(&mut self, old: &[Place<'s>], new: &Place<'s>, keyword: &str, side: Side) {
        let Some(asked) = number(new, keyword) else {
            return;
        };
        let nothing = side == Side::Least && asked.as_f64() == Some(0.0);
        if !nothing && !tight(old, keyword, asked, side, false) {
            let detail = format!("{keyword} is {asked} now, which is tighter than it was");
            self.gap(new, &format!("/{keyword}"), detail);
        }
    }

    pub(super) fn numbers(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        for (plain, exclusive, side) in [
            ("minimum", "exclusiveMinimum", Side::Least),
            ("maximum", "exclusiveMaximum", Side::Most),
        ] {
            for (keyword, other) in [(plain, exclusive), (exclusive, plain)] {
                let Some(asked) = number(new, keyword) else {
                    continue;
                };
                // `x > 5` promises `x >= 5`, but `x >= 5` does not promise `x > 5`.
                let shown = tight(old, keyword, asked, side, false)
                    || tight(old, other, asked, side, keyword == exclusive);
                if !shown {
                    let detail = format!("{keyword} is {asked} now, which is tighter than it was");
                    self.gap(new, &format!("/{keyword}"), detail);
                }
            }
        }
        self.multiples(old, new);
    }

    fn multiples(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let Some(asked) = number(new, "multipleOf") else {
            return;
        };
        let whole = asked.as_i128() == Some(1) && !kinds_of(old).meets(Kinds::FRACTION);
        let promised = old
            .iter()
            .filter_map(|old| number(old, "multipleOf"))
            .any(|promised| {
                let whole = promised.as_i128().zip(asked.as_i128());
                ordering(promised, asked) == Some(Ordering::Equal)
                    || whole.is_some_and(|(promised, asked)| asked != 0 && promised % asked == 0)
            });
        if !whole && !promised {
            let detail = format!("only multiples of {asked} are accepted now");
            self.gap(new, "/multipleOf", detail);
        }
    }

    pub(super) fn strings(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        self.size(old, new, "minLength", Side::Least);
        self.size(old, new, "maxLength", Side::Most);
        for keyword in ["pattern", "format"] {
            let Some(asked) = new.get(keyword) else {
                continue;
            };
            if keyword == "format" && !asserts_format(asked) {
                continue;
            }
            if !old.iter().any(|old| old.get(keyword) == Some(asked)) {
                let detail = format!(
                    "strings must fit the {keyword} {} now",
                    super::shortened(asked)
                );
                self.gap(new, &format!("/{keyword}"), detail);
            }
        }
    }
}
