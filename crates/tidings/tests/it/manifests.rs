//! Manifests and API keys: who may write them, and that they are in force at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Folder, PUBLISH, Server};

const MANIFEST: &str = "/v1/modules/shop/manifest";

#[test]
fn only_operators_and_module_registry_write_and_it_is_in_force_at_once() {
    let server = Server::start();
    let body = json!({ "id": "shop", "version": "1.0.0", "events": { "publishes": ["shop.order.placed"] } });
    let put = |token: &str, body| server.call("PUT", MANIFEST).bearer(token).json(body).send();
    let shop = server.token(&["--tenant", "acme", "--module", "shop"]);
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let iam = server.token(&["--tenant", "acme", "--service", "iam"]);
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    for token in [&shop, &admin, &iam] {
        put(token, &body).problem(403, "FORBIDDEN");
    }
    let event = json!({ "type": "shop.order.placed", "data": {} });
    server
        .post(PUBLISH, &shop, &event)
        .problem(403, "EVENT_PUBLISH_FORBIDDEN");
    put(&registry, &body).expect(200);
    server.post(PUBLISH, &shop, &event).expect(201);
    server.get(MANIFEST, &shop).expect(200);
    server
        .get(MANIFEST, &server.crm("acme"))
        .problem(403, "FORBIDDEN");
    let updates = server
        .get(
            "/v1/events?type=module.registry.manifest.updated",
            &registry,
        )
        .json();
    let updates = updates["items"].as_array().unwrap();
    assert!(
        updates
            .iter()
            .any(|event| event["data"]["moduleId"] == "shop"),
        "{updates:?}"
    );

    let kernel = json!({ "id": "shop", "version": "1.0.1", "events": { "publishes": ["auth.user.created"] } });
    put(&registry, &kernel).problem(403, "KERNEL_EVENT_PUBLISH_FORBIDDEN");
    server.post(PUBLISH, &shop, &event).expect(201);
    server
        .call("DELETE", MANIFEST)
        .bearer(&registry)
        .send()
        .expect(204);
    server
        .post(PUBLISH, &shop, &event)
        .problem(403, "EVENT_PUBLISH_FORBIDDEN");
}

#[test]
fn a_file_put_into_the_folder_is_in_force_without_a_restart() {
    let manifests = Folder::new();
    let folder = manifests.path().to_str().unwrap();
    let pipe = manifests.path().join("a-pipe.manifest.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let server = Server::start_in(Folder::new(), &["--manifests", folder]);
    let shop = server.token(&["--tenant", "acme", "--module", "shop"]);
    let event = json!({ "type": "shop.order.placed", "data": {} });
    server
        .post(PUBLISH, &shop, &event)
        .problem(403, "EVENT_PUBLISH_FORBIDDEN");
    let body = json!({ "id": "shop", "version": "1.0.0", "events": { "publishes": ["shop.order.placed"] } });
    // It comes first, is refused itself, and keeps none from its module.
    let broken = json!({ "id": "shop", "version": "0.1.0", "events": { "publishes": 1 } });
    let first = manifests.path().join("broken.manifest.json");
    std::fs::write(first, broken.to_string()).unwrap();
    for name in ["shop.json", "shop.manifest.json"] {
        std::fs::write(manifests.path().join(name), body.to_string()).unwrap();
    }
    let other = json!({ "id": "shop", "version": "2.0.0", "events": {} });
    let second = manifests.path().join("shop.too.manifest.json");
    std::fs::write(second, other.to_string()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.post(PUBLISH, &shop, &event).status != 201 {
        assert!(Instant::now() < deadline, "the file was not taken up");
    }
    let log = loop {
        let log = server.log();
        if log.contains("is of module 'shop' too") {
            break log;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(
        log.contains("not read") && log.contains("shop.json") && log.contains("it is not a file"),
        "{log}"
    );
}

#[test]
fn an_api_key_does_what_its_scopes_say_until_it_is_revoked() {
    let server = Server::start();
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let body = json!({ "name": "ci", "scopes": ["publish:crm.contact.created"] });
    server
        .post("/v1/api-keys", &server.crm("acme"), &body)
        .problem(403, "FORBIDDEN");
    let made = server
        .post("/v1/api-keys", &admin, &body)
        .expect(201)
        .json();
    let secret = made["key"].as_str().unwrap();
    assert!(secret.starts_with("tdk_"));
    let listed = server.get("/v1/api-keys", &admin).expect(200).text();
    assert!(
        listed.contains("\"ci\"") && !listed.contains(secret),
        "shown once"
    );

    let event = |name: &str| json!({ "type": format!("crm.contact.{name}"), "data": {} });
    server.post(PUBLISH, secret, &event("created")).expect(201);
    server
        .post(PUBLISH, secret, &event("updated"))
        .problem(403, "EVENT_PUBLISH_FORBIDDEN");
    server.get("/v1/events", secret).problem(403, "FORBIDDEN");
    let path = format!("/v1/api-keys/{}", made["id"].as_str().unwrap());
    server
        .call("DELETE", &path)
        .bearer(&admin)
        .send()
        .expect(204);
    server
        .post(PUBLISH, secret, &event("created"))
        .problem(401, "UNAUTHENTICATED");
}
