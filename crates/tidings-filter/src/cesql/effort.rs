//! How much an evaluation may do: whoever writes an expression does not pay for the processor that it runs on.

use std::cell::Cell;

use super::value::{Fault, Kind};

/// So many bytes of text are looked at for one filter and one event, by all its expressions together. To look for a word in
/// the longest attribute (4,096 bytes) takes some 8,000.
pub const MOST_BYTES: usize = 65_536;

/// What is left of [`MOST_BYTES`].
#[derive(Debug)]
pub struct Effort {
    left: Cell<usize>,
    exceeded: Cell<bool>,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            left: Cell::new(MOST_BYTES),
            exceeded: Cell::new(false),
        }
    }
}

impl Effort {
    /// Whether more was asked for than there was. What an expression came to is then no answer.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.get()
    }

    /// So many bytes may still be looked at.
    pub(super) fn left(&self) -> usize {
        self.left.get()
    }

    /// Takes so many before they are looked at, or the last there are and fails.
    pub(super) fn take(&self, bytes: usize) -> Result<(), Fault> {
        let Some(rest) = self.left().checked_sub(bytes) else {
            self.left.set(0);
            self.exceeded.set(true);
            let sentence = format!("it looks at more than {MOST_BYTES} bytes of text");
            return Err(Fault::new(Kind::Generic, sentence));
        };
        self.left.set(rest);
        Ok(())
    }
}
