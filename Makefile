# The two commands of the README, and a few that belong beside them. Anything with logic in it is a script or Rust.

.PHONY: serve test lint chaos bench

serve:
	cargo run --release --locked -p tidings -- serve $(ARGS)

test:
	./scripts/test

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

chaos:
	TIDINGS_CHAOS_ROUNDS=100 cargo test --locked -p tidings --test chaos -- --nocapture --test-threads 1

bench:
	cargo run --release --locked -p tidings -- bench publish
