//! Where an event has not come to a subscription that wants it, the trace and the explanation say why.

use serde_json::{Value, json};

use crate::harness::{BINARY, PUBLISH, Server};
use crate::receiver::{Receiver, eventually};

struct Scene {
    server: Server,
    token: String,
    receiver: Receiver,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let server = Server::start_with(&format!(
            "egress.allow_targets = ['127.0.0.1']\ndelivery.retry_schedule = ['1h']\n{more}"
        ));
        server.declare("crm", &["crm.contact.created"]);
        Self {
            token: server.crm("acme"),
            server,
            receiver: Receiver::start(),
        }
    }

    fn subscribe(&self, delivery: &Value) -> String {
        let body = json!({
            "name": "orders", "filter": { "types": ["crm.**"] }, "delivery": delivery,
            "target": { "kind": "webhook", "url": self.receiver.url },
        });
        let made = self.server.post("/v1/subscriptions", &self.token, &body);
        made.expect(201).json()["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    fn publish(&self, n: u64) -> String {
        let body = json!({ "type": "crm.contact.created", "data": { "n": n, "key": format!("k{}", n % 2) } });
        let answer = self.server.post(PUBLISH, &self.token, &body).expect(201);
        answer.json()["eventId"].as_str().expect("an id").to_owned()
    }

    fn change(&self, subscription: &str, word: &str) {
        let path = format!("/v1/subscriptions/{subscription}/{word}");
        let answer = self.server.post(&path, &self.token, &json!({}));
        answer.expect(200);
    }

    fn told(&self, event: &str, word: &str) -> Value {
        let path = format!("/v1/events/{event}/{word}");
        self.server.get(&path, &self.token).expect(200).json()
    }

    /// What the explanation says of the one subscription, once it has this reason.
    fn until(&self, event: &str, reason: &str) -> Value {
        eventually(reason, || {
            let explained = self.told(event, "explain");
            let one = explained["subscriptions"][0].clone();
            assert_eq!(one["matches"], true, "{explained}");
            (one["reason"] == reason).then_some(one)
        })
    }

    /// What the command line prints of an event's trace.
    fn printed(&self, event: &str, format: &str) -> String {
        let run = std::process::Command::new(BINARY)
            .args(["events", "trace", event, "-o", format])
            .env("TIDINGS_URL", format!("http://{}", self.server.address))
            .env("TIDINGS_TOKEN", &self.token)
            .output();
        crate::harness::printed(run.expect("it runs"))
    }
}

#[test]
fn one_that_is_late_paused_or_told_to_skip_says_so_and_the_command_line_too() {
    let scene = Scene::new();
    let before = scene.publish(0);
    let id = scene.subscribe(&json!({}));
    let late = scene.until(&before, "before-start");
    assert_eq!(
        (&late["delivered"], &late["state"], &late["unmet"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    scene.change(&id, "pause");
    let event = scene.publish(1);
    let paused = scene.until(&event, "paused");
    let detail = paused["detail"].as_str().expect("a sentence");
    assert!(
        detail.starts_with("The subscription is paused since 2"),
        "{detail}"
    );
    let trace = scene.told(&event, "trace");
    assert_eq!(trace["deliveries"], json!([]));
    let without = json!([
        { "subscriptionId": id, "name": "orders", "reason": "paused", "detail": detail },
    ]);
    assert_eq!(trace["withoutDelivery"], without);
    let text = scene.printed(&event, "table");
    let lines = format!("subscription {id}  orders  no delivery\n  paused: {detail}");
    assert!(text.ends_with(&lines), "{text}");
    let printed: Value = serde_json::from_str(&scene.printed(&event, "json")).expect("JSON");
    assert_eq!(printed["withoutDelivery"], without);

    scene.change(&id, "skip-backlog");
    scene.change(&id, "resume");
    scene.until(&event, "skipped");
    let next = scene.publish(2);
    scene.receiver.until_taken(1);
    let delivered = eventually("it is written down", || {
        let explained = scene.told(&next, "explain");
        let one = explained["subscriptions"][0].clone();
        (one["delivered"] == true).then_some(one)
    });
    assert_eq!(
        (&delivered["reason"], &delivered["detail"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(scene.told(&next, "trace")["withoutDelivery"], json!([]));
    scene.until(&event, "skipped");
}

#[test]
fn what_waits_has_a_time_only_where_it_goes_then() {
    let scene = Scene::new();
    scene.receiver.answer(|_, _| 400);
    let id = scene.subscribe(&json!({ "ordered": true, "key": "/key" }));
    let (first, second) = (scene.publish(1), scene.publish(3));
    scene.until(&first, "retry");
    let behind = scene.until(&second, "behind-key");
    let detail = behind["detail"].as_str().expect("a sentence");
    assert!(
        detail.contains("number 1, which is tried again at"),
        "{detail}"
    );
    let one = |event: &str| scene.told(event, "trace")["deliveries"][0].clone();
    assert!(one(&first)["nextAttemptAt"].is_string());
    assert!(one(&second)["nextAttemptAt"].is_null());
    scene.change(&id, "pause");
    for event in [&first, &second] {
        let waits = one(event);
        assert_eq!(
            (&waits["reason"], &waits["nextAttemptAt"]),
            (&json!("paused"), &Value::Null),
            "{waits}"
        );
    }
    let disabled = scene
        .server
        .call("PATCH", &format!("/v1/subscriptions/{id}"))
        .bearer(&scene.token)
        .json(&json!({ "enabled": false }));
    disabled.send().expect(200);
    let waits = one(&first);
    assert_eq!(waits["reason"], "disabled");
    let text = scene.printed(&first, "table");
    assert!(
        text.contains("  disabled: The subscription is disabled since")
            && !text.contains("next attempt at"),
        "{text}"
    );
    scene.change(&id, "resume");
    assert!(one(&first)["nextAttemptAt"].is_string());
}

#[test]
fn what_an_open_breaker_keeps_back_says_so() {
    let scene = Scene::new();
    scene.receiver.answer(|_, _| 503);
    scene.subscribe(&json!({ "maxInFlight": 1 }));
    let events: Vec<String> = (0..12).map(|n| scene.publish(n)).collect();
    let held = scene.until(&events[11], "circuit-open");
    let detail = held["detail"].as_str().expect("a sentence");
    assert!(
        detail.contains("lets nothing of the subscription"),
        "{detail}"
    );
}

#[test]
fn what_a_replay_brought_is_delivered_and_what_went_to_its_shadow_is_not() {
    let scene = Scene::new();
    let before = scene.publish(0);
    let id = scene.subscribe(&json!({}));
    scene.until(&before, "before-start");
    let shadow = Receiver::start();
    let replay = |body: &Value| {
        let path = format!("/v1/subscriptions/{id}/replay");
        scene.server.post(&path, &scene.token, body).expect(202);
    };
    replay(&json!({ "from": "beginning", "routing": "now", "shadowUrl": shadow.url }));
    let trace = eventually("the shadow's attempt", || {
        let trace = scene.told(&before, "trace");
        (trace["deliveries"][0]["state"] == "delivered").then_some(trace)
    });
    assert_eq!(trace["withoutDelivery"][0]["reason"], "before-start");
    assert_eq!(scene.until(&before, "before-start")["delivered"], false);
    replay(&json!({ "from": "beginning", "routing": "now" }));
    let one = eventually("it is delivered", || {
        let one = scene.told(&before, "explain")["subscriptions"][0].clone();
        (one["delivered"] == true).then_some(one)
    });
    assert_eq!(
        (&one["state"], &one["reason"]),
        (&json!("delivered"), &Value::Null)
    );
    assert_eq!(scene.told(&before, "trace")["withoutDelivery"], json!([]));
}

#[test]
fn of_many_subscriptions_so_many_are_listed_and_those_that_want_the_event_first() {
    let scene = Scene::with("limits.subscriptions_per_tenant = 1004\n");
    let path = "/v1/subscriptions";
    let of = |name: &str| {
        json!({
            "name": name, "filter": { "types": [format!("crm.{name}.**")] }, "enabled": false,
            "target": { "kind": "webhook", "url": scene.receiver.url },
        })
    };
    let make = |name: &str, count: usize| {
        for _ in 0..count {
            let made = scene.server.post(path, &scene.token, &of(name));
            made.expect(201);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| make("deal", 500));
        }
    });
    make("contact", 2);
    let event = scene.publish(1);
    let told = scene.told(&event, "explain");
    let all = told["subscriptions"].as_array().expect("a list");
    let matching = all.iter().take_while(|one| one["matches"] == true);
    assert_eq!((all.len(), matching.count()), (1_000, 2));
    assert_eq!(told["subscriptionsLeftOut"], 2);
    let trace = scene.told(&event, "trace");
    assert_eq!(trace["withoutDelivery"].as_array().map(Vec::len), Some(2));
    assert_eq!(trace["withoutDeliveryLeftOut"], Value::Null);
}
