#!/bin/sh
# Installs what `make galera` needs besides cargo's crates.
set -eu
. "$(dirname "$0")/installing.sh"

need_mariadb
# The programs that send a joining node its data. They go when mariadb-server is removed; mariadbd stays.
need wsrep_sst_rsync mariadb-server
need rsync rsync
need /usr/lib/galera/libgalera_smm.so galera-4
install_missing "the cluster's tests"
