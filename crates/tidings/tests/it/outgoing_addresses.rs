//! Nobody gets a delivery sent to where only this machine or its network reaches, however the address is written.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::{Answer, Folder, Server};
use crate::raw_receiver::{admin, delivery, publish, subscribe};

const INWARD: &str = "TARGET_NOT_ALLOWED";
const INVALID: &str = "INVALID_REQUEST";

/// Hosts, what they are refused with, and the range that an operator would open to allow them.
const HOSTS: [(&str, &str); 74] = [
    // Loopback, as inet_aton reads it: decimal, octal, hexadecimal, short, mixed.
    ("127.0.0.1", "127.0.0.0/8"),
    ("127.0.0.2", "127.0.0.0/8"),
    ("127.255.255.255", "127.0.0.0/8"),
    ("127.1", "127.0.0.0/8"),
    ("127.0.1", "127.0.0.0/8"),
    ("2130706433", "127.0.0.0/8"),
    ("017700000001", "127.0.0.0/8"),
    ("0177.0.0.1", "127.0.0.0/8"),
    ("0177.0.0.01", "127.0.0.0/8"),
    ("00000177.0.0.1", "127.0.0.0/8"),
    ("0x7f000001", "127.0.0.0/8"),
    ("0X7F000001", "127.0.0.0/8"),
    ("0x7f.1", "127.0.0.0/8"),
    ("0x7f.0x0.0x0.0x1", "127.0.0.0/8"),
    ("0x7f.0.0.1", "127.0.0.0/8"),
    ("127.0x1", "127.0.0.0/8"),
    ("127.0.0.1.", "127.0.0.0/8"),
    ("2130706433.", "127.0.0.0/8"),
    // Percent-encoded, full-width, circled, with other dots.
    ("%31%32%37.0.0.1", "127.0.0.0/8"),
    ("127%2e0%2e0%2e1", "127.0.0.0/8"),
    ("127.0.0.1%2E", "127.0.0.0/8"),
    ("１２７.０.０.１", "127.0.0.0/8"),
    ("①②⑦.⓪.⓪.①", "127.0.0.0/8"),
    ("127。0。0。1", "127.0.0.0/8"),
    ("127．0．0．1", "127.0.0.0/8"),
    ("127｡0｡0｡1", "127.0.0.0/8"),
    ("%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", "127.0.0.0/8"),
    // Unspecified: connects to this machine.
    ("0.0.0.0", "0.0.0.0/8"),
    ("0", "0.0.0.0/8"),
    ("0x0", "0.0.0.0/8"),
    ("0.1", "0.0.0.0/8"),
    // Private, shared, link-local, and what else is not the public internet.
    ("10.0.0.1", "10.0.0.0/8"),
    ("10.1", "10.0.0.0/8"),
    ("167772161", "10.0.0.0/8"),
    ("0xa.1", "10.0.0.0/8"),
    ("012.0.0.1", "10.0.0.0/8"),
    ("172.16.0.1", "172.16.0.0/12"),
    ("172.31.255.255", "172.16.0.0/12"),
    ("192.168.1.1", "192.168.0.0/16"),
    ("0xc0a80101", "192.168.0.0/16"),
    ("100.64.0.1", "100.64.0.0/10"),
    ("169.254.169.254", "169.254.0.0/16"),
    ("169.254.43518", "169.254.0.0/16"),
    ("0xa9fea9fe", "169.254.0.0/16"),
    ("2852039166", "169.254.0.0/16"),
    ("192.0.0.8", "192.0.0.0/24"),
    ("192.0.2.1", "192.0.2.0/24"),
    ("198.18.0.1", "198.18.0.0/15"),
    ("224.0.0.1", "224.0.0.0/4"),
    ("255.255.255.255", "240.0.0.0/4"),
    // IPv6: loopback, unspecified, local.
    ("[::1]", "::1/128"),
    ("[0:0:0:0:0:0:0:1]", "::1/128"),
    ("[0000:0000::0001]", "::1/128"),
    ("[::]", "::/128"),
    ("[fe80::1]", "fe80::/10"),
    ("[fec0::1]", "fec0::/10"),
    ("[fc00::1]", "fc00::/7"),
    ("[fd00:ec2::254]", "fc00::/7"),
    ("[ff02::1]", "ff00::/8"),
    ("[2001:db8::1]", "2001:db8::/32"),
    ("[100::1]", "100::/64"),
    // IPv4 within IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo.
    ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
    ("[::ffff:7f00:1]", "127.0.0.0/8"),
    ("[::FFFF:7F00:0001]", "127.0.0.0/8"),
    ("[::ffff:169.254.169.254]", "169.254.0.0/16"),
    ("[::ffff:0.0.0.0]", "0.0.0.0/8"),
    ("[::127.0.0.1]", "::/96"),
    ("[::ffff:0:127.0.0.1]", "::ffff:0:0:0/96"),
    ("[64:ff9b::127.0.0.1]", "64:ff9b::/96"),
    ("[64:ff9b::a9fe:a9fe]", "64:ff9b::/96"),
    ("[64:ff9b:1::7f00:1]", "64:ff9b:1::/48"),
    ("[2002:7f00:1::1]", "2002::/16"),
    ("[2002:a9fe:a9fe::]", "2002::/16"),
    ("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "2001::/32"),
];

/// URLs that no allowlist makes good.
const NEVER: [&str; 18] = [
    "http://user@example.com/",
    "http://user:secret@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1:80@example.com/",
    "http://@:secret@example.com/",
    "http://example.com%40127.0.0.1/",
    "http://127.0.0.1%00.example.com/",
    "http://127.0.0.1%0d%0a.example.com/",
    "http://[::1%25lo]/",
    "http://[::1/",
    "http://256.0.0.1/",
    "http://127.0.0.0.1/",
    "http://4294967296/",
    "http://0x100000000/",
    "ftp://127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:25/_HELO",
    "//127.0.0.1/",
];

fn creation(server: &Server, token: &str, url: &str) -> Answer {
    let document = json!({ "name": "n", "target": { "kind": "webhook", "url": url } });
    server.post("/v1/subscriptions", token, &document)
}

#[test]
fn no_notation_of_an_inward_address_is_taken_as_a_target() {
    let server = Server::start();
    let token = admin(&server, "acme");
    for (host, _) in HOSTS {
        for url in [
            format!("http://{host}/"),
            format!("https://{host}:8443/a?b#c"),
        ] {
            let problem = creation(&server, &token, &url).problem(400, INWARD);
            assert_eq!(problem["field"], "target.url", "{url}");
        }
    }
    for url in [
        "http:127.0.0.1/",
        r"http:\\127.0.0.1\",
        "http:///127.0.0.1/",
        " http://127.0.0.1 ",
    ] {
        creation(&server, &token, url).problem(400, INWARD);
    }
    for url in NEVER {
        let problem = creation(&server, &token, url).problem(400, INVALID);
        assert_eq!(problem["field"], "target.url", "{url}");
        assert!(!problem.to_string().contains("secret"), "{url}: {problem}");
    }
    let listed = server.get("/v1/subscriptions", &token).expect(200).json();
    assert_eq!(listed["items"], json!([]));

    // Nor does a change bring one in.
    let made = creation(&server, &token, "https://hooks.example.com/")
        .expect(201)
        .json();
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().expect("an id"));
    for (host, _) in HOSTS {
        let change = json!({ "target": { "url": format!("http://{host}/") } });
        let patched = server
            .call("PATCH", &path)
            .bearer(&token)
            .json(&change)
            .send();
        patched.problem(400, INWARD);
    }
    let kept = server.get(&path, &token).expect(200).json();
    assert_eq!(kept["target"]["url"], "https://hooks.example.com/");
}

#[test]
fn what_the_operator_names_is_taken_and_nothing_beside_it() {
    let mut ranges: Vec<&str> = HOSTS.iter().map(|(_, range)| *range).collect();
    ranges.sort_unstable();
    ranges.dedup();
    let flags: Vec<&str> = ranges
        .iter()
        .flat_map(|range| ["--allow-target", range])
        .collect();
    let open = Server::start_in(Folder::new(), &flags);
    let token = admin(&open, "acme");
    for (host, _) in HOSTS {
        creation(&open, &token, &format!("http://{host}/")).expect(201);
    }
    for url in NEVER {
        creation(&open, &token, url).problem(400, INVALID);
    }
    let one = Server::start_in(Folder::new(), &["--allow-target", "10.0.0.0/8"]);
    let token = admin(&one, "acme");
    for (host, range) in HOSTS {
        let answer = creation(&one, &token, &format!("http://{host}/"));
        if range == "10.0.0.0/8" {
            answer.expect(201);
        } else {
            answer.problem(400, INWARD);
        }
    }
}

#[test]
fn a_name_that_resolves_inward_fails_its_attempts_and_is_never_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = Server::start();
    let token = admin(&server, "acme");
    let quick = json!({ "retry": { "schedule": ["100ms"] } });
    let names = [
        "localhost",
        "LOCALHOST",
        "%6cocalhost",
        "ｌocalhost",
        "Loc%61lhost",
    ];
    let made: Vec<Value> = names
        .iter()
        .map(|name| subscribe(&server, &token, &format!("http://{name}:{port}/"), &quick))
        .collect();
    let event = publish(&server, &token, 1);
    for (name, made) in names.iter().zip(&made) {
        let id = made["id"].as_str().expect("an id");
        let given_up = delivery(&server, &token, (&event, id), |delivery| {
            delivery["attempts"]
                .as_array()
                .is_some_and(|all| all.len() == 2)
        });
        for attempt in given_up["attempts"].as_array().expect("a list") {
            let error = attempt["error"].as_str().expect("an error");
            assert!(error.starts_with(INWARD), "{name}: {error}");
            assert_eq!(attempt["status"], Value::Null, "{name}");
        }
    }
    listener.set_nonblocking(true).expect("a listener");
    let error = listener.accept().expect_err("nothing has connected");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
