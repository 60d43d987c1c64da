//! Which event types a pattern stands for, as both databases can say it.

use tidings_event::{EventType, TypePattern};

/// How the text of an event's type is held against a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Types {
    /// It is this one.
    One(String),
    /// It is like this, and has so many dots, if that is said: as many as the pattern, so that each `%` is one segment. The
    /// name of a custom event is one segment, whatever it has.
    Like { like: String, dots: Option<i64> },
}

impl Types {
    /// What is wanted by the text of a type, or of a pattern.
    fn parse(text: &str) -> Result<Self, String> {
        if EventType::recorded(text).is_ok() {
            return Ok(Self::One(text.to_owned()));
        }
        let pattern: TypePattern = text.parse().map_err(|error| format!("{error}"))?;
        let open = text.ends_with("**");
        let segments: Vec<_> = pattern.segments().collect();
        if !text.contains('*') {
            return Err(format!(
                "'{text}' is neither an event type nor a pattern, as in crm.** or crm.*.created"
            ));
        }
        let stars = segments.iter().filter(|segment| **segment == "*").count();
        if stars > 0 && (open || segments.len() == 1) {
            return Err(format!(
                "dead letters are not looked up by '{text}': name its first segments, as in crm.** or crm.*.created"
            ));
        }
        let dots = segments.len() - 1;
        let like = segments.into_iter().map(|segment| match segment {
            "*" | "**" => "%".to_owned(),
            name => name.replace('_', "\\_"),
        });
        let like = like.collect::<Vec<_>>().join(".");
        let dots = i64::try_from(dots).unwrap_or(i64::MAX);
        Ok(Self::Like {
            like,
            dots: (!open).then_some(dots),
        })
    }

    /// The same of what was taken before: what cannot be read stands for itself.
    pub(crate) fn of(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| Self::One(crate::pool::storable(text)))
    }
}

/// Why dead letters cannot be looked up by this type or pattern, if they cannot.
pub fn wrong_types(text: &str) -> Option<String> {
    Types::parse(text).err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_itself_and_some_patterns_are_refused() {
        for one in [
            "crm.made",
            "CUSTOM_EVENT_REGISTERED",
            "TENANT_CUSTOM:a:b.c@1.0.0",
        ] {
            assert_eq!(Types::parse(one), Ok(Types::One(one.to_owned())));
            assert_eq!(wrong_types(one), None);
        }
        let like = |like: &str, dots| {
            let like = like.to_owned();
            Ok(Types::Like { like, dots })
        };
        assert_eq!(Types::parse("**"), like("%", None));
        assert_eq!(Types::parse("crm_x.**"), like("crm\\_x.%", None));
        assert_eq!(Types::parse("*.a.*"), like("%.a.%", Some(2)));
        for bad in [
            "*", "crm", "*.**", "crm.*.**", "crm.**.a", "Crm.*", "crm.%", "",
        ] {
            assert!(wrong_types(bad).is_some(), "{bad}");
        }
        assert_eq!(Types::of("Crm.*"), Types::One("Crm.*".to_owned()));
    }
}
