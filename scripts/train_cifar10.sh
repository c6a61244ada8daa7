#!/usr/bin/env bash
# Trains a CIFAR-10 network at each noise level; a training that was stopped is resumed.
# As it stands: Cohen et al.'s training of a ResNet-110, for a GPU. The bundled ResNet-20 networks were trained with
#   ARCH=cifar_resnet20 OPTIONS="--epochs 24 --batch 128 --lr 0.2 --schedule one_cycle --amp" bash scripts/train_cifar10.sh
set -euo pipefail
cd "$(dirname "$0")/.."

SIGMAS="${SIGMAS:-0.25 0.50}"
ARCH="${ARCH:-cifar_resnet110}"
OUT="${OUT:-models/cifar10/new_${ARCH#cifar_}}"
OPTIONS="${OPTIONS---epochs 90 --batch 256 --lr 0.1 --lr_step_size 30 --gamma 0.1}"

for sigma in $SIGMAS; do
    outdir="$OUT/noise_$sigma"
    resume=""; [ -e "$outdir/checkpoint.pth.tar" ] && resume="--resume"
    python code/train.py cifar10 "$ARCH" "$outdir" --noise_sd "$sigma" $OPTIONS $resume
done
