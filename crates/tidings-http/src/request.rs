//! What handlers take from a request: the caller first, then the body within its limit.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use tidings_event::Code;
use tidings_event::event::{essence, is_traceparent};
use tidings_gateway::access::Caller;
use tidings_gateway::publish::refusal::{Refusal, Rule};

use crate::House;
use crate::bodies::no_room;
use crate::coding::{Coding, ENCODING_FIELD, coding, gather, inflate, too_long};
use crate::problem::Refused;

/// The largest body of a single publish, in bytes.
pub(crate) const MAX_SINGLE_BYTES: usize = 2 * 1024 * 1024;
/// The largest body of a batch, in bytes.
pub(crate) const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The time that a whole body gets to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// So much is read of a body that is too large before it is refused …
const PASSED_OVER_BYTES: usize = 64 * 1024 * 1024;
/// … for so long at most.
const PASSED_OVER_TIME: Duration = Duration::from_secs(5);
/// When a body that found no room may come again: most of those that hold it are read and answered by then.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// RFC 8259, section 11.
pub(crate) const JSON: &str = "application/json";
/// RFC 7396, section 4.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Who is calling, within its tenant's rate: extracted before anything is read of the body.
pub(crate) struct Authenticated(pub(crate) Caller);

impl FromRequestParts<House> for Authenticated {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, house: &House) -> Result<Self, Refused> {
        let credential = credential(&parts.headers)?;
        if let Credential::Session(_) = credential {
            crate::csrf::check(&parts.method, &parts.headers, &house.public_url)?;
        }
        let caller = caller_by(house, credential).await?;
        house.gateway.workspaces.admit(&caller).await?;
        crate::trace::caller(&caller);
        house.gateway.limits.admit(&caller)?;
        Ok(Self(caller))
    }
}

enum Credential<'h> {
    Session(&'h str),
    Header(Option<&'h str>),
}

/// What a request is to be known by. A cookie is sent by itself; a header is not, so it is what the caller means.
fn credential(headers: &HeaderMap) -> Result<Credential<'_>, Refusal> {
    Ok(match (authorization(headers)?, cookie(headers)) {
        (None, Some(session)) => Credential::Session(session),
        (header, _) => Credential::Header(header),
    })
}

/// Who calls, by a credential that is good now.
pub(crate) async fn authenticated(house: &House, headers: &HeaderMap) -> Result<Caller, Refusal> {
    caller_by(house, credential(headers)?).await
}

async fn caller_by(house: &House, credential: Credential<'_>) -> Result<Caller, Refusal> {
    let (now, access) = (house.gateway.clock.now_ms(), &house.gateway.access);
    match credential {
        Credential::Session(session) => access.sessions().authenticate(session, now).await,
        Credential::Header(header) => {
            let caller = access.authenticate(header, now).await;
            caller.map_err(|error| unauthenticated(error.to_string()))
        }
    }
}

/// What stands in a request's path, decoded.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: serde::de::DeserializeOwned + Send> FromRequestParts<House> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, house: &House) -> Result<Self, Refused> {
        match axum::extract::Path::from_request_parts(parts, house).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(error) => {
                let detail = format!("The path cannot be read: {}.", error.body_text());
                Err(Refusal::invalid("path", detail).into())
            }
        }
    }
}

/// The parameters of a request, as far as they could be read.
pub(crate) type Queried<T> = Result<Query<T>, QueryRejection>;

/// The parameters of a request.
pub(crate) fn read_query<T>(given: Queried<T>) -> Result<T, Refusal> {
    let Query(given) =
        given.map_err(|error| Refusal::invalid("query", format!("{}.", error.body_text())))?;
    Ok(given)
}

/// How many a page of a list has at most: what was asked for, from 1 to `most`, or what is usual.
pub(crate) fn page_limit(given: Option<u32>, usual: u32, most: u32) -> Result<u32, Refusal> {
    let limit = given.unwrap_or(usual);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("'limit' must be 1 to {most}.");
    Err(Refusal::invalid("limit", detail))
}

/// A time that was given as RFC 3339, in ms since 1970.
pub(crate) fn time(field: &str, text: &str) -> Result<i64, Refusal> {
    let time = text.parse::<jiff::Timestamp>();
    let time = time.map(jiff::Timestamp::as_millisecond);
    time.map_err(|_| {
        // In a query `+` stands for a space.
        let advice = match text.rsplit_once(' ') {
            Some((_, zone)) if zone.len() == 5 => " In a URL the '+' of its offset is written %2B.",
            _ => "",
        };
        let detail =
            format!("'{field}' must be an RFC 3339 time, as in 2026-01-31T12:00:00Z.{advice}");
        Refusal::invalid(field, detail)
    })
}

/// The name of the cookie of a session.
pub(crate) const SESSION: &str = "tidings_session";

/// The `Authorization` header.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).into_iter();
    let credential = all.next();
    if all.next().is_some() {
        let detail = "There are several Authorization headers; send one.";
        return Err(unauthenticated(detail.into()));
    }
    let credential = credential.map(|value| value.to_str()).transpose();
    credential.map_err(|_| unauthenticated("The Authorization header is not ASCII.".into()))
}

fn unauthenticated(detail: String) -> Refusal {
    Refusal::new(Code::Unauthenticated, Rule::Authentication, detail)
}

/// The session's cookie among all cookies (RFC 6265, section 4.2.1).
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let pairs = all.filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == SESSION).then(|| value.trim_matches('"'))
    })
}

/// Reads a body up to a limit; past it, `code` answers with both numbers. It counts among all bodies that are held
/// until the last slice of it is dropped.
pub(crate) async fn read(
    house: &House,
    caller: &Caller,
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    code: Code,
) -> Result<Bytes, Refusal> {
    let too_large = |actual: usize| {
        Refusal::new(
            code,
            Rule::BodyLimits,
            format!("The body has {actual} bytes or more; {limit} is the limit."),
        )
        .limit(limit, actual)
    };
    let coding = coding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(actual) = announced.filter(|actual| *actual > limit) {
        if !headers.contains_key(header::EXPECT) && actual <= PASSED_OVER_BYTES {
            pass_over(body).await;
        }
        return Err(too_large(actual));
    }
    // What stands on the wire has the same limit as what comes out of it.
    let limited = Limited::new(&mut body, limit);
    let share = house.bodies.share(caller.tenant());
    let gathered = tokio::time::timeout(BODY_TIMEOUT, async {
        match coding {
            Coding::Identity => gather(limited, limit, share).await,
            Coding::Gzip => inflate(limited, limit, share).await,
        }
    });
    let Ok(gathered) = gathered.await else {
        let waited = BODY_TIMEOUT.as_secs();
        return Err(Refusal::new(
            Code::InvalidRequest,
            Rule::BodyLimits,
            format!("The body did not arrive within {waited} s; send it again, faster."),
        ));
    };
    if gathered.as_ref().is_err_and(too_long) {
        pass_over(body).await;
        return Err(too_large(limit + 1));
    }
    gathered.map_err(|error| match error {
        error if no_room(&error) => {
            house.bodies.tell_refused();
            let detail = "The gateway holds as much of request bodies as it may; retry shortly.";
            let refusal = Refusal::new(Code::Overloaded, Rule::BodyLimits, detail);
            refusal.retry_after(ROOM_RETRY)
        }
        error => unread(&error),
    })
}

/// Reads what is not wanted of a body, within bounds: a client that is still sending when its connection is closed sees that,
/// and not the answer. One that waits to be asked for its body is not asked.
async fn pass_over(body: Body) {
    let mut left = PASSED_OVER_BYTES;
    let read = async {
        let mut body = body;
        while let Some(Ok(frame)) = body.frame().await {
            left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => left,
                None => return,
            };
        }
    };
    // Longer than that nobody is waited for: the answer may be lost then.
    let _in_time = tokio::time::timeout(PASSED_OVER_TIME, read).await;
}

/// Why a body within its limit, and for which there is room, could not be read.
fn unread(error: &axum::BoxError) -> Refusal {
    let detail = if error.is::<std::io::Error>() {
        format!("The body is not the gzip that Content-Encoding says it is: {error}.")
    } else {
        format!("The body could not be read to its end: {error}.")
    };
    let refusal = Refusal::new(Code::InvalidRequest, Rule::BodyLimits, detail);
    if error.is::<std::io::Error>() {
        return refusal.field(ENCODING_FIELD);
    }
    refusal
}

/// The body as a document: strict JSON within a limit, with known members only where `T` says so.
pub(crate) async fn json_body<T: serde::de::DeserializeOwned>(
    house: &House,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Refusal> {
    let body = read(house, caller, headers, body, limit, Code::InvalidRequest).await?;
    document(headers, &body)
}

/// The same where every member may be absent: no body, or null, says no more than an empty document.
pub(crate) async fn json_body_if_any<T: serde::de::DeserializeOwned>(
    house: &House,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Refusal> {
    let body = read(house, caller, headers, body, limit, Code::InvalidRequest).await?;
    document_if_any(headers, &body)
}

fn document_if_any<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Refusal> {
    if matches!(body.trim_ascii(), b"" | b"null") {
        return parsed(b"{}");
    }
    document(headers, body)
}

/// A body that was read, as a document.
pub(crate) fn document<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Refusal> {
    expect_json(headers)?;
    parsed(body)
}

/// A JSON merge patch (RFC 7396) by its own media type or as JSON, within a limit.
pub(crate) async fn merge_patch(
    house: &House,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<serde_json::Value, Refusal> {
    let body = read(house, caller, headers, body, limit, Code::InvalidRequest).await?;
    expect_one_of(&[JSON, MERGE_PATCH], headers, JSON)?;
    parsed(&body)
}

fn parsed<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = text(body)?;
    tidings_event::json::check(body).map_err(|error| {
        let detail = format!("The body is not valid JSON: {error}.");
        Refusal::new(Code::InvalidJson, Rule::Shape, detail)
    })?;
    let mut track = serde_path_to_error::Track::new();
    let reader = &mut serde_json::Deserializer::from_str(body);
    let tracked = serde_path_to_error::Deserializer::new(reader, &mut track);
    // An array of the members' values is none of their document.
    tidings_event::json::by_name(tracked)
        .map_err(|error: serde_json::Error| Refusal::unread(&track.path().to_string(), &error))
}

/// What some editors begin a file with. In JSON it is a fault (RFC 8259, 8.1).
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The body as text.
pub(crate) fn text(body: &[u8]) -> Result<&str, Refusal> {
    let refused = |detail: String| Refusal::new(Code::InvalidJson, Rule::Shape, detail);
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        refused(format!("The body is not UTF-8 from byte {at} on."))
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        let detail =
            "The body begins with a byte order mark, which JSON may not have; save it without one.";
        return Err(refused(detail.to_owned()));
    }
    Ok(text)
}

/// Refuses a body that says it is something other than JSON. Saying nothing is fine.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<(), Refusal> {
    expect_one_of(&[JSON], headers, JSON)
}

/// Refuses a body that says it is of no media type that is accepted, of which the refusal names some.
pub(crate) fn expect_one_of(
    accepted: &[&str],
    headers: &HeaderMap,
    named: &str,
) -> Result<(), Refusal> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let given = essence(content_type.to_str().unwrap_or_default());
    if accepted.contains(&&*given) {
        return Ok(());
    }
    let detail = format!("This operation reads {named}; set the Content-Type header.");
    let refusal = Refusal::new(Code::UnsupportedMediaType, Rule::Shape, detail);
    Err(refusal.field("Content-Type"))
}

/// The header of the W3C trace context.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The W3C trace context, if it is one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    is_traceparent(value).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_whose_plus_was_lost_in_a_url_is_refused_with_how_to_write_it() {
        assert_eq!(time("since", "1970-01-01T01:00:01+01:00"), Ok(1_000));
        assert_eq!(time("since", "1970-01-01 00:00:01Z"), Ok(1_000));
        let said = |text: &str| {
            let refusal = time("since", text).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("since"));
            refusal.detail
        };
        assert!(said("1970-01-01T01:00:01 01:00").contains("%2B"));
        assert!(!said("yesterday").contains("%2B"));
    }

    #[test]
    fn of_two_credentials_none_is_taken() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers), Ok(None));
        headers.append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(authorization(&headers), Ok(Some("Bearer a")));
        headers.append(header::AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(
            authorization(&headers).unwrap_err().code,
            Code::Unauthenticated
        );
    }

    #[test]
    fn no_body_says_no_more_than_an_empty_document() {
        let read = |body: &[u8]| document_if_any::<serde_json::Value>(&HeaderMap::new(), body);
        for none in [&b""[..], b" \n", b"null", b"{}"] {
            assert_eq!(read(none), Ok(serde_json::json!({})));
        }
        assert_eq!(read(b"{\"a\":1}"), Ok(serde_json::json!({ "a": 1 })));
        assert!(read(b"{").is_err());
    }
}
