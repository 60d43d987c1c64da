//! The client: one method for each thing the server does.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::Error;
use crate::event::{
    ApiKey, CreatedApiKey, Event, EventQuery, Module, NewApiKey, NewEvent, Page, Readiness, Receipt,
};
use crate::request::{Answer, Repeat, Request, unreachable};
use crate::stream::{EventStream, StreamQuery};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the key was used before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often and after what waits a request is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How many tries in all; 1 for no repetition.
    pub tries: u32,
    /// The wait after the first try; it doubles from then on.
    pub first_wait: Duration,
    /// No wait is longer. When the server asks for a longer one, its refusal is returned instead.
    pub longest_wait: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            tries: 5,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
        }
    }
}

/// A connection to one installation with one credential. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    base: Url,
    pub(crate) retries: Retries,
}

impl Client {
    /// A client of the installation at this URL, with a token or an API key.
    pub fn new(base_url: &str, credential: &str) -> Result<Self, Error> {
        let base: Url = base_url
            .parse()
            .map_err(|error| Error::Configuration(format!("{base_url:?} is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() {
            let reason = format!("{base_url:?} is no base URL; use one like https://host[:port]");
            return Err(Error::Configuration(reason));
        }
        let mut credential = HeaderValue::try_from(format!("Bearer {credential}"))
            .map_err(|_| Error::Configuration("the credential has control characters".into()))?;
        credential.set_sensitive(true);
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Failing means that another thread has just installed one, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, credential)]))
            .user_agent(concat!("tidings-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // The server never redirects; whoever does must not get the credential.
            .redirect(Policy::none())
            .build()
            .map_err(|error| Error::Configuration(format!("no HTTP client: {error}")))?;
        Ok(Self {
            http,
            base,
            retries: Retries::default(),
        })
    }

    /// The same client with other retries.
    #[must_use]
    pub fn with_retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Publishes one event. When this returns well the event is durable on the bus.
    pub async fn publish(&self, event: &NewEvent) -> Result<Receipt, Error> {
        let key = event.idempotency_key.clone().unwrap_or_else(new_key);
        let answer = self.about(event, "publish", Some(&key))?.send(self).await?;
        let replayed = answer.headers.get(REPLAYED);
        let mut receipt: Receipt = answer.json()?;
        receipt.duplicate = replayed.is_some_and(|value| value == "true");
        receipt.idempotency_key = key;
        Ok(receipt)
    }

    /// Publishes 1 to 1,000 events, or none of them if one is refused. Receipts come in the events'
    /// order.
    pub async fn publish_batch(&self, events: &[NewEvent]) -> Result<Vec<Receipt>, Error> {
        #[derive(serde::Serialize)]
        struct Batch<'e> {
            events: &'e [NewEvent],
        }
        #[derive(serde::Deserialize)]
        struct Results {
            results: Vec<Receipt>,
        }
        let keyed = |event: &NewEvent| {
            let mut event = event.clone();
            event.idempotency_key.get_or_insert_with(new_key);
            event
        };
        let events: Vec<NewEvent> = events.iter().map(keyed).collect();
        let url = self.url(&["v1", "events", "publish", "batch"]);
        let request = Request::new(Method::POST, url, Repeat::Safe);
        let answer = request
            .written(&Batch { events: &events })?
            .send(self)
            .await?;
        let mut receipts = answer.json::<Results>()?.results;
        for (receipt, event) in receipts.iter_mut().zip(events) {
            receipt.idempotency_key = event.idempotency_key.unwrap_or_default();
        }
        Ok(receipts)
    }

    /// What would become of the event, step by step, as the server wrote it: no number of its envelope loses digits. Its
    /// idempotency key is looked up, if it has one. Nothing is published.
    pub async fn explain(&self, event: &NewEvent) -> Result<Box<RawValue>, Error> {
        let request = self.about(event, "explain", event.idempotency_key.as_deref())?;
        request.send(self).await?.json()
    }

    fn about(&self, event: &NewEvent, doing: &str, key: Option<&str>) -> Result<Request, Error> {
        let url = self.url(&["v1", "events", doing]);
        let request = Request::new(Method::POST, url, Repeat::Safe);
        let mut request = request.written(&without_key(event))?;
        if let Some(key) = key {
            let header = HeaderValue::try_from(key).map_err(|_| {
                Error::Configuration("the idempotency key has control characters".into())
            })?;
            request.headers.insert(IDEMPOTENCY_KEY, header);
        }
        Ok(request)
    }

    /// One event.
    pub async fn get_event(&self, event_id: &str) -> Result<Event, Error> {
        self.get(&["v1", "events", event_id]).await?.json()
    }

    /// A page of events, newest last.
    pub async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, Error> {
        let parameters = [
            ("type", query.event_type.as_deref()),
            ("topic", query.topic.as_deref()),
            ("since", query.since.as_deref()),
            ("until", query.until.as_deref()),
        ];
        let (limit, cursor) = (query.limit, query.cursor.as_deref());
        self.list(&["v1", "events"], &parameters, limit, cursor)
            .await
    }

    /// A page of what those of the parameters fit that are given: at most `limit` behind `cursor`.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        parameters: &[(&str, Option<&str>)],
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<T>, Error> {
        let mut url = self.url(path);
        let limit = limit.map(|limit| limit.to_string());
        let paging = [("limit", limit.as_deref()), ("cursor", cursor)];
        for (name, value) in parameters.iter().chain(&paging) {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let request = Request::new(Method::GET, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// Events as they come in.
    pub fn stream(&self, query: StreamQuery) -> EventStream {
        let mut url = self.url(&["v1", "events", "stream"]);
        if let Some(event_type) = &query.event_type {
            url.query_pairs_mut().append_pair("type", event_type);
        }
        EventStream::new(self.clone(), url, query.after)
    }

    /// The modules that have a manifest.
    pub async fn list_modules(&self) -> Result<Page<Module>, Error> {
        self.get(&["v1", "modules"]).await?.json()
    }

    /// A module's manifest.
    pub async fn get_manifest(&self, module_id: &str) -> Result<Value, Error> {
        self.get(&["v1", "modules", module_id, "manifest"])
            .await?
            .json()
    }

    /// Puts a module's manifest in force, in place of the one before. A [`RawValue`] is sent as it is written.
    pub async fn apply_manifest(
        &self,
        module_id: &str,
        manifest: &impl serde::Serialize,
    ) -> Result<Value, Error> {
        let url = self.url(&["v1", "modules", module_id, "manifest"]);
        let request = Request::new(Method::PUT, url, Repeat::Safe).written(manifest)?;
        request.send(self).await?.value()
    }

    /// Removes a module's manifest; the module can publish nothing from then on.
    pub async fn delete_manifest(&self, module_id: &str) -> Result<(), Error> {
        self.delete(&["v1", "modules", module_id, "manifest"]).await
    }

    /// The catalogues in force.
    pub async fn list_catalogs(&self) -> Result<Page<Value>, Error> {
        self.get(&["v1", "catalogs"]).await?.json()
    }

    /// A catalogue's document, as it was written: YAML or JSON.
    pub async fn get_catalog(&self, name: &str) -> Result<String, Error> {
        self.get(&["v1", "catalogs", name]).await?.text()
    }

    /// Puts a catalogue in force, in place of the one before; with `enforce`, publishes are held to it.
    /// Answers what is different.
    pub async fn apply_catalog(
        &self,
        name: &str,
        document: &str,
        enforce: bool,
    ) -> Result<Value, Error> {
        let mut url = self.url(&["v1", "catalogs", name]);
        url.query_pairs_mut()
            .append_pair("enforce", if enforce { "true" } else { "false" });
        let request = Request::new(Method::PUT, url, Repeat::Safe);
        let request = request.text("application/yaml", document);
        request.send(self).await?.json()
    }

    /// Removes a catalogue; its types are then like any other.
    pub async fn delete_catalog(&self, name: &str) -> Result<(), Error> {
        self.delete(&["v1", "catalogs", name]).await
    }

    /// Makes an API key. The key is told this once.
    pub async fn create_api_key(&self, key: &NewApiKey) -> Result<CreatedApiKey, Error> {
        let request = self.post(&["v1", "api-keys"], Repeat::IfNotDone, json!(key));
        request.send(self).await?.json()
    }

    /// A page of the tenant's API keys, oldest first, ended ones too, from where the page before ended; of 1 to 1,000, or
    /// 100. Only an operator names the tenant; others have their own.
    pub async fn list_api_keys(
        &self,
        tenant: Option<&str>,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<ApiKey>, Error> {
        let parameters = [("tenantId", tenant)];
        self.list(&["v1", "api-keys"], &parameters, limit, cursor)
            .await
    }

    /// Ends an API key. Only an operator names the tenant; others have their own.
    pub async fn revoke_api_key(&self, id: &str, tenant: Option<&str>) -> Result<(), Error> {
        let url = self.url_for(&["v1", "api-keys", id], tenant);
        let request = Request::new(Method::DELETE, url, Repeat::IfNotDone);
        request.send(self).await.map(drop)
    }

    /// Whether the server can do something useful. Asked once, never repeated.
    pub async fn ready(&self) -> Result<Readiness, Error> {
        let url = self.url(&["readyz"]);
        let asked = self
            .http
            .get(url.clone())
            .timeout(CONNECT_TIMEOUT)
            .send()
            .await;
        let answer = Answer::read(asked.map_err(|error| unreachable(&url, error))?).await?;
        match answer.status.as_u16() {
            200 | 503 => {
                let ready = answer.status.is_success();
                Ok(Readiness {
                    ready,
                    report: answer.value()?,
                })
            }
            _ => Err(answer.into_refusal()),
        }
    }

    pub(crate) async fn get(&self, path: &[&str]) -> Result<Answer, Error> {
        Request::new(Method::GET, self.url(path), Repeat::Safe)
            .send(self)
            .await
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<(), Error> {
        let request = Request::new(Method::DELETE, self.url(path), Repeat::IfNotDone);
        request.send(self).await.map(drop)
    }

    pub(crate) fn post(&self, path: &[&str], repeat: Repeat, body: Value) -> Request {
        Request::new(Method::POST, self.url(path), repeat).json(body)
    }

    fn url_for(&self, path: &[&str], tenant: Option<&str>) -> Url {
        let mut url = self.url(path);
        if let Some(tenant) = tenant {
            url.query_pairs_mut().append_pair("tenantId", tenant);
        }
        url
    }

    /// Each segment is encoded, so that no id can reach another endpoint.
    pub(crate) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// The event without its key, which goes into a header.
fn without_key(event: &NewEvent) -> NewEvent {
    NewEvent {
        idempotency_key: None,
        ..event.clone()
    }
}

fn new_key() -> String {
    Uuid::now_v7().to_string()
}
