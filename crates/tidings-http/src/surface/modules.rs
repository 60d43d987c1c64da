//! Module manifests (source A).

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidings_event::{Code, ModuleId};
use tidings_gateway::manifests::MAX_MANIFEST_BYTES;
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::page::Page;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, expect_json, read, text};

/// A module that has a manifest.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ModuleBody {
    id: String,
    version: String,
}

/// What writing a manifest has come to.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct WrittenManifest {
    id: String,
    /// False: it was there already, as it is.
    changed: bool,
}

/// Ids and versions of all modules.
#[utoipa::path(get, path = "/v1/modules", tag = "modules", responses((status = 200, body = Page<ModuleBody>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(_): Authenticated,
) -> Result<Response, Refused> {
    let modules = house.gateway.manifests.list().await?;
    let items = modules.into_iter().map(|module| ModuleBody {
        id: module.id.to_string(),
        version: module.version,
    });
    Ok(Page::whole(items.collect()).into_response())
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
    request_body = serde_json::Value, responses((status = 200, body = WrittenManifest)))]
pub(crate) async fn put(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(module): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read(
        &house,
        &caller,
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
    Ok(axum::Json(WrittenManifest {
        id: module,
        changed,
    })
    .into_response())
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
