#!/bin/sh
# Installs what perf/ measures with, on Debian and its children.
set -eu
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends wrk nginx-light linux-perf valgrind util-linux
