//! The grammar (CESQL 1.0, section 2; keywords and names in any case).
//!
//! Operators bind, from tight to loose: NOT and minus; LIKE and IN; `* / %`; `+ -`; comparisons; AND, OR and XOR, which
//! share one level and group from the right.

use winnow::ascii::{digit1, multispace0};
use winnow::combinator::{
    Infix, Postfix, Prefix, alt, cut_err, delimited, dispatch, expression, fail, not, opt, peek,
    preceded, separated,
};
use winnow::error::ContextError;
use winnow::prelude::*;
use winnow::stream::Stateful;
use winnow::token::{any, one_of, take_while};

use super::{InvalidExpression, functions};

/// How deep an expression may be: brackets, and operators whose operand is another operation. Members of a chain of
/// AND, OR and XOR are not deeper than the first.
const MAX_DEPTH: usize = 64;

/// An expression as a tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Boolean(bool),
    Integer(i32),
    Text(String),
    /// By its name in lower case.
    Attribute(String),
    Exists(String),
    Not(Box<Self>),
    Minus(Box<Self>),
    Math(Math, Box<Self>, Box<Self>),
    Compare(Compare, Box<Self>, Box<Self>),
    /// `first AND second OR …`: each operator with what follows it.
    Chain(Box<Self>, Vec<(Logic, Self)>),
    Like(Box<Self>, Vec<Piece>),
    In(Box<Self>, Vec<Self>),
    /// By its name in upper case.
    Call(String, Vec<Self>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Math {
    Times,
    Divided,
    Modulo,
    Plus,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// A part of a pattern of LIKE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Character(char),
    /// `_`
    One,
    /// `%`
    Any,
}

type Input<'a> = Stateful<&'a str, usize>;

impl Node {
    pub(super) fn unknown_function(&self) -> Option<String> {
        match self {
            Self::Boolean(_)
            | Self::Integer(_)
            | Self::Text(_)
            | Self::Attribute(_)
            | Self::Exists(_) => None,
            Self::Not(one) | Self::Minus(one) | Self::Like(one, _) => one.unknown_function(),
            Self::Math(_, one, other) | Self::Compare(_, one, other) => {
                one.unknown_function().or_else(|| other.unknown_function())
            }
            Self::Chain(first, others) => {
                let of_others = || others.iter().find_map(|(_, node)| node.unknown_function());
                first.unknown_function().or_else(of_others)
            }
            Self::In(one, set) => {
                let of_set = || set.iter().find_map(Self::unknown_function);
                one.unknown_function().or_else(of_set)
            }
            Self::Call(name, arguments) if functions::exists(name, arguments.len()) => {
                arguments.iter().find_map(Self::unknown_function)
            }
            Self::Call(name, arguments) => Some(format!("{name}/{}", arguments.len())),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Node, InvalidExpression> {
    let input = Input {
        input: text,
        state: 0,
    };
    delimited(multispace0, whole, multispace0)
        .parse(input)
        .map_err(|error| {
            let from = text.get(error.offset()..).unwrap_or_default();
            InvalidExpression::Syntax(from.chars().take(40).collect())
        })
}

fn whole(input: &mut Input<'_>) -> ModalResult<Node> {
    let first = operation.parse_next(input)?;
    let mut others = Vec::new();
    while let Some(operator) = opt(preceded(multispace0, logic)).parse_next(input)? {
        others.push((operator, cut_err(operation).parse_next(input)?));
    }
    if others.is_empty() {
        return Ok(first);
    }
    Ok(Node::Chain(Box::new(first), others))
}

fn logic(input: &mut Input<'_>) -> ModalResult<Logic> {
    alt((
        keyword("AND").value(Logic::And),
        keyword("OR").value(Logic::Or),
        keyword("XOR").value(Logic::Xor),
    ))
    .parse_next(input)
}

fn operation(input: &mut Input<'_>) -> ModalResult<Node> {
    let depth = input.state;
    let operation = expression(operand)
        .prefix(preceded(multispace0, prefix))
        .postfix(preceded(multispace0, postfix))
        .infix(preceded(multispace0, infix))
        .parse_next(input);
    input.state = depth;
    operation
}

/// Counts what lies within something else.
fn deeper(input: &mut Input<'_>) -> ModalResult<()> {
    input.state += 1;
    if input.state > MAX_DEPTH {
        return cut_err(fail).parse_next(input);
    }
    Ok(())
}

fn prefix<'a>(
    input: &mut Input<'a>,
) -> ModalResult<Prefix<Input<'a>, Node, winnow::error::ErrMode<ContextError>>> {
    let prefix = alt((
        keyword("NOT").value(Prefix(20, |_: &mut _, node| Ok(Node::Not(Box::new(node))))),
        // A minus before a digit belongs to the number.
        ('-', not(peek(one_of('0'..='9')))).value(Prefix(20, |_: &mut _, node| {
            Ok(Node::Minus(Box::new(node)))
        })),
    ))
    .parse_next(input)?;
    deeper(input)?;
    Ok(prefix)
}

fn postfix<'a>(
    input: &mut Input<'a>,
) -> ModalResult<Postfix<Input<'a>, Node, winnow::error::ErrMode<ContextError>>> {
    let negated = opt(keyword("NOT")).parse_next(input)?.is_some();
    let like = preceded(multispace0, keyword("LIKE")).value(true);
    let member = preceded(multispace0, keyword("IN")).value(false);
    let like = alt((like, member)).parse_next(input)?;
    Ok(match (like, negated) {
        (true, false) => Postfix(15, like_pattern),
        (true, true) => Postfix(15, |input, node| like_pattern(input, node).map(negate)),
        (false, false) => Postfix(15, in_set),
        (false, true) => Postfix(15, |input, node| in_set(input, node).map(negate)),
    })
}

fn negate(node: Node) -> Node {
    Node::Not(Box::new(node))
}

fn like_pattern(input: &mut Input<'_>, node: Node) -> ModalResult<Node> {
    let pattern = cut_err(preceded(multispace0, quoted)).parse_next(input)?;
    let mut pieces = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        pieces.push(match (character, characters.peek()) {
            ('\\', Some(&escaped @ ('%' | '_'))) => {
                characters.next();
                Piece::Character(escaped)
            }
            ('%', _) => Piece::Any,
            ('_', _) => Piece::One,
            (other, _) => Piece::Character(other),
        });
    }
    Ok(Node::Like(Box::new(node), pieces))
}

fn in_set(input: &mut Input<'_>, node: Node) -> ModalResult<Node> {
    deeper(input)?;
    let entries = separated(1.., delimited(multispace0, whole, multispace0), ',');
    let set = cut_err(preceded(multispace0, delimited('(', entries, ')'))).parse_next(input)?;
    Ok(Node::In(Box::new(node), set))
}

macro_rules! binary {
    ($make:ident, $operator:expr) => {
        |_: &mut _, one, other| Ok(Node::$make($operator, Box::new(one), Box::new(other)))
    };
}

fn infix<'a>(
    input: &mut Input<'a>,
) -> ModalResult<Infix<Input<'a>, Node, winnow::error::ErrMode<ContextError>>> {
    let infix = alt((
        alt((
            '*'.value(Infix::Left(12, binary!(Math, Math::Times))),
            '/'.value(Infix::Left(12, binary!(Math, Math::Divided))),
            '%'.value(Infix::Left(12, binary!(Math, Math::Modulo))),
            '+'.value(Infix::Left(10, binary!(Math, Math::Plus))),
            '-'.value(Infix::Left(10, binary!(Math, Math::Minus))),
        )),
        alt((
            "!=".value(Infix::Left(8, binary!(Compare, Compare::Unequal))),
            "<>".value(Infix::Left(8, binary!(Compare, Compare::Unequal))),
            "<=".value(Infix::Left(8, binary!(Compare, Compare::LessOrEqual))),
            ">=".value(Infix::Left(8, binary!(Compare, Compare::GreaterOrEqual))),
            '<'.value(Infix::Left(8, binary!(Compare, Compare::Less))),
            '>'.value(Infix::Left(8, binary!(Compare, Compare::Greater))),
            '='.value(Infix::Left(8, binary!(Compare, Compare::Equal))),
        )),
    ))
    .parse_next(input)?;
    deeper(input)?;
    Ok(infix)
}

fn operand(input: &mut Input<'_>) -> ModalResult<Node> {
    preceded(
        multispace0,
        dispatch! { peek(any);
            '(' => bracketed,
            '\'' | '"' => quoted.map(Node::Text),
            '+' | '-' | '0'..='9' => alt((number, word)),
            _ => word,
        },
    )
    .parse_next(input)
}

fn bracketed(input: &mut Input<'_>) -> ModalResult<Node> {
    deeper(input)?;
    let inner = delimited(multispace0, whole, multispace0);
    delimited('(', cut_err(inner), cut_err(')')).parse_next(input)
}

fn number(input: &mut Input<'_>) -> ModalResult<Node> {
    let digits = (
        opt(one_of(['+', '-'])),
        digit1,
        not(peek(one_of(is_of_name))),
    )
        .take();
    digits
        .try_map(str::parse)
        .map(Node::Integer)
        .parse_next(input)
}

/// A literal, an EXISTS, a call or the name of an attribute.
fn word(input: &mut Input<'_>) -> ModalResult<Node> {
    let name = name.parse_next(input)?;
    match name.to_ascii_uppercase().as_str() {
        "TRUE" => return Ok(Node::Boolean(true)),
        "FALSE" => return Ok(Node::Boolean(false)),
        "EXISTS" => {
            let attribute = cut_err(preceded(multispace0, self::name)).parse_next(input)?;
            return attribute_name(attribute, input).map(Node::Exists);
        }
        "AND" | "OR" | "XOR" | "NOT" | "LIKE" | "IN" => return fail.parse_next(input),
        _ => {}
    }
    let opened = opt((multispace0, '(')).parse_next(input)?.is_some();
    if !opened {
        return attribute_name(name, input).map(Node::Attribute);
    }
    deeper(input)?;
    let arguments = separated(0.., delimited(multispace0, whole, multispace0), ',');
    let arguments = delimited(multispace0, arguments, (multispace0, ')'));
    let arguments = cut_err(arguments).parse_next(input)?;
    Ok(Node::Call(name.to_ascii_uppercase(), arguments))
}

/// Names of functions may have underscores, those of attributes not.
fn attribute_name(name: &str, input: &mut Input<'_>) -> ModalResult<String> {
    if name.contains('_') {
        return fail.parse_next(input);
    }
    Ok(name.to_ascii_lowercase())
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn name<'a>(input: &mut Input<'a>) -> ModalResult<&'a str> {
    take_while(1.., is_of_name).parse_next(input)
}

fn keyword<'a>(
    wanted: &'static str,
) -> impl Parser<Input<'a>, &'a str, winnow::error::ErrMode<ContextError>> {
    name.verify(move |name: &str| name.eq_ignore_ascii_case(wanted))
}

/// Text between quotes; the quote itself is doubled or has a backslash before it.
fn quoted(input: &mut Input<'_>) -> ModalResult<String> {
    let quote = one_of(['\'', '"']).parse_next(input)?;
    let mut text = String::new();
    loop {
        let character = any.parse_next(input)?;
        if character == quote {
            if opt(quote).parse_next(input)?.is_none() {
                return Ok(text);
            }
            text.push(quote);
        } else if character == '\\' && opt(quote).parse_next(input)?.is_some() {
            text.push(quote);
        } else {
            text.push(character);
        }
    }
}
