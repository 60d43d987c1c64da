//! What the product says of itself: OpenAPI, a page that renders it, the problem pages.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use tidings_event::problem::page;
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::problem::Refused;

/// The description of all operations, generated from the code.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn openapi(State(house): State<House>) -> Response {
    let document = house.described().document.clone();
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// The same for people: no script, no request to anywhere else.
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, body = String, content_type = "text/html")))]
pub(crate) async fn docs(State(house): State<House>) -> Response {
    let page = house.described().page.clone();
    (
        [(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        )],
        Html(page),
    )
        .into_response()
}

/// The explanation of a problem.
#[utoipa::path(get, path = "/problems/{slug}", tag = "operations", params(("slug" = String, Path)),
    responses((status = 200, body = String, content_type = "text/markdown")))]
pub(crate) async fn problem(Path(slug): Path<String>) -> Result<Response, Refused> {
    let text = page(&slug).ok_or_else(|| Refusal::not_found("problem"))?;
    Ok((
        [(header::CONTENT_TYPE, "text/markdown; charset=utf-8")],
        text,
    )
        .into_response())
}
