#!/bin/sh
# Usage: deploy/install.sh VENV ROLE
# Makes the virtual environment VENV if there is none, and installs the locked packages of ROLE
# (deploy/requirements/ROLE.txt) and Diptych itself into it. PYTHON=... chooses the interpreter.
set -eu
venv=$1
role=$2
cd "$(dirname "$0")/.."

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

find_python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            # Debian and Ubuntu ship the means to make virtual environments in a package of its own.
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$candidate"
                return
            fi
            without_venv=$candidate
        fi
    done
    if [ -n "${without_venv:-}" ]; then
        stop "$without_venv cannot make virtual environments." \
             "Install its venv package (on Debian and Ubuntu: apt install python3-venv), then run make again."
    fi
    stop "Diptych needs Python 3.11, 3.12 or 3.13, and none of python3.13, python3.12, python3.11 and python3 is one." \
         "Install one (Debian 12+ and Ubuntu 24.04+: apt install python3 python3-venv; macOS: brew install python@3.13)," \
         "or name yours: make PYTHON=/path/to/python3.13 ..."
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    python=$(find_python)
    echo "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# uv is quick; pip does the same where uv cannot be had, or does not know this network's index or certificates.
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
"$venv/bin/python" -m pip install --quiet uv || echo "going on without uv" >&2

install() {
    "$venv/bin/python" -m uv pip install --python "$venv/bin/python" --quiet "$@" ||
        "$venv/bin/python" -m pip install --quiet --no-compile "$@"
}

echo "installing the $role packages (the first time takes a minute or two)"
install --require-hashes -r "deploy/requirements/$role.txt" ||
    stop "The packages of deploy/requirements/$role.txt could not be installed; the reason is above." \
         "Most often it is a network without access to a package index: set PIP_INDEX_URL and UV_INDEX_URL to a mirror."
install --no-deps --editable . || stop "Diptych itself could not be installed; the reason is above."
touch "$venv/.installed-$role"
