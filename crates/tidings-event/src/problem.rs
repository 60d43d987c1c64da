//! The problem codes: what can be answered instead of success. Codes are never renamed or reused.
//!
//! Status and meaning of the codes of sources A and D are theirs; each slug has a page, served at `/problems/{slug}`.

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
    /// Another publish has the key, and it is not known yet what becomes of it.
    IdempotencyKeyInUse = "IDEMPOTENCY_KEY_IN_USE", 503, "idempotency-key-in-use", "Another publish has the idempotency key";
    /// Request bodies hold as much memory as they may.
    Overloaded = "OVERLOADED", 503, "overloaded", "Too much is sent at once";
    /// No room.
    StorageFull = "STORAGE_FULL", 507, "storage-full", "The storage is full";
    /// The namespace of a custom event fails its rule.
    InvalidNamespace = "invalid_namespace", 400, "invalid-namespace", "The namespace is not valid";
    /// The namespace belongs to the platform.
    ReservedNamespace = "reserved_namespace", 400, "reserved-namespace", "The namespace is reserved";
    /// The namespace is not one that the tenant was granted.
    NamespaceNotAllowed = "namespace_not_allowed", 400, "namespace-not-allowed", "The namespace is not on the organisation's list";
    /// The name of a custom event fails its rule.
    InvalidEventName = "invalid_name", 400, "invalid-name", "The name is not valid";
    /// The version of a custom event is not `MAJOR.MINOR.PATCH`.
    InvalidVersionFormat = "invalid_version_format", 400, "invalid-version-format", "The version is not valid";
    /// `platformxe.generic` is the platform's own.
    CannotRegisterGenericEvent = "cannot_register_generic_event", 400, "cannot-register-generic-event", "The generic event cannot be registered";
    /// The version of the custom event is registered.
    VersionAlreadyExists = "version_already_exists", 400, "version-already-exists", "The version exists";
    /// The version is at or below the latest of its line.
    VersionDowngrade = "version_downgrade", 400, "version-downgrade", "The version lies behind the latest";
    /// The version is not a single step after the latest of its line.
    VersionInvalidJump = "version_invalid_jump", 400, "version-invalid-jump", "The version skips one";
    /// A patch changes the schema beyond descriptions.
    PatchMustBeByteEqual = "patch_must_be_byte_equal", 400, "patch-must-be-byte-equal", "A patch changes more than descriptions";
    /// A minor version cannot be shown to accept all that was accepted.
    MinorMustBeBackwardsCompatible = "minor_must_be_backwards_compatible", 400, "minor-must-be-backwards-compatible", "A minor version refuses what was accepted";
    /// Schemas are nested more than five deep.
    SchemaTooDeep = "schema_too_deep", 400, "schema-too-deep", "The schema is nested too deep";
    /// Too many properties, patterns, bytes or ways to evaluate.
    SchemaTooWide = "schema_too_wide", 400, "schema-too-wide", "The schema is too wide";
    /// Not a schema that can be used here.
    InvalidJsonSchema = "invalid_json_schema", 400, "invalid-json-schema", "The schema is not valid";
    /// The example fails the schema it comes with.
    PayloadExampleDoesNotMatchSchema = "payload_example_does_not_match_schema", 400, "payload-example-does-not-match-schema", "The example does not fit its schema";
    /// The plan's number of custom events is reached.
    RegistrationQuotaExceeded = "registration_quota_exceeded", 402, "registration-quota-exceeded", "The plan has no room for another event";
    /// The plan of the tenant does not have this feature.
    PlanUpgradeRequired = "plan_upgrade_required", 402, "plan-upgrade-required", "The plan does not have this";
    /// The custom event was never registered by this tenant.
    EventNotRegistered = "event_not_registered", 404, "event-not-registered", "The custom event is not registered";
    /// The version asked for, or every version, is not published.
    EventNotPublished = "event_not_published", 409, "event-not-published", "The custom event is not published";
    /// The payload of an emit fails the registered schema.
    PayloadInvalid = "payload_invalid", 400, "payload-invalid", "The payload does not fit its schema";
    /// The payload of an emit is over 256 KiB.
    PayloadTooLarge = "payload_too_large", 413, "payload-too-large", "The payload is too large";
    /// More than 50 emits in a chain of causes.
    ChainDepthExceeded = "chain_depth_exceeded", 422, "chain-depth-exceeded", "The chain of causes is too long";
    /// The plan's number of emits of this month is reached.
    MonthlyEmitQuotaExceeded = "monthly_emit_quota_exceeded", 402, "monthly-emit-quota-exceeded", "The month's emits are used up";
    /// The emit is written down, but the bus did not take it.
    BusRelayFailed = "bus_relay_failed", 502, "bus-relay-failed", "The event waits for the bus";
    /// `platformxe.generic` is managed by the platform.
    CannotArchiveGenericEvent = "cannot_archive_generic_event", 403, "cannot-archive-generic-event", "The generic event cannot be archived";
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
    "internal", "broker-unavailable", "idempotency-key-in-use", "overloaded", "storage-full",
    "invalid-namespace", "reserved-namespace", "namespace-not-allowed", "invalid-name",
    "invalid-version-format", "cannot-register-generic-event", "version-already-exists",
    "version-downgrade", "version-invalid-jump", "patch-must-be-byte-equal",
    "minor-must-be-backwards-compatible", "schema-too-deep", "schema-too-wide",
    "invalid-json-schema", "payload-example-does-not-match-schema", "registration-quota-exceeded",
    "plan-upgrade-required", "event-not-registered", "event-not-published", "payload-invalid",
    "payload-too-large", "chain-depth-exceeded", "monthly-emit-quota-exceeded", "bus-relay-failed",
    "cannot-archive-generic-event",
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The reference of all codes.
    fn reference() -> String {
        let mut page = String::from(
            "# Problem codes\n\n\
             Every refusal is `application/problem+json` (RFC 9457) with one of these in `code`. This page is written from the\n\
             table in the code; a test holds it to that. What to do about one stands on its page, which a gateway serves at\n\
             `/problems/{slug}`.\n\n\
             | code | status | title | page |\n| --- | --- | --- | --- |\n",
        );
        for code in Code::ALL {
            let (status, title, slug) = (code.status(), code.title(), code.slug());
            // Writing to a String cannot fail.
            let _ = writeln!(
                page,
                "| `{}` | {status} | {title} | [{slug}](../crates/tidings-event/src/problems/{slug}.md) |",
                code.as_str()
            );
        }
        page
    }

    /// Written anew by a run with `TIDINGS_WRITE=1`.
    #[test]
    fn the_reference_is_what_the_table_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/problems.md");
        if std::env::var_os("TIDINGS_WRITE").is_some() {
            std::fs::write(file, reference()).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap() == reference(),
            "{file} is not what the code says: run this test with TIDINGS_WRITE=1"
        );
    }

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
