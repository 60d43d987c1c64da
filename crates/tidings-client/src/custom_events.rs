//! Custom events: what the tenant has registered, and the tenant itself.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::{Client, REPLAYED};
use crate::error::Error;
use crate::event::Page;
use crate::request::{Repeat, Request};

/// A version of a custom event that is to be registered, or asked about.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewCustomEvent {
    /// Where it is registered.
    pub namespace: String,
    /// What it is called there.
    pub name: String,
    /// `MAJOR.MINOR.PATCH`.
    pub version: String,
    /// `draft` or `published`.
    pub status: String,
    /// What it tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema 2020-12, sent as it is written.
    pub payload_schema: Box<RawValue>,
    /// A payload that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_example: Option<Box<RawValue>>,
}

/// Which registrations. Nothing set: all of the tenant's, and the generic one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomEventQuery {
    /// In this namespace.
    pub namespace: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// `draft`, `published`, `archived` or `superseded`.
    pub status: Option<String>,
    /// At most so many, 1 to 100.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// A payload that is to be emitted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewEmit {
    /// Namespace and name.
    pub name: String,
    /// What it carries, sent as it is written.
    pub payload: Box<RawValue>,
    /// The version it is held to; the latest published one if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// 1 to 255 visible ASCII characters; the same over retries, so that it is emitted once.
    pub idempotency_key: String,
    /// The event that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
}

/// An emit that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Emitted {
    /// Its event.
    pub event_id: String,
    /// `TENANT_CUSTOM:…`, with the version that it was held to.
    pub canonical_name: String,
    /// `queued`, or `skipped`.
    pub status: String,
    /// Whether the bus is disabled: the payload was checked and written nowhere.
    #[serde(default)]
    pub skipped: bool,
    /// Whether an earlier emit had the key.
    #[serde(skip)]
    pub duplicate: bool,
}

/// Which emits. Nothing set: all of the tenant's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmitQuery {
    /// `QUEUED`, `RELAYED`, `DELIVERED` or `FAILED`.
    pub status: Option<String>,
    /// Namespace and name.
    pub name: Option<String>,
    /// At most so many, 1 to 1,000.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

const REGISTRATIONS: [&str; 4] = ["v1", "events", "custom", "registrations"];

fn one<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&REGISTRATIONS[..], rest].concat()
}

impl Client {
    /// Registers a version.
    pub async fn register_custom_event(&self, new: &NewCustomEvent) -> Result<Value, Error> {
        self.propose(&REGISTRATIONS, new, Repeat::IfNotDone).await
    }

    /// What registering would say: `valid`, and `errors` when not. Nothing is kept.
    pub async fn dry_run_custom_event(&self, new: &NewCustomEvent) -> Result<Value, Error> {
        let path = ["v1", "events", "custom", "dry-run"];
        self.propose(&path, new, Repeat::Safe).await
    }

    async fn propose(
        &self,
        path: &[&str],
        new: &NewCustomEvent,
        repeat: Repeat,
    ) -> Result<Value, Error> {
        let request = Request::new(Method::POST, self.url(path), repeat);
        request.written(new)?.send(self).await?.json()
    }

    /// A page of registrations, in the order of namespace, name and version, without their schemas.
    pub async fn list_custom_events(&self, query: &CustomEventQuery) -> Result<Page<Value>, Error> {
        let parameters = [
            ("namespace", query.namespace.as_deref()),
            ("name", query.name.as_deref()),
            ("status", query.status.as_deref()),
        ];
        let (limit, cursor) = (query.limit, query.cursor.as_deref());
        self.list(&REGISTRATIONS, &parameters, limit, cursor).await
    }

    /// An event with all its versions, as the server wrote it: no number of a schema loses digits.
    pub async fn get_custom_event(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Box<RawValue>, Error> {
        self.get(&one(&[namespace, name])).await?.json()
    }

    /// One version of an event, as the server wrote it.
    pub async fn get_custom_event_version(
        &self,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<Box<RawValue>, Error> {
        self.get(&one(&[namespace, name, version])).await?.json()
    }

    /// Changes the description of a version, or its status: `{description?, status?}`.
    pub async fn patch_custom_event(
        &self,
        namespace: &str,
        name: &str,
        version: &str,
        patch: &Value,
    ) -> Result<Value, Error> {
        let url = self.url(&one(&[namespace, name, version]));
        let request = Request::new(Method::PATCH, url, Repeat::IfNotDone).json(patch.clone());
        request.send(self).await?.json()
    }

    /// What lies between two versions, each place classed patch, minor or major.
    pub async fn diff_custom_event(
        &self,
        namespace: &str,
        name: &str,
        (from, to): (&str, &str),
    ) -> Result<Value, Error> {
        let mut url = self.url(&one(&[namespace, name, "diff"]));
        let mut query = url.query_pairs_mut();
        query.append_pair("from", from).append_pair("to", to);
        drop(query);
        let request = Request::new(Method::GET, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// Emits a payload.
    pub async fn emit(&self, new: &NewEmit) -> Result<Emitted, Error> {
        let url = self.url(&["v1", "events", "custom", "emit"]);
        let request = Request::new(Method::POST, url, Repeat::Safe);
        let answer = request.written(new)?.send(self).await?;
        let replayed = answer.headers.get(REPLAYED);
        let duplicate = replayed.is_some_and(|value| value == "true");
        let emitted: Emitted = answer.json()?;
        Ok(Emitted {
            duplicate,
            ..emitted
        })
    }

    /// A page of emits and what became of them, the oldest first.
    pub async fn list_emits(&self, query: &EmitQuery) -> Result<Page<Value>, Error> {
        let parameters = [
            ("status", query.status.as_deref()),
            ("name", query.name.as_deref()),
        ];
        let (limit, cursor) = (query.limit, query.cursor.as_deref());
        self.list(
            &["v1", "events", "custom", "emits"],
            &parameters,
            limit,
            cursor,
        )
        .await
    }

    /// The tenant's plan, how much of it is used, and its last emits that failed.
    pub async fn custom_events_health(&self) -> Result<Value, Error> {
        self.get(&["v1", "events", "custom", "health"])
            .await?
            .json()
    }

    /// The same of a tenant, for operators.
    pub async fn custom_events_health_of(&self, tenant: &str) -> Result<Value, Error> {
        let mut url = self.url(&["v1", "events", "custom", "health"]);
        url.query_pairs_mut().append_pair("tenantId", tenant);
        let request = Request::new(Method::GET, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// A page of all tenants, for operators: at most `limit` behind `cursor`.
    pub async fn list_tenants(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<Value>, Error> {
        self.list(&["v1", "tenants"], &[], limit, cursor).await
    }

    /// A tenant: its slug, its plan and its namespaces.
    pub async fn get_tenant(&self, tenant: &str) -> Result<Value, Error> {
        self.get(&["v1", "tenants", tenant]).await?.json()
    }

    /// Writes a tenant, for operators. What is `None` stays as it is; a new tenant has a slug made from its id and the plan
    /// `FREE`. Its slug is always one of its namespaces.
    pub async fn put_tenant(
        &self,
        tenant: &str,
        slug: Option<&str>,
        plan: Option<&str>,
        namespaces: Option<&[String]>,
    ) -> Result<Value, Error> {
        let body = json!({ "slug": slug, "plan": plan, "namespaces": namespaces });
        let url = self.url(&["v1", "tenants", tenant]);
        let request = Request::new(Method::PUT, url, Repeat::Safe).json(body);
        request.send(self).await?.json()
    }
}
