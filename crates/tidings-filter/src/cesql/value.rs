//! Values and how they become values of another type (CESQL 1.0, section 3.7).

use std::borrow::Cow;

/// A value of one of the three types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// TRUE or FALSE.
    Boolean(bool),
    /// A signed 32-bit whole number.
    Integer(i32),
    /// Text.
    Text(Cow<'a, str>),
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Division by zero, or a result that does not fit.
    Math,
    /// A value cannot be read as another type.
    Cast,
    /// No function of this name takes so many arguments.
    MissingFunction,
    /// A function cannot do with its arguments.
    FunctionEvaluation,
    /// The event has no such attribute.
    MissingAttribute,
    /// It takes more than an evaluation may.
    Generic,
}

/// An error while evaluating.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Fault {
    /// What kind of error.
    pub kind: Kind,
    sentence: String,
}

impl Fault {
    pub(super) fn new(kind: Kind, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            sentence: sentence.into(),
        }
    }
}

/// A value, or the value that stands for a failure, with the failure.
pub(super) type Evaluated<'a> = Result<Value<'a>, (Value<'a>, Fault)>;

impl<'a> Value<'a> {
    /// The text form.
    pub fn to_text(&self) -> Cow<'a, str> {
        match self {
            Self::Boolean(true) => Cow::Borrowed("true"),
            Self::Boolean(false) => Cow::Borrowed("false"),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Text(text) => text.clone(),
        }
    }

    /// The bytes of a text; other values count as one.
    pub(super) fn text_length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Boolean(_) | Self::Integer(_) => 1,
        }
    }

    pub(super) fn to_integer(&self) -> Result<i32, (i32, Fault)> {
        match self {
            Self::Boolean(value) => Ok(i32::from(*value)),
            Self::Integer(number) => Ok(*number),
            Self::Text(text) => text.parse().map_err(|_| {
                let sentence = format!("{text:?} is not a whole number of 32 bits");
                (0, Fault::new(Kind::Cast, sentence))
            }),
        }
    }

    pub(super) fn to_boolean(&self) -> Result<bool, (bool, Fault)> {
        match self {
            Self::Boolean(value) => Ok(*value),
            Self::Integer(number) => Ok(*number != 0),
            Self::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Self::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Self::Text(text) => {
                let sentence = format!("{text:?} is neither true nor false");
                Err((false, Fault::new(Kind::Cast, sentence)))
            }
        }
    }

    /// The value as one of another's type.
    pub(super) fn like(&self, other: &Value<'_>) -> Evaluated<'a> {
        match other {
            Value::Boolean(_) => {
                let cast = self.to_boolean().map(Self::Boolean);
                cast.map_err(|(value, fault)| (Self::Boolean(value), fault))
            }
            Value::Integer(_) => {
                let cast = self.to_integer().map(Self::Integer);
                cast.map_err(|(value, fault)| (Self::Integer(value), fault))
            }
            Value::Text(_) => Ok(Self::Text(self.to_text())),
        }
    }
}
