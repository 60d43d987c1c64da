//! What an expression comes to.

use std::borrow::Cow;

use super::functions;
use super::parse::{Compare, Logic, Math, Node, Piece};
use super::value::{Evaluated, Fault, Kind, Value};
use super::{Attributes, Effort};

pub(super) fn evaluate<'a>(
    node: &'a Node,
    event: &'a impl Attributes,
    effort: &Effort,
) -> Evaluated<'a> {
    match node {
        Node::Boolean(value) => Ok(Value::Boolean(*value)),
        Node::Integer(number) => Ok(Value::Integer(*number)),
        Node::Text(text) => Ok(Value::Text(Cow::Borrowed(text))),
        Node::Attribute(name) => {
            let value = event.attribute(name).ok_or_else(|| {
                let sentence = format!("there is no attribute {name}");
                failed(Fault::new(Kind::MissingAttribute, sentence))
            })?;
            effort.take(value.text_length()).map_err(failed)?;
            Ok(value)
        }
        Node::Exists(name) => Ok(Value::Boolean(event.attribute(name).is_some())),
        Node::Not(inner) => boolean(inner, event, effort).map(|value| Value::Boolean(!value)),
        Node::Minus(inner) => {
            let number = integer(inner, event, effort)?;
            fitting(number.checked_neg(), i32::MAX)
        }
        Node::Math(operator, one, other) => math(
            *operator,
            integer(one, event, effort)?,
            integer(other, event, effort)?,
        ),
        Node::Compare(operator, one, other) => compare(*operator, one, other, event, effort),
        Node::Chain(first, others) => chain(first, others, event, effort),
        Node::Like(inner, pattern) => {
            let value = operand(inner, event, effort)?;
            let like = like(&value.to_text(), pattern, effort);
            like.map(Value::Boolean).map_err(failed)
        }
        Node::In(inner, set) => {
            let value = operand(inner, event, effort)?;
            for entry in set {
                let entry = operand(entry, event, effort)?.like(&value);
                if entry.map_err(to_false)? == value {
                    return Ok(Value::Boolean(true));
                }
            }
            Ok(Value::Boolean(false))
        }
        Node::Call(name, arguments) => {
            let arguments = arguments
                .iter()
                .map(|argument| operand(argument, event, effort));
            let arguments: Vec<_> = arguments.collect::<Result<_, _>>()?;
            let length = functions::length(name, &arguments);
            effort.take(length).map_err(failed)?;
            functions::call(name, &arguments)
        }
    }
}

/// Groups from the right, and asks no operand that can change nothing any more.
fn chain<'a>(
    first: &'a Node,
    others: &'a [(Logic, Node)],
    event: &'a impl Attributes,
    effort: &Effort,
) -> Evaluated<'a> {
    let mut value = boolean(first, event, effort)?;
    let mut flipped = false;
    for (operator, node) in others {
        match (operator, value) {
            (Logic::And, false) | (Logic::Or, true) => break,
            (Logic::And, true) | (Logic::Or, false) => {}
            (Logic::Xor, value) => flipped ^= value,
        }
        value = boolean(node, event, effort)?;
    }
    Ok(Value::Boolean(value != flipped))
}

/// An operand whose failure makes the operation false.
fn operand<'a>(node: &'a Node, event: &'a impl Attributes, effort: &Effort) -> Evaluated<'a> {
    evaluate(node, event, effort).map_err(to_false)
}

fn to_false<'a>((_, fault): (Value<'_>, Fault)) -> (Value<'a>, Fault) {
    failed(fault)
}

fn failed<'a>(fault: Fault) -> (Value<'a>, Fault) {
    (Value::Boolean(false), fault)
}

fn boolean<'a>(
    node: &'a Node,
    event: &'a impl Attributes,
    effort: &Effort,
) -> Result<bool, (Value<'a>, Fault)> {
    let cast = operand(node, event, effort)?.to_boolean();
    cast.map_err(|(_, fault)| (Value::Boolean(false), fault))
}

fn integer<'a>(
    node: &'a Node,
    event: &'a impl Attributes,
    effort: &Effort,
) -> Result<i32, (Value<'a>, Fault)> {
    let zero = |fault| (Value::Integer(0), fault);
    let value = evaluate(node, event, effort).map_err(|(_, fault)| zero(fault))?;
    value.to_integer().map_err(|(_, fault)| zero(fault))
}

fn fitting<'a>(result: Option<i32>, otherwise: i32) -> Evaluated<'a> {
    result.map(Value::Integer).ok_or_else(|| {
        let fault = Fault::new(Kind::Math, "the result does not fit into 32 bits");
        (Value::Integer(otherwise), fault)
    })
}

fn math<'a>(operator: Math, one: i32, other: i32) -> Evaluated<'a> {
    if matches!(operator, Math::Divided | Math::Modulo) && other == 0 {
        let fault = Fault::new(Kind::Math, "a division by zero");
        return Err((Value::Integer(0), fault));
    }
    let result = match operator {
        Math::Times => one.checked_mul(other),
        Math::Divided => one.checked_div(other),
        Math::Modulo => one.checked_rem(other),
        Math::Plus => one.checked_add(other),
        Math::Minus => one.checked_sub(other),
    };
    fitting(result, 0)
}

/// Equality reads the left value as one of the right's type; the others read both as integers.
fn compare<'a>(
    operator: Compare,
    one: &'a Node,
    other: &'a Node,
    event: &'a impl Attributes,
    effort: &Effort,
) -> Evaluated<'a> {
    let (one, other) = (operand(one, event, effort)?, operand(other, event, effort)?);
    if matches!(operator, Compare::Equal | Compare::Unequal) {
        let same = one.like(&other).map_err(to_false)? == other;
        return Ok(Value::Boolean(same == (operator == Compare::Equal)));
    }
    let number = |value: &Value<'a>| {
        let cast = value.to_integer();
        cast.map_err(|(_, fault)| (Value::Boolean(false), fault))
    };
    let (one, other) = (number(&one)?, number(&other)?);
    Ok(Value::Boolean(match operator {
        Compare::Less => one < other,
        Compare::LessOrEqual => one <= other,
        Compare::Greater => one > other,
        Compare::GreaterOrEqual => one >= other,
        Compare::Equal => one == other,
        Compare::Unequal => one != other,
    }))
}

/// Greedy, going back to the last `%` alone: its cost is the product of the two lengths at most, or what is left.
fn like(text: &str, pattern: &[Piece], effort: &Effort) -> Result<bool, Fault> {
    let (mut at, mut piece) = (0, 0);
    let text: Vec<char> = text.chars().collect();
    let mut last_any: Option<(usize, usize)> = None;
    let mut steps = 0;
    while at < text.len() {
        steps += 1;
        if steps > effort.left() {
            break;
        }
        let fits = match pattern.get(piece) {
            Some(Piece::Character(wanted)) => *wanted == text[at],
            Some(Piece::One) => true,
            Some(Piece::Any) => {
                last_any = Some((piece, at));
                piece += 1;
                continue;
            }
            None => false,
        };
        if fits {
            (at, piece) = (at + 1, piece + 1);
        } else if let Some((any, from)) = last_any {
            last_any = Some((any, from + 1));
            (at, piece) = (from + 1, any + 1);
        } else {
            effort.take(steps)?;
            return Ok(false);
        }
    }
    effort.take(steps)?;
    Ok(pattern[piece..].iter().all(|piece| *piece == Piece::Any))
}
