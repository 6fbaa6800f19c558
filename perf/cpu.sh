#!/usr/bin/env bash
# Server CPU time per request, beside peers, in one run: the servers take turns (A B C A B C ..), each on one core with
# wrk on the other, and the medians of the rounds are printed, with ratios to the first server.
#
#   perf/cpu.sh [-c CONNECTIONS] [-p DEPTH] [-r ROUNDS] [-s SECONDS] [SERVER ...]
#
# Servers: epoll epoll-parse hyper nginx idalloc may. Needs wrk, and nginx for nginx: make perf-deps.
set -euo pipefail
cd "$(dirname "$0")"

connections=64 depth=1 rounds=5 seconds=2
while getopts c:p:r:s: option; do
    case $option in
    c) connections=$OPTARG ;;
    p) depth=$OPTARG ;;
    r) rounds=$OPTARG ;;
    s) seconds=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- epoll epoll-parse hyper nginx idalloc may

for tool in wrk taskset; do
    command -v $tool >/dev/null || { echo "perf/cpu.sh needs $tool: make perf-deps" >&2; exit 1; }
done
(cd peers && cargo build --release --locked --quiet)
(cd .. && cargo build --release --locked --quiet)

work=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
ulimit -n "$(ulimit -Hn)"

free_port() { # of loopback, between 20000 and 30000
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

config() { # ENGINE PORT
    printf '{"DSN":"sqlite:%s/%s.db","HttpHost":"127.0.0.1","HttpPort":%d,"HttpEngine":"%s","Workers":1}' "$work" "$1" "$2" "$1"
}

start() { # SERVER PORT: runs it on core 0 and sets pid
    case $1 in
    epoll) taskset -c 0 peers/target/release/epoll "$2" & ;;
    epoll-parse) taskset -c 0 peers/target/release/epoll "$2" --parse & ;;
    hyper) taskset -c 0 peers/target/release/hyper "$2" & ;;
    nginx) nginx_config "$2" >"$work/nginx.conf"; taskset -c 0 nginx -p "$work" -c "$work/nginx.conf" 2>/dev/null & ;;
    idalloc) config tokio "$2" >"$work/tokio.json"; taskset -c 0 ../target/release/idalloc --config "$work/tokio.json" >/dev/null 2>&1 & ;;
    may) config may_minihttp "$2" >"$work/may.json"; taskset -c 0 ../target/release/idalloc --config "$work/may.json" >/dev/null 2>&1 & ;;
    *) echo "no such server: $1" >&2; exit 2 ;;
    esac
    pid=$!
    pids+=("$pid")
    until (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; do sleep 0.05; done
}

nginx_config() {
    cat <<END
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log /dev/null;
events { worker_connections 20000; }
http { access_log off; keepalive_requests 1000000000;
  server { listen 127.0.0.1:$1 backlog=4096;
    location / { default_type application/json; add_header Cache-Control no-store;
      return 200 '{"resp_code":0,"msg":"success","id":1234567890}'; } } }
END
}

ticks() { awk '{ print $14, $15 }' "/proc/$1/stat"; } # user and system time, in 1/100 s

measure() { # SERVER PID PORT: appends "requests user_ticks system_ticks seconds" to its samples
    local before after requests
    before=$(ticks "$2")
    requests=$(taskset -c 1 wrk -t1 -c"$connections" -d"${seconds}s" -s pipeline.lua \
        "http://127.0.0.1:$3/alloc?app_tag=test_business" -- "$depth" | awk '/requests in/ { print $1 } /Socket errors|Non-2xx/ { print > "/dev/stderr" }')
    after=$(ticks "$2")
    echo "$requests $before $after" | awk '{ printf "%d %.1f %.1f %.1f\n", $1, ($4 - $2) * 1e7 / $1, ($5 - $3) * 1e7 / $1, ($4 + $5 - $2 - $3) * 1e7 / $1 }' >>"$work/$1.samples"
}

declare -A port_of pid_of
for server in "$@"; do
    port_of[$server]=$(free_port)
    start "$server" "${port_of[$server]}"
    pid_of[$server]=$pid
done
for ((round = 0; round <= rounds; round++)); do
    for server in "$@"; do
        measure "$server" "${pid_of[$server]}" "${port_of[$server]}"
        [ "$round" -gt 0 ] || : >"$work/$server.samples" # the first round warms up
    done
done

median() { sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
echo "$connections connections, $depth deep, $rounds rounds of ${seconds}s, medians"
printf '%-12s %12s %10s %10s %10s %8s\n' server requests/s user_ns system_ns cpu_ns "/$1"
for server in "$@"; do
    column() { awk -v c="$1" '{ print $c }' "$work/$server.samples" | median; }
    cpu=$(column 4)
    [ "$server" != "$1" ] || base=$cpu
    printf '%-12s %12.0f %10.0f %10.0f %10.0f %8.2f\n' "$server" "$(column 1 | awk -v s="$seconds" '{ print $1 / s }')" \
        "$(column 2)" "$(column 3)" "$cpu" "$(awk -v a="$cpu" -v b="$base" 'BEGIN { print a / b }')"
done
