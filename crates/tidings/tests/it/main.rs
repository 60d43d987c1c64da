//! The real binary, from the outside: what each operation answers, and what it must never do.

mod audit;
mod bad_input;
mod batch;
mod catalogs;
mod cloudevents;
mod codes;
mod command_line;
mod command_line_deliveries;
mod compressed;
mod credentials;
mod disabled;
mod events;
mod faults;
mod harness;
mod hostile_receivers;
mod isolation;
mod issuer;
mod jwt_attacks;
mod limits;
mod manifests;
mod on_kafka_alone;
mod order_of_rules;
mod outages;
mod outgoing_addresses;
mod proxy;
mod publish;
mod raw_receiver;

mod replicas;
mod servers;
mod telemetry;
