#!/usr/bin/env bash
# Prints the tables of docs/results.md: certified accuracy of the shipped logs and what they cost, beside what the paper's
# authors published for a ResNet-110 with N = 100,000 and the DKW band (their logs, through their cert_acc.py).
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
declare -A SCORE=([pred_score]=0.5 [margin]=0)
BANDS=("ResNet-20, DKW band" "ResNet-20, equal levels" "ResNet-20")

accuracy() {  # MEASURE NOISE OPTION...: the three bands of the ResNet-20, then the logs of FOLDERS
    local folders=("${FOLDERS[@]/#/$LOGS/cifar10_}")
    python cert_acc.py "$LOGS/cifar10_resnet20/$1/noise_$2"{_dkw,_equal,} "${folders[@]/%//$1/noise_$2}" "${SCORE[$1]}" \
        --labels "${BANDS[@]}" "${LABELS[@]}" --format markdown "${@:3}"
}

cost() {  # OPTION...: of the ResNet-20 and of FOLDERS
    python benchmarks/log_cost.py "$LOGS"/cifar10_resnet20 "${FOLDERS[@]/#/$LOGS/cifar10_}" \
        --labels ResNet-20 "${LABELS[@]}" --format markdown "$@"
}

FOLDERS=(resnet110 resnet20_consistency)
LABELS=("ResNet-110" "ResNet-20, consistency")
for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        accuracy "$measure" "$sigma" --title "Expected $measure above ${SCORE[$measure]}, noise $sigma:" |
            grep -Ev '(band|levels|110|consistency) \| without'  # the baseline once, from all samples
        awk -v measure="$measure" -v sigma="$sigma" '$1 == measure && $2 == sigma {
            printf "| published | using cdf bound |"; for (i = 3; i <= NF; i++) printf " %s |", $i; print "" }' \
            log_files/published_accuracy.tsv
        echo
    done
done
cost --title "Samples per image, and hours:"
echo

FOLDERS=(resnet20_staged resnet20_consistency_staged)
LABELS=("ResNet-20, N = 100,000" "ResNet-20, consistency, N = 100,000")
for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        accuracy "$measure" "$sigma" --skip 40 --title \
            "Step by step, expected $measure above ${SCORE[$measure]}, noise $sigma, images 0, 40, 80, ...:" |
            grep -v without
        echo
    done
done
cost --title "Samples per image, and hours, of these images:" --skip 40
