//! The Kafka bus against a real broker: `scripts/test` starts one and says where it listens.
#![cfg(feature = "kafka")]

use std::sync::Arc;

use tidings_bus::kafka::{Config, Kafka};
use tidings_bus::{Bus, conformance};

fn config() -> Config {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    let brokers = brokers.expect("TIDINGS_TEST_KAFKA says where a broker is: run scripts/test");
    let mut config = Config::new(brokers);
    config.partitions = 4;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kafka_bus_keeps_the_contract() {
    let bus: Arc<dyn Bus> = Arc::new(Kafka::open(&config()).expect("the clients start"));
    conformance::suite(async || Arc::clone(&bus)).await;
}
