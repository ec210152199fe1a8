#!/usr/bin/env bash
# The shipped model, from the data set to an artifact and its figures on dev: training/recipes/flickr8k.sh DATA [OUT]
# SEED=1 gives another run of the same recipe. What was finished is not done again; a run that was cut off goes on.
# Two CPU cores need about an hour, a GPU some minutes. torchrun is used where NPROC says how many GPUs there are.
set -euo pipefail
data=${1:?the folder of Flickr8k: diptych data flickr8k DIR downloads and checks it}
seed=${SEED:-0}
out=${2:-runs/flickr8k-$seed}

train() {
    if [ "${NPROC:-1}" -gt 1 ]; then
        torchrun --standalone --nproc-per-node "$NPROC" -m diptych train "$@" --data "$data" --seed "$seed"
    else
        diptych train "$@" --data "$data" --seed "$seed"
    fi
}

# Two heads on frozen towers, then the last four blocks of EfficientNet-Lite2, on three looks at each photo and their mirror
# images, and the last three layers of MiniLM. What comes before those blocks and layers is computed once.
[ -f "$out/dual/checkpoint.json" ] || train dual --out "$out/dual" \
    --head-epochs 40 --epochs 5 --batch-size 256 --lr 5e-4 --warmup 20 --weight-decay 0.2 --captions-per-image 2 \
    --image-backbone tf_efficientnet_lite2 --train-blocks 4 --image-lr-scale 0.6 --train-layers 3 --text-lr-scale 0.4 \
    --views 6 --looks 3 --image-dropout 0.4 --text-dropout 0.2 --bank 3000 --embed-dim 512

# Cross-attention on the token features of those towers, against negatives drawn from the 300 nearest wrong ones.
[ -f "$out/cross/checkpoint.json" ] || train cross --dual "$out/dual" --out "$out/cross" \
    --epochs 3 --batch-size 48 --lr 1e-3 --warmup 60 --weight-decay 0.05 --negatives 4 --hardest 300 --views 2 \
    --embed-dim 128 --layers 2 --dropout 0.1 --grid-dropout 0.3

[ -d "$out/artifact" ] || diptych export "$out/cross" --data "$data" --out "$out/artifact" --name flickr8k
for model in dual cross; do
    diptych evaluate --data "$data" --split dev --model "$model" --artifact "$out/artifact" --json "$out/$model.json"
done
