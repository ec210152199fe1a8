#!/bin/sh
# Usage: deploy/lock.sh [--upgrade]
# Writes deploy/requirements/ROLE.txt for every role: exact versions with hashes, for Python 3.11 to 3.13 on any platform.
# All roles agree with dev, as far as it has their packages. Without --upgrade versions stay as they are where pyproject.toml allows. UV=... names the uv.
set -eu
cd "$(dirname "$0")/.."

lock() {
    role=$1
    shift
    "${UV:-uv}" pip compile pyproject.toml --extra "$role" --output-file "deploy/requirements/$role.txt" --quiet \
        --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --custom-compile-command deploy/lock.sh "$@"
}

lock dev "$@"
for role in encoder encoder-torch index index-milvus gateway demo otel serve train docs; do
    lock "$role" --constraints deploy/requirements/dev.txt
done
