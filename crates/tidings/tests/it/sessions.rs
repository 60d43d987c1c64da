//! Browser sessions: the cookie works as in source C, and no other site can spend it.

use serde_json::{Value, json};

use crate::events::Stream;
use crate::harness::{Answer, Request, Server};
use crate::workspaces::{DEAL, user, with_workspace};

/// The cookie as `curl -b` would send it.
fn begin(server: &Server, token: &str) -> String {
    let begun = server.call("POST", "/api/session").bearer(token).send();
    let begun = begun.expect(200);
    let set = begun.header("set-cookie").expect("a cookie").to_owned();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age="] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(
        !set.contains("Secure"),
        "there is no TLS on loopback: {set}"
    );
    set.split(';').next().expect("a pair").to_owned()
}

fn deal() -> Value {
    json!({ "eventKey": "crm.deal.closed", "payload": { "n": 1 } })
}

fn publish(server: &Server, cookie: &str, with: impl FnOnce(Request) -> Request) -> Answer {
    let call = server.call("POST", DEAL).header("Cookie", cookie);
    with(call.json(&deal())).send()
}

#[test]
fn a_cookie_publishes_as_curl_sends_it_until_it_is_revoked() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let cookie = begin(&server, &ada);
    let several = format!("theme=dark; {cookie}; other=1");
    publish(&server, &several, |call| call).expect(200);
    let server = server.restart();
    publish(&server, &cookie, |call| call).expect(200);
    let end = || {
        server
            .call("DELETE", "/api/session")
            .header("Cookie", &cookie)
    };
    let ended = end().send().expect(204);
    let cleared = ended.header("set-cookie").expect("a cookie that is empty");
    assert!(cleared.starts_with("tidings_session=;") && cleared.contains("Max-Age=0"));
    publish(&server, &cookie, |call| call).problem(401, "UNAUTHENTICATED");
    end().send().problem(401, "UNAUTHENTICATED");
}

#[test]
fn a_browser_follows_the_stream_of_its_session_until_that_is_revoked() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let cookie = begin(&server, &ada);
    let stream = Stream::ask_with(&server, &format!("Cookie: {cookie}"), None);
    let mut stream = stream.unwrap_or_else(|status| panic!("{status}"));
    for _ in 0..2 {
        publish(&server, &cookie, |call| call).expect(200);
        // Of how the workspace was made, events may come late.
        stream.next_of("crm.deal.closed");
    }
    let end = server.call("DELETE", "/api/session");
    end.header("Cookie", &cookie).send().expect(204);
    let call = server.call("POST", DEAL).bearer(&ada).json(&deal());
    call.send().expect(200);
    let rest = stream.rest();
    let told = rest.iter().any(|event| event["type"] == "crm.deal.closed");
    assert!(!told, "an event after the session");
}

#[test]
fn each_way_that_a_request_may_come_from_elsewhere_is_refused() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let cookie = begin(&server, &ada);
    let own = format!("http://{}", server.address);
    let headers = |given: &[(&str, &str)]| {
        publish(&server, &cookie, |call| {
            given
                .iter()
                .fold(call, |call, (name, value)| call.header(name, value))
        })
    };
    headers(&[("Origin", &own)]).expect(200);
    headers(&[("Sec-Fetch-Site", "same-origin")]).expect(200);
    headers(&[("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).expect(200);
    for refused in [
        &[("Origin", "https://evil.example")][..],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", own.as_str()), ("Sec-Fetch-Site", "cross-site")],
        &[
            ("Origin", "https://evil.example"),
            ("Sec-Fetch-Site", "same-origin"),
        ],
    ] {
        headers(refused).problem(403, "CSRF_REJECTED");
    }
    for form in ["text/plain", "application/x-www-form-urlencoded"] {
        let call = server.call("POST", DEAL).header("Cookie", &cookie);
        let call = call.header("Content-Type", form).body(deal().to_string());
        call.send().problem(403, "CSRF_REJECTED");
    }
    let untyped = server.call("POST", DEAL).header("Cookie", &cookie);
    untyped
        .body(deal().to_string())
        .send()
        .problem(403, "CSRF_REJECTED");
    let call = server
        .call("DELETE", "/api/session")
        .header("Cookie", &cookie);
    let call = call.header("Origin", "https://evil.example");
    call.send().problem(403, "CSRF_REJECTED");

    // Reading is safe, and a bearer token is nothing that a browser sends by itself.
    let call = server.call("GET", "/v1/events").header("Cookie", &cookie);
    call.header("Origin", "https://evil.example")
        .send()
        .expect(200);
    publish(&server, &cookie, |call| {
        call.bearer(&ada).header("Origin", "https://evil.example")
    })
    .expect(200);
}

#[test]
fn a_session_is_for_people_and_stands_for_no_more_than_its_token() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let begin_with = |token: &str| server.call("POST", "/api/session").bearer(token).send();
    begin_with(&server.crm("acme")).problem(403, "FORBIDDEN");
    server
        .call("POST", "/api/session")
        .send()
        .problem(401, "UNAUTHENTICATED");
    // A session begets no session: it would live for ever.
    let cookie = begin(&server, &ada);
    let call = server
        .call("POST", "/api/session")
        .header("Cookie", &cookie);
    call.json(&json!({})).send().problem(401, "UNAUTHENTICATED");

    let cookie = begin(&server, &user(&server, "acme", "bob"));
    publish(&server, &cookie, |call| call).problem(403, "WORKSPACE_FORBIDDEN");
    let made_up = format!("tidings_session={}", "A".repeat(43));
    publish(&server, &made_up, |call| call).problem(401, "UNAUTHENTICATED");

    let short = server.token(&["--tenant", "acme", "--user", "ada", "--ttl", "90s"]);
    let begun = begin_with(&short).expect(200);
    let set = begun.header("set-cookie").expect("a cookie");
    let age = set
        .split("Max-Age=")
        .nth(1)
        .and_then(|rest| rest.split(';').next());
    let age: u32 = age.expect("an age").parse().expect("seconds");
    assert!(age <= 90, "{set}");
}
