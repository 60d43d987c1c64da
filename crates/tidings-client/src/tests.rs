//! The client against a small server that answers what a test tells it to, and keeps what it was
//! asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::*;

#[derive(Debug, Clone)]
struct Asked {
    line: String,
    headers: HeaderMap,
    text: String,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Response<Body>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A server that gives these answers in turn, and a client of it.
    async fn answering(answers: impl IntoIterator<Item = Response<Body>>) -> (Self, Client) {
        let server = Self::default();
        server.answers.lock().unwrap().extend(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/base/", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (server, client(&base))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn answer(
    State(server): State<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let text = String::from_utf8_lossy(&body).into_owned();
    server.asked.lock().unwrap().push(Asked {
        line: format!("{method} {uri}"),
        headers,
        body: serde_json::from_str(&text).unwrap_or_default(),
        text,
    });
    server
        .answers
        .lock()
        .unwrap()
        .pop_front()
        .unwrap_or_else(|| respond(500, &json!({})))
}

fn client(base: &str) -> Client {
    let retries = Retries {
        tries: 3,
        first_wait: Duration::ZERO,
        longest_wait: Duration::from_secs(1),
    };
    Client::new(base, "tdk_secret")
        .unwrap()
        .with_retries(retries)
}

fn respond(status: u16, body: &Value) -> Response<Body> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

fn problem(status: u16, code: &str, retry_after: Option<&str>) -> Response<Body> {
    let body = json!({
        "type": "https://t/problems/x", "title": "X", "status": status, "code": code,
        "detail": "Module 'crm' may not.", "traceId": "t1", "field": "type",
    });
    let mut response = respond(status, &body);
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert("retry-after", seconds.parse().unwrap());
    }
    response
}

/// An answer that breaks off in the middle: the publish may or may not have been carried out.
fn broken() -> Response<Body> {
    Response::builder()
        .header("content-length", "100")
        .body(Body::from("{"))
        .unwrap()
}

fn receipt() -> Response<Body> {
    let body = json!({"eventId": "e1", "type": "a.b", "topic": "t", "partition": 2, "offset": 7});
    respond(201, &body)
}

fn greeting() -> NewEvent {
    NewEvent::new("a.b", &json!({"x": 1}))
}

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "s", "type": "a.b", "tenantid": "acme",
        "data": {"x": 1}, "eventId": id, "topic": "t", "partition": 0, "offset": 1,
        "receivedAt": "2026-01-01T00:00:00Z",
    })
}

#[tokio::test]
async fn one_key_is_kept_over_all_tries_of_a_publish() {
    let answers = [broken(), problem(429, "RATE_LIMITED", Some("0")), receipt()];
    let (server, client) = Server::answering(answers).await;
    let receipt = client
        .publish(&greeting().schema_version("1.2.0"))
        .await
        .unwrap();
    assert_eq!(
        (receipt.offset, receipt.duplicate, receipt.skipped),
        (Some(7), false, false)
    );

    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    for one in &asked {
        assert_eq!(one.line, "POST /base/v1/events/publish");
        assert_eq!(one.header("idempotency-key"), receipt.idempotency_key);
        assert_eq!(one.header("authorization"), "Bearer tdk_secret");
        assert_eq!(
            one.body,
            json!({"type": "a.b", "data": {"x": 1}, "schemaVersion": "1.2.0"})
        );
    }
    let key: uuid::Uuid = receipt.idempotency_key.parse().unwrap();
    assert_eq!(key.get_version_num(), 7);
}

#[tokio::test]
async fn an_outage_of_the_bus_is_told_at_once() {
    let answers = [
        problem(503, "events.broker.unavailable", Some("0")),
        receipt(),
    ];
    let (server, client) = Server::answering(answers).await;
    let Err(Error::Refused(refused)) = client.publish(&greeting()).await else {
        panic!("it is not published");
    };
    assert_eq!(refused.code, "events.broker.unavailable");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_key_that_an_earlier_try_still_has_is_tried_again() {
    let busy = || problem(503, "IDEMPOTENCY_KEY_IN_USE", Some("0"));
    let (server, client) = Server::answering([broken(), busy(), receipt()]).await;
    let receipt = client.publish(&greeting()).await.unwrap();
    for asked in server.asked() {
        assert_eq!(asked.header("idempotency-key"), receipt.idempotency_key);
    }
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_repeated_key_is_told() {
    let mut replayed = receipt();
    replayed
        .headers_mut()
        .insert("idempotency-replayed", "true".parse().unwrap());
    let skipped = respond(
        200,
        &json!({"eventId": "e2", "type": "a.b", "skipped": true}),
    );
    let (server, client) = Server::answering([replayed, skipped]).await;
    let receipt = client
        .publish(&greeting().idempotency_key("mine"))
        .await
        .unwrap();
    assert!(receipt.duplicate);
    assert_eq!(server.asked()[0].header("idempotency-key"), "mine");
    let receipt = client.publish(&greeting()).await.unwrap();
    assert_eq!((receipt.skipped, receipt.topic), (true, None));
}

#[tokio::test]
async fn every_event_of_a_batch_has_a_key() {
    let one = json!({"eventId": "e", "type": "a.b", "topic": "t", "partition": 0, "offset": 1,
        "duplicate": true});
    let answers = [broken(), respond(201, &json!({"results": [one, one]}))];
    let (server, client) = Server::answering(answers).await;
    let events = [greeting(), greeting().idempotency_key("mine")];
    let receipts = client.publish_batch(&events).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[0].body, asked[1].body);
    for (receipt, sent) in receipts
        .iter()
        .zip(asked[1].body["events"].as_array().unwrap())
    {
        assert!(receipt.duplicate);
        assert_eq!(sent["idempotencyKey"], receipt.idempotency_key);
    }
    assert_eq!(receipts[1].idempotency_key, "mine");
}

#[tokio::test]
async fn a_refusal_carries_the_problem_and_is_not_repeated() {
    let (server, client) = Server::answering([problem(403, "FORBIDDEN", None)]).await;
    let error = client.publish(&greeting()).await.unwrap_err();
    assert_eq!(error.code(), Some("FORBIDDEN"));
    assert_eq!(error.to_string(), "Module 'crm' may not. (403, FORBIDDEN)");
    let Error::Refused(problem) = error else {
        panic!("{error}")
    };
    assert_eq!(problem.trace_id.as_deref(), Some("t1"));
    assert_eq!(problem.members["field"], "type");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn tries_and_waits_are_bounded() {
    let busy = || problem(429, "RATE_LIMITED", Some("0"));
    let (server, client) = Server::answering([busy(), busy(), busy(), busy()]).await;
    assert_eq!(
        client.list_modules().await.unwrap_err().code(),
        Some("RATE_LIMITED")
    );
    assert_eq!(server.asked().len(), 3);

    let (server, client) = Server::answering([problem(503, "X", Some("3600"))]).await;
    let Error::Refused(problem) = client.publish(&greeting()).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(problem.retry_after, Some(Duration::from_hours(1)));
    assert_eq!(server.asked().len(), 1);

    let retries = Retries::default();
    for tried in 1..100 {
        assert!(retries.wait_after(tried) <= retries.longest_wait);
    }
}

#[tokio::test]
async fn what_must_not_happen_twice_is_not_repeated() {
    let key = json!({"id": "k1", "key": "tdk_x", "name": "ci", "scopes": ["events:read"],
        "createdAt": "2026-01-01T00:00:00Z"});
    let answers = [
        broken(),
        respond(502, &json!({})),
        problem(429, "RATE_LIMITED", Some("0")),
    ];
    let answers = answers.into_iter().chain([respond(201, &key)]);
    let (server, client) = Server::answering(answers).await;
    let new = NewApiKey {
        name: "ci".into(),
        scopes: vec!["events:read".into()],
        ..NewApiKey::default()
    };
    assert!(matches!(
        client.create_api_key(&new).await,
        Err(Error::Unreachable {
            may_have_arrived: true,
            ..
        })
    ));
    let gateway = client.revoke_api_key("k1", None).await.unwrap_err();
    assert!(
        matches!(gateway, Error::Unexpected { status: 502, .. }),
        "{gateway}"
    );
    let created = client.create_api_key(&new).await.unwrap();
    assert_eq!(
        (created.key.as_str(), created.api_key.id.as_str()),
        ("tdk_x", "k1")
    );
    assert!(!format!("{created:?} {client:?}").contains("tdk_"));
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn nobody_there_is_said_without_the_credential() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&base).revoke_api_key("k", None).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Unreachable {
            may_have_arrived: false,
            ..
        }
    ));
    assert!(!format!("{error:?}").contains("tdk_secret"));
    for (base, credential) in [("not a url", "c"), ("ftp://h", "c"), ("http://h", "a\nb")] {
        assert!(matches!(
            Client::new(base, credential),
            Err(Error::Configuration(_))
        ));
    }
}

#[tokio::test]
async fn every_method_asks_its_endpoint() {
    let page = |items: Value| respond(200, &json!({"items": items, "nextCursor": "c2"}));
    let answers = [
        respond(200, &event("e1")),
        page(json!([event("e1")])),
        respond(200, &json!({"verdict": "accepted"})),
        page(json!([{"id": "crm", "version": "1.0.0"}])),
        respond(200, &json!({"id": "crm"})),
        respond(204, &Value::Null),
        respond(204, &Value::Null),
        page(json!([])),
        respond(204, &Value::Null),
        respond(503, &json!({"status": "down"})),
    ];
    let (server, client) = Server::answering(answers).await;
    let one = client.get_event("e1").await.unwrap();
    assert_eq!(
        (one.attributes["tenantid"].as_str(), one.offset),
        (Some("acme"), 1)
    );
    let query = EventQuery {
        event_type: Some("a.*".into()),
        limit: Some(5),
        cursor: Some("c/1=".into()),
        ..EventQuery::default()
    };
    let events = client.list_events(&query).await.unwrap();
    assert_eq!(
        (json!(events.items), events.next_cursor),
        (json!([one]), Some("c2".into()))
    );
    let explained = client.explain(&greeting()).await.unwrap();
    assert_eq!(explained.get(), r#"{"verdict":"accepted"}"#);
    assert_eq!(
        client.list_modules().await.unwrap().items[0].version,
        "1.0.0"
    );
    assert_eq!(client.get_manifest("../x").await.unwrap()["id"], "crm");
    assert_eq!(
        client
            .apply_manifest("crm", &json!({"id": "crm"}))
            .await
            .unwrap(),
        Value::Null
    );
    client.delete_manifest("crm").await.unwrap();
    let keys = client.list_api_keys(Some("acme"), Some(2), Some("k0"));
    assert!(keys.await.unwrap().items.is_empty());
    client.revoke_api_key("k1", None).await.unwrap();
    let ready = client.ready().await.unwrap();
    assert_eq!(
        (ready.ready, &ready.report["status"]),
        (false, &json!("down"))
    );
    assert_eq!(
        server.lines(),
        [
            "GET /base/v1/events/e1",
            "GET /base/v1/events?type=a.*&limit=5&cursor=c%2F1%3D",
            "POST /base/v1/events/explain",
            "GET /base/v1/modules",
            "GET /base/v1/modules/..%2Fx/manifest",
            "PUT /base/v1/modules/crm/manifest",
            "DELETE /base/v1/modules/crm/manifest",
            "GET /base/v1/api-keys?tenantId=acme&limit=2&cursor=k0",
            "DELETE /base/v1/api-keys/k1",
            "GET /base/readyz",
        ]
    );
}

#[tokio::test]
async fn data_is_what_its_publisher_wrote() {
    let data = r#"{"z":12345678901234567890.123456789,"a":1e400,"m":1.10}"#;
    let text = event("e1").to_string().replace(r#"{"x":1}"#, data);
    let page = format!(r#"{{"items":[{text}],"nextCursor":null}}"#);
    let streamed = format!("id: c1\nevent: event\ndata: {text}\n\n");
    let whole = [(); 4].map(|()| data.to_owned());
    let answers = [text.clone(), page, streamed].into_iter().chain(whole);
    let answers = answers.map(|text| Response::new(Body::from(text)));
    let (_server, client) = Server::answering(answers).await;
    let listed = EventQuery::default();
    let events = [
        client.get_event("e1").await.unwrap(),
        client.list_events(&listed).await.unwrap().items.remove(0),
        client
            .stream(StreamQuery::default())
            .next()
            .await
            .unwrap()
            .event,
    ];
    for event in events {
        assert_eq!(event.data.as_ref().map(|data| data.get()), Some(data));
        let written = serde_json::to_string(&event).unwrap();
        assert!(written.contains(data), "{written}");
        let read: std::collections::HashMap<String, &serde_json::value::RawValue> =
            event.read_data().unwrap();
        assert_eq!(read["a"].get(), "1e400");
    }
    let (namespace, name) = ("acme", "thing.made");
    let told = [
        client.explain(&greeting()).await,
        client.trace_event("e1").await,
        client.get_custom_event(namespace, name).await,
        client
            .get_custom_event_version(namespace, name, "1.0.0")
            .await,
    ];
    for told in told {
        assert_eq!(told.unwrap().get(), data);
    }
}

#[tokio::test]
async fn a_payload_is_emitted_as_it_is_written() {
    let payload = r#"{"z":12345678901234567890.123456789, "a":1e400}"#;
    let emitted =
        json!({"eventId": "e1", "canonicalName": "TENANT_CUSTOM:a:b.c@1.0.0", "status": "queued"});
    let (server, client) = Server::answering([respond(202, &emitted)]).await;
    let new = NewEmit {
        name: "b.c".to_owned(),
        payload: serde_json::from_str(payload).unwrap(),
        version: None,
        idempotency_key: "k".to_owned(),
        causation_id: None,
    };
    assert_eq!(client.emit(&new).await.unwrap().event_id, "e1");
    let sent = &server.asked()[0].text;
    assert!(sent.contains(payload), "{sent}");
}

#[tokio::test]
async fn an_error_says_whether_it_may_have_been_done_and_whether_it_passes() {
    let told = |status: u16, html: bool| async move {
        let answer = if html {
            let answer = Response::builder().status(status);
            answer.body(Body::from("<html>")).unwrap()
        } else {
            problem(status, "X", Some("9"))
        };
        let (_server, client) = Server::answering([answer]).await;
        let retries = Retries {
            tries: 1,
            first_wait: Duration::ZERO,
            longest_wait: Duration::ZERO,
        };
        let error = client.with_retries(retries).publish(&greeting()).await;
        let error = error.unwrap_err();
        (error.is_in_doubt(), error.is_temporary())
    };
    for html in [false, true] {
        assert_eq!(told(422, html).await, (false, false));
        assert_eq!(told(429, html).await, (false, true));
        for status in [500, 502, 504] {
            assert_eq!(told(status, html).await, (true, false), "{status}");
        }
    }
    assert_eq!(told(503, false).await, (false, true));
    assert_eq!(told(503, true).await, (true, true));
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_it_gave() {
    let message = |id: &str| format!("id: c{id}\nevent: event\ndata: {}\n\n", event(id));
    let stream = |text: String| Response::new(Body::from(text));
    let answers = [
        stream(format!(
            "id: c0\n\n: heartbeat\n\n{}{}",
            message("1"),
            message("2")
        )),
        problem(503, "events.broker.unavailable", Some("0")),
        stream(format!("{}id: c4\nevent: eve", message("3"))),
        problem(401, "UNAUTHENTICATED", None),
    ];
    let (server, client) = Server::answering(answers).await;
    let query = StreamQuery {
        event_type: Some("a.b".into()),
        after: None,
    };
    let mut stream = client.stream(query);
    for id in ["1", "2", "3"] {
        let next = stream.next().await.unwrap();
        assert_eq!(
            (next.cursor, next.event.id),
            (format!("c{id}"), id.to_owned())
        );
    }
    let error = stream.next().await.unwrap_err();
    assert_eq!(error.code(), Some("UNAUTHENTICATED"));
    assert_eq!(stream.cursor(), Some("c3"));
    let asked = server.asked();
    let after: Vec<_> = asked
        .iter()
        .map(|asked| asked.header("last-event-id"))
        .collect();
    assert_eq!(after, ["", "c2", "c2", "c3"]);
    assert_eq!(asked[0].line, "GET /base/v1/events/stream?type=a.b");
    assert_eq!(asked[0].header("accept"), "text/event-stream");
}

#[tokio::test]
async fn an_idle_stream_is_resumed_for_ever_from_where_it_began() {
    let message = format!("id: c7\nevent: event\ndata: {}\n\n", event("7"));
    let begun = "id: c6\n\n".to_owned();
    // More often than a stream that never begins is asked.
    let idle = (0..9).map(|_| ": heartbeat\n\n".to_owned());
    let texts = [begun].into_iter().chain(idle).chain([message]);
    let (server, client) =
        Server::answering(texts.map(|text| Response::new(Body::from(text)))).await;
    let next = client.stream(StreamQuery::default()).next().await.unwrap();
    assert_eq!(next.cursor, "c7");
    let asked = server.asked();
    assert_eq!(asked.len(), 11);
    let from = |asked: &Asked| asked.header("last-event-id") == "c6";
    assert!(!from(&asked[0]) && asked[1..].iter().all(from), "{asked:?}");
}

#[tokio::test]
async fn a_stream_that_ends_again_and_again_is_given_up() {
    let (server, client) = Server::answering((0..9).map(|_| Response::new(Body::empty()))).await;
    let query = StreamQuery {
        after: Some("c9".into()),
        ..StreamQuery::default()
    };
    let mut stream = client.stream(query);
    assert!(matches!(
        stream.next().await,
        Err(Error::Unreachable { .. })
    ));
    assert_eq!(server.asked().len(), 3);
    assert_eq!(server.asked()[0].header("last-event-id"), "c9");
}

#[tokio::test]
async fn a_stream_that_is_told_to_come_back_much_later_says_so_at_once() {
    let later = problem(429, "RATE_LIMITED", Some("3600"));
    let (server, client) = Server::answering([later]).await;
    let refused = client.stream(StreamQuery::default()).next().await;
    assert_eq!(refused.unwrap_err().code(), Some("RATE_LIMITED"));
    assert_eq!(server.asked().len(), 1);
}
