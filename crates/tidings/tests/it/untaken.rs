//! Clients over HTTP/2 that keep their connection alive and take nothing of an answer.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use hyper::Request;
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::{PUBLISH, Server};

const A_MINUTE: Duration = Duration::from_mins(1);

/// A connection whose streams have this window. Its pings are answered as long as the runtime lives.
async fn connected(server: &Server, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(&server.address)
        .await
        .expect("a connection");
    let mut builder = Builder::new();
    builder.initial_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// The answer to a request. None of it is taken unless its reader says so.
async fn answer(
    sender: &SendRequest<Bytes>,
    server: &Server,
    path: &str,
    token: &str,
) -> RecvStream {
    let request = Request::get(format!("http://{}{path}", server.address))
        .header("authorization", format!("Bearer {token}"))
        .body(())
        .expect("a request");
    let mut sender = sender.clone().ready().await.expect("it is open");
    let (answer, _) = sender.send_request(request, true).expect("it is sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

/// What comes of an answer of which nothing is taken, and how its stream ends.
async fn untaken(mut answer: RecvStream) -> (usize, Option<Reason>) {
    let read = async {
        let mut bytes = 0;
        while let Some(data) = answer.data().await {
            match data {
                Ok(data) => bytes += data.len(),
                Err(error) => return (bytes, error.reason()),
            }
        }
        (bytes, None)
    };
    let read = tokio::time::timeout(A_MINUTE, read).await;
    read.expect("it is never reset")
}

#[test]
fn an_answer_that_gets_no_window_is_reset_and_others_of_its_connection_go_on() {
    let server = Server::start_with("[server]\nheader_timeout = \"200ms\"\n");
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let sender = connected(&server, 40_000).await;
        let mut stream = answer(&sender, &server, "/v1/events/stream", &token).await;
        // None of a large one, its beginning, and not all of a small one.
        let beginning = answer(&sender, &server, "/openapi.json", &token).await;
        let reset = Some(Reason::CANCEL);
        assert_eq!(untaken(beginning).await, (40_000, reset));
        for (path, window) in [("/openapi.json", 0), ("/healthz", 1)] {
            let another = connected(&server, window).await;
            let answer = answer(&another, &server, path, &token).await;
            assert_eq!(untaken(answer).await, (window as usize, reset), "{path}");
        }
        let small = answer(&sender, &server, "/healthz", &token).await;
        let (bytes, reason) = untaken(small).await;
        assert!(bytes > 1 && reason.is_none(), "{bytes} bytes, {reason:?}");

        let event = json!({ "type": "crm.contact.created", "data": { "n": 1 } });
        tokio::task::block_in_place(|| server.post(PUBLISH, &token, &event).expect(201));
        let comes = async {
            loop {
                let data = stream.data().await.expect("it goes on").expect("no reset");
                let released = stream.flow_control().release_capacity(data.len());
                released.expect("it was given");
                if String::from_utf8_lossy(&data).contains("crm.contact.created") {
                    return;
                }
            }
        };
        let comes = tokio::time::timeout(A_MINUTE, comes).await;
        comes.expect("the event comes");
    });
}

#[test]
fn a_connection_that_asks_for_nothing_more_is_closed_though_its_pings_are_answered() {
    let server = Server::start_with("[server]\nheader_timeout = \"1s\"\n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let asked = async |types: usize, status: u16| {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut request = Request::get(format!("http://{}/healthz", server.address));
        for _ in 0..types {
            request = request.header("content-type", "application/json");
        }
        let request: Request<()> = request.body(()).expect("a request");
        let (answer, _) = sender.send_request(request, true).expect("it is sent");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), status);
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let taken = data.expect("a piece").len();
            body.flow_control().release_capacity(taken).unwrap();
        }
        let ended = tokio::time::timeout(A_MINUTE, connection).await;
        let _how = ended.expect("it stays open");
    };
    // Also where the first request is refused before anybody looks at it.
    runtime.block_on(async { tokio::join!(asked(0, 200), asked(2, 400)) });
}
