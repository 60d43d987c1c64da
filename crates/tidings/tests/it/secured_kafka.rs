//! A real broker that lets nobody in without TLS and a login: with a password (PLAIN, SCRAM), and with a request signed as
//! for Amazon MSK, which a class of our own checks in the broker as MSK does (conformance/kafka/MskLogins.java).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::harness::{
    AWS_CREDENTIALS, Folder, ON_ITS_FOLDER, PATIENCE, PUBLISH, Server, UNAVAILABLE,
};
use crate::mtls::Authority;
use crate::servers::Servers;
use crate::under_load::in_time;

const USERS: &str = "SCRAM-SHA-512=[name=tidings,password=of-scram]\n";
const LOGINS: &str = r#"
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
  user_tidings="of-plain";
listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule \
  required unsecuredLoginStringClaim_sub="broker" region="eu-central-1" accessKey="AKIDEXAMPLE" secretKey="of-msk";
listener.name.secured.oauthbearer.sasl.server.callback.handler.class=MskLogins
"#;

/// What the servers show, and what a gateway may trust.
pub(crate) struct Files(pub(crate) Folder);

impl Files {
    pub(crate) fn new() -> Self {
        let (authority, folder) = (Authority::new(), Folder::new());
        let own = authority.issue("127.0.0.1");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a file");
        };
        write("server.crt", &own.certificate);
        write("server.key", &own.key);
        // PostgreSQL wants no others to read it.
        let private = Permissions::from_mode(0o600);
        std::fs::set_permissions(folder.path().join("server.key"), private).expect("our file");
        write("server.pem", &(own.key + &own.certificate));
        write("authority.pem", &authority.certificate);
        write("stranger.pem", &Authority::new().certificate);
        write("kafka.properties", LOGINS);
        write("kafka.users", USERS);
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }
}

/// Compiles what checks logins for MSK, against the jars that `scripts/servers` brings.
fn compile(files: &Files) {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/kafka/MskLogins.java");
    let jars = std::env::var("TIDINGS_KAFKA_LIBS");
    let jars = jars.expect("`scripts/test` starts the servers that tests need");
    let run = Command::new("javac")
        .args(["-d", &files.path("classes"), "-cp", &format!("{jars}/*")])
        .arg(source)
        .output()
        .expect("javac runs");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// A gateway with these settings of librdkafka, whose log is kept.
fn gateway(brokers: &str, of_kafka: &str, properties: &[(&str, &str)], secret: &str) -> Server {
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write(
        AWS_CREDENTIALS,
        &format!("[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {secret}\n"),
    );
    let mut config = format!(
        "{ON_ITS_FOLDER}bus.kind = 'kafka'\n[bus.kafka]\nbrokers = '{brokers}'\n{of_kafka}\n[bus.kafka.properties]\n"
    );
    for (name, value) in properties {
        config.extend(["'", name, "' = '", value, "'\n"]);
    }
    Server::start_with_in(folder, &config)
}

/// Publishes, after the first moments of a login, and reads it back.
fn works(server: &Server, tenant: &str) {
    let token = server.token(&["--tenant", tenant, "--module", "demo"]);
    let body = json!({ "type": "demo.greeting.sent", "data": { "text": tenant } });
    let begun = Instant::now();
    let published = loop {
        let answer = server.post(PUBLISH, &token, &body);
        if answer.status == 201 {
            break answer.json();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{}\n{}",
            answer.text(),
            server.log()
        );
    };
    // What was asked for again may stand there twice, and is one event all the same.
    let page = server.get("/v1/events", &token).expect(200).json();
    let items = page["items"].as_array().expect("items");
    assert!(!items.is_empty());
    for item in items {
        assert_eq!(item["eventId"], published["eventId"]);
    }
    let ready = server.call("GET", "/readyz").send().json();
    assert_eq!(ready["status"], "ready", "{ready}");
}

/// Every publish is refused in time, the gateway says that it is degraded, and its log why.
fn is_refused(server: &Server, why: &str) {
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let body = json!({ "type": "demo.greeting.sent", "data": {} });
    for _ in 0..3 {
        let asked = Instant::now();
        let call = server.call("POST", PUBLISH).bearer(&token).json(&body);
        let answer = call.send_once();
        assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
        answer.problem(503, UNAVAILABLE);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let ready = server.call("GET", "/readyz").send().expect(200).json();
    assert_eq!(ready["status"], "degraded", "{ready}");
    let begun = Instant::now();
    while !server.log().contains(why) {
        assert!(begun.elapsed() < PATIENCE, "no {why:?} in {}", server.log());
        std::thread::yield_now();
    }
}

#[test]
fn a_broker_takes_whoever_logs_in_and_refuses_others_with_a_reason() {
    let files = Files::new();
    compile(&files);
    let servers = Servers::start_encrypted(&files.0, &["kafka"]);
    let brokers = servers
        .setting("TIDINGS_TEST_KAFKA_SECURED")
        .expect("started");
    let authority = files.path("authority.pem");
    let with = |mechanism, password, authority| {
        [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "tidings"),
            ("sasl.password", password),
            ("ssl.ca.location", authority),
        ]
    };
    for (mechanism, password) in [("PLAIN", "of-plain"), ("SCRAM-SHA-512", "of-scram")] {
        let server = gateway(brokers, "", &with(mechanism, password, &authority), "");
        works(&server, &mechanism.to_lowercase());
        let server = gateway(brokers, "", &with(mechanism, "wrong", &authority), "");
        is_refused(&server, "Authentication fail");
    }
    let stranger = files.path("stranger.pem");
    let server = gateway(brokers, "", &with("PLAIN", "of-plain", &stranger), "");
    is_refused(&server, "certificate verify failed");

    // The topic is there by now, as with MSK it has to be.
    let msk = "aws_region = 'eu-central-1'\ncreate_topics = false";
    let trusting = [("ssl.ca.location", &*authority)];
    works(&gateway(brokers, msk, &trusting, "of-msk"), "msk");
    is_refused(&gateway(brokers, msk, &trusting, "wrong"), "Authentication");
}
