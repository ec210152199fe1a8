#!/bin/sh
# Usage: training/recipes/seeds.sh FLICKR8K
# Trains both models with two more seeds, as the shipped ones (seed 0) were trained, and measures them, for the spread
# in docs/results.md. A run that was cut off goes on when this is started again.
set -eu
data=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

for seed in 1 2; do
    # What the frozen blocks and layers see is the same for every seed.
    if [ -d runs/flickr8k-0/dual/cache ] && [ ! -e "runs/flickr8k-$seed/dual/cache" ]; then
        mkdir -p "runs/flickr8k-$seed/dual"
        cp -al runs/flickr8k-0/dual/cache "runs/flickr8k-$seed/dual/cache"
    fi
    SEED=$seed training/recipes/flickr8k.sh "$data" "runs/flickr8k-$seed"
    for model in dual cross; do
        cp "runs/flickr8k-$seed/$model.json" "docs/results/seed-$seed-$model.json"
    done
done
