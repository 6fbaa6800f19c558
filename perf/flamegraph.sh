#!/usr/bin/env bash
# Profiles the release server under load and draws a flame graph:
#
#   perf/flamegraph.sh [-p DEPTH] [-s SECONDS] [-t TARGET] [FILE.svg]
#
# Needs perf, wrk, taskset and inferno: make perf-deps. If the machine has no readable hardware counters (as most virtual
# ones), the software clock samples instead.
set -euo pipefail
cd "$(dirname "$0")"

depth=1 seconds=10 target='/alloc?app_tag=test_business'
while getopts p:s:t: option; do
    case $option in
    p) depth=$OPTARG ;;
    s) seconds=$OPTARG ;;
    t) target=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
picture=${1:-plots/flamegraph.svg}

missing=()
for tool in perf wrk taskset curl inferno-collapse-perf inferno-flamegraph; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "perf/flamegraph.sh needs ${missing[*]}: make perf-deps" >&2
    exit 1
fi
(cd .. && cargo build --release --locked --quiet)

work=$(mktemp -d)
server=''
finish() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT

printf '{"DSN":"sqlite:%s/ids.db","HttpHost":"127.0.0.1","HttpPort":0,"AdminPort":0,"Workers":1}' "$work" >"$work/config.json"
taskset -c 0 ../target/release/idalloc --config "$work/config.json" >"$work/out" 2>/dev/null &
server=$!
port=''
while [ -z "$port" ]; do
    kill -0 "$server" || { echo "the server does not start" >&2; exit 1; }
    port=$(sed -n 's/^server started at: .*://p' "$work/out")
done

event=cycles
perf stat -e cycles -p "$server" sleep 0.1 2>&1 | grep -qE '^ +[0-9]' || event=cpu-clock
echo "sampling $event for $seconds s, $depth deep" >&2
taskset -c 1 wrk -t1 -c64 -d"$((seconds + 1))s" -s pipeline.lua "http://127.0.0.1:$port$target" -- "$depth" >/dev/null &
perf record --quiet -e "$event" -F 997 --call-graph dwarf,16384 -p "$server" -o "$work/perf.data" -- sleep "$seconds" 2>/dev/null
mkdir -p "$(dirname "$picture")"
perf script -i "$work/perf.data" 2>/dev/null | inferno-collapse-perf 2>/dev/null |
    inferno-flamegraph --title "idalloc, $depth deep ($event)" >"$picture"
echo "$picture"
