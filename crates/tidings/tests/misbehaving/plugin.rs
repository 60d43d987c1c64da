//! A plugin for the tests: it fails, panics, hangs and goes round in circles, as its events ask it to.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tidings_plugin::{HandlerError, PlatformEvent, event_handlers};

#[derive(Deserialize)]
struct Deed {
    deed: String,
}

struct Misbehaving {
    /// What it goes round in circles with.
    payload: Value,
}

#[event_handlers(extension = "misbehaving")]
impl Misbehaving {
    #[event_handler(event_key = "mis.behave.later", async = true)]
    fn later(&self, deed: Deed, event: &PlatformEvent) -> Result<(), HandlerError> {
        self.does(&deed.deed, event)
    }

    #[event_handler(event_key = "mis.behave.now", async = false)]
    fn now(&self, deed: Deed, event: &PlatformEvent) -> Result<(), HandlerError> {
        self.does(&deed.deed, event)
    }

    /// Each of these causes the next.
    #[event_handler(event_key = "mis.behave.circle", async = true)]
    fn circle(&self, _: Value, event: &PlatformEvent) -> Result<(), HandlerError> {
        event.publish("mis.behave.circle", &self.payload)?;
        Ok(())
    }
}

impl Misbehaving {
    fn does(&self, deed: &str, event: &PlatformEvent) -> Result<(), HandlerError> {
        match deed {
            "fail" => Err(HandlerError::new("it was asked to fail")),
            "panic" => panic!("it was asked to panic"),
            "hang" => loop {
                std::thread::sleep(Duration::from_mins(1));
            },
            "reach" => {
                event.publish("auth.user.created", &json!({}))?;
                Ok(())
            }
            "fail-after" => {
                event.publish("mis.behave.noted", &json!({ "at": event.occurred_at_ms }))?;
                Err(HandlerError::new("it failed after it had published"))
            }
            _ => {
                event.publish("mis.behave.noted", &self.payload)?;
                Ok(())
            }
        }
    }
}

fn main() -> ExitCode {
    tidings::main_with(vec![Arc::new(Misbehaving { payload: json!({}) })])
}
