//! Why something about a custom event is refused: a code of source D's table, a place and a sentence.

use serde_json::Value;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// The codes of source D that the contract decides. Their HTTP status is the surfaces' matter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

codes! {
    /// The namespace fails its regex.
    InvalidNamespace = "invalid_namespace";
    /// The namespace belongs to the platform.
    ReservedNamespace = "reserved_namespace";
    /// The namespace is not on the tenant's list.
    NamespaceNotAllowed = "namespace_not_allowed";
    /// The name fails its regex.
    InvalidName = "invalid_name";
    /// Not `MAJOR.MINOR.PATCH`.
    InvalidVersionFormat = "invalid_version_format";
    /// `platformxe.generic` is the platform's own.
    CannotRegisterGenericEvent = "cannot_register_generic_event";
    /// The version is registered.
    VersionAlreadyExists = "version_already_exists";
    /// The version is at or below the latest of its line.
    VersionDowngrade = "version_downgrade";
    /// The version skips one.
    VersionInvalidJump = "version_invalid_jump";
    /// A patch changes more than descriptions.
    PatchMustBeByteEqual = "patch_must_be_byte_equal";
    /// A minor version cannot be shown to accept what the one before accepts.
    MinorMustBeBackwardsCompatible = "minor_must_be_backwards_compatible";
    /// Schemas are nested too deep.
    SchemaTooDeep = "schema_too_deep";
    /// Too many properties, patterns, bytes or ways to evaluate.
    SchemaTooWide = "schema_too_wide";
    /// Not a schema that can be used here.
    InvalidJsonSchema = "invalid_json_schema";
    /// The example fails the schema it comes with.
    PayloadExampleDoesNotMatchSchema = "payload_example_does_not_match_schema";
    /// The payload fails the schema.
    PayloadInvalid = "payload_invalid";
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Which rule.
    pub code: Code,
    /// Where: a JSON Pointer (RFC 6901) into the registration's member concerned (the schema for the codes
    /// about schemas and versions of them, the payload for the codes about payloads); empty for the whole.
    pub pointer: String,
    /// What is wrong and what to do, as a sentence.
    pub detail: String,
    /// What would do there, where that helps.
    pub expected: Option<Box<str>>,
    /// What is there instead; never a value of a payload.
    pub got: Option<Box<str>>,
    /// A payload that the version before accepts and this one refuses.
    pub counter_example: Option<Box<Value>>,
}

impl Refusal {
    pub(crate) fn new(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code,
            pointer: pointer.into(),
            detail: detail.into(),
            expected: None,
            got: None,
            counter_example: None,
        }
    }

    pub(crate) fn wanting(
        mut self,
        expected: impl Into<Box<str>>,
        got: impl Into<Box<str>>,
    ) -> Self {
        self.expected = Some(expected.into());
        self.got = Some(got.into());
        self
    }
}

/// A text from outside as a sentence may hold it: quoted, and of bounded length.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{:?}", start + "…")
}
