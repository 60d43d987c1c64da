//! Where a version stands in its life: draft → published → archived, or superseded by a newer one.

/// The status of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// It holds its version, and nothing can be emitted under it.
    Draft,
    /// It is in force.
    Published,
    /// It was taken out of force by hand.
    Archived,
    /// It was taken out of force by a newer version, on a plan that has the latest alone.
    Superseded,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [
        Self::Draft,
        Self::Published,
        Self::Archived,
        Self::Superseded,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Archived => "archived",
            Self::Superseded => "superseded",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether a version may be moved there by hand: forward only, and nobody supersedes one by hand.
    pub(super) fn leads_to(self, next: Self) -> bool {
        match next {
            Self::Published => self == Self::Draft,
            Self::Archived => self != Self::Archived,
            Self::Draft | Self::Superseded => false,
        }
    }
}
