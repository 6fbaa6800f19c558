# The commands of this project. `make check` is what CI runs.

.PHONY: build run test check lint loom simulation soak chaos failover galera e2e screenshots deps perf-deps bench instructions clients fuzz deny clean

# /api/status and /metrics show the commit.
build:
	IDALLOC_COMMIT="$$(git rev-parse --short=12 HEAD 2>/dev/null || true)" cargo build --release

run:
	cargo run --release

# Installs what the tests need besides cargo's crates.
deps:
	sh tests/install-deps.sh

test: deps
	cargo test --locked --all-targets
	cargo test --locked --doc
	$(MAKE) loom

# Every interleaving of a few threads on a segment and on a tag.
loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --locked --release -p idalloc-core --lib loom_tests

# Three minutes of hostile clients beside honest ones; `make test` has a few seconds of it.
soak:
	IDALLOC_SOAK_SECONDS=180 cargo test --locked --release --test soak -- --nocapture

# Tests that need more of Debian's packages than `make test` installs.
e2e: deps
	sh tests/install-e2e.sh
	cargo build --locked
	cargo test --locked --package idalloc-e2e

# Takes the screenshots of the dashboard in docs/screenshots.
screenshots:
	sh tests/install-e2e.sh
	cargo build --locked
	IDALLOC_SCREENSHOTS=$(CURDIR)/docs/screenshots cargo test --locked --package idalloc-e2e it_fits

# Ten thousand seeds of the allocator's simulation; `make test` runs 15 s of it.
simulation:
	IDALLOC_SIM_SEEDS=10000 cargo test --locked --release --test simulation -- --nocapture

# Five minutes of failing servers and a failing database, for hundreds of millions of IDs; `make test` has 40 s of it.
chaos: deps
	IDALLOC_CHAOS_SECONDS=300 cargo test --locked --release --test chaos -- --nocapture

# Two hundred losses of acknowledged commits, by failovers and by kills without a flush; `make test` has three of each kind.
failover: deps
	IDALLOC_FAILOVER_ROUNDS=50 cargo test --locked --release --test failover -- --nocapture

# A three-node Galera cluster whose nodes are killed and halted. It needs packages that the other tests do not.
galera:
	sh tests/install-galera.sh
	cargo test --locked --features galera --test galera -- --nocapture

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo clippy --locked --package idalloc-store --no-default-features --features mysql -- -D warnings
	cargo clippy --locked --package idalloc-store --no-default-features --features sqlite -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

check: lint test

# Installs what perf/ needs: load generators, servers to compare with, profilers.
perf-deps:
	sh perf/install-deps.sh

bench:
	cargo bench --locked

# Counts the instructions of a request and compares them with perf/callgrind-baseline.txt.
instructions:
	sh tests/install-deps.sh valgrind
	perf/callgrind.sh --check

# Runs common load tools against the server: does each get an answer for every request?
clients: perf-deps
	perf/clients.sh

# Fuzzes the request parser for a minute. It needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler, but no
# nightly Rust; `make test` replays fuzz/corpus.
fuzz:
	cargo fuzz run -s none request -- -max_total_time=60

# The licences, known vulnerabilities, duplicates and sources of the dependencies: deny.toml. It fetches the list of
# vulnerabilities, so it needs the network.
deny:
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --locked --workspace check

clean:
	cargo clean
