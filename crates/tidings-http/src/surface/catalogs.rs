//! Catalogues of topics, and the document of everything.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::event::rfc3339;
use tidings_event::{CatalogName, Code};
use tidings_gateway::catalogs::{Change, Listed, MAX_CATALOG_BYTES};
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::page::Page;
use crate::problem::Refused;
use crate::request::{Authenticated, JSON, Path, Queried, expect_one_of, read, read_query, text};

const YAML: &str = "application/yaml";
/// What a catalogue may be sent as (RFC 9512 has the first, older clients the others).
const ACCEPTED: [&str; 7] = [
    YAML,
    JSON,
    "application/x-yaml",
    "text/yaml",
    "text/x-yaml",
    "application/vnd.aai.asyncapi+yaml",
    "application/vnd.aai.asyncapi+json",
];

/// How a catalogue is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct How {
    #[serde(default = "yes")]
    enforce: bool,
    #[serde(default)]
    dry_run: bool,
}

fn yes() -> bool {
    true
}

/// A catalogue in force.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CatalogBody {
    name: String,
    title: String,
    version: String,
    /// The application that it describes.
    service: Option<String>,
    /// Whether publishes are held to it.
    enforce: bool,
    /// Counts its changes, from 1.
    revision: i64,
    changed_at: String,
    /// How many topics it describes.
    topics: usize,
}

/// All catalogues in force.
#[utoipa::path(get, path = "/v1/catalogs", tag = "catalogs", responses((status = 200, body = Page<CatalogBody>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(_): Authenticated,
) -> Result<Response, Refused> {
    let catalogs = house.gateway.catalogs.list();
    Ok(Page::whole(catalogs.iter().map(CatalogBody::of).collect()).into_response())
}

impl CatalogBody {
    fn of(listed: &Listed) -> Self {
        let (applied, catalog) = (&listed.applied, &listed.applied.catalog);
        Self {
            name: listed.name.to_string(),
            title: catalog.title.clone(),
            version: catalog.version.clone(),
            service: catalog.service.clone(),
            enforce: applied.enforce,
            revision: applied.revision,
            changed_at: rfc3339(applied.changed_at_ms),
            topics: catalog.channels.len(),
        }
    }
}

/// A catalogue, as it was written: YAML or JSON.
#[utoipa::path(get, path = "/v1/catalogs/{name}", tag = "catalogs", params(("name" = String, Path)),
    responses((status = 200, content((serde_json::Value = "application/yaml"), (serde_json::Value = "application/json")))))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(_): Authenticated,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let applied = house.gateway.catalogs.get(&parsed(&name)?)?;
    // Every JSON object begins so, and no document in YAML's own style does.
    let content_type = if applied.text.trim_start().starts_with('{') {
        JSON
    } else {
        YAML
    };
    let headers = [(header::CONTENT_TYPE, content_type)];
    Ok((headers, applied.text.to_string()).into_response())
}

/// Writes a catalogue; it is in force at once.
#[utoipa::path(put, path = "/v1/catalogs/{name}", tag = "catalogs",
    params(
        ("name" = String, Path),
        ("enforce" = Option<bool>, Query, description = "Whether publishes are held to it; true if absent"),
        ("dryRun" = Option<bool>, Query, description = "Answers what would change, and changes nothing"),
    ),
    request_body(content((serde_json::Value = "application/yaml"), (serde_json::Value = "application/json")),
        description = "An AsyncAPI 3.0 document"),
    responses((status = 200, body = WrittenCatalog)))]
pub(crate) async fn put(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(name): Path<String>,
    how: Queried<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read(
        &house,
        &caller,
        &headers,
        body,
        MAX_CATALOG_BYTES,
        Code::InvalidRequest,
    )
    .await?;
    expect_one_of(&ACCEPTED, &headers, "application/yaml and application/json")?;
    let how = read_query(how)?;
    let (name, document) = (parsed(&name)?, text(&body)?);
    let catalogs = &house.gateway.catalogs;
    let written = if how.dry_run {
        let asked = catalogs.dry_run(&caller, &name, document, how.enforce);
        asked.await?
    } else {
        let asked = catalogs.put(&caller, &name, document, how.enforce);
        asked.await?
    };
    let changes = written.changes.iter();
    Ok(axum::Json(WrittenCatalog {
        name: name.to_string(),
        enforce: how.enforce,
        dry_run: how.dry_run,
        changed: written.changed,
        revision: written.revision,
        changes: changes.map(CatalogChange::of).collect(),
    })
    .into_response())
}

/// What writing a catalogue has changed, or would.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrittenCatalog {
    name: String,
    enforce: bool,
    dry_run: bool,
    /// False: it was there already, as it is.
    changed: bool,
    revision: i64,
    changes: Vec<CatalogChange>,
}

/// A change of a catalogue, and whom it breaks.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CatalogChange {
    /// The event type.
    r#type: String,
    /// Where, as a JSON Pointer.
    path: String,
    detail: String,
    /// `nobody`, `senders`, `receivers` or `everybody`.
    breaks: &'static str,
    /// Those that this breaks.
    services: Vec<String>,
}

impl CatalogChange {
    fn of(change: &Change) -> Self {
        Self {
            r#type: change.event_type.clone(),
            path: change.path.clone(),
            detail: change.detail.clone(),
            breaks: change.broken.as_str(),
            services: change.services.clone(),
        }
    }
}

/// Removes a catalogue: its types are then like any other.
#[utoipa::path(delete, path = "/v1/catalogs/{name}", tag = "catalogs", params(("name" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let name = parsed(&name)?;
    house.gateway.catalogs.delete(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// One AsyncAPI 3.0 document of every topic: all catalogues, and what manifests declare.
#[utoipa::path(get, path = "/asyncapi.json", tag = "catalogs", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn installation(
    State(house): State<House>,
    Authenticated(_): Authenticated,
) -> Result<Response, Refused> {
    Ok(axum::Json(house.gateway.catalogs.installation()).into_response())
}

fn parsed(name: &str) -> Result<CatalogName, Refusal> {
    name.parse()
        .map_err(|error| Refusal::invalid("name", format!("{error}.")))
}
