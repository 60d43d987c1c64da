//! The chat extension: whoever publishes a notification posts to a channel, and members read it.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};
use crate::plugins::{installed, letter};
use crate::receiver::eventually;
use crate::workspaces::{DEAL, put, user, with_workspace};

const CHAT: &str = "/api/workspaces/ws-1/extensions/chat";
const CHANNELS: &str = "/api/workspaces/ws-1/channels";

/// A server with a new workspace, and its member's token.
fn server() -> (Server, String) {
    let server = Server::start_with("delivery.retry_schedule = ['20ms']\n");
    let (ada, _) = with_workspace(&server);
    (server, ada)
}

fn notify(server: &Server, token: &str, payload: &Value) -> String {
    let body = json!({ "eventKey": "platform.notification", "actor": "ada", "payload": payload });
    let receipt = server.post(DEAL, token, &body).expect(200).json();
    receipt["eventId"].as_str().expect("an id").to_owned()
}

fn read(server: &Server, token: &str, channel: &str) -> Answer {
    server.get(&format!("{CHANNELS}/{channel}/messages"), token)
}

/// The messages of a channel, once there are so many.
fn messages(server: &Server, token: &str, channel: &str, count: usize) -> Vec<Value> {
    eventually("messages", || {
        let answer = read(server, token, channel);
        if answer.status == 404 {
            return None;
        }
        let items = answer.expect(200).json()["items"].as_array()?.clone();
        (items.len() == count).then_some(items)
    })
}

#[test]
fn a_new_workspace_has_chat_and_it_stays_away_once_it_is_taken() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    let shown = server.get(CHAT, &ada).expect(200).json();
    for (name, value) in [
        ("kind", json!("IN_PROCESS")),
        ("installed", json!(true)),
        ("enabled", json!(true)),
    ] {
        assert_eq!(shown[name], value, "{shown}");
    }
    let payload = json!({ "channel": "deals", "message": "hello" });
    let first = notify(&server, &ada, &payload);
    assert_eq!(messages(&server, &ada, "deals", 1)[0]["id"], first);

    let make = || {
        let call = server.call("PUT", "/v1/tenants/acme/workspaces/ws-1");
        call.bearer(&root).send().expect(200);
    };
    put(&server, CHAT, &root, &installed(false)).expect(200);
    make();
    assert_eq!(server.get(CHAT, &ada).expect(200).json()["enabled"], false);
    let gone = server.call("DELETE", CHAT).bearer(&root).send();
    gone.expect(204);
    make();
    server.get(CHAT, &ada).problem(404, "NOT_FOUND");
    notify(&server, &ada, &payload);
    // What was published meanwhile stays unheard when it is back.
    put(&server, CHAT, &root, &installed(true)).expect(200);
    let last = notify(&server, &ada, &payload);
    let ids = messages(&server, &ada, "deals", 2);
    assert_eq!(
        (&ids[0]["id"], &ids[1]["id"]),
        (&json!(first), &json!(last))
    );
}

#[test]
fn a_workspace_begins_with_chat_across_a_restart_and_says_who_made_it() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    let server = server.restart();
    notify(
        &server,
        &ada,
        &json!({ "channel": "deals", "message": "hello" }),
    );
    messages(&server, &ada, "deals", 1);
    let written = eventually("the audit trail", || {
        let path = "/v1/events?type=audit.extension.written";
        let page = server.get(path, &root).expect(200).json();
        page["items"].as_array()?.first().cloned()
    });
    assert_eq!(
        (
            &written["data"]["actor"]["name"],
            &written["data"]["target"]["id"]
        ),
        (&json!("root"), &json!("chat"))
    );
}

#[test]
fn a_notification_becomes_a_message_and_an_event_that_tells_of_it() {
    let (server, ada) = server();
    let text = "Deal #123 closed for $5,000!";
    let payload = json!({ "channel": "deals", "message": text, "sender": "crm-bot" });
    let id = notify(&server, &ada, &payload);
    let message = &messages(&server, &ada, "deals", 1)[0];
    for (name, value) in [
        ("id", id.as_str()),
        ("channel", "deals"),
        ("message", text),
        ("sender", "crm-bot"),
    ] {
        assert_eq!(message[name], value, "{message}");
    }
    assert!(
        message["postedAt"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
    let told = eventually("an event", || {
        let path = "/v1/events?type=chat.message.received";
        let page = server.get(path, &ada).expect(200).json();
        page["items"].as_array()?.first().cloned()
    });
    assert_eq!(
        (&told["causationid"], &told["data"]["message"]),
        (&json!(id), &json!(text))
    );
    assert_eq!(told["data"]["messageId"], id.as_str());
    // Without a sender it is whoever published.
    notify(
        &server,
        &ada,
        &json!({ "channel": "general", "message": "hello" }),
    );
    assert_eq!(messages(&server, &ada, "general", 1)[0]["sender"], "ada");
}

#[test]
fn channels_are_made_on_first_use_and_read_in_pages_by_members() {
    let (server, ada) = server();
    let empty = read(&server, &ada, "general").expect(200).json();
    assert_eq!(empty, json!({ "items": [], "nextCursor": null }));
    let conversation = "019c2f00-0000-7000-8000-000000000000";
    for unknown in ["deals", conversation, "no%20channel"] {
        read(&server, &ada, unknown).problem(404, "NOT_FOUND");
    }
    for n in 1..=3 {
        let payload = json!({ "channel": conversation, "message": format!("{n}"), "sender": "s" });
        notify(&server, &ada, &payload);
    }
    let all = messages(&server, &ada, conversation, 3);
    let path = format!("{CHANNELS}/{conversation}/messages?limit=2");
    let first = server.get(&path, &ada).expect(200).json();
    let cursor = first["nextCursor"].as_str().expect("a cursor");
    let rest = server
        .get(&format!("{path}&cursor={cursor}"), &ada)
        .expect(200)
        .json();
    assert_eq!(first["items"], json!(all[..2]));
    assert_eq!(rest, json!({ "items": all[2..], "nextCursor": null }));
    for query in ["limit=0", "limit=1001", "cursor=x", "since=1"] {
        let path = format!("{CHANNELS}/general/messages?{query}");
        server.get(&path, &ada).problem(400, "INVALID_REQUEST");
    }
    let eve = user(&server, "acme", "eve");
    for channel in ["general", conversation, "deals"] {
        read(&server, &eve, channel).problem(403, "WORKSPACE_FORBIDDEN");
    }
    let server = server.restart();
    assert_eq!(messages(&server, &ada, conversation, 3), all);
}

#[test]
fn a_notification_that_is_none_is_a_failed_delivery_that_says_why() {
    let (server, ada) = server();
    for (payload, says) in [
        (json!({ "message": "m" }), "missing field `channel`"),
        (json!({ "channel": "deals" }), "missing field `message`"),
        (
            json!({ "channel": "deals", "message": " " }),
            "'message' has 1 to",
        ),
        (
            json!({ "channel": "two words", "message": "m" }),
            "a channel is general",
        ),
        (
            json!({ "channel": "deals", "message": "m", "sender": "s".repeat(129) }),
            "'sender' has at most 128",
        ),
    ] {
        let id = notify(&server, &ada, &payload);
        let letter = letter(&server, &ada, &id);
        let error = letter["lastError"].as_str().expect("a sentence");
        assert!(error.contains(says), "{error}");
    }
    read(&server, &ada, "deals").problem(404, "NOT_FOUND");
}
