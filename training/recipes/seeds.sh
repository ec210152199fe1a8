#!/bin/sh
# Usage: training/recipes/seeds.sh FLICKR8K
# Trains both models with two more seeds, as the shipped ones (seed 0) were trained, and measures them, for the spread
# in docs/results.md. A run that was cut off goes on when this is started again.
set -eu
data=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

for seed in 1 2; do
    SEED=$seed training/recipes/flickr8k.sh "$data" "runs/flickr8k-$seed"
    for model in dual cross; do
        cp "runs/flickr8k-$seed/$model.json" "docs/results/seed-$seed-$model.json"
    done
done
