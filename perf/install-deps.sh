#!/bin/sh
# Installs what perf/ needs, on Debian and its derivatives.
set -eu
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# perf/bench.sh, flamegraph.sh, callgrind.sh
$as_root apt-get install -y -qq --no-install-recommends wrk nginx-light linux-perf valgrind util-linux curl
# perf/clients.sh
$as_root apt-get install -y -qq --no-install-recommends apache2-utils nghttp2-client hey slowhttptest
# Debian has no packages of these; building them takes minutes.
command -v oha >/dev/null 2>&1 || cargo install oha --locked
command -v inferno-flamegraph >/dev/null 2>&1 || cargo install inferno --locked
