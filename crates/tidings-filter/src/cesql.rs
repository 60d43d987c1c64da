//! CESQL 1.0, the CloudEvents SQL expression language: text in, [`Expression`] out, and its value for an event.
//!
//! Values are booleans, 32-bit integers and text. An operation that fails has an error and, as the language wants
//! it, a value all the same: the zero value of its type. As a filter, an expression with an error does not hold.

mod effort;
mod evaluate;
mod functions;
mod parse;
mod value;

pub use effort::{Effort, MOST_BYTES};
pub use value::{Fault, Kind, Value};

/// The longest expression, in bytes.
pub const MAX_BYTES: usize = 4_096;

/// What an expression may ask for.
pub trait Attributes {
    /// The value of a context attribute, by its name in lower case.
    fn attribute(&self, name: &str) -> Option<Value<'_>>;
}

/// An expression, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    root: parse::Node,
}

/// A text that is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExpression {
    /// Over [`MAX_BYTES`].
    #[error("the expression is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The grammar does not know it.
    #[error("{}", cannot_be_read(.0))]
    Syntax(String),
}

fn cannot_be_read(rest: &str) -> String {
    if rest.is_empty() {
        return "the expression is empty, or ends before it is whole".to_owned();
    }
    format!("the expression cannot be read from {rest:?} on")
}

impl Expression {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        if text.len() > MAX_BYTES {
            return Err(InvalidExpression::TooLong);
        }
        Ok(Self {
            text: text.to_owned(),
            root: parse::parse(text)?,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value, and the first error on the way to it; one of [`Kind::Generic`] where there is not enough left of the
    /// effort.
    pub fn evaluate<'a>(
        &'a self,
        event: &'a impl Attributes,
        effort: &Effort,
    ) -> (Value<'a>, Option<Fault>) {
        match evaluate::evaluate(&self.root, event, effort) {
            Ok(value) => (value, None),
            Err((value, fault)) => (value, Some(fault)),
        }
    }

    /// Whether it is true of an event.
    pub fn holds(&self, event: &impl Attributes, effort: &Effort) -> Result<bool, Fault> {
        let (value, fault) = self.evaluate(event, effort);
        match fault {
            Some(fault) => Err(fault),
            None => value.to_boolean().map_err(|(_, fault)| fault),
        }
    }

    /// The first call of a function that does not exist, as in `FOO/2`, which is its name and arguments.
    pub fn unknown_function(&self) -> Option<String> {
        self.root.unknown_function()
    }
}
