#!/bin/sh
# Usage: training/recipes/measure.sh FLICKR8K
# Measures the model that ships and writes what docs/results.md is made of; `make results` then writes that page.
# An hour on two cores. The other seeds are trained and measured by seeds.sh beside this file.
set -eu
data=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

diptych evaluate --data "$data" --model dual --artifact artifacts/flickr8k --json docs/results/seed-0-dual.json
diptych evaluate --data "$data" --model cross --artifact artifacts/flickr8k --json docs/results/seed-0-cross.json
diptych measure depth --data "$data" --artifact artifacts/flickr8k --json docs/results/depth.json
diptych measure failures --data "$data" --artifact artifacts/flickr8k --json docs/results/failures.json
diptych measure gallery --artifact artifacts/flickr8k --json docs/results/gallery.json
diptych measure dataset --data "$data" --json docs/results/dataset.json
diptych measure tokens --data "$data" --artifact artifacts/flickr8k --json docs/results/tokens.json
rm -rf runs/int8
diptych quantise artifacts/flickr8k --data "$data" --out runs/int8 --json docs/results/int8.json
