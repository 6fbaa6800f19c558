#!/bin/sh
# Installs what `make galera` needs and cargo does not bring.
set -eu
. "$(dirname "$0")/installing.sh"

need mariadbd mariadb-server
need rsync rsync
need /usr/lib/galera/libgalera_smm.so galera-4
install_missing "the cluster's tests"
