//! What a component may do, and that whatever else it does is a failed delivery.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tidings_plugin::{Publisher, Uuid};

use super::*;
use crate::Limits;

/// Does what its event asks it to.
const MISBEHAVING: &str = include_str!("../../../tidings/tests/misbehaving/component.wat");

struct Nowhere;

impl Publisher for Nowhere {
    fn publish(&self, _: &str, _: serde_json::Value) -> Result<Uuid, HandlerError> {
        Err(HandlerError::new("nowhere"))
    }
}

fn event(deed: &str) -> PlatformEvent {
    PlatformEvent {
        event_id: Uuid::nil(),
        event_key: "mis.behave.later".parse().unwrap(),
        schema_version: "1.0.0".parse().unwrap(),
        workspace_id: "ws-1".parse().unwrap(),
        tenant_id: "acme".parse().unwrap(),
        actor: String::new(),
        occurred_at_ms: 0,
        payload: format!("{{\"deed\":\"{deed}\"}}").into(),
        publisher: Arc::new(Nowhere),
    }
}

fn compile(limits: Limits, text: &str) -> Result<Component, InvalidComponent> {
    let sandbox = Sandbox::new(limits).unwrap();
    let bytes = wat::parse_str(text).unwrap();
    sandbox.compile("misbehaving".parse().unwrap(), &bytes)
}

fn does(component: &Component, deed: &str) -> Result<(), String> {
    let handled = component.handle(&event(deed));
    handled.map_err(|error| error.to_string())
}

#[test]
fn a_component_handles_what_it_says_and_each_call_is_its_first() {
    let component = compile(Limits::default(), MISBEHAVING).unwrap();
    let keys: Vec<_> = component.handlers();
    let keys = keys
        .iter()
        .map(|one| (one.event_key.as_str(), one.is_async));
    let keys: Vec<_> = keys.collect();
    assert_eq!(
        keys,
        [("mis.behave.later", true), ("mis.behave.now", false)]
    );
    for (deed, sentence) in [
        ("", None),
        ("!f", Some("it was asked to fail")),
        ("!t", Some("unreachable")),
        ("!m", Some("memory")),
        ("!p", Some("nowhere")),
        ("", None),
    ] {
        match (does(&component, deed), sentence) {
            (Ok(()), None) => {}
            (Err(said), Some(sentence)) if said.contains(sentence) => {}
            other => panic!("{deed}: {other:?}"),
        }
    }
}

/// Takes what is published.
#[derive(Default)]
struct Kept(Mutex<Vec<(String, serde_json::Value)>>);

impl Publisher for Kept {
    fn publish(&self, key: &str, payload: serde_json::Value) -> Result<Uuid, HandlerError> {
        self.0.lock().unwrap().push((key.to_owned(), payload));
        Ok(Uuid::nil())
    }
}

#[test]
fn what_it_publishes_goes_to_the_publisher_of_its_event() {
    let component = compile(Limits::default(), MISBEHAVING).unwrap();
    let kept = Arc::new(Kept::default());
    let event = PlatformEvent {
        publisher: kept.clone(),
        ..event("!p")
    };
    component.handle(&event).unwrap();
    let caused = (
        "mis.behave.caused".to_owned(),
        serde_json::json!({ "n": 1 }),
    );
    assert_eq!(*kept.0.lock().unwrap(), [caused]);

    let unread = MISBEHAVING.replace(r"{\22n\22:1}", r"{\22n\22:1,");
    let said = does(&compile(Limits::default(), &unread).unwrap(), "!p").unwrap_err();
    assert!(said.contains("the payload is not JSON"), "{said}");
}

#[test]
fn one_that_goes_on_for_ever_is_ended_by_its_fuel_or_its_time() {
    let little = Limits {
        fuel: 1_000_000,
        ..Limits::default()
    };
    let fuelled = compile(little, MISBEHAVING).unwrap();
    let said = does(&fuelled, "!l").unwrap_err();
    assert!(said.contains("fuel"), "{said}");
    let short = Limits {
        fuel: u64::MAX,
        time: Duration::from_millis(100),
        ..Limits::default()
    };
    let timed = compile(short, MISBEHAVING).unwrap();
    let begun = Instant::now();
    let said = does(&timed, "!l").unwrap_err();
    assert!(said.contains("in time"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(does(&timed, ""), Ok(()));
}

#[test]
fn a_large_event_has_room_and_one_beyond_the_memory_fails() {
    let component = compile(Limits::default(), MISBEHAVING).unwrap();
    assert_eq!(does(&component, &"x".repeat(1_000_000)), Ok(()));
    let small = Limits {
        memory_bytes: 256 * 1024,
        ..Limits::default()
    };
    let small = compile(small, MISBEHAVING).unwrap();
    let said = does(&small, &"x".repeat(1_000_000)).unwrap_err();
    assert!(said.contains("memory"), "{said}");
}

#[test]
fn what_is_no_component_of_the_world_is_refused_with_the_reason() {
    let refused = |text: &str| match compile(Limits::default(), text) {
        Ok(_) => panic!("it was taken"),
        Err(refused) => refused,
    };
    assert!(matches!(refused("(module)"), InvalidComponent::NotOne(_)));
    assert!(matches!(
        refused("(component)"),
        InvalidComponent::Handles(_)
    ));
    let file = r#"(component (import "tidings:files/read" (instance)))"#;
    assert_eq!(
        refused(file),
        InvalidComponent::Import("tidings:files/read".into())
    );
    let other_log = r#"(component (import "log" (func (param "n" u32))))"#;
    assert!(matches!(refused(other_log), InvalidComponent::World(_)));
    let nothing_to_handle = MISBEHAVING.replace(
        r#"(export "handle") (param "event""#,
        r#"(export "other") (param "event""#,
    );
    assert!(matches!(
        refused(&nothing_to_handle),
        InvalidComponent::World(_)
    ));
    for (from, to) in [
        ("mis.behave.later", "Mis.behave.later"),
        ("\\10\\00\\00\\00\\01", "\\01\\00\\00\\00\\01"),
    ] {
        let text = MISBEHAVING.replace(from, to);
        assert!(matches!(refused(&text), InvalidComponent::Keys(_)), "{to}");
    }
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    for none in [&b""[..], b"\0as", b"\0asm", b"\0asm\x0d\0\x01\0\xff"] {
        let refused = sandbox.compile("none".parse().unwrap(), none).err();
        assert!(refused.is_some(), "{none:?}");
    }
    let large = vec![0; usize::try_from(MAX_BYTES).unwrap() + 1];
    let large = sandbox.compile("large".parse().unwrap(), &large);
    assert!(matches!(large.err(), Some(InvalidComponent::TooLarge)));
}

#[test]
fn wasi_is_nothing_but_a_trap() {
    let clock = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (export "now" (func (result u64)))))
      (core func $now (canon lower (func $clock "now")))
      (import "log" "#;
    let text = MISBEHAVING.replacen(r#"(import "log" "#, clock, 1);
    let text = text.replace(
        r#"(import "host" "log" "#,
        r#"(import "host" "now" (func $now (result i64))) (import "host" "log" "#,
    );
    let text = text.replace(
        r#"(export "log" (func $say))"#,
        r#"(export "log" (func $say)) (export "now" (func $now))"#,
    );
    let idle = compile(Limits::default(), &text).unwrap();
    assert_eq!(does(&idle, ""), Ok(()));
    let asking = text.replace("(then (unreachable))", "(then (drop (call $now)))");
    let asking = compile(Limits::default(), &asking).unwrap();
    let said = does(&asking, "!t").unwrap_err();
    assert!(said.contains("component"), "{said}");
}
