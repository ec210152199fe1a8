#!/bin/sh
# Gives an empty store the model that comes with Diptych, and brings the index up to date with the photos in /photos.
set -eu
if [ ! -e "$DIPTYCH_STORE/current.json" ]; then
    python -m diptych publish /app/artifacts/*
fi
exec python -m diptych index build --img-dir /photos --index-dir "${DIPTYCH_STORE%/*}/build"
