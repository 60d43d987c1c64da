//! Topics as they were asked for, and a gateway that starts while a broker is gone which alone had some of their partitions.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;
use tidings_bus::partition_of;

use crate::harness::{ON_ITS_FOLDER, PUBLISH, Server, UNAVAILABLE};
use crate::receiver::Receiver;
use crate::servers::Servers;
use crate::under_load::{in_time, recovery};

const TOPIC: &str = "single.platform.data.events";
const PARTITIONS: u32 = 6;

/// A gateway whose topics have one replica each.
pub(crate) struct Single {
    server: Server,
    /// A tenant for each partition, by its token.
    tokens: Vec<String>,
    receiver: Receiver,
    /// Which broker leads each partition.
    leaders: BTreeMap<u64, u32>,
}

impl Single {
    pub(crate) fn start(servers: &Servers) -> Self {
        let brokers = servers.setting("TIDINGS_TEST_KAFKA").expect("started");
        let server = Server::start_with(&format!(
            "{ON_ITS_FOLDER}egress.allow_targets = ['127.0.0.1']\nbus.kind = 'kafka'\n\
             bus.partitions = {PARTITIONS}\nbus.retention_age = '7d'\nbus.retention_bytes = 123456789\n\
             bus.kafka.brokers = '{brokers}'\nbus.kafka.topic_prefix = 'single.'\n\
             bus.kafka.replication = 1\n"
        ));
        let receiver = Receiver::start();
        let tenants = (0..PARTITIONS).map(|number| {
            let mut names = (0..).map(|it| format!("tenant-{it}"));
            let falls = |name: &String| partition_of(name.as_bytes(), PARTITIONS) == number;
            names.find(falls).expect("one of many")
        });
        let token = |tenant: String| server.token(&["--tenant", &tenant, "--module", "demo"]);
        let tokens: Vec<String> = tenants.map(token).collect();
        for (number, token) in (0..).zip(&tokens) {
            let target = json!({ "kind": "webhook", "url": receiver.url });
            let filter = json!({ "types": ["demo.**"] });
            let body = json!({ "name": "all", "filter": filter, "target": target });
            let made = server.post("/v1/subscriptions", token, &body);
            made.expect(201);
            assert_eq!(publish(&server, token), Some(number));
        }
        receiver.until_taken(tokens.len());
        let leaders = made_as_asked(servers, brokers);
        Self {
            server,
            tokens,
            receiver,
            leaders,
        }
    }

    /// A gateway that begins without this broker is ready, serves the tenants of other partitions, their deliveries
    /// included, and refuses the others in time.
    pub(crate) fn begins_without(self, broker: u32) -> Self {
        let server = self.server.restart();
        let begun = Instant::now();
        while server.call("GET", "/readyz").send().json()["status"] != "ready" {
            assert!(begun.elapsed() < recovery(), "it is not ready");
            std::thread::yield_now();
        }
        let before = self.receiver.hits().len();
        let (mut taken, mut refused) = (0, 0);
        for (number, token) in (0..).zip(&self.tokens) {
            let asked = Instant::now();
            let partition = publish(&server, token);
            assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
            if self.leaders[&number] == broker {
                assert_eq!(partition, None, "{number} has no leader");
                refused += 1;
            } else {
                assert_eq!(partition, Some(number));
                taken += 1;
            }
        }
        assert!(taken > 0 && refused > 0, "{taken} {refused}");
        self.receiver.until_taken(before + taken);
        Self { server, ..self }
    }
}

/// The partition, if it is taken; else the bus is said not to be available.
fn publish(server: &Server, token: &str) -> Option<u64> {
    let body = json!({ "type": "demo.greeting.sent", "data": {} });
    let call = server.call("POST", PUBLISH).bearer(token).json(&body);
    let answer = call.send_once();
    if answer.status == 201 {
        return answer.json()["partition"].as_u64();
    }
    answer.problem(503, UNAVAILABLE);
    None
}

/// What Kafka's own tool says of the topic: its settings are those of the configuration. Who leads each partition.
fn made_as_asked(servers: &Servers, brokers: &str) -> BTreeMap<u64, u32> {
    let wanted = ["--describe", "--topic", TOPIC];
    let said = servers.kafka_tool_at(brokers, "TopicCommand", &wanted);
    let mut lines = said.lines();
    let topic = lines.next().unwrap_or_default();
    for wanted in [
        "PartitionCount: 6",
        "ReplicationFactor: 1",
        "retention.ms=604800000",
        "retention.bytes=123456789",
        "max.message.bytes=2097152",
    ] {
        assert!(topic.contains(wanted), "no {wanted} in {said}");
    }
    let number = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(name)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let leaders = lines.map(|line| {
        let leader = number(line, "Leader: ").expect("a leader");
        let leader = u32::try_from(leader).expect("a broker's number");
        (number(line, "Partition: ").expect("a partition"), leader)
    });
    leaders.collect()
}
