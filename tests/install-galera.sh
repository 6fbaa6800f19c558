#!/bin/sh
# Installs what `make galera` needs and cargo does not bring.
set -eu
. "$(dirname "$0")/installing.sh"

need_mariadb
# What a node that joins is sent its data by: mariadbd stays when mariadb-server is removed, this does not.
need wsrep_sst_rsync mariadb-server
need rsync rsync
need /usr/lib/galera/libgalera_smm.so galera-4
install_missing "the cluster's tests"
