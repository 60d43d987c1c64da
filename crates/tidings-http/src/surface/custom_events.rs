//! Custom events (source D): what tenants register, what it is now, and what would be.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tidings_event::event::rfc3339;
use tidings_gateway::access::Caller;
use tidings_gateway::custom_events::{
    Bump, Class, Diff, Difference, Emits, EventPath, Registration, RegistrationQuery, Request,
    Schema, Status, Verdict, Version, member,
};
use tidings_gateway::publish::refusal::{Fault, Refusal, Rule};

use crate::House;
use crate::page::Page;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body, page_limit, read_query};

/// The largest body: a schema and an example of 256 KiB each, and room beside them.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;
/// The most registrations of a page.
const MAX_PAGE: u32 = 100;
/// So many are a page if nobody says.
const USUAL_PAGE: u32 = 50;

/// A version of a custom event, as somebody wants it.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RegistrationBody {
    /// `^[a-z][a-z0-9_-]{1,30}$`, one that the tenant was granted.
    #[schema(example = "lettings")]
    namespace: String,
    /// `^[a-z][a-z0-9_.-]{1,60}$`.
    #[schema(example = "property.favorited")]
    name: String,
    /// `MAJOR.MINOR.PATCH`, a single step after the latest of its line.
    #[schema(example = "1.0.0")]
    version: String,
    /// `draft` or `published`; a draft if absent.
    status: Option<String>,
    /// At most 2,000 characters.
    description: Option<String>,
    /// JSON Schema 2020-12, or a component schema of OpenAPI 3.1; at most 256 KiB.
    #[schema(value_type = Object)]
    payload_schema: Box<RawValue>,
    /// A payload that fits.
    #[schema(value_type = Option<Object>)]
    payload_example: Option<Box<RawValue>>,
}

impl RegistrationBody {
    fn request(self) -> Result<Request, Refusal> {
        let status = match self.status.as_deref() {
            None | Some("draft") => Status::Draft,
            Some("published") => Status::Published,
            Some(_) => {
                let detail = "'status' must be draft or published.";
                return Err(Refusal::invalid("status", detail));
            }
        };
        Ok(Request {
            namespace: self.namespace,
            name: self.name,
            version: self.version,
            status,
            description: self.description,
            schema: self.payload_schema.get().into(),
            example: self.payload_example.map(|it| it.get().into()),
        })
    }
}

/// What may be changed of a version.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RegistrationPatch {
    /// At most 2,000 characters; null or none of them: it has none any more.
    #[serde(default, deserialize_with = "null_is_empty")]
    description: Option<String>,
    /// `published` or `archived`: a version goes from draft to published to archived.
    status: Option<String>,
}

/// What is null is given, unlike what is absent.
fn null_is_empty<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(value).map(|text| Some(text.unwrap_or_default()))
}

/// A page of registrations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    namespace: Option<String>,
    name: Option<String>,
    status: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Two versions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Between {
    from: String,
    to: String,
}

/// Registers a version of a custom event.
#[utoipa::path(post, path = "/v1/events/custom/registrations", tag = "custom-events",
    request_body = RegistrationBody, responses((status = 201, body = RegistrationShown<'static>)))]
pub(crate) async fn register(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: RegistrationBody = json_body(&house, &caller, &headers, body, MAX_BODY_BYTES).await?;
    let room = &house.gateway.custom_events;
    let made = room.register(&caller, body.request()?).await?;
    Ok((
        StatusCode::CREATED,
        axum::Json(RegistrationShown::whole(&made)?),
    )
        .into_response())
}

/// What registering would say; keeps nothing.
#[utoipa::path(post, path = "/v1/events/custom/dry-run", tag = "custom-events",
    request_body = RegistrationBody, responses((status = 200, body = VerdictShown)))]
pub(crate) async fn dry_run(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: RegistrationBody = json_body(&house, &caller, &headers, body, MAX_BODY_BYTES).await?;
    let path = EventPath::parse(&format!("{}.{}", body.namespace, body.name)).ok();
    let (room, emits) = (&house.gateway.custom_events, &house.gateway.emits);
    let verdict = room.dry_run(&caller, body.request()?).await?;
    let canonical = caller.tenant().and_then(|it| verdict.canonical_name(it));
    let mut answer = told(&verdict, canonical);
    if let (Some(path), Some(schema)) = (path, &verdict.schema) {
        answer.payloads = payloads(emits, &caller, (&path, schema)).await;
    }
    Ok(axum::Json(answer).into_response())
}

/// How the last real payloads fit; null where that cannot be found out now, which changes no verdict.
async fn payloads(
    emits: &Emits,
    caller: &Caller,
    (path, schema): (&EventPath, &Schema),
) -> Option<Fit> {
    match emits.fit(caller, path, schema).await {
        Ok(fit) => fit.map(|it| Fit {
            tried: it.tried,
            failing: it.failing,
        }),
        Err(refusal) => {
            tracing::warn!(
                detail = refusal.detail,
                "real payloads cannot be tried on a schema now"
            );
            None
        }
    }
}

/// How the last real payloads of an event fit a schema.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Fit {
    tried: usize,
    failing: usize,
}

/// What registering a version would say.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VerdictShown {
    valid: bool,
    /// As it would be; null where the version cannot be read.
    canonical_name: Option<String>,
    /// `initial`, `patch`, `minor` or `major`: which step the version's number takes. What the change asks for stands in `errors`
    /// and `differences`.
    semver_bump: Option<&'static str>,
    /// The version that it is held against.
    compared_with: Option<String>,
    schema_hash: Option<String>,
    /// `json-schema-2020-12` or `openapi-3.1`.
    schema_flavour: Option<&'static str>,
    differences: Vec<DifferenceShown>,
    errors: Vec<FaultShown>,
    /// Null where there is no schema to try, or it cannot be found out now.
    payloads: Option<Fit>,
}

/// A place where two schemas differ.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DifferenceShown {
    /// Where, as a JSON Pointer into the schema.
    pointer: String,
    /// `patch`, `minor` or `major`.
    class: &'static str,
    detail: String,
}

/// What is wrong with a registration.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FaultShown {
    code: &'static str,
    /// The member that it is about.
    field: Option<&'static str>,
    /// Where in it, as a JSON Pointer.
    pointer: String,
    detail: String,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    /// A payload that was good and would be no more.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    counter_example: Option<Value>,
}

fn told(verdict: &Verdict, canonical: Option<String>) -> VerdictShown {
    let schema = verdict.schema.as_ref();
    VerdictShown {
        valid: verdict.faults.is_empty(),
        canonical_name: canonical,
        semver_bump: verdict.bump.map(Bump::as_str),
        compared_with: verdict.before.map(|it| it.to_string()),
        schema_hash: schema.map(|it| it.hash().to_owned()),
        schema_flavour: schema.map(|it| it.flavour().as_str()),
        differences: verdict.differences.iter().map(difference).collect(),
        errors: verdict.faults.iter().map(error).collect(),
        payloads: None,
    }
}

fn error(fault: &Fault) -> FaultShown {
    FaultShown {
        code: fault.code.as_str(),
        field: member(fault.code),
        pointer: fault.path.clone().unwrap_or_default(),
        detail: fault.detail.clone(),
        expected: fault.expected.clone(),
        got: fault.got.clone(),
        counter_example: fault.counter_example.as_deref().cloned(),
    }
}

fn difference(it: &Difference) -> DifferenceShown {
    DifferenceShown {
        pointer: it.pointer.clone(),
        class: it.class.as_str(),
        detail: it.detail.clone(),
    }
}

/// What is registered, the generic event among it; without the schemas.
#[utoipa::path(get, path = "/v1/events/custom/registrations", tag = "custom-events",
    params(
        ("namespace" = Option<String>, Query),
        ("name" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "draft, published, archived or superseded"),
        ("limit" = Option<u32>, Query, description = "1 to 100; 50 if absent"),
        ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<RegistrationShown<'static>>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    asked: Queried<Asked>,
) -> Result<Response, Refused> {
    let asked = read_query(asked)?;
    let limit = page_limit(asked.limit, USUAL_PAGE, MAX_PAGE)?;
    let wanted = RegistrationQuery {
        namespace: asked.namespace,
        name: asked.name,
        status: asked.status.as_deref().map(status).transpose()?,
        after: asked.cursor.as_deref().map(place).transpose()?,
        limit,
    };
    let page = house.gateway.custom_events.list(&caller, wanted).await?;
    let items = page.items.iter().map(RegistrationShown::outline);
    let next = page.next.map(|(path, version)| format!("{path}@{version}"));
    Ok(Page::of(items.collect(), next).into_response())
}

/// All versions of an event, the oldest first.
#[utoipa::path(get, path = "/v1/events/custom/registrations/{namespace}/{name}", tag = "custom-events",
    params(("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = RegisteredEvent<'static>)))]
pub(crate) async fn versions(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let room = &house.gateway.custom_events;
    let versions = room.versions(&caller, &namespace, &name).await?;
    let published = versions.iter().rev();
    let mut published = published.filter(|it| it.row.status == Status::Published.as_str());
    let latest = published.next().map(|it| it.version.to_string());
    let shown: Result<Vec<RegistrationShown<'_>>, Refusal> =
        versions.iter().map(RegistrationShown::whole).collect();
    let body = RegisteredEvent {
        namespace: &namespace,
        name: &name,
        latest_published: latest,
        versions: shown?,
    };
    Ok(axum::Json(body).into_response())
}

/// One version of an event, with its schema.
#[utoipa::path(get, path = "/v1/events/custom/registrations/{namespace}/{name}/{version}", tag = "custom-events",
    params(("namespace" = String, Path), ("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = RegistrationShown<'static>)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((namespace, name, version)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    let room = &house.gateway.custom_events;
    let found = room.get(&caller, &namespace, &name, &version).await?;
    Ok(axum::Json(RegistrationShown::whole(&found)?).into_response())
}

/// Changes the description of a version, or moves it on: draft, published, archived. Never its schema.
#[utoipa::path(patch, path = "/v1/events/custom/registrations/{namespace}/{name}/{version}", tag = "custom-events",
    params(("namespace" = String, Path), ("name" = String, Path), ("version" = String, Path)),
    request_body = RegistrationPatch, responses((status = 200, body = RegistrationShown<'static>)))]
pub(crate) async fn patch(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(which): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: RegistrationPatch =
        json_body(&house, &caller, &headers, body, MAX_BODY_BYTES).await?;
    let status = body.status.as_deref().map(status).transpose()?;
    let room = &house.gateway.custom_events;
    let changed = room.patch(&caller, which, body.description, status).await?;
    Ok(axum::Json(RegistrationShown::whole(&changed)?).into_response())
}

/// What lies between two versions: each place with what it breaks.
#[utoipa::path(get, path = "/v1/events/custom/registrations/{namespace}/{name}/diff", tag = "custom-events",
    params(("namespace" = String, Path), ("name" = String, Path), ("from" = String, Query), ("to" = String, Query)),
    responses((status = 200, body = DiffShown)))]
pub(crate) async fn diff(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((namespace, name)): Path<(String, String)>,
    between: Queried<Between>,
) -> Result<Response, Refused> {
    let between = read_query(between)?;
    let (from, to) = (version("from", &between.from)?, version("to", &between.to)?);
    let room = &house.gateway.custom_events;
    let found = room.diff(&caller, (&namespace, &name), (from, to)).await?;
    let Diff {
        differences,
        class,
        counter_example,
        newer,
    } = found;
    let fit = match EventPath::parse(&format!("{namespace}.{name}")) {
        Ok(path) => payloads(&house.gateway.emits, &caller, (&path, &newer)).await,
        // What stands there was registered once: it does not happen.
        Err(_) => None,
    };
    let body = DiffShown {
        namespace,
        name,
        from: from.to_string(),
        to: to.to_string(),
        class: class.map(Class::as_str),
        differences: differences.iter().map(difference).collect(),
        counter_example,
        payloads: fit,
    };
    Ok(axum::Json(body).into_response())
}

/// What lies between two versions of an event.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiffShown {
    namespace: String,
    name: String,
    from: String,
    to: String,
    /// `patch`, `minor` or `major`; null where nothing differs.
    class: Option<&'static str>,
    differences: Vec<DifferenceShown>,
    /// A payload that the earlier one takes and the later does not.
    counter_example: Option<Value>,
    payloads: Option<Fit>,
}

fn status(text: &str) -> Result<Status, Refusal> {
    Status::parse(text).ok_or_else(|| {
        let detail = "'status' must be draft, published, archived or superseded.";
        Refusal::invalid("status", detail)
    })
}

fn version(field: &str, text: &str) -> Result<Version, Refusal> {
    Version::parse(text).map_err(|refusal| {
        let code = tidings_event::Code::InvalidVersionFormat;
        let detail = format!("'{field}': {}.", refusal.detail);
        Refusal::new(code, Rule::Shape, detail).field(field)
    })
}

fn place(cursor: &str) -> Result<(EventPath, Version), Refusal> {
    let place = cursor.split_once('@').and_then(|(path, version)| {
        let path = EventPath::parse(path).ok()?;
        Some((path, Version::parse(version).ok()?))
    });
    place.ok_or_else(|| Refusal::invalid("cursor", "'cursor' is not one of a page before."))
}

/// An event with its versions.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegisteredEvent<'a> {
    namespace: &'a str,
    name: &'a str,
    latest_published: Option<String>,
    versions: Vec<RegistrationShown<'a>>,
}

/// A version as it is shown. The schema goes out as it came in.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistrationShown<'a> {
    canonical_name: &'a str,
    namespace: &'a str,
    name: &'a str,
    version: String,
    status: &'a str,
    description: Option<&'a str>,
    schema_hash: &'a str,
    schema_flavour: &'a str,
    semver_bump: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    payload_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>, nullable = false)]
    payload_example: Option<&'a RawValue>,
    created_at: String,
    updated_at: String,
}

impl<'a> RegistrationShown<'a> {
    fn outline(registration: &'a Registration) -> Self {
        let row = &registration.row;
        Self {
            canonical_name: &registration.canonical_name,
            namespace: &row.namespace,
            name: &row.name,
            version: registration.version.to_string(),
            status: &row.status,
            description: row.description.as_deref(),
            schema_hash: &row.schema_hash,
            schema_flavour: &row.schema_flavour,
            semver_bump: &row.semver_bump,
            payload_schema: None,
            payload_example: None,
            created_at: rfc3339(row.created_at_ms),
            updated_at: rfc3339(row.updated_at_ms),
        }
    }

    fn whole(registration: &'a Registration) -> Result<Self, Refusal> {
        let row = &registration.row;
        let raw = |text: &'a str| {
            let read = serde_json::from_str::<&RawValue>(text);
            read.map_err(|error| Refusal::fault("Reading a registered schema", &error))
        };
        Ok(Self {
            payload_schema: Some(raw(&row.payload_schema)?),
            payload_example: row.payload_example.as_deref().map(raw).transpose()?,
            ..Self::outline(registration)
        })
    }
}
