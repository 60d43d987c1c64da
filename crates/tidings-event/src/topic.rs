//! Names of topics on the bus, legal in Apache Kafka by type.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::names::clipped;

/// The name of a topic: 1 to 249 characters of `[A-Za-z0-9._-]`, neither `.` nor `..` (Kafka's own rule).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// The text is not a legal topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic {0:?} is not a legal name; use 1 to 249 letters, digits, dots, _ or -, and not . or .."
)]
pub struct InvalidTopic(String);

impl Topic {
    /// The name as it stands on the bus.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=249).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(legal)
        {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTopic(clipped(text)))
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rule_holds() {
        assert!("platform.data.events".parse::<Topic>().is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "a\0", "é", &"t".repeat(250)] {
            assert!(bad.parse::<Topic>().is_err(), "{bad:?}");
        }
    }
}
