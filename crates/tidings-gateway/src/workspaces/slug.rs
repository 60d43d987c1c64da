//! What a tenant is called by that nobody has given a slug.

use tidings_contract::custom::RESERVED_NAMESPACES;
use tidings_event::TenantId;

/// The longest slug that is made of an id, in characters: as long as a namespace.
const LONGEST_SLUG: usize = 31;

/// The slug of a tenant that is called by its id alone (custom-events.md, "Settled details"): a namespace that it may
/// register under.
pub(super) fn slug_of(id: &TenantId, taken: impl Fn(&str) -> bool) -> String {
    let lower = id.as_str().to_ascii_lowercase();
    let legal = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "_-".contains(it);
    let mut slug: String = lower
        .chars()
        .map(|it| if legal(it) { it } else { '-' })
        .collect();
    if slug.len() == 1 || !slug.starts_with(|first: char| first.is_ascii_lowercase()) {
        slug.insert_str(0, "t-");
    }
    slug.truncate(LONGEST_SLUG);
    if RESERVED_NAMESPACES.contains(&slug.as_str()) {
        slug.push_str("-org");
    }
    let numbered = (2_u32..).map(|number| {
        let number = format!("-{number}");
        let room = LONGEST_SLUG - number.len();
        let begin: String = slug.chars().take(room).collect();
        begin + &number
    });
    let mut all = std::iter::once(slug.clone()).chain(numbered);
    all.find(|slug| !taken(slug)).unwrap_or(slug)
}
