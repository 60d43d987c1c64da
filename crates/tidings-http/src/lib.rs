#![doc = include_str!("../README.md")]

mod bodies;
mod coding;
mod csrf;
mod heads;
mod metrics;
mod openapi;
mod page;
mod problem;
mod reference_page;
mod request;
mod server;
mod surface;
mod trace;
mod untaken;
mod workers;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post, put};
use tidings_event::Code;
use tidings_gateway::Gateway;
use tidings_gateway::publish::refusal::{Refusal, Rule};
use tokio::sync::watch;

use bodies::Bodies;
pub use metrics::Metrics;
pub use openapi::document as openapi;
pub use server::{Limits, serve};
pub use trace::Adopt;
pub use workers::Workers;

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct House(Arc<Inside>);

/// What is in it.
pub struct Inside {
    pub(crate) gateway: Gateway,
    pub(crate) public_url: String,
    pub(crate) metrics: Metrics,
    pub(crate) adopt: Option<Adopt>,
    pub(crate) bodies: Arc<Bodies>,
    /// Becomes true when streams are to end.
    pub(crate) closing: watch::Sender<bool>,
    described: OnceLock<Described>,
}

/// The description of all operations.
pub(crate) struct Described {
    /// As a document of OpenAPI.
    pub(crate) document: Bytes,
    /// As a page for people.
    pub(crate) page: Bytes,
}

impl Inside {
    /// The description of all operations, made when it is first asked for.
    pub(crate) fn described(&self) -> &Described {
        self.described.get_or_init(|| {
            let document = openapi::document(&self.public_url);
            let page = reference_page::page(&document).into();
            let document = document.into();
            Described { document, page }
        })
    }
}

impl std::ops::Deref for House {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.0
    }
}

impl House {
    /// Over a gateway; `public_url` begins the `type` of every problem. With `adopt`, each request has a span. All request
    /// bodies together hold `bodies_bytes` at most.
    pub fn new(
        gateway: Gateway,
        public_url: &str,
        adopt: Option<Adopt>,
        bodies_bytes: usize,
    ) -> Self {
        let metrics = Metrics::new(gateway.counted(), gateway.restarts.clone());
        Self(Arc::new(Inside {
            gateway,
            public_url: public_url.trim_end_matches('/').to_owned(),
            metrics,
            adopt,
            bodies: Bodies::new(bodies_bytes),
            closing: watch::Sender::new(false),
            described: OnceLock::new(),
        }))
    }

    /// Ends every stream: they would go on for ever, and a client resumes one anyway.
    pub(crate) fn close_streams(&self) {
        self.closing.send_replace(true);
    }

    /// The gateway behind the surfaces.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }
}

/// What tenants do with subscriptions.
fn deliveries() -> Router<House> {
    use surface::{dead_letters, deliveries, replays, subscriptions};
    let one = "/v1/subscriptions/{subscriptionId}";
    Router::new()
        .route(
            "/v1/subscriptions",
            get(subscriptions::list).post(subscriptions::create),
        )
        .route(
            one,
            get(subscriptions::get)
                .patch(subscriptions::patch)
                .delete(subscriptions::delete),
        )
        .route(&format!("{one}/pause"), post(subscriptions::pause))
        .route(&format!("{one}/resume"), post(subscriptions::resume))
        .route(&format!("{one}/seek"), post(subscriptions::seek))
        .route(
            &format!("{one}/skip-backlog"),
            post(subscriptions::skip_backlog),
        )
        .route(&format!("{one}/secret"), get(subscriptions::secret))
        .route(&format!("{one}/rotate-secret"), post(subscriptions::rotate))
        .route(&format!("{one}/events"), get(deliveries::missed))
        .route(&format!("{one}/parked"), get(deliveries::parked))
        .route(&format!("{one}/parked/release"), post(deliveries::release))
        .route(&format!("{one}/test"), post(subscriptions::test))
        .route(&format!("{one}/replay"), post(replays::of_history))
        .route("/v1/replays", get(replays::list))
        .route("/v1/replays/{replayId}", get(replays::get))
        .route("/v1/replays/{replayId}/cancel", post(replays::cancel))
        .route("/v1/replays/{replayId}/resume", post(replays::resume))
        .route("/v1/events/{eventId}/trace", get(deliveries::trace))
        .route("/v1/events/{eventId}/explain", get(deliveries::explain))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/replay", post(dead_letters::replay_all))
        .route(
            "/v1/dead-letters/{deadLetterId}",
            get(dead_letters::get).delete(dead_letters::delete),
        )
        .route(
            "/v1/dead-letters/{deadLetterId}/replay",
            post(dead_letters::replay),
        )
}

/// The events that tenants define (source D).
fn custom_events() -> Router<House> {
    use surface::{custom_events, emits};
    let all = "/v1/events/custom/registrations";
    let one = format!("{all}/{{namespace}}/{{name}}");
    Router::new()
        .route(all, get(custom_events::list).post(custom_events::register))
        .route(&one, get(custom_events::versions))
        .route(&format!("{one}/diff"), get(custom_events::diff))
        .route(
            &format!("{one}/{{version}}"),
            get(custom_events::get).patch(custom_events::patch),
        )
        .route("/v1/events/custom/dry-run", post(custom_events::dry_run))
        .route("/v1/events/custom/emit", post(emits::emit))
        .route("/v1/events/custom/emits", get(emits::list))
        .route("/v1/events/custom/health", get(emits::health))
}

/// Tenants, their workspaces, and source C's API of them.
fn workspaces() -> Router<House> {
    use surface::{chat, dead_letters, extensions, sessions, workspaces};
    let letters = "/api/workspaces/{workspaceId}/dead-letters";
    let tenant = "/v1/tenants/{tenantId}";
    let extension = "/api/workspaces/{workspaceId}/extensions/{extensionId}";
    let workspace = format!("{tenant}/workspaces/{{workspaceId}}");
    Router::new()
        .route("/api/session", post(sessions::begin).delete(sessions::end))
        .route("/v1/tenants", get(workspaces::tenants))
        .route(tenant, get(workspaces::tenant).put(workspaces::put_tenant))
        .route(&workspace, put(workspaces::put))
        .route(
            &format!("{workspace}/members/{{userId}}"),
            put(workspaces::put_member).delete(workspaces::delete_member),
        )
        .route(
            "/api/workspaces/{workspaceId}/events/publish",
            post(workspaces::publish),
        )
        .route(
            extension,
            get(extensions::get)
                .put(extensions::put)
                .delete(extensions::delete),
        )
        .route(
            &format!("{extension}/subscriptions/{{eventKey}}"),
            get(extensions::subscription)
                .put(extensions::subscribe)
                .delete(extensions::unsubscribe),
        )
        .route(
            &format!("{extension}/rotate-secret"),
            post(extensions::rotate),
        )
        .route(
            &format!("{extension}/deliveries"),
            get(extensions::deliveries),
        )
        .route(letters, get(dead_letters::list_of_workspace))
        .route(
            &format!("{letters}/replay"),
            post(dead_letters::replay_all_of_workspace),
        )
        .route(
            &format!("{letters}/{{deadLetterId}}"),
            get(dead_letters::get_of_workspace).delete(dead_letters::delete_of_workspace),
        )
        .route(
            &format!("{letters}/{{deadLetterId}}/replay"),
            post(dead_letters::replay_of_workspace),
        )
        .route(
            "/api/workspaces/{workspaceId}/channels/{channel}/messages",
            get(chat::messages),
        )
}

/// Every operation there is. [`problem::around`] goes around it, in `server.rs`.
pub(crate) fn router(house: House) -> Router {
    use surface::{
        api_keys, catalogs, cloudevents, documents, events, modules, operations, publish,
    };
    Router::new()
        .route("/v1/events/publish", post(publish::publish))
        .route("/v1/events/publish/batch", post(publish::publish_batch))
        .route("/v1/events/explain", post(publish::explain))
        .route("/v1/cloudevents", post(cloudevents::publish))
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(events::stream))
        .route("/v1/events/{eventId}", get(events::get))
        .route("/v1/modules", get(modules::list))
        .route(
            "/v1/modules/{moduleId}/manifest",
            get(modules::get).put(modules::put).delete(modules::delete),
        )
        .route("/v1/catalogs", get(catalogs::list))
        .route(
            "/v1/catalogs/{name}",
            get(catalogs::get)
                .put(catalogs::put)
                .delete(catalogs::delete),
        )
        .route("/asyncapi.json", get(catalogs::installation))
        .route("/v1/api-keys", get(api_keys::list).post(api_keys::create))
        .route(
            "/v1/api-keys/{keyId}",
            axum::routing::delete(api_keys::revoke),
        )
        .merge(custom_events())
        .merge(deliveries())
        .merge(workspaces())
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .route("/openapi.json", get(documents::openapi))
        .route("/docs", get(documents::docs))
        .route("/problems/{slug}", get(documents::problem))
        .fallback(async || {
            problem::Refused(Refusal::new(
                Code::NotFound,
                Rule::Shape,
                "There is nothing at this path; see /docs.",
            ))
        })
        .method_not_allowed_fallback(async || {
            let detail = "This path exists, but not with this method; see /docs.";
            problem::Refused(Refusal::new(Code::MethodNotAllowed, Rule::Shape, detail))
        })
        .with_state(house)
}
