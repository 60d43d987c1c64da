# The two commands of the README, and a few that belong beside them. Anything with logic in it is a script or Rust.

.PHONY: serve test lint check-deploy chaos fuzz bench bench-kafka bench-emit bench-deliver bench-match bench-schemas instructions

serve:
	@./scripts/build-needs
	cargo run --release --locked -p tidings -- serve $(ARGS)

test:
	./scripts/test

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# What stands in deploy/ against Helm, Compose and systemd. Not part of `test`: it needs Go and root, and builds both first.
check-deploy:
	./scripts/deploy

chaos:
	TIDINGS_CHAOS_ROUNDS=100 cargo test --locked -p tidings --test chaos -- --nocapture --test-threads 1
	./scripts/servers install
	TIDINGS_CHAOS_ROUNDS=10 cargo test --locked -p tidings --test it -- --nocapture --test-threads 1 faults:: outages:: never_lost::

# Every fuzz target for so long; failures print a seed that repeats them.
SECONDS ?= 60
fuzz:
	BOLERO_RANDOM_TEST_TIME_MS=$(SECONDS)000 cargo test --locked -p tidings-event -p tidings-gateway -p tidings-bus -p tidings-contract -p tidings-filter --test fuzz -- --nocapture

bench:
	cargo run --release --locked -p tidings -- bench publish

# On an Apache Kafka and a Valkey of its own, beside Kafka's own producer.
bench-kafka:
	./scripts/bench-kafka

# Custom events beside plain publishes, and a start on many registrations.
bench-emit:
	cargo run --release --locked -p tidings -- bench emit --registrations 100000

bench-deliver:
	cargo run --release --locked -p tidings -- bench deliver

# One event against 1,000,000 subscriptions, beside 100.
bench-match:
	cargo bench --locked -p tidings-filter

# Schemas of custom events, ordinary and hostile, and the parts of the contract.
bench-schemas:
	cargo bench --locked -p tidings-contract --bench schemas

# How many instructions a request costs, which no neighbour on the machine changes. Needs Valgrind.
instructions:
	cargo build --release --locked -p tidings
	./scripts/instructions
