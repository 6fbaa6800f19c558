#!/bin/sh
# Installs what the tests need and cargo does not bring; `valgrind` as well if it is named.
set -eu
. "$(dirname "$0")/installing.sh"

need_mariadb
need openssl openssl
need bindfs bindfs
need umount mount
[ "${1:-}" != valgrind ] || need valgrind valgrind
install_missing "the tests"
