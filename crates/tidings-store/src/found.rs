//! Several rows read at once, of which a damaged one hides no other.

use crate::StoreError;
use crate::pool::Columns;
use crate::seal::Sealed;

/// The most damaged rows of one reading that are told of one by one.
const MOST_TOLD: usize = 1_000;

/// What was read: the sound rows, and what is wrong with the others.
#[derive(Debug)]
pub struct Found<T> {
    /// Those that are what was written, in the order that was asked for.
    pub rows: Vec<T>,
    /// What is wrong with each of the others, 1,000 at most. Whoever reads tells of it.
    pub damaged: Vec<StoreError>,
}

impl<T> Found<T> {
    pub(crate) const fn nothing() -> Self {
        Self {
            rows: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// Whether all that is wrong is told, and not only the first of it.
    pub fn tells_all(&self) -> bool {
        self.damaged.len() < MOST_TOLD
    }

    fn add(&mut self, row: Result<T, StoreError>) {
        match row {
            Ok(row) => self.rows.push(row),
            Err(error) if self.damaged.len() < MOST_TOLD => self.damaged.push(error),
            Err(_) => {}
        }
    }

    /// All rows; or, where any is damaged, what is wrong with the first that is. For whoever decides by all of them.
    pub fn whole(mut self) -> Result<Vec<T>, StoreError> {
        if self.damaged.is_empty() {
            return Ok(self.rows);
        }
        Err(self.damaged.swap_remove(0))
    }
}

impl<T> FromIterator<Result<T, StoreError>> for Found<T> {
    fn from_iter<I: IntoIterator<Item = Result<T, StoreError>>>(rows: I) -> Self {
        let mut found = Self::nothing();
        found.extend(rows);
        found
    }
}

impl<T> Extend<Result<T, StoreError>> for Found<T> {
    fn extend<I: IntoIterator<Item = Result<T, StoreError>>>(&mut self, rows: I) {
        for row in rows {
            self.add(row);
        }
    }
}

/// A row with the place in the order that it stands at.
pub(crate) type Read<K, T> = (K, Result<T, StoreError>);

/// Rows as they were read, each proved and with its place.
pub(crate) fn placed<R: Columns, K, T: Sealed>(
    rows: &[R],
    place: impl Fn(&R) -> Result<K, sqlx::Error>,
) -> Result<Vec<Read<K, T>>, sqlx::Error> {
    let read = |row| Ok((place(row)?, T::from_row(row)));
    rows.iter().map(read).collect()
}

/// Reads on from a place until so many sound rows are found, or there are no more: as long as a page is full, there may be
/// others, and its last row is where the next one begins.
pub(crate) async fn page<K, T, F>(
    mut after: K,
    limit: u32,
    mut read: impl FnMut(K, u32) -> F,
) -> Result<Found<T>, StoreError>
where
    K: Clone,
    F: Future<Output = Result<Vec<Read<K, T>>, StoreError>>,
{
    let mut found = Found::nothing();
    let mut missing = limit;
    loop {
        let rows = read(after.clone(), missing).await?;
        let full = rows.len() >= missing as usize;
        for (place, row) in rows {
            after = place;
            missing -= u32::from(row.is_ok());
            found.add(row);
        }
        if missing == 0 || !full {
            return Ok(found);
        }
    }
}
