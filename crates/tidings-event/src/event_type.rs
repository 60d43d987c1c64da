//! The names of events, and the patterns that stand for many of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::names::clipped;

/// An event's type: 2 to 8 dot-separated segments of `[a-z][a-z0-9_-]*`, 128 characters at most.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

/// The longest event type, in characters.
const MAX_LENGTH: usize = 128;

/// Why a text is not an event type. The sentence says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventType {
    /// More than 128 characters.
    #[error("event type {0:?} is {1} characters long; {MAX_LENGTH} is the limit")]
    TooLong(String, usize),
    /// Fewer than 2 or more than 8 segments.
    #[error(
        "event type {0:?} has {1} segment(s); use 2 to 8, separated by dots, as in crm.contact.created"
    )]
    Segments(String, usize),
    /// A segment that does not fit `[a-z][a-z0-9_-]*`.
    #[error(
        "event type {0:?} has the segment {1:?}; a segment is a lower-case letter followed by \
         lower-case letters, digits, _ or -"
    )]
    Segment(String, String),
}

impl EventType {
    /// The type as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment.
    pub fn namespace(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidEventType::TooLong(
                clipped(text),
                text.chars().count(),
            ));
        }
        let segments = text.split('.').count();
        if !(2..=8).contains(&segments) {
            return Err(InvalidEventType::Segments(text.to_owned(), segments));
        }
        match text.split('.').find(|segment| !is_segment(segment)) {
            Some(bad) => Err(InvalidEventType::Segment(text.to_owned(), bad.to_owned())),
            None => Ok(Self(text.into())),
        }
    }
}

fn is_segment(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventType({})", self.0)
    }
}

/// An exact event type, or a pattern: `*` stands for one segment, a last `**` for one or more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypePattern(Arc<str>);

impl TypePattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the type is one of those that the pattern stands for.
    pub fn matches(&self, event_type: &EventType) -> bool {
        let mut wanted = self.0.split('.');
        let mut given = event_type.0.split('.');
        loop {
            match (wanted.next(), given.next()) {
                (Some("**"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }
}

impl FromStr for TypePattern {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidEventType::TooLong(
                clipped(text),
                text.chars().count(),
            ));
        }
        let count = text.split('.').count();
        if count > 8 {
            return Err(InvalidEventType::Segments(text.to_owned(), count));
        }
        let bad = text
            .split('.')
            .enumerate()
            .find(|(index, segment)| match *segment {
                "*" => false,
                "**" => index + 1 != count,
                other => !is_segment(other),
            });
        match bad {
            Some((_, bad)) => Err(InvalidEventType::Segment(text.to_owned(), bad.to_owned())),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_the_rule() {
        let longest = format!("a.{}", "b".repeat(126));
        for good in [
            "a.b",
            "crm.contact.created",
            "a.b.c.d.e.f.g.h",
            "x-1.y_2",
            longest.as_str(),
        ] {
            assert_eq!(good.parse::<EventType>().unwrap().as_str(), good);
        }
        let too_long = format!("a.{}", "b".repeat(127));
        for bad in [
            "",
            "a",
            "a.",
            ".a",
            "a..b",
            "A.b",
            "a.1b",
            "a.b.c.d.e.f.g.h.i",
            "a.b c",
            &too_long,
        ] {
            assert!(bad.parse::<EventType>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_stand_for_segments() {
        let check = |pattern: &str, event_type: &str, expected: bool| {
            let pattern: TypePattern = pattern.parse().unwrap();
            assert_eq!(
                pattern.matches(&event_type.parse().unwrap()),
                expected,
                "{pattern} {event_type}"
            );
        };
        check("crm.contact.created", "crm.contact.created", true);
        check("crm.*", "crm.contact", true);
        check("crm.*", "crm.contact.created", false);
        check("crm.**", "crm.contact.created", true);
        check("**", "crm.contact.created", true);
        check("*.contact.*", "crm.contact.created", true);
        check("crm.contact.**", "crm.contact", false);
        assert!("crm.**.created".parse::<TypePattern>().is_err());
        assert!("Crm.*".parse::<TypePattern>().is_err());
    }

    proptest! {
        #[test]
        fn a_type_is_a_pattern_for_itself_alone(text in "[a-z][a-z0-9_-]{0,9}(\\.[a-z][a-z0-9_-]{0,9}){1,7}") {
            let event_type: EventType = text.parse().unwrap();
            let pattern: TypePattern = text.parse().unwrap();
            prop_assert!(pattern.matches(&event_type));
            let longer = format!("{text}x");
            if let Ok(other) = longer.parse() {
                prop_assert!(!pattern.matches(&other));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<EventType>();
            let _ = text.parse::<TypePattern>();
        }
    }
}
