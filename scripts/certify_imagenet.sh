#!/usr/bin/env bash
# Certifies 500 ImageNet validation images with Cohen et al.'s ResNet-50 at each noise level, both measures in one pass.
# Needs IMAGENET_DIR and the networks (see docs/reproduce.md). On several GPUs: LAUNCH="torchrun --nproc_per_node=8 --".
# With a GPU: OPTIONS="--precision bf16 --compile --batch 400"; tf32 in place of bf16 keeps float32's range.
set -euo pipefail
cd "$(dirname "$0")/.."

SIGMAS="${SIGMAS:-0.25 0.50}"
MEASURES="${MEASURES:-pred_score margin}"
MODELS="${MODELS:-models/imagenet/resnet50}"
N="${N:-100000}"
SKIP="${SKIP:-100}"
OPTIONS="${OPTIONS---batch 400}"
LOGS="${LOGS:-log_files/imagenet}"
LAUNCH="${LAUNCH:-python}"

for sigma in $SIGMAS; do
    $LAUNCH code/certify.py imagenet "$MODELS/noise_$sigma/checkpoint.pth.tar" "$sigma" \
        "$LOGS/{confidence_measure}/noise_$sigma" --confidence_measure $MEASURES --skip "$SKIP" --N "$N" $OPTIONS
done
