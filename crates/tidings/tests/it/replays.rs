//! What was sent is sent again: by a plan, at a rate, with progress, and without touching what is sent meanwhile.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidings_egress::signing::verify;

use crate::harness::{BINARY, PUBLISH, Server};
use crate::receiver::{Hit, Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";

struct Scene {
    server: Server,
    token: String,
    receiver: Receiver,
    subscription: Value,
}

impl Scene {
    /// A subscription to data below 5, to which this many events were sent.
    fn new(events: u64, delivery: &Value) -> Self {
        let server = Server::start_with(CONFIG);
        server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
        let (token, receiver) = (server.crm("acme"), Receiver::start());
        let body = json!({
            "name": "orders",
            "filter": { "types": ["crm.**"], "data": [{ "pointer": "/n", "lt": 5_000 }] },
            "target": {
                "kind": "webhook", "url": receiver.url,
                "auth": { "kind": "bearer", "token": "s3cret" },
            },
            "delivery": delivery,
        });
        let made = server.post("/v1/subscriptions", &token, &body);
        let scene = Self {
            subscription: made.expect(201).json(),
            server,
            token,
            receiver,
        };
        for n in 0..events {
            scene.publish(n);
        }
        scene
            .receiver
            .until_taken(usize::try_from(events).expect("a few"));
        scene
    }

    fn publish(&self, n: u64) -> String {
        let data = json!({ "n": n, "key": format!("k{}", n % 3) });
        let body = json!({ "type": "crm.contact.created", "data": data });
        let answer = self.server.post(PUBLISH, &self.token, &body).expect(201);
        answer.json()["eventId"].as_str().expect("an id").to_owned()
    }

    fn path(&self, rest: &str) -> String {
        let id = self.subscription["id"].as_str().expect("an id");
        format!("/v1/subscriptions/{id}{rest}")
    }

    fn replay(&self, plan: &Value) -> Value {
        let answer = self.server.post(&self.path("/replay"), &self.token, plan);
        let expected = if plan["dryRun"] == true { 200 } else { 202 };
        answer.expect(expected).json()
    }

    fn progress(&self, replay: &Value) -> Value {
        let id = replay["id"].as_str().expect("an id");
        let path = format!("/v1/replays/{id}");
        self.server.get(&path, &self.token).expect(200).json()
    }

    fn go(&self, replay: &Value, word: &str) -> Value {
        let id = replay["id"].as_str().expect("an id");
        let path = format!("/v1/replays/{id}/{word}");
        let answer = self.server.post(&path, &self.token, &json!({}));
        answer.expect(200).json()
    }

    fn until_done(&self, replay: &Value) -> Value {
        eventually("the replay is done", || {
            let progress = self.progress(replay);
            (progress["state"] == "done").then_some(progress)
        })
    }
}

fn counts(progress: &Value) -> [Option<u64>; 4] {
    ["total", "sent", "delivered", "failed"].map(|name| progress[name].as_u64())
}

fn headers(hits: &[Hit], name: &str) -> BTreeSet<String> {
    hits.iter().map(|hit| hit.header(name).to_owned()).collect()
}

fn numbers(hits: &[Hit]) -> BTreeSet<u64> {
    let data = hits.iter().map(|hit| hit.json()["data"]["n"].clone());
    data.map(|n| n.as_u64().expect("a number")).collect()
}

#[test]
fn what_was_sent_then_is_sent_again_under_its_ids_and_counted() {
    let scene = Scene::new(5, &json!({}));
    let sent = scene.receiver.hits();
    let filter = json!({ "types": ["crm.**"], "data": [{ "pointer": "/n", "gte": 3 }] });
    let patch = scene.server.call("PATCH", &scene.path(""));
    let patch = patch
        .bearer(&scene.token)
        .json(&json!({ "filter": filter }));
    patch.send().expect(200);

    let dry = json!({ "from": "beginning", "rate": 2, "dryRun": true });
    let survey = eventually("the attempts are written down", || {
        let survey = scene.replay(&dry);
        (survey["count"] == 5).then_some(survey)
    });
    assert_eq!(
        (&survey["seconds"], &survey["complete"]),
        (&json!(3), &json!(true))
    );
    assert!(survey["bytes"].as_u64().unwrap() > 50, "{survey}");
    assert_eq!(
        (&survey["added"]["count"], &survey["dropped"]["count"]),
        (&json!(0), &json!(3))
    );
    let list = scene.server.get("/v1/replays", &scene.token).expect(200);
    assert_eq!(
        list.json()["items"],
        json!([]),
        "a dry run leaves nothing behind"
    );

    let replay = scene.replay(&json!({ "from": "beginning" }));
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(5), Some(5), Some(5), Some(0)]);
    assert!(
        done["startedAt"].is_string() && done["endedAt"].is_string(),
        "{done}"
    );
    let again = &scene.receiver.hits()[5..];
    assert_eq!(again.len(), 5);
    for name in ["webhook-id", "tidings-sequence", "tidings-subscription"] {
        assert_eq!(headers(again, name), headers(&sent, name), "{name}");
    }
    let secret = scene.subscription["secret"].as_str().unwrap();
    for hit in again {
        assert_eq!(hit.header("tidings-replay"), replay["id"]);
        let event = hit.json();
        assert_eq!(
            (&event["replayed"], &event["replayid"]),
            (&json!(true), &replay["id"])
        );
        let at = hit.header("webhook-timestamp").parse().unwrap();
        let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
        assert!(verify(secret, id, at, &hit.body, signature).unwrap());
    }
    // What comes goes on being numbered where it was.
    let id = scene.publish(4);
    let newest = scene.receiver.until_taken(11).pop().unwrap();
    assert_eq!(newest.sequence(), 6);
    let trace = format!("/v1/events/{id}/trace");
    scene.server.get(&trace, &scene.token).expect(200);
    let first = sent[0].json()["id"].as_str().unwrap().to_owned();
    let trace = format!("/v1/events/{first}/trace");
    let trace = scene.server.get(&trace, &scene.token).expect(200).json();
    let deliveries = trace["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 2, "{trace}");
    for delivery in deliveries {
        assert_eq!(delivery["subscriptionId"], scene.subscription["id"]);
        assert_eq!(delivery["state"], "delivered");
    }
    let marked = deliveries
        .iter()
        .filter(|it| it["replayId"] == replay["id"]);
    assert_eq!(marked.count(), 1);
}

#[test]
fn what_todays_filter_wants_is_sent_though_it_was_not_then() {
    let scene = Scene::new(2, &json!({}));
    scene.publish(9_000);
    let patch = scene.server.call("PATCH", &scene.path(""));
    let patch = patch.bearer(&scene.token);
    let data = json!([{ "pointer": "/n", "gte": 1 }]);
    let patch = patch.json(&json!({ "filter": { "data": data } }));
    patch.send().expect(200);
    let dry = json!({ "from": "beginning", "routing": "now", "dryRun": true });
    let survey = eventually("the attempts are written down", || {
        let survey = scene.replay(&dry);
        (survey["added"]["count"] == 1).then_some(survey)
    });
    let differs = [&survey["added"]["count"], &survey["dropped"]["count"]];
    assert_eq!(
        (differs, &survey["count"]),
        ([&json!(1), &json!(1)], &json!(2))
    );
    let replay = scene.replay(&json!({ "from": "beginning", "routing": "now" }));
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(2), Some(2), Some(2), Some(0)]);
    let again = &scene.receiver.hits()[2..];
    assert_eq!(numbers(again), BTreeSet::from([1, 9_000]));
    for hit in again {
        let numbered = hit
            .headers
            .iter()
            .any(|(name, _)| name == "tidings-sequence");
        assert_eq!(numbered, hit.json()["data"]["n"] == 1);
    }
    let types = json!({ "from": "beginning", "routing": "now", "types": ["crm.contact.updated"] });
    assert_eq!(
        counts(&scene.until_done(&scene.replay(&types)))[..2],
        [Some(0), Some(0)]
    );
}

#[test]
fn one_that_is_cancelled_stands_still_and_goes_on_where_it_was() {
    let delivery = json!({ "ordered": true, "key": "/key" });
    let mut scene = Scene::new(60, &delivery);
    let plan = json!({ "from": "beginning", "rate": 20 });
    eventually("the attempts are written down", || {
        let dry = json!({ "from": "beginning", "dryRun": true });
        (scene.replay(&dry)["count"] == 60).then_some(())
    });
    let replay = scene.replay(&plan);
    scene.receiver.until_taken(65);
    let cancelled = scene.go(&replay, "cancel");
    assert_eq!(cancelled["state"], "cancelled");
    scene.server = scene.server.restart();
    assert_eq!(scene.progress(&replay)["state"], "cancelled");
    // While it stands still, what comes is sent.
    scene.publish(100);
    scene.receiver.until("what came meanwhile", |hits| {
        hits.iter().any(|hit| hit.json()["data"]["n"] == 100)
    });
    assert!(counts(&scene.progress(&replay))[2] < Some(60));
    assert_eq!(scene.go(&replay, "resume")["state"], "planned");
    let before = scene.receiver.hits().len();
    scene.receiver.until_taken(before + 5);
    scene.server = scene.server.killed_and_restarted();
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(60), Some(60), Some(60), Some(0)]);
    let hits = scene.receiver.hits();
    let replayed: Vec<u64> = hits[60..]
        .iter()
        .map(|hit| hit.json()["data"]["n"].as_u64().unwrap())
        .filter(|n| *n < 60)
        .collect();
    assert_eq!(
        replayed.iter().copied().collect::<BTreeSet<_>>(),
        (0..60).collect()
    );
    // Each key in its order, save what a crash sends twice.
    for key in 0..3 {
        let mut last = None;
        let mut seen = BTreeSet::new();
        for n in replayed.iter().filter(|n| *n % 3 == key) {
            if seen.insert(*n) {
                assert!(Some(*n) > last, "{n} after {last:?}");
                last = Some(*n);
            }
        }
    }
    assert_eq!(
        scene.go(&replay, "cancel")["state"],
        "done",
        "what has ended stays as it is"
    );
}

#[test]
fn a_shadow_gets_the_same_without_credentials_and_harms_nobody() {
    let scene = Scene::new(3, &json!({}));
    let shadow = Receiver::start();
    let dry = json!({ "from": "beginning", "dryRun": true });
    eventually("the attempts are written down", || {
        (scene.replay(&dry)["count"] == 3).then_some(())
    });
    let replay = scene.replay(&json!({ "from": "beginning", "to": shadow.url }));
    assert_eq!(replay["shadowUrl"], shadow.url);
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(3), Some(3), Some(3), Some(0)]);
    let (hits, sent) = (shadow.hits(), scene.receiver.hits());
    assert_eq!((hits.len(), sent.len()), (3, 3));
    assert_eq!(headers(&sent, "authorization").len(), 1);
    assert_eq!(headers(&hits, "webhook-id"), headers(&sent, "webhook-id"));
    let bare = |hit: &Hit| hit.headers.iter().all(|(name, _)| name != "authorization");
    assert!(hits.iter().all(bare), "{hits:?}");

    shadow.answer(|_, _| 410);
    let replay = scene.replay(&json!({ "from": "beginning", "shadowUrl": shadow.url }));
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(3), Some(3), Some(0), Some(3)]);
    assert_eq!(shadow.hits().len(), 6, "one attempt each");
    let letters = scene.server.get("/v1/dead-letters", &scene.token);
    assert_eq!(letters.expect(200).json()["items"], json!([]));
    let now = scene.server.get(&scene.path(""), &scene.token).expect(200);
    assert_eq!(now.json()["state"], "active");
}

#[test]
fn what_is_given_up_again_is_counted_and_becomes_a_dead_letter() {
    let scene = Scene::new(3, &json!({}));
    let dry = json!({ "from": "beginning", "dryRun": true });
    eventually("the attempts are written down", || {
        (scene.replay(&dry)["count"] == 3).then_some(())
    });
    scene.receiver.answer(|_, _| 400);
    let done = scene.until_done(&scene.replay(&json!({ "from": "beginning" })));
    assert_eq!(counts(&done), [Some(3), Some(3), Some(0), Some(3)]);
    let letters = scene
        .server
        .get("/v1/dead-letters?state=open", &scene.token);
    let letters = letters.expect(200).json()["items"].clone();
    assert_eq!(letters.as_array().unwrap().len(), 3, "{letters}");
    assert_eq!(letters[0]["subscriptionId"], scene.subscription["id"]);

    scene.receiver.answer(|_, _| 200);
    let all = json!({ "subscription": scene.subscription["id"], "rate": 100 });
    let replay = scene
        .server
        .post("/v1/dead-letters/replay", &scene.token, &all);
    let replay = replay.expect(202).json();
    assert_eq!(replay["kind"], "dead-letters");
    let done = scene.until_done(&replay);
    assert_eq!(counts(&done), [Some(3), Some(3), Some(3), Some(0)]);
    let newest = scene.receiver.hits().pop().unwrap();
    assert_eq!(newest.header("tidings-replay"), replay["id"]);
    let list = scene.server.get("/v1/replays?limit=1", &scene.token);
    let list = list.expect(200).json();
    assert_eq!(list["items"][0]["id"], replay["id"]);
    let next = list["nextCursor"].as_str().expect("a cursor");
    let rest = scene
        .server
        .get(&format!("/v1/replays?cursor={next}"), &scene.token);
    assert_eq!(
        rest.expect(200).json()["items"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_with_its_field() {
    let scene = Scene::new(0, &json!({}));
    for (plan, field) in [
        (json!({}), "from"),
        (json!({ "from": "now" }), "from"),
        (json!({ "from": "yesterday" }), "from"),
        (json!({ "from": "beginning", "until": "x" }), "until"),
        (
            json!({ "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" }),
            "until",
        ),
        (
            json!({ "from": "beginning", "to": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z" }),
            "to",
        ),
        (
            json!({ "from": "beginning", "to": "ftp://a.example/" }),
            "shadowUrl",
        ),
        (json!({ "from": "beginning", "rate": 0 }), "rate"),
        (
            json!({ "from": "beginning", "routing": "later" }),
            "routing",
        ),
        (json!({ "from": "beginning", "types": ["A"] }), "types"),
        (json!({ "from": "beginning", "typo": 1 }), "typo"),
    ] {
        let answer = scene
            .server
            .post(&scene.path("/replay"), &scene.token, &plan);
        assert_eq!(
            answer.problem(400, "INVALID_REQUEST")["field"],
            field,
            "{plan}"
        );
    }
    let inward = json!({ "from": "beginning", "to": "http://10.0.0.1/" });
    let answer = scene
        .server
        .post(&scene.path("/replay"), &scene.token, &inward);
    answer.problem(400, "TARGET_NOT_ALLOWED");
}

#[test]
fn a_bulk_replay_ends_when_its_subscription_is_deleted_and_its_dead_letters_are_open_again() {
    for named in [true, false] {
        let scene = Scene::new(0, &json!({}));
        scene.receiver.answer(|_, _| 500);
        for n in 0..3 {
            scene.publish(n);
        }
        let letters = |state: &str| {
            let open = format!("/v1/dead-letters?state={state}");
            let list = scene.server.get(&open, &scene.token).expect(200).json();
            list["items"].as_array().expect("items").len()
        };
        eventually("dead letters", || (letters("open") == 3).then_some(()));
        // What fails now comes again much later.
        let patch = scene.server.call("PATCH", &scene.path(""));
        let slow = json!({ "delivery": { "retry": { "schedule": ["20h"] } } });
        patch.bearer(&scene.token).json(&slow).send().expect(200);
        let wanted = if named {
            json!({ "subscription": scene.subscription["id"] })
        } else {
            json!({ "type": "crm.contact.created" })
        };
        let bulk = "/v1/dead-letters/replay";
        let replay = scene.server.post(bulk, &scene.token, &wanted);
        let replay = replay.expect(202).json();
        scene.receiver.until("all of it", |hits| hits.len() == 9);
        assert_eq!(scene.progress(&replay)["state"], "running");
        let delete = scene.server.call("DELETE", &scene.path(""));
        delete.bearer(&scene.token).send().expect(204);
        let ended = eventually("it ends", || {
            let progress = scene.progress(&replay);
            let ended = progress["state"] != "running" && progress["failed"] == 3;
            ended.then_some(progress)
        });
        let (state, reason) = if named {
            let reason = json!("there is no subscription any more to send to");
            ("cancelled", reason)
        } else {
            let reason = "3 given up: there is no subscription any more to send to; these dead letters were left open";
            ("done", json!(reason))
        };
        assert_eq!(ended["state"], state, "{ended}");
        assert_eq!(ended["reason"], reason, "{ended}");
        assert_eq!(counts(&ended), [Some(3), Some(3), Some(0), Some(3)]);
        assert_eq!(ended["skipped"], 0, "{ended}");
        assert_eq!(letters("open"), 3);
    }
}

#[test]
fn letters_whose_subscription_is_gone_are_not_sent_and_the_replay_says_so() {
    let scene = Scene::new(0, &json!({}));
    scene.receiver.answer(|_, _| 500);
    for n in 0..3 {
        scene.publish(n);
    }
    let open = || scene.server.dead_letters(&scene.token, "open");
    eventually("dead letters", || (open().len() == 3).then_some(()));
    let delete = scene.server.call("DELETE", &scene.path(""));
    delete.bearer(&scene.token).send().expect(204);
    let other = json!({
        "name": "other", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": scene.receiver.url },
    });
    let made = scene.server.post("/v1/subscriptions", &scene.token, &other);
    made.expect(201);
    scene.publish(9);
    eventually("one more", || (open().len() == 4).then_some(()));
    scene.receiver.answer(|_, _| 200);

    let run = std::process::Command::new(BINARY)
        .args(["dlq", "replay", "--all", "-o", "json"])
        .env("TIDINGS_URL", format!("http://{}", scene.server.address))
        .env("TIDINGS_TOKEN", &scene.token)
        .output()
        .expect("it runs");
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let told: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(counts(&told), [Some(4), Some(1), Some(1), Some(0)]);
    let reason = "3 not sent: there is no subscription any more to send to; these dead letters were left open";
    assert_eq!(
        [&told["state"], &told["skipped"], &told["reason"]],
        [&json!("done"), &json!(3), &json!(reason)]
    );
    assert_eq!(scene.progress(&told)["reason"], reason);
    assert_eq!(open().len(), 3);
    // One alone is refused for the same.
    let one = open()[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/dead-letters/{one}/replay");
    let refused = scene.server.post(&path, &scene.token, &json!({}));
    let detail = refused.problem(400, "INVALID_REQUEST")["detail"].clone();
    assert!(
        detail.as_str().expect("text").contains("is gone"),
        "{detail}"
    );
}
