//! Tenants and workspaces, and source C's publish.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::event::rfc3339;
use tidings_event::json::{self as strict, Fingerprint, RawJson};
use tidings_event::{Code, Data, TenantId, WorkspaceId};
use tidings_gateway::access::{Caller, Principal};
use tidings_gateway::publish::command::{Command, Draft, InWorkspace};
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::workspaces::{NewTenant, Tenant, role};
use uuid::Uuid;

use super::publish::{KEY, REPLAYED, key, malformed, string, within};
use super::subscriptions::MAX_BYTES;
use crate::House;
use crate::page::{self, Page, Stretch};
use crate::problem::Refused;
use crate::request::{
    Authenticated, MAX_SINGLE_BYTES, Path, Queried, expect_json, json_body, read, read_query, text,
    traceparent,
};

/// The longest `actor`, in characters.
const MAX_ACTOR: usize = 128;

/// What an operator says of a tenant. What is absent stays as it is.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TenantBody {
    /// Its own namespace, which no other tenant has. Of a new tenant it is made from its id.
    slug: Option<String>,
    /// `FREE`, `BASIC`, `PRO` or `ENTERPRISE`. A new tenant is on `FREE`.
    plan: Option<String>,
    /// What it may name events under beside its slug; at most 100, none that is reserved.
    namespaces: Option<Vec<String>>,
}

/// What a member may do.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MemberBody {
    /// `ADMIN` or `MEMBER`.
    role: String,
}

/// An event to publish in a workspace.
#[derive(Deserialize, utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes the body, which is read strictly")]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishEventDTO {
    /// As `type` elsewhere: 2 to 8 dot-separated segments.
    event_key: String,
    /// `MAJOR.MINOR` or `MAJOR.MINOR.PATCH`; `1.0.0` if absent.
    schema_version: Option<String>,
    /// Up to 128 characters; the `sub` of the credential if absent.
    actor: Option<String>,
    /// An object of at most 1 MB; `{}` if absent.
    payload: Option<serde_json::Value>,
}

/// A tenant as it is.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TenantShown {
    id: String,
    slug: String,
    plan: String,
    namespaces: Vec<String>,
    created_at: String,
    updated_at: String,
}

/// A workspace of a tenant.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkspaceShown {
    id: String,
    tenant_id: String,
}

/// A member of a workspace.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberShown {
    user_id: String,
    /// `ADMIN` or `MEMBER`.
    role: &'static str,
}

/// An event that was published in a workspace.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishedInWorkspace {
    /// `SUCCESS`
    code: &'static str,
    event_id: Uuid,
    /// True where the bus is disabled: it was checked and not kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
}

/// All tenants, by their ids; for operators.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", params(Stretch),
    responses((status = 200, body = Page<TenantShown>)))]
pub(crate) async fn tenants(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    stretch: Queried<Stretch>,
) -> Result<Response, Refused> {
    let stretch = read_query(stretch)?;
    let (limit, after) = (stretch.limit()?, stretch.cursor.as_deref());
    let room = &house.gateway.workspaces;
    let found = room.tenants(&caller, after, limit as usize)?;
    let next = page::next(&found, limit, |last| last.id.clone());
    let items = found.iter().map(|tenant| rendered(tenant)).collect();
    Ok(Page::of(items, next).into_response())
}

/// A tenant: its slug, its plan and its namespaces.
#[utoipa::path(get, path = "/v1/tenants/{tenantId}", tag = "tenants", params(("tenantId" = String, Path)),
    responses((status = 200, body = TenantShown)))]
pub(crate) async fn tenant(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let id = id.parse().map_err(|_| Refusal::not_found("tenant"))?;
    let tenant = house.gateway.workspaces.tenant(&caller, &id)?;
    Ok(axum::Json(rendered(&tenant)).into_response())
}

/// Writes a tenant; for operators.
#[utoipa::path(put, path = "/v1/tenants/{tenantId}", tag = "tenants", params(("tenantId" = String, Path)),
    request_body = TenantBody, responses((status = 200, body = TenantShown)))]
pub(crate) async fn put_tenant(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let id = tenant_id(&id)?;
    let given: TenantBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let new = NewTenant {
        slug: given.slug,
        plan: given.plan,
        namespaces: given.namespaces,
    };
    let tenant = house
        .gateway
        .workspaces
        .put_tenant(&caller, &id, new)
        .await?;
    Ok(axum::Json(rendered(&tenant)).into_response())
}

/// Makes a workspace, with the extension chat installed and enabled; for ADMINs of the tenant and operators.
#[utoipa::path(put, path = "/v1/tenants/{tenantId}/workspaces/{workspaceId}", tag = "tenants",
    params(("tenantId" = String, Path), ("workspaceId" = String, Path)),
    responses((status = 200, description = "It was there", body = WorkspaceShown), (status = 201, body = WorkspaceShown)))]
pub(crate) async fn put(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let (tenant, id) = (tenant_id(&tenant)?, workspace_id(&id)?);
    let rooms = &house.gateway.extensions;
    let made = rooms.make_workspace(&caller, &tenant, &id).await?;
    let status = if made {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = WorkspaceShown {
        id: id.to_string(),
        tenant_id: tenant.to_string(),
    };
    Ok((status, axum::Json(body)).into_response())
}

/// Makes a user a member of a workspace, or changes its role.
#[utoipa::path(put, path = "/v1/tenants/{tenantId}/workspaces/{workspaceId}/members/{userId}", tag = "tenants",
    params(("tenantId" = String, Path), ("workspaceId" = String, Path), ("userId" = String, Path)),
    request_body = MemberBody, responses((status = 200, body = MemberShown)))]
pub(crate) async fn put_member(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((tenant, id, user)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let (tenant, id) = (tenant_id(&tenant)?, workspace_id(&id)?);
    let given: MemberBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let role = role(&given.role)?;
    let rooms = &house.gateway.workspaces;
    rooms.put_member(&caller, &tenant, &id, &user, role).await?;
    Ok(axum::Json(MemberShown {
        user_id: user,
        role: role.as_str(),
    })
    .into_response())
}

/// Ends a membership.
#[utoipa::path(delete, path = "/v1/tenants/{tenantId}/workspaces/{workspaceId}/members/{userId}", tag = "tenants",
    params(("tenantId" = String, Path), ("workspaceId" = String, Path), ("userId" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete_member(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((tenant, id, user)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    let (tenant, id) = (tenant_id(&tenant)?, workspace_id(&id)?);
    let rooms = &house.gateway.workspaces;
    rooms.delete_member(&caller, &tenant, &id, &user).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Publishes an event in a workspace.
#[utoipa::path(post, path = "/api/workspaces/{workspaceId}/events/publish", tag = "workspaces",
    params(("workspaceId" = String, Path), ("Idempotency-Key" = Option<String>, Header),
        ("traceparent" = Option<String>, Header)),
    request_body = PublishEventDTO, responses((status = 200, body = PublishedInWorkspace)))]
pub(crate) async fn publish(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(workspace): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let headers = head.headers;
    let body = read(
        &house,
        &caller,
        &headers,
        body,
        MAX_SINGLE_BYTES,
        Code::EventPayloadTooLarge,
    )
    .await?;
    expect_json(&headers)?;
    // What cannot be an id is no workspace of anybody's; it is refused as one that is not there.
    let id = workspace
        .parse()
        .or_else(|_| house.gateway.workspaces.refuse(&caller))?;
    let mut draft = draft(&body, id, &caller)?;
    draft.idempotency_key = key(&headers);
    let command = Command::one(caller, draft, traceparent(&headers));
    let published = house.gateway.publish(command).await;
    let mut published = published.map_err(in_words_of_c)?;
    house
        .metrics
        .skipped(published.iter().map(|one| one.skipped));
    let mut published = published.remove(0);
    let key = published.idempotency_key.take();
    let answer = PublishedInWorkspace {
        code: "SUCCESS",
        event_id: published.event_id,
        skipped: published.skipped,
    };
    let mut response = axum::Json(answer).into_response();
    let headers = response.headers_mut();
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        headers.insert(KEY, key);
    }
    if published.duplicate {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Reads a `PublishEventDTO`. Fields of other names are refused by name.
fn draft(body: &bytes::Bytes, id: WorkspaceId, caller: &Caller) -> Result<Draft, Refusal> {
    let members = strict::members(text(body)?).map_err(|error| malformed(&error))?;
    let (mut event_type, mut schema_version, mut actor) = (None, None, None);
    let mut payload = None;
    for (name, value) in members {
        match &*name {
            _ if value.get() == "null" && name != "eventKey" => {}
            "eventKey" => event_type = Some(string("eventKey", value)?),
            "schemaVersion" => schema_version = Some(string("schemaVersion", value)?),
            "actor" => actor = Some(string("actor", value)?),
            "payload" => payload = Some(value),
            other => {
                let detail = format!(
                    "An event has no field {other:?}; its fields are eventKey, schemaVersion, actor, payload."
                );
                return Err(Refusal::shape(Code::InvalidEvent, other, detail));
            }
        }
    }
    let event_type = event_type.ok_or_else(|| {
        let detail = "The field 'eventKey' is missing.";
        Refusal::shape(Code::InvalidEvent, "eventKey", detail)
    })?;
    let actor = actor.filter(|actor| !actor.is_empty());
    let actor = actor.unwrap_or_else(|| own_name(caller));
    if actor.chars().count() > MAX_ACTOR || actor.chars().any(char::is_control) {
        let detail =
            format!("'actor' has at most {MAX_ACTOR} characters and no control characters.");
        return Err(Refusal::shape(Code::InvalidEvent, "actor", detail));
    }
    let (data, content) = match payload {
        Some(payload) => within(body, payload)?,
        None => RawJson::parse("{}").map_err(|error| malformed(&error))?,
    };
    if !data.is_object() {
        let detail = "'payload' must be a JSON object.";
        return Err(Refusal::shape(Code::InvalidEvent, "payload", detail));
    }
    let parts = [
        &content.0.to_le_bytes()[..],
        id.as_str().as_bytes(),
        actor.as_bytes(),
    ];
    Ok(Draft {
        event_type,
        schema_version: schema_version.map(in_full),
        data: Data::Json(data),
        fingerprint: Fingerprint::of_parts(parts),
        idempotency_key: None,
        cloud: None,
        cause: None,
        custom: None,
        workspace: Some(Box::new(InWorkspace { id, actor })),
    })
}

/// Names the member of the body that a refusal is about as source C does.
fn in_words_of_c(mut refusal: Refusal) -> Refusal {
    if refusal.code == Code::InvalidSchemaVersion {
        let detail = "'schemaVersion' is not MAJOR.MINOR or MAJOR.MINOR.PATCH; write numbers without leading zeros, as in \
             1.0 or 1.0.0.";
        detail.clone_into(&mut refusal.detail);
    }
    let named = match refusal.field.as_deref() {
        Some("type") => "eventKey",
        Some("data") => "payload",
        _ => return refusal,
    };
    if let Some(rest) = refusal.detail.strip_prefix("data has ") {
        refusal.detail = format!("payload has {rest}");
    }
    refusal.field = Some(named.into());
    refusal
}

/// Source C writes `1.0`; elsewhere a version has three parts.
fn in_full(version: String) -> String {
    if version.matches('.').count() == 1 {
        return format!("{version}.0");
    }
    version
}

/// The `sub` of a person; whatever else publishes is named as its credential does.
fn own_name(caller: &Caller) -> String {
    match caller.principal() {
        Principal::User(sub) | Principal::Operator(sub) => sub.clone(),
        Principal::Module(module) => module.to_string(),
        Principal::Service(service) => service.to_string(),
        Principal::ApiKey { name, .. } => name.clone(),
        Principal::Extension { id, .. } => id.to_string(),
    }
}

pub(super) fn workspace_id(text: &str) -> Result<WorkspaceId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid("workspaceId", format!("{error}.")))
}

fn tenant_id(text: &str) -> Result<TenantId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid("tenantId", format!("{error}.")))
}

fn rendered(tenant: &Tenant) -> TenantShown {
    TenantShown {
        id: tenant.id.to_string(),
        slug: tenant.slug.clone(),
        plan: tenant.plan.clone(),
        namespaces: tenant.namespaces.clone(),
        created_at: rfc3339(tenant.created_at_ms),
        updated_at: rfc3339(tenant.updated_at_ms),
    }
}

#[cfg(test)]
mod tests {
    use tidings_gateway::publish::refusal::Rule;

    use super::*;

    #[test]
    fn a_refusal_speaks_of_the_members_that_were_sent() {
        let told = |code, field: &str, detail: &str| {
            let refusal = Refusal::new(code, Rule::Shape, detail).field(field);
            let told = in_words_of_c(refusal);
            (told.field.unwrap_or_default(), told.detail)
        };
        let version = "schemaVersion \"01.2.0\" is not MAJOR.MINOR.PATCH.";
        let (field, detail) = told(Code::InvalidSchemaVersion, "schemaVersion", version);
        assert_eq!(&*field, "schemaVersion");
        assert!(detail.contains("MAJOR.MINOR or") && !detail.contains("01.2"));
        let size = "data has 2 bytes; 1 (1 MB) is the limit.";
        let (field, detail) = told(Code::EventPayloadTooLarge, "data", size);
        assert_eq!(&*field, "payload");
        assert!(detail.starts_with("payload has 2"), "{detail}");
    }
}
