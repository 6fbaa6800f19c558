# Functions of the install scripts; each script sources this file.

missing=""
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"

# Adds a package to the list if its program, or file, is missing.
need() { # PROGRAM|FILE PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -f "$1" ] || missing="$missing $2"
}

# Adds MariaDB to the list if its server is missing or, for root, the account that the tests run it as.
need_mariadb() {
    need mariadbd mariadb-server
    [ -n "$as_root" ] || getent passwd mysql >/dev/null || missing="$missing mariadb-server"
}

# Installs the list, on Debian and its derivatives.
install_missing() { # WHO_NEEDS_IT
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "$1 need:$missing; install them with this system's package manager" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # one word for each package
    $as_root apt-get install -y -qq --no-install-recommends $missing
}
