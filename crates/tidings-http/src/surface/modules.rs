//! Module manifests (source A).

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidings_event::{Code, ModuleId};
use tidings_gateway::manifests::MAX_MANIFEST_BYTES;
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, expect_json, read, text};

/// Ids and versions of all modules.
#[utoipa::path(get, path = "/v1/modules", tag = "modules", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(_): Authenticated,
) -> Result<Response, Refused> {
    let modules = house.gateway.manifests.list().await?;
    let items: Vec<_> = modules
        .iter()
        .map(|module| json!({ "id": module.id.as_str(), "version": module.version }))
        .collect();
    Ok(axum::Json(json!({ "items": items, "nextCursor": null })).into_response())
}

/// A module's manifest, as it was written.
#[utoipa::path(get, path = "/v1/modules/{moduleId}/manifest", tag = "modules", params(("moduleId" = String, Path)),
    responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(module): Path<String>,
) -> Result<Response, Refused> {
    let manifest = house.gateway.manifests.get(&caller, &id(&module)?).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        manifest.as_str().to_owned(),
    )
        .into_response())
}

/// Writes a module's manifest; it is in force at once.
#[utoipa::path(put, path = "/v1/modules/{moduleId}/manifest", tag = "modules", params(("moduleId" = String, Path)),
    request_body = serde_json::Value, responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn put(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(module): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read(
        &house,
        &headers,
        body,
        MAX_MANIFEST_BYTES,
        Code::InvalidRequest,
    )
    .await?;
    expect_json(&headers)?;
    let changed = house
        .gateway
        .manifests
        .put(&caller, &id(&module)?, text(&body)?)
        .await?;
    Ok(axum::Json(json!({ "id": module, "changed": changed })).into_response())
}

/// Removes a module's manifest: it may publish nothing any more.
#[utoipa::path(delete, path = "/v1/modules/{moduleId}/manifest", tag = "modules", params(("moduleId" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(module): Path<String>,
) -> Result<Response, Refused> {
    house
        .gateway
        .manifests
        .delete(&caller, &id(&module)?)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn id(text: &str) -> Result<ModuleId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid("moduleId", format!("{error}.")))
}
