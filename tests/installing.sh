# What the install scripts share; each sources it.

missing=""
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"

# Notes the package that brings a program, or a file, if that is not here.
need() { # PROGRAM|FILE PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -f "$1" ] || missing="$missing $2"
}

# Notes MariaDB if its server is not here, or, for root, the account that the tests then run it as.
need_mariadb() {
    need mariadbd mariadb-server
    [ -n "$as_root" ] || getent passwd mysql >/dev/null || missing="$missing mariadb-server"
}

# Installs what is missing, on Debian and its children.
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
