//! A component that looks at closed deals: it says what each is worth, refuses one that says nothing of it, and has the chat
//! extension tell of large ones.

wit_bindgen::generate!({
    path: "../../../crates/tidings-wasm/wit",
    world: "plugin",
});

struct Deals;

const LARGE: f64 = 100_000.0;

impl Guest for Deals {
    fn handles() -> Vec<(String, bool)> {
        vec![("crm.deal.closed".to_owned(), true)]
    }

    fn handle(event: String) -> Result<(), String> {
        let event: serde_json::Value =
            serde_json::from_str(&event).map_err(|error| error.to_string())?;
        let payload = &event["payload"];
        let value = payload["value"]
            .as_f64()
            .ok_or("a closed deal has no value")?;
        log(&format!("deal {} is worth {value}", payload["dealId"]));
        if value >= LARGE {
            let message = format!("A deal worth {value} is closed");
            let notice = serde_json::json!({ "channel": "deals", "message": message, "sender": "deals" });
            publish("platform.notification", &notice.to_string())?;
        }
        Ok(())
    }
}

export!(Deals);
