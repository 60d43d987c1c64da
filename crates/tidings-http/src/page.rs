//! A page of a list, as every list answers it.

use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_gateway::publish::refusal::Refusal;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::request::page_limit;

/// The most of a page.
const MOST: u32 = 1_000;
/// So many are a page if nobody says.
const USUAL: u32 = 100;

/// A stretch of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Stretch {
    /// At most so many, 1 to 1,000; 100 if absent.
    pub(crate) limit: Option<u32>,
    /// `nextCursor` of the page before.
    pub(crate) cursor: Option<String>,
}

impl Stretch {
    /// How many it has at most.
    pub(crate) fn limit(&self) -> Result<u32, Refusal> {
        limit(self.limit)
    }

    /// Where one of things that are called by ids begins, and how many it has at most.
    pub(crate) fn place(&self) -> Result<(Option<Uuid>, u32), Refusal> {
        let limit = self.limit()?;
        let cursor = self.cursor.as_deref().map(str::parse).transpose();
        let cursor = cursor.map_err(|_| Refusal::invalid("cursor", "'cursor' is not an id."))?;
        Ok((cursor, limit))
    }
}

/// How many a page has at most: what was asked for, from 1 to 1,000, or 100.
pub(crate) fn limit(given: Option<u32>) -> Result<u32, Refusal> {
    page_limit(given, USUAL, MOST)
}

/// Where the page behind these rows begins; fewer than were asked for are the last.
pub(crate) fn next<R, C>(rows: &[R], limit: u32, cursor: impl FnOnce(&R) -> C) -> Option<C> {
    let last = rows.last().filter(|_| rows.len() == limit as usize);
    last.map(cursor)
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// What to ask the next page with, as `cursor`; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that is not paged.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next_cursor: None,
        }
    }

    /// A page, and where the next one begins.
    pub(crate) fn of(items: Vec<T>, next: Option<impl ToString>) -> Self {
        let next_cursor = next.map(|next| next.to_string());
        Self { items, next_cursor }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
    }
}
