//! The version of an event's payload schema: strict `MAJOR.MINOR.PATCH`.

use std::fmt;
use std::str::FromStr;

use crate::names::clipped;

/// A strict semantic version without pre-release or build parts. The default is `1.0.0` (source A).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaVersion(Box<str>);

/// The text is not `MAJOR.MINOR.PATCH`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "schemaVersion {0:?} is not MAJOR.MINOR.PATCH; write three numbers of 9 digits at most without leading zeros, as in 1.0.0"
)]
pub struct InvalidSchemaVersion(String);

impl SchemaVersion {
    /// The version as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SchemaVersion {
    fn default() -> Self {
        Self("1.0.0".into())
    }
}

impl FromStr for SchemaVersion {
    type Err = InvalidSchemaVersion;

    fn from_str(text: &str) -> Result<Self, InvalidSchemaVersion> {
        let is_number = |part: &str| {
            (1..=9).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_digit())
                && (part == "0" || !part.starts_with('0'))
        };
        if text.split('.').count() == 3 && text.split('.').all(is_number) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSchemaVersion(clipped(text)))
        }
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_plain_numbers_pass() {
        for good in ["1.0.0", "0.0.0", "10.20.30", "999999999.0.1"] {
            assert!(good.parse::<SchemaVersion>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-rc.1",
            "1.0.0+b",
            "v1.0.0",
            "1.0.x",
            " 1.0.0",
            "1.0.1000000000",
        ] {
            assert!(bad.parse::<SchemaVersion>().is_err(), "{bad:?}");
        }
    }
}
