#!/bin/sh
# Usage: training/recipes/distil.sh FLICKR8K [TEACHER]
# Distils the model that ships (or another artifact, or a finished run) into one with a smaller image tower, and measures
# that one for docs/results.md. Half an hour on two cores. A run that was cut off goes on when this is started again.
set -eu
data=$(cd "$1" && pwd)
teacher=${2:-artifacts/flickr8k}
cd "$(dirname "$0")/../.."

diptych train distil --data "$data" --teacher "$teacher" --out runs/distil
[ -d runs/distil/artifact ] || diptych export runs/distil --data "$data" --out runs/distil/artifact --name flickr8k-small
for model in dual cross; do
    diptych evaluate --data "$data" --model "$model" --artifact runs/distil/artifact --json "docs/results/distil-$model.json"
done
