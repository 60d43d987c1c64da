//! Browser sessions.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidings_event::event::rfc3339;
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::problem::Refused;
use crate::request::{Authenticated, SESSION, authorization, cookie};

/// A session that has begun.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionBody {
    expires_at: String,
}

/// Exchanges the bearer token for a session's cookie, good for 12 h and never longer than the token.
#[utoipa::path(post, path = "/api/session", tag = "sessions", responses((status = 200, body = SessionBody)))]
pub(crate) async fn begin(
    State(house): State<House>,
    Authenticated(_): Authenticated,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let now = house.gateway.clock.now_ms();
    let authorization = authorization(&headers)?;
    let begun = house.gateway.access.begin_session(authorization, now);
    let begun = begun.await?;
    let seconds = begun.expires_at_ms.saturating_sub(now) / 1000;
    let set = set_cookie(&house.public_url, begun.cookie.as_str(), seconds)?;
    let body = axum::Json(SessionBody {
        expires_at: rfc3339(begun.expires_at_ms),
    });
    Ok(([(header::SET_COOKIE, set)], body).into_response())
}

/// Ends the session of the cookie, everywhere and at once.
#[utoipa::path(delete, path = "/api/session", tag = "sessions",
    responses((status = 204, description = "It has ended")))]
pub(crate) async fn end(
    State(house): State<House>,
    Authenticated(_): Authenticated,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    if let Some(session) = cookie(&headers) {
        house.gateway.access.sessions().end(session).await?;
    }
    let set = set_cookie(&house.public_url, "", 0)?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set)]).into_response())
}

/// `Secure` unless the server is reached at loopback, where nobody listens in and there is no TLS.
fn set_cookie(public_url: &str, value: &str, seconds: i64) -> Result<HeaderValue, Refusal> {
    let secure = if on_loopback(public_url) {
        ""
    } else {
        "; Secure"
    };
    let text =
        format!("{SESSION}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    let mut value =
        HeaderValue::try_from(text).map_err(|error| Refusal::fault("Writing a cookie", &error))?;
    value.set_sensitive(true);
    Ok(value)
}

fn on_loopback(url: &str) -> bool {
    let uri = url.parse::<axum::http::Uri>().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<std::net::IpAddr>();
    uri.scheme_str() == Some("http")
        && (host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_for_this_server_alone_and_out_of_reach_of_scripts() {
        let set = |url: &str| {
            let value = set_cookie(url, "x", 60).unwrap();
            value.to_str().unwrap().to_owned()
        };
        let plain = "tidings_session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax";
        assert_eq!(set("http://127.0.0.1:8080"), plain);
        assert_eq!(set("https://tidings.example"), format!("{plain}; Secure"));
    }

    #[test]
    fn loopback_without_tls_alone_goes_without_secure() {
        for own in [
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]:8080",
        ] {
            assert!(on_loopback(own), "{own}");
        }
        for other in [
            "https://localhost",
            "http://10.0.0.1",
            "http://localhost.example",
            "",
        ] {
            assert!(!on_loopback(other), "{other}");
        }
    }
}
