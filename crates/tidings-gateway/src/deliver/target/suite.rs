//! What every kind of target keeps to, whatever is behind it (the contract of [`Target`]).

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tidings_event::json::RawJson;
use tidings_event::{Attribute, Data, Service, Topic};
use tidings_plugin::{Handler, HandlerError, PlatformEvent, PlatformEventHandler};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::Gateway;
use crate::access::{Caller, on_behalf_of};
use crate::clock::Clock;
use crate::events::Query;
use crate::subscriptions::From;

/// What a subscription of the suite gives a hand-over.
const TIMEOUT: Duration = Duration::from_millis(300);
/// And a little, on a busy machine.
const A_LITTLE: Duration = Duration::from_secs(5);
/// What no outcome may show.
const SECRET: &str = "hunter2";

/// One kind, with a target that takes things, one that does not, and one that never says.
struct Kind {
    name: &'static str,
    good: Handover,
    bad: Handover,
    silent: Option<Handover>,
}

async fn keeps_the_contract(targets: &Arc<Targets>, kind: Kind) {
    let name = kind.name;
    let hand_over = |handover: &Handover| targets.hand_over(handover.clone());
    for time in ["first", "second"] {
        let outcome = hand_over(&kind.good).await;
        assert_eq!(outcome.verdict, Verdict::Delivered, "{name}, {time}");
        assert_eq!(outcome.error, None, "{name}, {time}");
    }
    let many = join_all((0..20).map(|_| hand_over(&kind.good))).await;
    let taken = |outcome: &Outcome| outcome.verdict == Verdict::Delivered;
    assert!(many.iter().all(taken), "{name}: {many:?}");

    let begun = Instant::now();
    let failing = [Some(kind.bad), kind.silent].into_iter().flatten();
    for handover in failing {
        let outcome = hand_over(&handover).await;
        let failed = matches!(outcome.verdict, Verdict::Failed { .. });
        assert!(failed, "{name}: {outcome:?}");
        let sentence = outcome.error.clone().unwrap_or_default();
        assert!(!sentence.is_empty(), "{name} says nothing");
        assert!(
            !format!("{outcome:?}").contains(SECRET),
            "{name}: {outcome:?}"
        );
    }
    assert!(begun.elapsed() < 2 * TIMEOUT + A_LITTLE, "{name} is late");
}

/// Handles by what is asked of it.
struct Asked;

impl PlatformEventHandler for Asked {
    fn extension(&self) -> &'static str {
        "asked"
    }

    fn handlers(&self) -> Vec<Handler> {
        vec![Handler::new("audit.suite.made", true)]
    }

    fn handle(&self, event: &PlatformEvent) -> Result<(), HandlerError> {
        match event.payload::<Value>()?["do"].as_str() {
            Some("fail") => Err(HandlerError::new("it was asked to")),
            Some("sleep") => {
                std::thread::sleep(2 * TIMEOUT);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Answers 200, 500 or never, by the path.
async fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut room) = (Vec::new(), [0; 4_096]);
                while !is_whole(&read) {
                    match stream.read(&mut room).await {
                        Ok(count) if count > 0 => read.extend_from_slice(&room[..count]),
                        _ => return,
                    }
                }
                if read.starts_with(b"POST /silent") {
                    tokio::time::sleep(A_LITTLE).await;
                    return;
                }
                let good = read.starts_with(b"POST /good");
                let status = if good { "200 OK" } else { "500 No" };
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // A client that is gone wants no answer.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    format!("http://{address}")
}

fn is_whole(read: &[u8]) -> bool {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    read.len() >= end + 4 + length
}

struct House {
    gateway: Gateway,
    targets: Arc<Targets>,
    clock: Clock,
}

impl House {
    async fn new() -> Self {
        let clock = Clock::system();
        let gateway = Gateway::open(crate::Parts {
            delivery: super::super::Config {
                topics: BTreeSet::from([topic("copies")]),
                ..Default::default()
            },
            plugins: vec![Arc::new(Asked)],
            ..crate::in_memory::parts(&clock).await
        });
        let gateway = gateway.await.unwrap();
        let targets = Arc::new(gateway.targets());
        Self {
            gateway,
            targets,
            clock,
        }
    }

    /// A hand-over of an event that says what to do.
    async fn handover(&self, target: Receiver, what: &str) -> Handover {
        let document = json!({
            "name": "s",
            "target": {
                "kind": "webhook", "url": "http://127.0.0.1:1/",
                "auth": { "kind": "bearer", "token": SECRET },
            },
            "delivery": { "timeout": format!("{}ms", TIMEOUT.as_millis()) },
        });
        let (room, caller) = (&self.gateway.subscriptions, caller());
        let made = room.create(&caller, document, From::Now).await;
        let mut subscription = (*made.unwrap().0).clone();
        if let (Receiver::Webhook(ours), Receiver::Webhook(its)) =
            (&mut subscription.target, &target)
        {
            ours.url = its.url.clone();
        } else {
            subscription.target = target;
        }
        let event_id = self.clock.new_id();
        let event = Event {
            event_id,
            id: event_id.to_string(),
            source: "/suite".into(),
            event_type: "audit.suite.made".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            schema_version: tidings_event::SchemaVersion::default(),
            received_at_ms: self.clock.now_ms(),
            time: "2026-01-31T12:00:00Z".into(),
            traceparent: None,
            subject: None,
            data_schema: None,
            data_content_type: None,
            extensions: vec![("workspaceid".into(), Attribute::Text("ws-1".into()))],
            data: Data::Json(RawJson::trusted(json!({ "do": what }).to_string())),
        };
        Handover {
            subscription: Arc::new(subscription),
            event: Arc::new(Carried::new(event)),
            sequence: 1,
            replayed: false,
            replay: None,
            batch: None,
            now_ms: self.clock.now_ms(),
        }
    }

    async fn webhook(&self, url: String) -> Handover {
        let document = json!({ "name": "s", "target": { "kind": "webhook", "url": url } });
        let target = crate::subscription::parse(document).unwrap().target;
        self.handover(target, "").await
    }

    async fn plugin(&self, what: &str) -> Handover {
        let extension = "asked".parse().unwrap();
        let place = "in-process:asked".to_owned();
        let target = Receiver::InProcess { extension, place };
        self.handover(target, what).await
    }

    async fn copied_to(&self, name: &str) -> Handover {
        let (topic, place) = (topic(name), format!("topic:{name}"));
        self.handover(Receiver::Topic { topic, place }, "").await
    }

    async fn copies(&self) -> Vec<crate::events::Placed> {
        let query = Query {
            topic: Some(topic("copies")),
            limit: 100,
            ..Query::default()
        };
        self.gateway
            .events
            .list(&caller(), &query)
            .await
            .unwrap()
            .items
    }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn caller() -> Caller {
    on_behalf_of(Service::Audit, "acme".parse().unwrap())
}

#[tokio::test]
async fn webhooks_keep_the_contract() {
    let (house, url) = (House::new().await, receiver().await);
    let kind = Kind {
        name: "webhook",
        good: house.webhook(format!("{url}/good")).await,
        bad: house.webhook(format!("{url}/bad")).await,
        silent: Some(house.webhook(format!("{url}/silent")).await),
    };
    keeps_the_contract(&house.targets, kind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_in_process_keep_the_contract() {
    let house = House::new().await;
    let kind = Kind {
        name: "in-process",
        good: house.plugin("").await,
        bad: house.plugin("fail").await,
        silent: Some(house.plugin("sleep").await),
    };
    keeps_the_contract(&house.targets, kind).await;
}

#[tokio::test]
async fn topics_keep_the_contract_and_hold_each_copy_once() {
    let house = House::new().await;
    let good = house.copied_to("copies").await;
    let original = (**good.event).clone();
    let kind = Kind {
        name: "topic",
        good: good.clone(),
        bad: house.copied_to("not-allowed").await,
        silent: None,
    };
    keeps_the_contract(&house.targets, kind).await;
    let copies = house.copies().await;
    assert_eq!(copies.len(), 1);
    let copy = &copies[0].event;
    let mark = copy.extension(tidings_event::COPY_ATTRIBUTE).unwrap();
    assert_eq!(mark.to_string(), original.event_id.to_string());
    assert_ne!(copy.event_id, original.event_id);
    assert_eq!(
        (
            &copy.id,
            &copy.source,
            &copy.event_type,
            &copy.time,
            &copy.data
        ),
        (
            &original.id,
            &original.source,
            &original.event_type,
            &original.time,
            &original.data
        )
    );
    // A copy goes nowhere, whoever asks.
    let again = Handover {
        event: Arc::new(Carried::new(copy.clone())),
        ..good
    };
    let outcome = house.targets.hand_over(again).await;
    assert!(
        matches!(outcome.verdict, Verdict::Failed { .. }),
        "{outcome:?}"
    );
    assert_eq!(house.copies().await.len(), 1);
}
