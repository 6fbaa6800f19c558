#!/usr/bin/env bash
# shellcheck disable=SC2317 # functions are called by name
#
# Runs common load tools against the release server, and fails if one does not get an answer for every request: each
# speaks HTTP/1 in its own way (ab speaks 1.0, h2load pipelines, curl waits for 100 Continue ..). Meanwhile
# slowhttptest attacks for a few seconds, and an honest client must not notice.
#
#   perf/clients.sh [-e ENGINE]
#
# ENGINE is tokio (the default) or may_minihttp, which promises nothing and is there to compare. All tools
# are required: make perf-deps. Every run has a limit; the whole takes about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

engine=tokio
while getopts e: option; do
    case $option in
    e) engine=$OPTARG ;;
    *) exit 2 ;;
    esac
done

for tool in ab h2load hey wrk oha curl slowhttptest; do
    command -v $tool >/dev/null || { echo "perf/clients.sh needs $tool: make perf-deps" >&2; exit 1; }
done
cargo build --release --locked --quiet

tool_seconds=60     # the most for one tool; a run that takes so long has failed
connections=32      # of each honest tool
attackers=200       # connections of slowhttptest
attack_seconds=8    # long enough to connect them all, and to end the last
patience_ms=3000    # of the server, with clients that send or read slowly: they are ended while the attack lasts

work=$(mktemp -d)
server='' failed=0
finish() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    jobs -p | xargs -r kill 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
ulimit -n "$(ulimit -Hn)"

# ---- the server ----

start_server() { # sets server, base and target
    printf '{"DSN":"sqlite:%s/ids.db","HttpHost":"127.0.0.1","AdminPort":0,"HttpPort":0,"HttpEngine":"%s","HttpReadTimeout":%d,"HttpWriteTimeout":%d}' \
        "$work" "$engine" "$patience_ms" "$patience_ms" >"$work/config.json"
    "${CARGO_TARGET_DIR:-target}/release/idalloc" --config "$work/config.json" >"$work/server.out" 2>"$work/server.log" &
    server=$!
    local port='' try
    for ((try = 0; try < 200; try++)); do
        port=$(sed -n 's/^server started at: .*://p' "$work/server.out")
        base="http://127.0.0.1:$port" target="http://127.0.0.1:$port/alloc?app_tag=test_business"
        [ -z "$port" ] || ! curl --silent --fail --output "$work/health" "$base/health" || return 0
        sleep 0.05
    done
    echo "the server does not start:" >&2
    cat "$work/server.log" >&2
    exit 1
}

stop_server() { # it must have run until now, have nothing to complain about, and end with 0
    local code=0 complaints
    kill -TERM "$server" 2>/dev/null || true
    timeout 15 tail --pid="$server" -f /dev/null || kill -KILL "$server"
    wait "$server" || code=$?
    server=''
    complaints=$(grep -Ec ' (WARN|ERROR) |panicked' "$work/server.log" || true)
    report server "$work/server.log" "$((code == 0 && complaints == 0))" "exit code $code, $complaints complaints in the log"
}

# ---- what a tool has counted: "answered non-2xx failed timeouts" ----

count_ab() {
    awk '/^Complete requests:/ { all = $3 } /^Non-2xx/ { other = $3 } /^Failed requests:|^Write errors:/ { failed += $3 }
        END { print all - other, other + 0, failed + 0, 0 }' "$1"
}

count_ab_keepalive() { # every answer must have kept the connection
    awk '/^Complete requests:/ { all = $3 } /^Keep-Alive requests:/ { kept = $3 } /^Non-2xx/ { other = $3 }
        /^Failed requests:|^Write errors:/ { failed += $3 } END { print kept - other, other + 0, failed + all - kept, 0 }' "$1"
}

count_h2load() { # "errored" requests are among the "failed" ones, and so are those with a status of 400 and above
    awk '/^requests:/ { failed = $10; timeouts = $14 } /^status codes:/ { good = $3; other = $5 + $7 + $9 }
        END { print good + 0, other + 0, failed + 0, timeouts + 0 }' "$1"
}

count_hey() { # oha's summary has the same lines
    awk '/^Error distribution/ { errors = 1 }
        /^ *\[[0-9]+\]/ { n = $1; gsub(/[][]/, "", n) }
        /^ *\[[0-9]+\]/ && errors { if (/[Tt]imeout|deadline/) timeouts += n; else failed += n }
        /^ *\[[0-9]+\].*responses/ && !errors { if (n ~ /^2/) good += $2; else other += $2 }
        END { print good + 0, other + 0, failed + 0, timeouts + 0 }' "$1"
}

count_wrk() {
    awk '/requests in/ { all = $1 } /Non-2xx/ { other = $NF }
        /Socket errors/ { gsub(","," "); failed = $4 + $6 + $8; timeouts = $10 } END { print all - other, other + 0, failed + 0, timeouts + 0 }' "$1"
}

count_curl() { # a line "status exit-code new-connections" for each transfer, see --write-out below; 28 is a timeout
    awk '$1 == "answer" && $3 == 28 { timeouts++; next } $1 == "answer" && $3 != 0 { failed++; next }
        $1 == "answer" { if ($2 ~ /^2/) good++; else other++ } END { print good + 0, other + 0, failed + 0, timeouts + 0 }' "$1"
}

# ---- running tools ----

report() { # NAME LOG GOOD FACTS: one line; of a failure, the end of the log as well
    if [ "$3" = 1 ]; then
        printf '%-28s done    %s\n' "$1" "$4"
    else
        printf '%-28s FAILED  %s\n' "$1" "$4"
        tail -n 15 "$2" | sed 's/^/    | /'
        failed=1
    fi
}

judge() { # NAME COUNT LOG EXIT_CODE EXPECTED: EXPECTED answers, or with "some": at least one
    local answered other failures timeouts
    read -r answered other failures timeouts <<<"$("count_$2" "$3")"
    local good=$(($4 == 0 && other + failures + timeouts == 0))
    if [ "$5" = some ]; then good=$((good && answered > 0)); else good=$((good && answered == $5)); fi
    report "$1" "$3" "$good" "exit code $4, $answered answered, $other non-2xx, $failures failed, $timeouts timeouts"
}

bounded() { timeout --kill-after=5 "$tool_seconds" "$@" </dev/null; }

run() { # NAME COUNT EXPECTED COMMAND..
    local log=$work/tool.log code=0
    bounded "${@:4}" >"$log" 2>&1 || code=$?
    judge "$1" "$2" "$log" "$code" "$3"
}

run_curl() { # NAME EXPECTED ARGUMENTS..
    run "$1" curl "$2" curl --silent --show-error --max-time 10 --output "$work/body" \
        --write-out 'answer %{http_code} %{exitcode} %{num_connects}\n' "${@:3}"
}

many_urls() { # the same as run_curl, on one connection, and with answers that ascend
    local log=$work/tool.log code=0 connects
    bounded curl --silent --show-error --max-time 10 --write-out '\nanswer %{http_code} %{exitcode} %{num_connects}\n' \
        "$target&n=[1-500]" >"$log" 2>&1 || code=$?
    judge "curl, 500 URLs" curl "$log" "$code" 500
    connects=$(awk '$1 == "answer" { n += $4 } END { print n + 0 }' "$log")
    sed -n 's/.*"id":\([0-9]*\)}/\1/p' "$log" >"$work/ids"
    local ascending=1
    sort --numeric-sort --unique --check=quiet "$work/ids" || ascending=0
    report "curl, 500 URLs: order" "$log" "$((connects == 1 && ascending))" "$connects connection, $(wc -l <"$work/ids") IDs, ascending: $ascending"
}

# slowhttptest reports every few seconds whether its own probe was answered, and stops when it has no connection left.
attack() { # NAME URL END ARGUMENTS..: END is a pattern of how it has to end
    local log=$work/attack.log honest=$work/honest.log code=0 honest_code=0 unavailable end
    bounded hey -z "$((attack_seconds + 1))s" -c 8 -q 50 -t 1 "$target" >"$honest" 2>&1 &
    local honest_pid=$!
    bounded slowhttptest -c "$attackers" -r "$attackers" -i 1 -l "$attack_seconds" -p 1 -u "$2" "${@:4}" >"$log.raw" 2>&1 || code=$?
    wait "$honest_pid" || honest_code=$?
    sed 's/\x1b\[[0-9;]*[A-Za-z]//g' "$log.raw" >"$log"
    unavailable=$(grep -c 'service available:.*NO' "$log" || true)
    end=$(sed -n 's/^Exit status: *//p' "$log")
    report "$1" "$log" "$([[ $code = 0 && $unavailable = 0 && $end =~ $3 ]] && echo 1 || echo 0)" \
        "exit code $code, unavailable $unavailable times, end: ${end:-none}"
    judge "$1: honest hey" hey "$honest" "$honest_code" some
}

# ---- all of them ----

start_server
form=app_tag=test_business
large_form=$work/form # within the limit of 64 KiB for a body
{ printf '%s&padding=' "$form"; head -c 60000 /dev/zero | tr '\0' x; } >"$large_form"

echo "engine $engine"
# -l: IDs differ in length.
run "ab" ab 20000 ab -q -l -s 5 -n 20000 -c "$connections" "$target"
run "ab -k" ab_keepalive 50000 ab -q -l -s 5 -k -n 50000 -c "$connections" "$target"
run "h2load --h1" h2load 100000 h2load --h1 -n 100000 -c "$connections" -N 5 "$target"
run "h2load --h1, pipelined" h2load 100000 h2load --h1 -n 100000 -c "$connections" -m 16 -N 5 "$target"
run "hey" hey 32000 hey -n 32000 -c "$connections" -t 5 "$target"
run "hey, new connections" hey 6400 hey -n 6400 -c "$connections" -t 5 -disable-keepalive "$target"
run "hey, POST" hey 32000 hey -n 32000 -c "$connections" -t 5 -m POST -T application/x-www-form-urlencoded -d "$form" "$base/alloc"
run "wrk" wrk some wrk -t 2 -c "$connections" -d 3s --timeout 5s "$target"
run "wrk, 1000 connections" wrk some wrk -t 2 -c 1000 -d 3s --timeout 5s "$target"

run "oha" hey 32000 oha --no-tui --no-color -n 32000 -c "$connections" -t 5s "$target"

run_curl "curl" 1 "$target"
run_curl "curl, POST form" 1 --data-urlencode "$form" "$base/alloc"
run_curl "curl --head" 1 --head "$target"
run_curl "curl --http1.0" 1 --http1.0 "$target"
# curl sends the body after 100 Continue, or after this timeout, which is too late.
run_curl "curl, Expect, large form" 1 --header 'Expect: 100-continue' --expect100-timeout 20 --data-binary "@$large_form" "$base/alloc"
many_urls

# A request that does not arrive in time is closed, so the attacker loses all its connections before its time is over.
attack "slowhttptest -H" "$target" "^No open connections left" -H
attack "slowhttptest -B" "$target" "^No open connections left" -B
# 200 KB of answers for each connection, more than the kernel buffers. The kernel sends its buffer even after a close, so
# the attacker may keep its connections.
attack "slowhttptest -X" "$target&count=1000" "^(No open connections left|Hit test time limit)" -X -k 10 -w 10 -y 20 -n 1 -z 32

stop_server
exit "$failed"
