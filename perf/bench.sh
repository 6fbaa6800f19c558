#!/bin/sh
# Measures idalloc and other servers, writes perf/results/NAME.json, and prints the table of goals at the end:
#
#   perf/bench.sh [--quick] [--name NAME] [--only CASE] [--rounds N] [--seconds N]
#
# Needs wrk, oha, nginx and taskset: make perf-deps.
set -eu
cd "$(dirname "$0")"
for tool in wrk oha nginx taskset; do
    command -v "$tool" >/dev/null || { echo "perf/bench.sh needs $tool: make perf-deps" >&2; exit 1; }
done
(cd .. && cargo build --release --locked --quiet && cargo bench --locked --quiet --no-run)
cargo build --release --locked --quiet --bins
exec ../target/release/bench "$@"
