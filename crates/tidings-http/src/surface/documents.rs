//! What the product says of itself: OpenAPI, a page that renders it, the problem pages.

use std::fmt::Write as _;

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
    let document = crate::openapi::document(&house.public_url);
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// The same for people: no script, no request to anywhere else.
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, content_type = "text/html")))]
pub(crate) async fn docs(State(house): State<House>) -> Response {
    let document: serde_json::Value =
        serde_json::from_str(&crate::openapi::document(&house.public_url)).unwrap_or_default();
    let mut rows = String::new();
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let summary = escaped(operation["summary"].as_str().unwrap_or_default());
            let method = method.to_uppercase();
            // Writing to a String cannot fail.
            let _ = write!(
                rows,
                "<tr><td>{method}</td><td><code>{}</code></td><td>{summary}</td></tr>",
                escaped(path)
            );
        }
    }
    let body = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tidings API</title>\
         <style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem;\
         color-scheme:light dark}}td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}</style></head>\
         <body><h1>Tidings API</h1><p>Generated from the code. The whole description, with the bodies: \
         <a href=\"/openapi.json\">openapi.json</a>.</p><table>{rows}</table></body></html>"
    );
    (
        [(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        )],
        Html(body),
    )
        .into_response()
}

/// The explanation of a problem.
#[utoipa::path(get, path = "/problems/{slug}", tag = "operations", params(("slug" = String, Path)),
    responses((status = 200, content_type = "text/markdown")))]
pub(crate) async fn problem(Path(slug): Path<String>) -> Result<Response, Refused> {
    let text = page(&slug).ok_or_else(|| Refusal::not_found("problem"))?;
    Ok((
        [(header::CONTENT_TYPE, "text/markdown; charset=utf-8")],
        text,
    )
        .into_response())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
