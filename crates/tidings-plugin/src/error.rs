//! Why a handler failed, as it stands in the attempt and in the dead letter.

use std::fmt;

use crate::PlatformEvent;

/// The longest sentence that is kept, in characters.
const MAX_SENTENCE: usize = 1_000;

/// Why a handler failed, in a sentence without secrets. Every error becomes one with `?`.
#[derive(Clone, PartialEq, Eq)]
pub struct HandlerError(String);

impl HandlerError {
    /// Of a sentence; of a longer one the first 1,000 characters.
    pub fn new(sentence: impl fmt::Display) -> Self {
        Self(sentence.to_string().chars().take(MAX_SENTENCE).collect())
    }

    /// For an event that the plugin says it does not handle.
    pub fn no_handler(event: &PlatformEvent) -> Self {
        Self::new(format_args!(
            "the plugin has no handler for '{}'",
            event.event_key
        ))
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// It is no `Error` itself: then this could not be.
impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let (mut sentence, mut cause) = (error.to_string(), error.source());
        while let Some(next) = cause {
            let next_sentence = next.to_string();
            if !sentence.contains(&next_sentence) {
                sentence.extend([": ", &next_sentence]);
            }
            cause = next.source();
        }
        Self::new(sentence)
    }
}
