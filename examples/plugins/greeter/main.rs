//! A binary with a plugin of its own: the library, five lines of `main`, and what is handled.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tidings_plugin::{HandlerError, PlatformEvent, event_handlers};

#[derive(Deserialize)]
struct Member {
    name: String,
}

struct Greeter {
    /// Who greets.
    name: &'static str,
}

#[event_handlers(extension = "greeter")]
impl Greeter {
    /// Runs after the publish of the event is acknowledged.
    #[event_handler(event_key = "team.member.joined", async = true)]
    fn joined(&self, member: Member, event: &PlatformEvent) -> Result<(), HandlerError> {
        let message = format!("Welcome, {}!", member.name);
        let post = json!({ "channel": "general", "message": message, "sender": self.name });
        event.publish("platform.notification", &post)?;
        Ok(())
    }
}

fn main() -> ExitCode {
    tidings::main_with(vec![Arc::new(Greeter { name: "greeter" })])
}
