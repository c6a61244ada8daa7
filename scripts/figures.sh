#!/usr/bin/env bash
# Draws the figures of docs/results.md and docs/attack.md from the shipped logs, into the folder FIGURES (half a minute).
# A second run needs OPTIONS=--overwrite, as does FIGURES=figures, which replaces those in the clone.
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
FIGURES="${FIGURES:-figures/new}"
OPTIONS="${OPTIONS-}"

draw() {  # PICTURE ARGUMENT...
    python code/analyze.py "${@:2}" --out "$FIGURES/$1.png" $OPTIONS
}

draw certified_radius "$LOGS/cifar10_resnet20" --figure bounds --title "ResNet-20"
draw networks "$LOGS"/cifar10_{resnet20,resnet110,resnet20_consistency_staged,resnet110_consistency_staged} --figure networks \
    --labels ResNet-20 ResNet-110 "ResNet-20, consistency, N = 100,000" "ResNet-110, consistency, N = 100,000"
draw samples "$LOGS/cifar10_resnet20_staged" --figure samples --title "ResNet-20, N = 100,000, early stopping"
draw range "$LOGS/cifar10_resnet20_attacks" --figure range --title "ResNet-20"
draw bands "$LOGS/cifar10_resnet20/pred_score/noise_0.25"{,_dkw} --score 0.5 \
    --labels "ResNet-20, Clopper-Pearson band" "ResNet-20, DKW band" --title "Noise 0.25"
draw attacked "$LOGS/cifar10_resnet20_attacks/pred_score/noise_0.25".{scores,attacks} --score 0.5 \
    --labels "ResNet-20, certified" "ResNet-20, attacked" --title "Noise 0.25"
