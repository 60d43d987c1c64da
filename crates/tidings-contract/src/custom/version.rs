//! Versions of a custom event, and the single steps between them.

use std::fmt;

use tidings_event::SchemaVersion;

use super::refusal::quoted;
use super::{Code, Refusal};

/// A strict `MAJOR.MINOR.PATCH`, in the order of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Raised by a change of any kind.
    pub major: u32,
    /// Raised by a change that accepts all that was accepted.
    pub minor: u32,
    /// Raised by a change of descriptions alone.
    pub patch: u32,
}

/// Which step a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bump {
    /// The first of its event.
    Initial,
    /// Descriptions alone may change.
    Patch,
    /// What was accepted stays accepted.
    Minor,
    /// Anything may change.
    Major,
}

impl Bump {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Patch => "patch",
            Self::Minor => "minor",
            Self::Major => "major",
        }
    }
}

impl Version {
    /// Reads three plain numbers of at most nine digits each.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let numbers = || -> Option<Self> {
            text.parse::<SchemaVersion>().ok()?;
            let mut parts = text.split('.').map(str::parse);
            let mut number = || parts.next()?.ok();
            Some(Self {
                major: number()?,
                minor: number()?,
                patch: number()?,
            })
        };
        numbers().ok_or_else(|| {
            let detail = format!(
                "the version {} is not MAJOR.MINOR.PATCH: write three numbers of at most nine digits and without leading zeros, as in 1.0.0",
                quoted(text)
            );
            Refusal::new(Code::InvalidVersionFormat, "", detail)
                .wanting("MAJOR.MINOR.PATCH", quoted(text))
        })
    }

    /// Which step this version is after those that stand, in whatever order they come, and the version it is
    /// held against: the latest of its own line (1.2.x for a patch, 1.x for a minor). Any version may be the first.
    pub fn follows(self, standing: &[Self]) -> Result<(Bump, Option<Self>), Refusal> {
        if standing.contains(&self) {
            let detail =
                format!("version {self} exists, and versions never change; register the next one");
            return Err(Refusal::new(Code::VersionAlreadyExists, "", detail));
        }
        let latest = |of: &dyn Fn(&Self) -> bool| standing.iter().copied().filter(of).max();
        let patch_line = |it: &Self| (it.major, it.minor) == (self.major, self.minor);
        let minor_line = |it: &Self| it.major == self.major;
        let (bump, before, next) = if let Some(before) = latest(&patch_line) {
            (
                Bump::Patch,
                before,
                Self {
                    patch: before.patch + 1,
                    ..before
                },
            )
        } else if let Some(before) = latest(&minor_line) {
            (
                Bump::Minor,
                before,
                Self {
                    minor: before.minor + 1,
                    patch: 0,
                    ..before
                },
            )
        } else if let Some(before) = latest(&|_| true) {
            (
                Bump::Major,
                before,
                Self {
                    major: before.major + 1,
                    minor: 0,
                    patch: 0,
                },
            )
        } else {
            return Ok((Bump::Initial, None));
        };
        if self == next {
            return Ok((bump, Some(before)));
        }
        let code = if self < before {
            Code::VersionDowngrade
        } else {
            Code::VersionInvalidJump
        };
        let latest = match bump {
            Bump::Patch => format!("the latest of {}.{}.x", before.major, before.minor),
            Bump::Minor => format!("the latest of {}.x", before.major),
            Bump::Major | Bump::Initial => "the latest of all".to_owned(),
        };
        let detail = format!(
            "version {self} cannot follow {before}, {latest}; the next one there is {next}"
        );
        Err(Refusal::new(code, "", detail).wanting(next.to_string(), self.to_string()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn only_three_plain_numbers_are_a_version() {
        for good in ["0.0.0", "1.2.3", "999999999.0.0"] {
            assert_eq!(version(good).to_string(), good);
        }
        for bad in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-rc",
            "1.0.0+b",
            "+1.0.0",
            "1.0.0\n",
            "4294967296.0.0",
        ] {
            assert_eq!(
                Version::parse(bad).unwrap_err().code,
                Code::InvalidVersionFormat,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn each_step_is_held_against_the_latest_of_its_own_line() {
        let follows = |standing: &[&str], next: &str| {
            let standing: Vec<Version> = standing.iter().map(|text| version(text)).collect();
            let verdict = version(next).follows(&standing);
            verdict.map_or_else(
                |refusal| refusal.code.as_str().to_owned(),
                |(bump, before)| match before {
                    Some(before) => format!("{} {before}", bump.as_str()),
                    None => bump.as_str().to_owned(),
                },
            )
        };
        let lines: &[&str] = &["1.3.0", "1.2.3", "1.2.2", "2.0.0"];
        for (standing, next, verdict) in [
            (&[] as &[&str], "4.7.1", "initial"),
            (&["1.2.3"], "1.2.4", "patch 1.2.3"),
            (&["1.2.3"], "1.3.0", "minor 1.2.3"),
            (&["1.2.3"], "2.0.0", "major 1.2.3"),
            (&["1.2.3"], "1.2.3", "version_already_exists"),
            (&["1.2.3"], "1.2.2", "version_downgrade"),
            (&["1.2.3"], "1.1.0", "version_downgrade"),
            (&["1.2.3"], "0.9.0", "version_downgrade"),
            (&["1.2.3"], "1.2.5", "version_invalid_jump"),
            (&["1.2.3"], "1.3.1", "version_invalid_jump"),
            (&["1.2.3"], "1.4.0", "version_invalid_jump"),
            (&["1.2.3"], "2.1.0", "version_invalid_jump"),
            (&["1.2.3"], "2.0.1", "version_invalid_jump"),
            (&["1.2.3"], "3.0.0", "version_invalid_jump"),
            (lines, "1.2.4", "patch 1.2.3"),
            (lines, "1.3.1", "patch 1.3.0"),
            (lines, "1.4.0", "minor 1.3.0"),
            (lines, "2.0.1", "patch 2.0.0"),
            (lines, "3.0.0", "major 2.0.0"),
            (lines, "1.2.1", "version_downgrade"),
            (lines, "1.1.9", "version_downgrade"),
        ] {
            assert_eq!(
                follows(standing, next),
                verdict,
                "{next} after {standing:?}"
            );
        }
    }

    #[test]
    fn what_does_not_follow_is_told_of_which_line() {
        let standing = ["1.3.0", "1.2.3", "2.0.0"].map(version);
        for (next, said) in [
            (
                "1.2.1",
                "cannot follow 1.2.3, the latest of 1.2.x; the next one there is 1.2.4",
            ),
            (
                "1.5.0",
                "cannot follow 1.3.0, the latest of 1.x; the next one there is 1.4.0",
            ),
            (
                "0.9.0",
                "cannot follow 2.0.0, the latest of all; the next one there is 3.0.0",
            ),
        ] {
            let refusal = version(next).follows(&standing).unwrap_err();
            assert!(refusal.detail.contains(said), "{}", refusal.detail);
        }
    }
}
