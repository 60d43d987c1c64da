//! API keys of a tenant.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::TenantId;
use tidings_event::event::rfc3339;
use tidings_gateway::access::{NewApiKey, Scope};
use tidings_gateway::api_keys::ApiKey;
use tidings_gateway::publish::refusal::Refusal;
use uuid::Uuid;

use crate::House;
use crate::page::{Page, Stretch};
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body, read_query, time};

/// The largest body of these operations, in bytes.
const MAX_BYTES: usize = 65_536;

/// What a new key is to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewKey {
    /// 1 to 100 characters, for people.
    name: String,
    /// The module it publishes as.
    module: Option<String>,
    /// `publish:<type or pattern>` or `events:read`.
    scopes: Vec<String>,
    /// RFC 3339.
    expires_at: Option<String>,
    /// Only for operators: whose key it is.
    tenant_id: Option<String>,
}

/// Only for operators: which tenant's.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Owner {
    tenant_id: Option<String>,
}

/// Which keys.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Only for operators: whose keys.
    tenant_id: Option<String>,
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Makes a key; its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/api-keys", tag = "api-keys", request_body = NewKey,
    responses((status = 201, body = KeyShown)))]
pub(crate) async fn create(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let given: NewKey = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let expires = given.expires_at.as_deref();
    let expires = expires.map(|text| time("expiresAt", text));
    let module = given.module.as_deref().map(str::parse).transpose();
    let scopes = given
        .scopes
        .iter()
        .map(|scope| scope.parse::<Scope>())
        .collect::<Result<_, _>>();
    let new = NewApiKey {
        name: given.name,
        module: module.map_err(|error| Refusal::invalid("module", format!("{error}.")))?,
        scopes: scopes.map_err(|error| Refusal::invalid("scopes", format!("{error}.")))?,
        expires_at_ms: expires.transpose()?,
    };
    let tenant = tenant(given.tenant_id.as_deref())?;
    let (key, secret) = house.gateway.api_keys.create(&caller, tenant, new).await?;
    let answer = KeyShown {
        key: Some(secret.clone()),
        ..rendered(&key)
    };
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

/// The tenant's keys, oldest first, without their secrets, ended ones too.
#[utoipa::path(get, path = "/v1/api-keys", tag = "api-keys", params(Wanted), responses((status = 200, body = Page<KeyShown>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    wanted: Queried<Wanted>,
) -> Result<Response, Refused> {
    let Wanted {
        tenant_id,
        limit,
        cursor,
    } = read_query(wanted)?;
    let (after, limit) = Stretch { limit, cursor }.place()?;
    let tenant = tenant(tenant_id.as_deref())?;
    let room = &house.gateway.api_keys;
    let (keys, next) = room.page(&caller, tenant, after, limit).await?;
    Ok(Page::of(keys.iter().map(rendered).collect(), next).into_response())
}

/// Ends a key at once.
#[utoipa::path(delete, path = "/v1/api-keys/{keyId}", tag = "api-keys", params(Owner, ("keyId" = String, Path)),
    responses((status = 204, description = "It is revoked")))]
pub(crate) async fn revoke(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(key): Path<String>,
    owner: Queried<Owner>,
) -> Result<Response, Refused> {
    let id = key.parse().map_err(|_| Refusal::not_found("API key"))?;
    house
        .gateway
        .api_keys
        .revoke(&caller, owner_of(owner)?, id)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The tenant that an operator names.
pub(crate) fn owner_of(owner: Queried<Owner>) -> Result<Option<TenantId>, Refusal> {
    let owner = read_query(owner)?;
    tenant(owner.tenant_id.as_deref())
}

fn tenant(text: Option<&str>) -> Result<Option<TenantId>, Refusal> {
    text.map(str::parse)
        .transpose()
        .map_err(|error| Refusal::invalid("tenantId", format!("{error}.")))
}

/// A key.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyShown {
    id: Uuid,
    tenant_id: String,
    name: String,
    /// The module it publishes as.
    module: Option<String>,
    scopes: Vec<String>,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// The key itself; in the answer that makes it only.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

fn rendered(key: &ApiKey) -> KeyShown {
    KeyShown {
        id: key.id,
        tenant_id: key.tenant.to_string(),
        name: key.name.clone(),
        module: key.module.as_ref().map(ToString::to_string),
        scopes: key.scopes.clone(),
        created_at: rfc3339(key.created_at_ms),
        expires_at: key.expires_at_ms.map(rfc3339),
        revoked_at: key.revoked_at_ms.map(rfc3339),
        key: None,
    }
}
