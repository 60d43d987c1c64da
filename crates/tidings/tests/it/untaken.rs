//! Clients over HTTP/2 that keep their connection alive and take nothing of an answer.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::{PUBLISH, Server};

const A_MINUTE: Duration = Duration::from_mins(1);

/// A connection, by whoever may ask on it, which keeps it open. Its pings are answered.
type Held = (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>);

/// The answer to a request, and the connection of its own that it comes on.
async fn answer(
    server: &Server,
    path: &str,
    token: &str,
    window: u32,
) -> (Response<Incoming>, Held) {
    let stream = TcpStream::connect(&server.address)
        .await
        .expect("a connection");
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let made = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{}{path}", server.address))
        .header("authorization", format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    (answer, (sender, connection))
}

#[test]
fn one_that_grants_no_window_is_cut_and_one_that_waits_is_not() {
    let server = Server::start_with("[server]\nheader_timeout = \"200ms\"\n");
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (stream, _held) = runtime.block_on(answer(&server, "/v1/events/stream", &token, 65_535));
    // None of a large one, its beginning, and not all of a small one.
    for (path, window) in [
        ("/openapi.json", 0),
        ("/openapi.json", 40_000),
        ("/healthz", 1),
    ] {
        runtime.block_on(async {
            let (answer, held) = answer(&server, path, &token, window).await;
            let (sender, connection) = held;
            let cut = tokio::time::timeout(A_MINUTE, connection).await;
            assert!(
                cut.is_ok(),
                "{path} with a window of {window} was never cut"
            );
            drop((answer, sender));
        });
    }
    let event = json!({ "type": "crm.contact.created", "data": { "n": 1 } });
    server.post(PUBLISH, &token, &event).expect(201);
    let mut body = stream.into_body();
    let got = async {
        loop {
            let frame = body.frame().await.expect("it goes on").unwrap();
            let data = frame.into_data().unwrap_or_default();
            if String::from_utf8_lossy(&data).contains("crm.contact.created") {
                return;
            }
        }
    };
    let got = runtime.block_on(async { tokio::time::timeout(A_MINUTE, got).await });
    got.expect("the event comes");
}
