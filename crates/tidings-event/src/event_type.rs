//! The names of events, and the patterns that stand for many of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::names::clipped;

/// An event's type: 2 to 8 dot-separated segments of `[a-z][a-z0-9_-]*`, 128 characters at most.
///
/// Custom events (source D) and the events that tell of their life have names of their own, which nobody can publish:
/// they are read by [`EventType::recorded`] alone, and each is one segment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

/// The longest event type, in characters.
const MAX_LENGTH: usize = 128;
/// What the canonical name of a custom event begins with (source D).
const CANONICAL: &str = "TENANT_CUSTOM:";
/// What the name of a lifecycle event begins with (source D).
const LIFECYCLE: &str = "CUSTOM_EVENT_";
/// The longest canonical name, in characters: prefix, tenant, namespace, name, version and what parts them.
const MAX_CANONICAL: usize = CANONICAL.len() + 128 + 1 + 31 + 1 + 61 + 1 + 29;

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
        self.segments().next().unwrap_or_default()
    }

    /// The segments. The name of a custom event is one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        segments(&self.0)
    }

    /// A type as it stands in a record: one that can be published, or a name that only custom events have.
    pub fn recorded(text: &str) -> Result<Self, InvalidEventType> {
        if is_canonical(text) || is_lifecycle(text) {
            return Ok(Self(text.into()));
        }
        text.parse()
    }

    /// Whether it is the canonical name of a custom event, `TENANT_CUSTOM:…`.
    pub fn is_canonical(&self) -> bool {
        is_canonical(&self.0)
    }

    /// Whether it tells of the life of custom events, `CUSTOM_EVENT_…`.
    pub fn is_lifecycle(&self) -> bool {
        is_lifecycle(&self.0)
    }
}

fn is_canonical(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
    let rest = text.strip_prefix(CANONICAL);
    rest.is_some_and(|rest| rest.contains('@') && rest.bytes().all(legal))
        && text.len() <= MAX_CANONICAL
}

fn is_lifecycle(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    let rest = text.strip_prefix(LIFECYCLE);
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(legal)) && text.len() <= MAX_LENGTH
}

fn segments(text: &str) -> impl Iterator<Item = &str> {
    let whole = (is_canonical(text) || is_lifecycle(text)).then_some(text);
    let dotted = if whole.is_some() { "" } else { text };
    let dotted = dotted.split('.').filter(move |_| whole.is_none());
    whole.into_iter().chain(dotted)
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

/// An exact event type, or a pattern: `*` stands for one segment, a last `**` for one or more. The name of a custom
/// event is matched whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypePattern(Arc<str>);

impl TypePattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, `*` and `**` among them. The name of a custom event is one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        segments(&self.0)
    }

    /// Whether it can stand for the name of a custom event, which is one segment.
    pub fn is_one_segment(&self) -> bool {
        let mut segments = self.segments();
        segments.next().is_some() && segments.next().is_none()
    }

    /// Whether the type is one of those that the pattern stands for.
    pub fn matches(&self, event_type: &EventType) -> bool {
        let mut wanted = self.segments();
        let mut given = event_type.segments();
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
        if is_canonical(text) || is_lifecycle(text) {
            return Ok(Self(text.into()));
        }
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

    #[test]
    fn names_of_custom_events_are_recorded_and_never_published() {
        let canonical = "TENANT_CUSTOM:org_x:lettings.property.favorited@1.0.0";
        let longest = format!("{CANONICAL}{}@1.0.0", "t".repeat(MAX_CANONICAL - 20));
        for name in [canonical, "CUSTOM_EVENT_REGISTERED", &longest] {
            assert!(name.parse::<EventType>().is_err(), "{name}");
            let recorded = EventType::recorded(name).unwrap();
            assert_eq!(recorded.segments().collect::<Vec<_>>(), [name]);
            let matches = |text: &str| text.parse::<TypePattern>().unwrap().matches(&recorded);
            assert!(matches(name) && matches("**") && matches("*"));
            for other in ["*.property.**", "*.*", "CUSTOM_EVENT_OTHER", "crm.**"] {
                assert!(!matches(other), "{other} {name}");
            }
        }
        assert!(EventType::recorded(canonical).unwrap().is_canonical());
        let tells = EventType::recorded("CUSTOM_EVENT_REGISTERED").unwrap();
        assert!(tells.is_lifecycle() && !tells.is_canonical());
        for bad in [
            "CUSTOM_EVENT_",
            "CUSTOM_EVENT_registered",
            "TENANT_CUSTOM:a",
            "TENANT_CUSTOM:a b:c.d@1.0.0",
            "custom_event_registered",
            &format!("{longest}t"),
        ] {
            assert!(EventType::recorded(bad).is_err(), "{bad}");
        }
        assert!(EventType::recorded("crm.contact.created").is_ok());
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
