#!/bin/sh
# Usage: training/recipes/seeds.sh FLICKR8K
# Trains both models with two more seeds, as the shipped ones (seed 0) were trained, and measures them, for the spread
# in docs/results.md. A run that was cut off goes on when this is started again.
set -eu
data=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

for seed in 1 2; do
    run=runs/seed-$seed
    diptych train dual --data "$data" --seed $seed --out $run/dual
    diptych train cross --data "$data" --dual $run/dual --seed $seed --out $run/cross
    [ -d $run/model ] || diptych export $run/cross --data "$data" --out $run/model
    diptych evaluate --data "$data" --model dual --artifact $run/model --json docs/results/seed-$seed-dual.json
    diptych evaluate --data "$data" --model cross --artifact $run/model --json docs/results/seed-$seed-cross.json
done
