//! Requests that a browser may have been made to send: what a session's cookie must come with.
//!
//! A browser sends the cookie by itself, so that a page elsewhere could spend it. It also says where a request
//! comes from: all that are in use send `Sec-Fetch-Site`, and `Origin` with every method that writes. Either
//! must say that it was a page of ours.
//!
//! A request with neither is not a browser's (`curl -b cookies.txt` is what source C shows), and whoever can make
//! one has the cookie anyway. Should an old browser leave both out, the cookie itself is `SameSite=Lax`: no other
//! site's page causes it to be sent with a method that writes. And a `POST` must be JSON, which a form cannot send
//! and a script elsewhere only after a preflight, which is never granted; `PUT`, `PATCH` and `DELETE` need one
//! always.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, header};
use tidings_event::Code;
use tidings_event::event::essence;
use tidings_gateway::publish::refusal::{Refusal, Rule};

/// Refuses a request authenticated by a cookie that another site may have caused.
pub(crate) fn check(method: &Method, headers: &HeaderMap, public_url: &str) -> Result<(), Refusal> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err(rejected("its Sec-Fetch-Site is not same-origin"));
    }
    if text("origin").is_some_and(|origin| !is_ours(origin, headers, public_url)) {
        return Err(rejected("its Origin is not this server's"));
    }
    let json = text("content-type").is_some_and(|given| essence(given) == "application/json");
    if *method == Method::POST && !json {
        return Err(rejected("its Content-Type is not application/json"));
    }
    Ok(())
}

/// Whether an origin is that of the public URL, or of the host that the request was sent to: a page that names
/// another host in both would not be sent our cookie.
fn is_ours(origin: &str, headers: &HeaderMap, public_url: &str) -> bool {
    let Some(authority) = authority(origin) else {
        return false;
    };
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    [host, self::authority(public_url)].contains(&Some(authority))
}

fn authority(url: &str) -> Option<Authority> {
    url.parse::<Uri>().ok()?.into_parts().authority
}

fn rejected(why: &str) -> Refusal {
    let detail = format!(
        "The session's cookie is not accepted here: {why}. Send the request as JSON from a page of this \
         origin, or with a bearer token."
    );
    Refusal::new(Code::CsrfRejected, Rule::Authentication, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(method: &str, given: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("host", "tidings.example:8443".parse().unwrap());
        for (name, value) in given {
            headers.insert(*name, value.parse().unwrap());
        }
        check(&method.parse().unwrap(), &headers, "https://public.example").is_ok()
    }

    #[test]
    fn where_a_request_comes_from_decides_when_it_is_said() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        let check = |name: &'static str, value: &str, expected: bool| {
            assert_eq!(passes("POST", &[JSON, (name, value)]), expected, "{value}");
            assert_eq!(passes("DELETE", &[(name, value)]), expected, "{value}");
            assert!(passes("GET", &[(name, value)]), "reading is free");
        };
        check("origin", "https://tidings.example:8443", true);
        check("origin", "https://public.example", true);
        check("origin", "https://tidings.example", false);
        check("origin", "https://evil.example", false);
        check("origin", "https://public.example.evil.example", false);
        check("origin", "null", false);
        check("origin", "", false);
        check("sec-fetch-site", "same-origin", true);
        for other in ["cross-site", "same-site", "none", ""] {
            check("sec-fetch-site", other, false);
        }
        let both = [
            ("origin", "https://public.example"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(!passes("DELETE", &both));
    }

    #[test]
    fn a_post_is_json_and_says_so() {
        assert!(passes("POST", &[("content-type", "application/json")]));
        for form in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ] {
            assert!(!passes("POST", &[("content-type", form)]), "{form}");
        }
        assert!(!passes("POST", &[]));
        assert!(passes("DELETE", &[]));
    }
}
