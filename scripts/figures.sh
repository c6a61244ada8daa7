#!/usr/bin/env bash
# Draws the figures of docs/results.md and docs/attack.md from the shipped logs, into the folder FIGURES (half a minute).
# A second run needs OPTIONS=--overwrite, as does FIGURES=figures, which replaces those in the clone.
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
FIGURES="${FIGURES:-figures/new}"
OPTIONS="${OPTIONS-}"

results() {  # PICTURE FIGURE FOLDER...
    python code/draw_results.py "$2" "${@:3}" "$FIGURES/$1.png" $OPTIONS
}

accuracy() {  # PICTURE FILE...
    python code/analyze.py "${@:2}" --score 0.5 --out "$FIGURES/$1.png" $OPTIONS
}

results certified_radius bounds "$LOGS/cifar10_resnet20"
results networks networks "$LOGS"/cifar10_{resnet20,resnet110,resnet20_consistency,resnet20_consistency_staged}
results samples samples "$LOGS/cifar10_resnet20_staged"
results range range "$LOGS/cifar10_resnet20_attacks"
accuracy bands "$LOGS/cifar10_resnet20/pred_score/noise_0.25"{,_dkw}
accuracy attacked "$LOGS/cifar10_resnet20_attacks/pred_score/noise_0.25".{scores,attacks}
