//! The command line's `schema` and `tenants`: custom events from a terminal and in a script.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{BINARY, Server};
use crate::workspaces::admin;

struct Shell {
    server: Server,
    token: String,
}

impl Shell {
    fn start() -> Self {
        let server = Server::start();
        let token = admin(&server, "acme");
        Self { server, token }
    }

    /// Of a tenant whose plan an operator has set, and nobody else could.
    fn on_pro() -> Self {
        let shell = Self::start();
        let operator = shell.server.token(&["--role", "OPERATOR"]);
        let put = ["tenants", "put", "acme", "--plan", "PRO"];
        let put = [&put[..], &["--namespace", "lettings", "-o", "json"]].concat();
        assert!(!shell.ran(&put, &shell.token).status.success());
        assert!(shell.ran(&put, &operator).status.success());
        shell
    }

    fn ran(&self, arguments: &[&str], token: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        command.env("TIDINGS_URL", format!("http://{}", self.server.address));
        command.env("TIDINGS_TOKEN", token);
        command.env_remove("TIDINGS_PROFILE");
        command.output().expect("it runs")
    }

    fn run(&self, arguments: &[&str], code: i32) -> String {
        let ran = self.ran(arguments, &self.token);
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let printed = self.run(arguments, code);
        serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{arguments:?}: {printed}"))
    }

    fn file(&self, name: &str, schema: &Value) -> String {
        let file = self.server.folder.path().join(name);
        std::fs::write(&file, schema.to_string()).expect("a file");
        format!("@{}", file.display())
    }
}

fn schema(longest: u32) -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["propertyId"],
        "properties": { "propertyId": { "type": "string", "maxLength": longest } },
    })
}

#[test]
fn a_version_is_asked_about_and_registered_from_the_command_line() {
    let shell = Shell::on_pro();
    let tenant = shell.json(&["tenants", "get", "acme", "-o", "json"], 0);
    assert_eq!(
        (&tenant["plan"], &tenant["namespaces"]),
        (&json!("PRO"), &json!(["acme", "lettings"]))
    );
    let operator = shell.server.token(&["--role", "OPERATOR"]);
    let again = ["tenants", "put", "acme", "--slug", "corp", "-o", "json"];
    assert!(shell.ran(&again, &operator).status.success());
    let list = ["tenants", "list", "-o", "json"];
    assert!(!shell.ran(&list, &shell.token).status.success());
    let globex = ["tenants", "put", "globex", "-o", "json"];
    assert!(shell.ran(&globex, &operator).status.success());
    let listed = String::from_utf8(shell.ran(&list, &operator).stdout).expect("text");
    let listed: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let plans: Vec<_> = listed.iter().map(|it| (&it["id"], &it["plan"])).collect();
    let expected = [("acme", "PRO"), ("globex", "FREE")].map(|(id, plan)| (json!(id), json!(plan)));
    assert_eq!(
        plans,
        [
            (&expected[0].0, &expected[0].1),
            (&expected[1].0, &expected[1].1)
        ]
    );
    let renamed = shell.json(&["tenants", "get", "acme", "-o", "json"], 0);
    assert_eq!(
        (&renamed["slug"], &renamed["plan"], &renamed["namespaces"]),
        (&json!("corp"), &json!("PRO"), &json!(["corp", "lettings"]))
    );

    let (old, narrower) = (
        shell.file("old.json", &schema(64)),
        shell.file("narrower.json", &schema(8)),
    );
    let first = "lettings.property.favorited@1.0.0";
    let example = r#"{"propertyId":"p_1"}"#;
    let asked = [
        "schema",
        "dry-run",
        first,
        &old,
        "--example",
        example,
        "-o",
        "json",
    ];
    assert_eq!(shell.json(&asked, 0)["valid"], true);
    let register = ["schema", "register", first, &old, "--publish", "-o", "json"];
    let made = shell.json(&register, 0);
    assert_eq!(
        (&made["status"], &made["semverBump"]),
        (&json!("published"), &json!("initial"))
    );
    let event = "lettings.property.favorited";
    for token in [&shell.token, &shell.server.crm("acme")] {
        let ran = shell.ran(&["trigger", event], token);
        let says = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(1), "{says}");
        let points = says.contains(&format!("'tidings emit {event} PAYLOAD'"));
        assert!(points && !says.contains("manifest"), "{says}");
    }

    let minor = "lettings.property.favorited@1.1.0";
    let verdict = shell.json(&["schema", "dry-run", minor, &narrower, "-o", "json"], 1);
    let error = &verdict["errors"][0];
    assert_eq!(error["code"], "minor_must_be_backwards_compatible");
    assert!(
        error["counterExample"]["propertyId"].is_string(),
        "{verdict}"
    );
    let table = shell.run(&["schema", "dry-run", minor, &narrower, "-o", "table"], 1);
    for said in [
        "refused",
        "minor_must_be",
        "payloadSchema/properties",
        "refused now: {",
    ] {
        assert!(table.contains(said), "{table}");
    }
    let refused = ["schema", "register", minor, &narrower];
    let refused = shell.ran(&refused, &shell.token);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("code: minor_must_be_backwards_compatible (400)"),
        "{said}"
    );
}

#[test]
fn versions_are_compared_published_and_retired_from_the_command_line() {
    let shell = Shell::on_pro();
    let (old, narrower) = (
        shell.file("old.json", &schema(64)),
        shell.file("narrower.json", &schema(8)),
    );
    let first = "lettings.property.favorited@1.0.0";
    shell.run(&["schema", "register", first, &old, "--publish"], 0);
    let major = "lettings.property.favorited@2.0.0";
    let made = shell.run(&["schema", "register", major, &narrower, "-o", "table"], 0);
    assert!(made.contains("is registered (major, draft)"), "{made}");
    let diff = [
        "schema",
        "diff",
        "lettings.property.favorited",
        "1.0.0",
        "2.0.0",
    ];
    let found = shell.json(&[&diff[..], &["-o", "json"]].concat(), 0);
    assert_eq!(found["class"], "major");
    let table = shell.run(&[&diff[..], &["-o", "table"]].concat(), 0);
    assert!(
        table.contains("accepted by 1.0.0, refused by 2.0.0"),
        "{table}"
    );

    shell.run(&["schema", "publish", major], 0);
    shell.run(&["schema", "archive", first], 0);
    let listed = shell.run(
        &["schema", "list", "--namespace", "lettings", "-o", "json"],
        0,
    );
    let statuses = listed.lines().map(|line| {
        let item: Value = serde_json::from_str(line).expect("a line of JSON");
        item["status"].as_str().expect("a status").to_owned()
    });
    assert_eq!(statuses.collect::<Vec<_>>(), ["archived", "published"]);
    let event = shell.json(
        &["schema", "get", "lettings.property.favorited", "-o", "json"],
        0,
    );
    assert_eq!(event["latestPublished"], "2.0.0");
    let one = shell.json(&["schema", "get", major, "-o", "json"], 0);
    assert_eq!(one["payloadSchema"], schema(8));
    shell.run(&["schema", "get", "lettings"], 2);
    shell.run(&["schema", "publish", "lettings.none@1.0.0"], 1);
}

#[test]
fn a_payload_is_emitted_and_what_became_of_it_and_of_the_plan_is_shown() {
    let shell = Shell::start();
    let generic = "platformxe.generic";
    let emit = [
        "emit",
        generic,
        r#"{"kind":"a"}"#,
        "--key",
        "k-1",
        "-o",
        "json",
    ];
    let first = shell.json(&emit, 0);
    assert_eq!(
        first["canonicalName"],
        "TENANT_CUSTOM:acme:platformxe.generic@1.0.0"
    );
    assert_eq!(first["duplicate"], false);
    let again = shell.json(&emit, 0);
    assert_eq!(
        (&again["eventId"], &again["duplicate"]),
        (&first["eventId"], &json!(true))
    );
    let cause = first["eventId"].as_str().expect("an id");
    let pinned = format!("{generic}@1.0.0");
    shell.run(&["emit", &pinned, r#"{"kind":"b"}"#, "--cause", cause], 0);
    let refused = shell.ran(&["emit", generic, "{}"], &shell.token);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).expect("text");
    assert!(
        said.contains("payload_invalid") && said.contains("kind"),
        "{said}"
    );

    let emits = shell.run(&["emits", "--name", generic, "-o", "json"], 0);
    let emits = emits.lines().map(serde_json::from_str);
    let emits: Vec<Value> = emits.map(|emit| emit.expect("a line of JSON")).collect();
    assert_eq!(emits.len(), 2, "{emits:?}");
    assert_eq!(emits[1]["causationId"], cause);
    let all = ["emits", "--all", "--limit", "1", "-o", "json"];
    assert_eq!(shell.run(&all, 0).lines().count(), 2);
    let first = shell.ran(&["emits", "--limit", "1", "-o", "json"], &shell.token);
    let listed: Value = serde_json::from_slice(&first.stdout).expect("one line of JSON");
    assert_eq!(listed["eventId"], emits[0]["eventId"]);
    let said = String::from_utf8(first.stderr).expect("text");
    let cursor = said.trim().strip_prefix("next cursor: ").expect("a cursor");
    let rest = shell.json(&["emits", "--cursor", cursor, "-o", "json"], 0);
    assert_eq!(rest["eventId"], emits[1]["eventId"]);
    let plan = shell.run(&["plan", "-o", "table"], 0);
    for line in [
        "plan           FREE",
        "registrations  0 of 0",
        "emits          2 of 1000 this month",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
}

#[test]
fn a_schema_is_shown_as_it_was_written() {
    let shell = Shell::on_pro();
    let version = "lettings.property.weighed@1.0.0";
    let schema = r#"{"type":"object","additionalProperties":false,"properties":{"zebra":{"type":"number","maximum":18446744073709551616.5},"ant":{"type":"string"}}}"#;
    shell.run(&["schema", "register", version, schema, "--publish"], 0);
    for shown in [version, "lettings.property.weighed"] {
        let shown = shell.run(&["schema", "get", shown, "-o", "json"], 0);
        assert!(shown.contains(schema), "{shown}");
    }
    let get = ["schema", "get", "lettings.property.weighed", "-o", "table"];
    assert!(shell.run(&get, 0).contains("1.0.0"));
}
