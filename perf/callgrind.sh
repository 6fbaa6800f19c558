#!/usr/bin/env bash
# Counts the instructions of a request from bytes to bytes. Other load on the machine does not change the count, so it
# detects regressions.
#
#   perf/callgrind.sh            prints the counts
#   perf/callgrind.sh --check    fails when one is more than 25 % above perf/callgrind-baseline.txt
#   perf/callgrind.sh --save     makes the counts the baseline
#
# Each case runs `few` and `many` requests; the difference excludes the start-up. Needs valgrind: make perf-deps.
set -euo pipefail
cd "$(dirname "$0")/.."

margin_percent=25
few=200 many=2000
baseline=perf/callgrind-baseline.txt

command -v valgrind >/dev/null || { echo "perf/callgrind.sh needs valgrind: make perf-deps" >&2; exit 1; }
program=$(cargo bench --locked --quiet --bench instructions --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*instructions-[^"]*\)".*/\1/p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

instructions() { # CASE TIMES
    valgrind --tool=callgrind --callgrind-out-file="$work/out" --toggle-collect='instructions::exchange_all' \
        "$program" "$1" "$2" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    sed -n 's/^\(totals\|summary\): //p' "$work/out" | head -1
}

"$program" | while read -r case; do
    printf '%d\t%s\n' "$((($(instructions "$case" $many) - $(instructions "$case" $few)) / (many - few)))" "$case"
done >"$work/counts"
cat "$work/counts"

case ${1:-} in
'') ;;
--save) cp "$work/counts" $baseline ;;
--check)
    awk -F'\t' -v margin=$margin_percent '
        NR == FNR { before[$2] = $1; next }
        !($2 in before) { print "no baseline for: " $2; bad = 1; next }
        $1 > before[$2] * (1 + margin / 100) { print $2 ": " $1 " instructions, " before[$2] " in the baseline"; bad = 1 }
        END { exit bad }' $baseline "$work/counts" >&2 ||
        { echo "more instructions than before: find out why, or save a new baseline and say why in the commit" >&2; exit 1; }
    ;;
*) exit 2 ;;
esac
