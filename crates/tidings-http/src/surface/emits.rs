//! Emits of custom events (source D), what has become of them, and how much of its plan a tenant has used.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_event::Code;
use tidings_event::event::rfc3339;
use tidings_event::json::{self, Fingerprint, Members, RawJson};
use tidings_gateway::custom_events::{EmitQuery, EmitRequest, EmitRow, EmitState};
use tidings_gateway::publish::refusal::Refusal;
use uuid::Uuid;

use super::api_keys::{Owner, owner_of};
use super::publish::{KEY, REPLAYED, key, malformed, string, within};
use crate::House;
use crate::page::{self, Page};
use crate::problem::Refused;
use crate::request::{Authenticated, Queried, expect_json, read, read_query, text, traceparent};

/// What a body may have: the payload, and room for what names it.
const MAX_BYTES: usize = 512 * 1024;

/// Emits a payload against a registered version, or against `platformxe.generic`.
///
/// 202 when it is accepted and on the bus; 200 with `Idempotency-Replayed: true` for a repeat of a key.
#[utoipa::path(post, path = "/v1/events/custom/emit", tag = "custom-events",
    request_body = crate::openapi::EmitBody,
    params(("Idempotency-Key" = Option<String>, Header), ("traceparent" = Option<String>, Header)),
    responses((status = 202, body = EmittedBody), (status = 200, description = "A repeat of the key", body = EmittedBody)))]
pub(crate) async fn emit(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let body = read(
        &house,
        &caller,
        &head.headers,
        body,
        MAX_BYTES,
        Code::PayloadTooLarge,
    )
    .await?;
    expect_json(&head.headers)?;
    let mut request = emit_of(&body)?;
    let of_header = key(&head.headers);
    if let (Some(header), Some(member)) = (&of_header, &request.idempotency_key)
        && header != member
    {
        let detail =
            "The header Idempotency-Key and 'idempotencyKey' are not the same; give one of them.";
        return Err(Refusal::shape(Code::InvalidIdempotencyKey, "idempotencyKey", detail).into());
    }
    request.idempotency_key = request.idempotency_key.or(of_header);
    request.traceparent = traceparent(&head.headers);
    let emitted = house.gateway().emits.emit(&caller, request).await?;
    house.metrics.skipped([emitted.skipped]);
    let status = if emitted.repeated || emitted.skipped {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let answer = EmittedBody {
        event_id: emitted.event_id,
        canonical_name: emitted.canonical_name,
        status: if emitted.skipped { "skipped" } else { "queued" },
        skipped: emitted.skipped,
    };
    let mut response = (status, axum::Json(answer)).into_response();
    let headers = response.headers_mut();
    if let Ok(key) = HeaderValue::from_str(&emitted.idempotency_key) {
        headers.insert(KEY, key);
    }
    if emitted.repeated {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// An emit that was accepted.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EmittedBody {
    event_id: Uuid,
    /// `TENANT_CUSTOM:<tenant>:<namespace>.<name>@<version>`
    canonical_name: String,
    /// `queued`, or `skipped` where the bus is disabled.
    status: &'static str,
    /// True where the bus is disabled: it was checked and not kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
}

/// Reads the body of an emit.
fn emit_of(body: &Bytes) -> Result<EmitRequest, Refusal> {
    let text = text(body)?;
    if let Some(read) = json::checked(text, "payload") {
        let payload = (RawJson::checked_within(body, read.text), read.fingerprint);
        return emit_with(body, read.others, Some(payload));
    }
    // Something is wrong, or unusual: one after the other, to say what.
    let members = json::members(text).map_err(|error| malformed(&error))?;
    emit_request(body, members)
}

/// Reads the members of an emit.
pub(super) fn emit_request(body: &Bytes, members: Members<'_>) -> Result<EmitRequest, Refusal> {
    emit_with(body, members, None)
}

/// Reads the members of an emit, of which the payload may have been read already. Fields of other names are refused by name.
fn emit_with(
    body: &Bytes,
    members: Members<'_>,
    read: Option<(RawJson, Fingerprint)>,
) -> Result<EmitRequest, Refusal> {
    let (mut name, mut version, mut payload) = (None, None, None);
    let (mut idempotency_key, mut causation_id) = (None, None);
    for (member, value) in members {
        match &*member {
            "name" => name = Some(string("name", value)?),
            "payload" => payload = Some(value),
            "version" => version = optional("version", value)?,
            "idempotencyKey" => idempotency_key = optional("idempotencyKey", value)?,
            "causationId" => causation_id = optional("causationId", value)?,
            other => {
                let detail = format!(
                    "An emit has no field {other:?}; its fields are name, payload, version, idempotencyKey, causationId."
                );
                return Err(Refusal::shape(Code::InvalidEvent, other, detail));
            }
        }
    }
    let missing = |name: &str| {
        let detail = format!("The field '{name}' is missing.");
        Refusal::shape(Code::InvalidEvent, name, detail)
    };
    let (payload, fingerprint) = match (read, payload) {
        (Some(read), _) => read,
        (None, Some(payload)) => within(body, payload)?,
        (None, None) => return Err(missing("payload")),
    };
    let causation_id = causation_id.as_deref().map(str::parse::<Uuid>).transpose();
    let causation_id = causation_id.map_err(|_| {
        let detail = "'causationId' must be the id of an event, a UUID.";
        Refusal::shape(Code::InvalidEvent, "causationId", detail)
    })?;
    Ok(EmitRequest {
        name: name.ok_or_else(|| missing("name"))?,
        version,
        payload,
        fingerprint,
        idempotency_key,
        causation_id,
        traceparent: None,
    })
}

/// A string, or nothing where a client writes `null` for what it does not give.
fn optional(name: &'static str, value: &RawValue) -> Result<Option<String>, Refusal> {
    if value.get() == "null" {
        return Ok(None);
    }
    string(name, value).map(Some)
}

/// Which emits.
#[derive(Deserialize, utoipa::IntoParams, Default)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Wanted {
    /// `QUEUED`, `RELAYED`, `DELIVERED` or `FAILED`.
    status: Option<String>,
    /// Namespace and name.
    name: Option<String>,
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

impl Wanted {
    fn query(&self) -> Result<EmitQuery, Refusal> {
        let states = match self.status.as_deref() {
            None => Vec::new(),
            Some("QUEUED") => vec![EmitState::Queued],
            Some("RELAYED") => vec![EmitState::Relayed],
            Some("DELIVERED") => vec![EmitState::Delivered],
            Some("FAILED") => vec![EmitState::Failed, EmitState::Undelivered],
            Some(_) => {
                let detail = "'status' must be QUEUED, RELAYED, DELIVERED or FAILED.";
                return Err(Refusal::invalid("status", detail));
            }
        };
        let limit = page::limit(self.limit)?;
        let after = self.cursor.as_deref().map(str::parse::<Uuid>).transpose();
        let after =
            after.map_err(|_| Refusal::invalid("cursor", "'cursor' is not one of this list."))?;
        Ok(EmitQuery {
            states,
            name: self.name.clone(),
            after,
            newest_first: false,
            limit,
        })
    }
}

/// The tenant's emits and what has become of each, oldest first.
#[utoipa::path(get, path = "/v1/events/custom/emits", tag = "custom-events", params(Wanted),
    responses((status = 200, body = Page<EmitShown>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    wanted: Queried<Wanted>,
) -> Result<Response, Refused> {
    let wanted = read_query(wanted)?;
    let query = wanted.query()?;
    let rows = house.gateway().emits.list(&caller, &query).await?;
    let next = page::next(&rows, query.limit, |last| last.event_id);
    Ok(Page::of(rows.iter().map(rendered).collect(), next).into_response())
}

/// The tenant's plan, how much of it is used, and its last emits that failed. An operator names the tenant.
#[utoipa::path(get, path = "/v1/events/custom/health", tag = "custom-events", params(Owner),
    responses((status = 200, body = HealthBody)))]
pub(crate) async fn health(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    owner: Queried<Owner>,
) -> Result<Response, Refused> {
    let of = owner_of(owner)?;
    let health = house.gateway().emits.health(&caller, of.as_ref()).await?;
    let plan = health.plan;
    let answer = HealthBody {
        plan: plan.as_str(),
        registrations: Registrations {
            used: health.registrations,
            limit: plan.registrations(),
        },
        emits: MonthsEmits {
            this_month: health.emits,
            monthly_limit: plan.monthly_emits(),
        },
        features: Features {
            registered_emits: plan.has_own_events(),
            all_versions: plan.keeps_versions(),
            marketplace: plan.has_marketplace(),
            federation: plan.has_federation(),
        },
        recent_failures: health.recent_failures.iter().map(rendered).collect(),
    };
    Ok(axum::Json(answer).into_response())
}

/// A tenant's plan, and how much of it is used.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthBody {
    /// `FREE`, `BASIC`, `PRO` or `ENTERPRISE`.
    plan: &'static str,
    registrations: Registrations,
    emits: MonthsEmits,
    features: Features,
    /// The newest first.
    recent_failures: Vec<EmitShown>,
}

/// How many events a tenant has registered, and may; null: as many as it likes.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Registrations {
    used: u64,
    limit: Option<u64>,
}

/// How many emits there were in the calendar month (UTC), and may be; null: as many as it likes.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MonthsEmits {
    this_month: u64,
    monthly_limit: Option<u64>,
}

/// What the plan has.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "source D's members")]
pub(crate) struct Features {
    registered_emits: bool,
    all_versions: bool,
    marketplace: bool,
    federation: bool,
}

/// An emit and what has become of it.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EmitShown {
    event_id: Uuid,
    canonical_name: String,
    /// Namespace and name.
    name: String,
    source: String,
    idempotency_key: String,
    /// `QUEUED`, `RELAYED`, `DELIVERED` or `FAILED`.
    delivery_status: &'static str,
    /// Why it failed.
    error: Option<String>,
    /// The event that caused it.
    causation_id: Option<Uuid>,
    /// How many causes are behind it.
    chain_depth: u32,
    emitted_at: String,
}

fn rendered(row: &EmitRow) -> EmitShown {
    let delivery_status = match row.state {
        EmitState::Queued => "QUEUED",
        EmitState::Relayed => "RELAYED",
        EmitState::Delivered => "DELIVERED",
        EmitState::Failed | EmitState::Undelivered => "FAILED",
    };
    EmitShown {
        event_id: row.event_id,
        canonical_name: row.event_type.to_string(),
        name: row.name.clone(),
        source: row.source.clone(),
        idempotency_key: row.idempotency_key.clone(),
        delivery_status,
        error: row.error.clone(),
        causation_id: row.cause,
        chain_depth: row.depth,
        emitted_at: rfc3339(row.created_at_ms),
    }
}
