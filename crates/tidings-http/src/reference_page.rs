//! `/docs`: the description of all operations as one page, without any script.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const STYLE: &str = "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:64rem;padding:0 1rem;color-scheme:light dark}\
    summary{cursor:pointer;padding:.15rem 0}summary b{display:inline-block;min-width:4.5rem}\
    details>div{margin:.3rem 0 1rem 4.7rem}td,th{padding:.1rem .8rem .1rem 0;text-align:left;vertical-align:top}\
    pre{overflow:auto;font-size:.85rem}h2{margin-top:2rem}";

/// The page of a document of OpenAPI.
pub(crate) fn page(document: &str) -> String {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tidings API</title><style>{STYLE}</style>\
         </head><body><h1>Tidings API</h1><p>Generated from the code, as is \
         <a href=\"/openapi.json\">openapi.json</a>. A call opens by a click.</p>"
    );
    for tag in tags(&document) {
        line(&mut page, format_args!("<h2>{}</h2>", escaped(tag)));
        for (path, method, operation) in operations(&document) {
            if operation["tags"][0] == tag {
                show(&mut page, path, method, operation);
            }
        }
    }
    page.push_str("<h2>Schemas</h2>");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let name = escaped(name);
        line(
            &mut page,
            format_args!(
                "<details id=\"{name}\"><summary><code>{name}</code></summary><div>{}</div></details>",
                json(schema)
            ),
        );
    }
    page.push_str("</body></html>");
    page
}

/// Writing to a text cannot fail.
fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

/// Each operation of a document: its path, its method, and what is said of it.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    members(&document["paths"]).flat_map(|(path, methods)| {
        members(methods).map(move |(method, operation)| (path, method, operation))
    })
}

/// In the order in which they first come.
fn tags(document: &Value) -> Vec<&str> {
    let mut tags = Vec::new();
    for (_, _, operation) in operations(document) {
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members: Option<&Map<String, Value>> = value.as_object();
    members
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

/// A description: what stands between backticks is code.
fn text(value: &Value) -> String {
    let text = escaped(value.as_str().unwrap_or_default());
    let parts: Vec<&str> = text.split('`').collect();
    // A backtick without its other one stays as it is.
    let closed = if parts.len() % 2 == 1 {
        parts.len()
    } else {
        parts.len() - 1
    };
    let mut shown = String::with_capacity(text.len());
    for (index, part) in parts.iter().enumerate() {
        match (index < closed, index % 2) {
            (true, 0) => shown.push_str(part),
            (true, _) => {
                let _ = write!(shown, "<code>{part}</code>");
            }
            (false, _) => {
                let _ = write!(shown, "`{part}");
            }
        }
    }
    shown
}

fn show(page: &mut String, path: &str, method: &str, operation: &Value) {
    line(
        page,
        format_args!(
            "<details><summary><b>{}</b> <code>{}</code> {}</summary><div>",
            method.to_uppercase(),
            escaped(path),
            text(&operation["summary"])
        ),
    );
    if !operation["description"].is_null() {
        line(
            page,
            format_args!("<p>{}</p>", text(&operation["description"])),
        );
    }
    let parameters = operation["parameters"].as_array();
    if let Some(parameters) = parameters.filter(|parameters| !parameters.is_empty()) {
        page.push_str("<table><tr><th>parameter</th><th>in</th><th></th><th></th></tr>");
        for one in parameters {
            let required = if one["required"] == true {
                "required"
            } else {
                ""
            };
            line(
                page,
                format_args!(
                    "<tr><td><code>{}</code></td><td>{}</td><td>{required}</td><td>{}</td></tr>",
                    text(&one["name"]),
                    text(&one["in"]),
                    text(&one["description"])
                ),
            );
        }
        page.push_str("</table>");
    }
    bodies(page, "Body, ", &operation["requestBody"]["content"]);
    for (status, answer) in members(&operation["responses"]) {
        line(
            page,
            format_args!(
                "<p>{} {}</p>",
                escaped(status),
                text(&answer["description"])
            ),
        );
        bodies(page, "", &answer["content"]);
    }
    page.push_str("</div></details>");
}

/// What a body may be, by its media type.
fn bodies(page: &mut String, called: &str, content: &Value) {
    for (kind, body) in members(content) {
        let kind = escaped(kind);
        let schema = match &body["schema"] {
            Value::Null => String::new(),
            schema => json(schema),
        };
        line(
            page,
            format_args!("<p>{called}<code>{kind}</code></p>{schema}"),
        );
    }
}

/// A schema, or the way to it.
fn json(schema: &Value) -> String {
    let name = schema["$ref"]
        .as_str()
        .and_then(|target| target.rsplit('/').next());
    match name {
        Some(name) => {
            let name = escaped(name);
            format!("<p><a href=\"#{name}\"><code>{name}</code></a></p>")
        }
        // An alternate form: pretty. A value can always be written.
        None => format!("<pre>{}</pre>", escaped(&format!("{schema:#}"))),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operation_shows_what_it_takes_and_gives_and_no_text_is_markup() {
        let document = json!({
            "paths": { "/a/{id}": { "post": {
                "tags": ["t"], "summary": "<b>Does</b> it", "description": "More `of<` it, `so",
                "parameters": [{ "name": "id", "in": "path", "required": true, "description": "Which" }],
                "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/New" } } } },
                "responses": { "201": { "description": "Made", "content": { "text/plain": { "schema": { "type": "string" } }, "text/html": {} } } },
            } } },
            "components": { "schemas": { "New": { "type": "object" } } },
        });
        let page = page(&document.to_string());
        for part in [
            "<h2>t</h2>",
            "<b>POST</b> <code>/a/{id}</code> &lt;b&gt;Does&lt;/b&gt; it",
            "<p>More <code>of&lt;</code> it, `so</p>",
            "<td><code>id</code></td><td>path</td><td>required</td><td>Which</td>",
            "<a href=\"#New\"><code>New</code></a>",
            "<details id=\"New\">",
            "<p>201 Made</p>",
            "<code>text/plain</code>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<pre>null</pre>"), "{page}");
    }

    #[test]
    fn the_page_of_this_product_has_every_operation() {
        let document = crate::openapi::document("http://127.0.0.1:8080");
        let shown = page(&document);
        let document: Value = serde_json::from_str(&document).unwrap();
        let mut count = 0;
        for (path, method, operation) in operations(&document) {
            let heading = format!(
                "<b>{}</b> <code>{}</code>",
                method.to_uppercase(),
                escaped(path)
            );
            assert!(shown.contains(&heading), "{heading}");
            assert!(operation["tags"][0].is_string(), "{heading}");
            count += 1;
        }
        assert_eq!(shown.matches("<details><summary><b>").count(), count);
    }
}
