//! How much an evaluation may do: whoever writes an expression does not pay for the processor that it runs on.

use std::cell::Cell;

use super::value::{Fault, Kind};

/// So many characters are looked at for one filter and one event, by all its expressions together. To look for a piece of
/// text in the longest attribute takes some 4,000.
pub const MOST_CHARACTERS: usize = 65_536;

/// What is left of [`MOST_CHARACTERS`].
#[derive(Debug)]
pub struct Effort(Cell<usize>);

impl Default for Effort {
    fn default() -> Self {
        Self(Cell::new(MOST_CHARACTERS))
    }
}

impl Effort {
    /// So many characters may still be looked at.
    pub(super) fn left(&self) -> usize {
        self.0.get()
    }

    /// Takes so many before they are looked at, or the last there are and fails.
    pub(super) fn take(&self, characters: usize) -> Result<(), Fault> {
        let rest = self.left().checked_sub(characters);
        self.0.set(rest.unwrap_or(0));
        let Some(_) = rest else {
            let sentence = format!("it looks at more than {MOST_CHARACTERS} characters");
            return Err(Fault::new(Kind::Generic, sentence));
        };
        Ok(())
    }
}
