//! Logins by IAM, as a broker sees them. No MSK cluster is at hand: a stub takes connections, lets clients begin with SASL
//! OAUTHBEARER, and keeps what they show it. That the signature is right is tested in `tidings-msk`, against AWS's own signer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::harness::{AWS_CREDENTIALS, BINARY, Folder, ON_ITS_FOLDER, PATIENCE, Server};

const CREDENTIALS: &str =
    "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret\n";

/// The keys of Kafka's protocol that a login needs.
const API_VERSIONS: i16 = 18;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
const UNSUPPORTED_VERSION: i16 = 35;

/// Where the stub listens, and what each login showed it.
fn stub() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let (shown, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shown = shown.clone();
            std::thread::spawn(move || serve(stream, &shown));
        }
    });
    (address, seen)
}

/// Until the client has shown its token; then the connection ends, as that of a broker that refuses it.
fn serve(mut stream: TcpStream, shown: &Sender<String>) -> Option<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).ok()?];
        stream.read_exact(&mut request).ok()?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = request[4..8].to_vec();
        match (number(0), number(2)) {
            (API_VERSIONS, 0) => {
                answer.extend(0_i16.to_be_bytes());
                answer.extend(3_i32.to_be_bytes());
                for (key, newest) in [
                    (API_VERSIONS, 0),
                    (SASL_HANDSHAKE, 1),
                    (SASL_AUTHENTICATE, 0),
                ] {
                    answer.extend([key, 0, newest].into_iter().flat_map(i16::to_be_bytes));
                }
            }
            (API_VERSIONS, _) => {
                answer.extend(UNSUPPORTED_VERSION.to_be_bytes());
                answer.extend(0_i32.to_be_bytes());
            }
            (SASL_HANDSHAKE, _) => {
                let mechanism = b"OAUTHBEARER";
                answer.extend(0_i16.to_be_bytes());
                answer.extend(1_i32.to_be_bytes());
                answer.extend(i16::try_from(mechanism.len()).ok()?.to_be_bytes());
                answer.extend(mechanism);
            }
            _ => {
                let text = String::from_utf8_lossy(&request);
                let (_, token) = text.split_once("auth=Bearer ")?;
                let (token, _) = token.split_once('\u{1}')?;
                // Nobody listens once the test is over.
                return shown.send(token.to_owned()).ok();
            }
        }
        let size = u32::try_from(answer.len()).ok()?;
        stream.write_all(&size.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

#[test]
fn every_client_shows_the_broker_a_signed_request_to_connect() {
    let (brokers, seen) = stub();
    let folder = Folder::new();
    let credentials = folder.path().join(AWS_CREDENTIALS);
    std::fs::write(credentials, CREDENTIALS).expect("a file");
    let _server = Server::start_with_in(
        folder,
        &format!(
            "{ON_ITS_FOLDER}bus.kind = 'kafka'\n[bus.kafka]\nbrokers = '{brokers}'\naws_region = 'eu-central-1'\n\
             create_topics = false\n[bus.kafka.properties]\n'security.protocol' = 'SASL_PLAINTEXT'\n"
        ),
    );
    // The producer, the probe, whoever asks for topics and whoever watches: each has a connection of its own.
    for _ in 0..4 {
        let token = seen.recv_timeout(PATIENCE).expect("a client logs in");
        let url = URL_SAFE_NO_PAD.decode(token).expect("base64");
        let url = String::from_utf8(url).expect("text");
        let host = "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&";
        assert!(url.starts_with(host), "{url}");
        assert!(url.contains("&X-Amz-Credential=AKIDEXAMPLE%2F"), "{url}");
        assert!(
            url.contains("%2Feu-central-1%2Fkafka-cluster%2Faws4_request&"),
            "{url}"
        );
        assert!(url.contains("&X-Amz-Expires=900&"), "{url}");
        assert!(url.contains("&X-Amz-Signature="), "{url}");
    }
}

#[test]
fn a_region_without_topics_of_ones_own_is_refused_at_the_start() {
    let folder = Folder::new();
    let file = folder.path().join("tidings.toml");
    let text = "bus.kind = 'kafka'\nbus.kafka.brokers = '127.0.0.1:9098'\nbus.kafka.aws_region = 'eu-central-1'\n";
    std::fs::write(&file, text).expect("a file");
    let run = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .arg("--config")
        .arg(&file)
        .output()
        .expect("it runs");
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("set bus.kafka.create_topics = false"),
        "{said}"
    );
}
