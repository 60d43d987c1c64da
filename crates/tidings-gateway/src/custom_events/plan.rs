//! What each plan has of custom events (source D, "Plan tiers").

/// A plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plan {
    /// The generic event alone.
    Free,
    /// A few events, the latest version of each.
    Basic,
    /// More of them, and every version.
    Pro,
    /// As many as wanted, and federation.
    Enterprise,
}

impl Plan {
    /// Every plan, the smallest first.
    pub const ALL: [Self; 4] = [Self::Free, Self::Basic, Self::Pro, Self::Enterprise];

    /// The word for it on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "FREE",
            Self::Basic => "BASIC",
            Self::Pro => "PRO",
            Self::Enterprise => "ENTERPRISE",
        }
    }

    /// The plan of a tenant. A word that this version does not know gives the least.
    pub(crate) fn named(text: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|plan| plan.as_str() == text).unwrap_or(Self::Free)
    }

    /// How many distinct events may be registered, the generic one not counted; `None` is any number.
    pub const fn registrations(self) -> Option<u64> {
        match self {
            Self::Free => Some(0),
            Self::Basic => Some(5),
            Self::Pro => Some(25),
            Self::Enterprise => None,
        }
    }

    /// How many emits there may be in a calendar month (UTC); `None` is any number.
    pub const fn monthly_emits(self) -> Option<u64> {
        match self {
            Self::Free => Some(1_000),
            Self::Basic => Some(10_000),
            Self::Pro => Some(100_000),
            Self::Enterprise => None,
        }
    }

    /// Whether events of one's own may be registered and emitted.
    pub const fn has_own_events(self) -> bool {
        !matches!(self, Self::Free)
    }

    /// Whether events may be published for other tenants to fork, and theirs forked.
    pub const fn has_marketplace(self) -> bool {
        matches!(self, Self::Pro | Self::Enterprise)
    }

    /// Whether emits may be pushed to other tenants.
    pub const fn has_federation(self) -> bool {
        matches!(self, Self::Enterprise)
    }

    /// Whether the latest published version of an event is in force alone.
    pub const fn has_latest_alone(self) -> bool {
        self.has_own_events() && !self.keeps_versions()
    }

    /// Whether every published version stays in force, not the latest alone.
    pub const fn keeps_versions(self) -> bool {
        matches!(self, Self::Pro | Self::Enterprise)
    }
}
