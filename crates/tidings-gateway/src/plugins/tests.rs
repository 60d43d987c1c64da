//! The executor: places are bounded, and what holds one up holds up nobody else.

use std::sync::{Condvar, Mutex};

use serde_json::Value;
use tidings_plugin::{Handler, Uuid};

use super::*;

/// Long enough for anything that does not wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what waits in vain.
const SHORT: Duration = Duration::from_millis(30);

/// Handlers wait here until they are let go.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// Waits at its gate with every event.
struct Waiting(&'static str, Arc<Gate>);

impl PlatformEventHandler for Waiting {
    fn extension(&self) -> &str {
        self.0
    }

    fn handlers(&self) -> Vec<Handler> {
        vec![Handler::new("a.now", false), Handler::new("a.later", true)]
    }

    fn handle(&self, _: &PlatformEvent) -> Result<(), HandlerError> {
        self.1.wait();
        Ok(())
    }
}

struct Nowhere;

impl Publisher for Nowhere {
    fn publish(&self, _: &str, _: Value) -> Result<Uuid, HandlerError> {
        Err(HandlerError::new("nowhere"))
    }
}

fn plugins() -> (Arc<Plugins>, Arc<Gate>) {
    let (gate, open) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    open.open();
    let plugins = Plugins::new(vec![
        Arc::new(Waiting("slow", gate.clone())),
        Arc::new(Waiting("quick", open)),
    ]);
    (Arc::new(plugins.unwrap()), gate)
}

async fn run(
    plugins: &Plugins,
    extension: &str,
    when: When,
    limit: Duration,
) -> (Result<(), String>, bool) {
    let event = PlatformEvent {
        event_id: Uuid::nil(),
        event_key: "a.now".parse().unwrap(),
        schema_version: "1.0.0".parse().unwrap(),
        workspace_id: "ws-1".parse().unwrap(),
        tenant_id: "acme".parse().unwrap(),
        actor: String::new(),
        occurred_at_ms: 0,
        payload: "{}".into(),
        publisher: Arc::new(Nowhere),
    };
    let ended = Arc::new(AtomicBool::new(false));
    let call = Call {
        extension: &extension.parse().unwrap(),
        when,
        event,
        ended: ended.clone(),
        until: until(limit),
    };
    let result = plugins.run(call).await;
    (result, ended.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_plugin_that_hangs_holds_up_itself_alone_and_only_where_it_hangs() {
    let (plugins, gate) = plugins();
    let late = join_all_of(&plugins, AT_ONCE, SHORT).await;
    let said = Err("the handler did not end in time".to_owned());
    assert!(
        late.iter().all(|one| *one == (said.clone(), true)),
        "{late:?}"
    );
    // All places are taken for good; the call gives up, and its handler never begins.
    let (result, ended) = run(&plugins, "slow", When::Afterwards, SHORT).await;
    let sentence = result.unwrap_err();
    assert!(
        sentence.contains("none has ended in time") && !ended,
        "{sentence}"
    );
    let (other, _) = run(&plugins, "quick", When::Afterwards, PATIENCE).await;
    assert_eq!(other, Ok(()));
    // Those that a publisher waits for have places of their own.
    let (result, _) = run(&plugins, "slow", When::BeforeAcknowledgement, SHORT).await;
    assert_eq!(result, said);
    gate.open();
    let (result, ended) = run(&plugins, "slow", When::Afterwards, PATIENCE).await;
    assert_eq!((result, ended), (Ok(()), false));
}

async fn join_all_of(
    plugins: &Plugins,
    count: usize,
    limit: Duration,
) -> Vec<(Result<(), String>, bool)> {
    let calls = (0..count).map(|_| run(plugins, "slow", When::Afterwards, limit));
    futures_util::future::join_all(calls).await
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let (plugins, gate) = plugins();
    join_all_of(&plugins, AT_ONCE, SHORT).await;
    let waiting = join_all_of(&plugins, WAITING + 1, Duration::from_secs(1)).await;
    let full = waiting.iter().filter(|(result, _)| {
        result
            .as_ref()
            .is_err_and(|sentence| sentence.contains("events wait for the plugin"))
    });
    assert_eq!(full.count(), 1);
    gate.open();
}

#[test]
fn two_plugins_of_one_extension_are_refused() {
    let gate = Arc::new(Gate::default());
    let one = |id| -> Arc<dyn PlatformEventHandler> { Arc::new(Waiting(id, gate.clone())) };
    let twice = Plugins::new(vec![one("crm"), one("crm")]).err();
    assert_eq!(twice, Some(InvalidPlugin::Twice("crm".parse().unwrap())));
    let bad = Plugins::new(vec![one("C R M")]).err();
    assert!(matches!(bad, Some(InvalidPlugin::Extension(id, _)) if id == "C R M"));
    let plugins = Plugins::new(vec![one("crm")]).unwrap();
    let keys = plugins.keys(&"crm".parse().unwrap()).unwrap();
    let whens: Vec<_> = keys.values().copied().collect();
    assert_eq!(whens, [When::Afterwards, When::BeforeAcknowledgement]);
    assert_eq!(plugins.in_line.len(), 1);
}

/// Handles what it is told to.
struct Keyed(Vec<(&'static str, bool)>);

impl PlatformEventHandler for Keyed {
    fn extension(&self) -> &'static str {
        "keyed"
    }

    fn handlers(&self) -> Vec<Handler> {
        let keys = self.0.iter();
        keys.map(|(key, is_async)| Handler::new(key, *is_async))
            .collect()
    }

    fn handle(&self, _: &PlatformEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_is_exchanged_but_not_what_a_publisher_waits_for() {
    let keyed = |keys: &[(&'static str, bool)]| -> Arc<dyn PlatformEventHandler> {
        Arc::new(Keyed(keys.to_vec()))
    };
    let (id, new): (ExtensionId, ExtensionId) = ("keyed".parse().unwrap(), "new".parse().unwrap());
    let plugins = Plugins::new(vec![keyed(&[("a.now", false), ("a.later", true)])]).unwrap();
    let keys = |plugins: &Plugins, id: &ExtensionId| -> Vec<String> {
        let keys = plugins.keys(id);
        let keys = keys.iter().flat_map(|keys| keys.keys());
        keys.map(ToString::to_string).collect()
    };
    let other = keyed(&[("a.now", false), ("a.other", true)]);
    assert_eq!(plugins.exchange(&id, Some(other)), Ok(()));
    assert_eq!(keys(&plugins, &id), ["a.now", "a.other"]);
    for changed in [
        keyed(&[("a.now", true)]),
        keyed(&[("a.now", false), ("a.too", false)]),
    ] {
        let refused = plugins.exchange(&id, Some(changed));
        assert_eq!(refused, Err(InvalidPlugin::InLine(id.clone())));
    }
    // Whoever waited for it is told that it is gone.
    assert_eq!(plugins.exchange(&id, None), Ok(()));
    assert_eq!(keys(&plugins, &id), ["a.now"]);
    let (result, _) = run(&plugins, "keyed", When::BeforeAcknowledgement, PATIENCE).await;
    assert!(result.is_err_and(|said| said.contains("gone")));

    let in_line = plugins.exchange(&new, Some(keyed(&[("a.now", false)])));
    assert_eq!(in_line, Err(InvalidPlugin::InLine(new.clone())));
    let later = plugins.exchange(&new, Some(keyed(&[("a.later", true)])));
    assert_eq!(
        (later, keys(&plugins, &new)),
        (Ok(()), vec!["a.later".to_owned()])
    );
    assert_eq!(plugins.exchange(&new, None), Ok(()));
    assert_eq!(plugins.keys(&new), None);
}
