#!/bin/sh
# Installs what perf/ measures with, on Debian and its children.
set -eu
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# perf/cpu.sh
$as_root apt-get install -y -qq --no-install-recommends wrk nginx-light linux-perf valgrind util-linux
# perf/clients.sh
$as_root apt-get install -y -qq --no-install-recommends apache2-utils nghttp2-client hey wrk curl slowhttptest
# perf/clients.sh runs oha as well where it is installed. Debian has no package of it, and building it takes minutes.
[ -z "${WITH_OHA:-}" ] || cargo install oha --locked
