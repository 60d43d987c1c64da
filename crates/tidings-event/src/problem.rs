//! The problem codes: what can be answered instead of success. Codes are never renamed or reused.
//!
//! Status and meaning of the codes of source A are A's; each slug has a page, served at `/problems/{slug}`.

/// One row of the table.
struct Row {
    code: &'static str,
    status: u16,
    title: &'static str,
    slug: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $slug:literal, $title:literal;)*) => {
        /// A problem code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row { code: $code, status: $status, title: $title, slug: $slug },)*
                }
            }
        }
    };
}

codes! {
    /// The body is not JSON as strict as this product wants it.
    InvalidJson = "INVALID_JSON", 400, "invalid-json", "The body is not valid JSON";
    /// A field is missing, unknown or of the wrong type.
    InvalidEvent = "INVALID_EVENT", 400, "invalid-event", "The event does not have the right shape";
    /// The event type does not follow its rule.
    InvalidEventType = "INVALID_EVENT_TYPE", 400, "invalid-event-type", "The event type is not valid";
    /// The request is not a CloudEvent.
    InvalidCloudEvent = "INVALID_CLOUDEVENT", 400, "invalid-cloudevent", "The CloudEvent is not valid";
    /// The idempotency key is empty, too long or not visible ASCII.
    InvalidIdempotencyKey = "INVALID_IDEMPOTENCY_KEY", 400, "invalid-idempotency-key", "The idempotency key is not valid";
    /// Over 1,000 events or 16 MiB.
    BatchTooLarge = "BATCH_TOO_LARGE", 400, "batch-too-large", "The batch is too large";
    /// `data` over 1 MB, or a single body over 2 MiB.
    EventPayloadTooLarge = "EVENT_PAYLOAD_TOO_LARGE", 400, "event-payload-too-large", "The payload is too large";
    /// Not `MAJOR.MINOR.PATCH`.
    InvalidSchemaVersion = "INVALID_SCHEMA_VERSION", 400, "invalid-schema-version", "The schema version is not valid";
    /// A query parameter or a document other than an event is not valid.
    InvalidRequest = "INVALID_REQUEST", 400, "invalid-request", "The request is not valid";
    /// The URL of a target leads where nothing may be sent.
    TargetNotAllowed = "TARGET_NOT_ALLOWED", 400, "target-not-allowed", "The target is not allowed";
    /// No credential, or one that does not hold.
    Unauthenticated = "UNAUTHENTICATED", 401, "unauthenticated", "The credential is missing or not valid";
    /// The caller may not publish this type.
    EventPublishForbidden = "EVENT_PUBLISH_FORBIDDEN", 403, "forbidden", "Forbidden";
    /// The type belongs to a kernel namespace of another.
    KernelEventPublishForbidden = "KERNEL_EVENT_PUBLISH_FORBIDDEN", 403, "forbidden", "Forbidden";
    /// The caller may not do this.
    Forbidden = "FORBIDDEN", 403, "forbidden", "Forbidden";
    /// There is no such workspace for this credential, or it may not act there: both are said alike.
    WorkspaceForbidden = "WORKSPACE_FORBIDDEN", 403, "workspace-forbidden", "The workspace is not open to this credential";
    /// A session's cookie came with a request that another site may have made.
    CsrfRejected = "CSRF_REJECTED", 403, "csrf-rejected", "The request may come from another site";
    /// There is no such thing, or it is not the caller's.
    NotFound = "NOT_FOUND", 404, "not-found", "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "method-not-allowed", "Method not allowed";
    /// The content type is not one that is read here.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", 415, "unsupported-media-type", "The content type is not supported";
    /// The key was used before for another body.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", 422, "idempotency-key-reused", "The idempotency key was used for another body";
    /// `data` does not fit the contract of its type.
    EventSchemaViolation = "EVENT_SCHEMA_VIOLATION", 422, "event-schema-violation", "The data does not fit its schema";
    /// Too many requests.
    RateLimited = "RATE_LIMITED", 429, "rate-limited", "Too many requests";
    /// Ours.
    Internal = "INTERNAL", 500, "internal", "Something went wrong on our side";
    /// The bus cannot be reached; nothing was appended or the outcome is unknown.
    BrokerUnavailable = "events.broker.unavailable", 503, "broker-unavailable", "The bus is not available";
    /// No room.
    StorageFull = "STORAGE_FULL", 507, "storage-full", "The storage is full";
}

impl Code {
    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        self.row().code
    }

    /// The HTTP status it is answered with.
    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// The title of the problem, the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// The last segment of the problem's `type` URL. Codes that need the same explanation share one.
    pub const fn slug(self) -> &'static str {
        self.row().slug
    }

    /// The codes explained on a slug's page.
    pub fn of_slug(slug: &str) -> impl Iterator<Item = Self> {
        Self::ALL
            .iter()
            .copied()
            .filter(move |code| code.slug() == slug)
    }
}

macro_rules! pages {
    ($($slug:literal),* $(,)?) => {
        /// The page of a slug, in Markdown.
        pub fn page(slug: &str) -> Option<&'static str> {
            match slug {
                $($slug => Some(include_str!(concat!("problems/", $slug, ".md"))),)*
                _ => None,
            }
        }
    };
}

pages! {
    "invalid-json", "invalid-event", "invalid-event-type", "invalid-cloudevent",
    "invalid-idempotency-key", "batch-too-large", "event-payload-too-large", "invalid-schema-version",
    "invalid-request", "target-not-allowed", "unauthenticated", "forbidden", "workspace-forbidden", "csrf-rejected", "not-found", "method-not-allowed",
    "unsupported-media-type", "idempotency-key-reused", "event-schema-violation", "rate-limited",
    "internal", "broker-unavailable", "storage-full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_has_its_page() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert!(
                Code::ALL[..index]
                    .iter()
                    .all(|other| other.as_str() != code.as_str())
            );
            let page = page(code.slug()).expect("a page for each slug");
            assert!(
                page.contains(code.as_str()),
                "{} is not on its page",
                code.as_str()
            );
        }
    }
}
