//! What somebody wants to emit: its shape and its size.

use tidings_contract::custom::{self, EventPath, MAX_PAYLOAD_BYTES, Version};
use tidings_event::Code;
use tidings_event::json::{Fingerprint, RawJson};
use uuid::Uuid;

use super::lifecycle::clipped;
use super::verdict::told;
use crate::publish::refusal::{Refusal, Rule};
use crate::publish::validate::idempotency_key;

/// What somebody wants to emit.
#[derive(Debug, Clone)]
pub struct EmitRequest {
    /// Namespace and name.
    pub name: String,
    /// `MAJOR.MINOR.PATCH`; the latest that is published, if absent.
    pub version: Option<String>,
    /// What it carries: at most [`MAX_PAYLOAD_BYTES`] bytes as sent.
    pub payload: RawJson,
    /// Of the payload.
    pub fingerprint: Fingerprint,
    /// A repeat of the key answers the first emit.
    pub idempotency_key: Option<String>,
    /// The event of the tenant that caused it.
    pub causation_id: Option<Uuid>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

impl EmitRequest {
    /// What it carries, as it was read.
    pub(super) fn content(&self) -> (RawJson, Fingerprint) {
        (self.payload.clone(), self.fingerprint)
    }
}

/// The event that is named, if all that an emit says of itself is well-formed.
pub(super) fn shape(request: &EmitRequest) -> Result<(EventPath, Option<Version>), Refusal> {
    let path = EventPath::parse(&request.name).map_err(|refusal| {
        let mut refusal = of_shape(refusal, "name");
        if let Some((_, version)) = request.name.rsplit_once('@') {
            let advice = format!(
                " A version has a member of its own: \"version\": \"{}\".",
                clipped(version)
            );
            refusal.detail.push_str(&advice);
        }
        refusal
    })?;
    let version = request.version.as_deref().map(Version::parse).transpose();
    let version = version.map_err(|refusal| of_shape(refusal, "version"))?;
    if let Some(key) = &request.idempotency_key {
        idempotency_key(key)?;
    }
    Ok((path, version))
}

fn of_shape(refusal: custom::Refusal, field: &'static str) -> Refusal {
    let fault = told(refusal);
    Refusal::shape(fault.code, field, fault.detail)
}

/// Refuses a payload that is too large.
pub(super) fn measure(request: &EmitRequest) -> Result<(), Refusal> {
    let actual = request.payload.as_str().len();
    if actual <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    let detail = format!(
        "payload has {actual} bytes; {MAX_PAYLOAD_BYTES} (256 KB) is the limit of a custom event."
    );
    let refusal = Refusal::new(Code::PayloadTooLarge, Rule::DataSize, detail).field("payload");
    Err(refusal.limit(MAX_PAYLOAD_BYTES, actual))
}

/// What a repeat of a key must have too.
pub(super) fn fingerprint(request: &EmitRequest) -> Fingerprint {
    let payload = request.fingerprint.0.to_le_bytes();
    let parts = [
        request.name.as_bytes(),
        request.version.as_deref().unwrap_or_default().as_bytes(),
        &payload,
    ];
    // Without a cause it is what it was before causes counted, for keys of then.
    let cause = request
        .causation_id
        .as_ref()
        .map(|cause| &cause.as_bytes()[..]);
    Fingerprint::of_parts(parts.into_iter().chain(cause))
}
