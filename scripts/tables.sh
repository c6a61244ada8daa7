#!/usr/bin/env bash
# Prints the tables of docs/results.md, which has them exactly as they are printed: certified accuracy of the logs and
# what they cost, beside what the paper's authors published for a ResNet-110 with N = 100,000 and the DKW band (their
# logs, through their cert_acc.py). A log that the folder LOGS lacks is left out.
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
declare -A SCORE=([pred_score]=0.5 [margin]=0)
BANDS=("ResNet-20, DKW band" "ResNet-20, equal levels" "ResNet-20")

accuracy() {  # MEASURE NOISE OPTION...: the three bands of the ResNet-20, then the logs of FOLDERS, called LABELS
    local logs=("$LOGS/cifar10_resnet20/$1/noise_$2"{_dkw,_equal,}) names=("${BANDS[@]}") i
    for i in "${!FOLDERS[@]}"; do
        local log="$LOGS/cifar10_${FOLDERS[i]}/$1/noise_$2"
        if [ -e "$log" ]; then logs+=("$log"); names+=("${LABELS[i]}"); fi
    done
    python cert_acc.py "${logs[@]}" "${SCORE[$1]}" --labels "${names[@]}" --format markdown "${@:3}"
}

cost() {  # OPTION...: of the ResNet-20 and of FOLDERS
    local folders=("$LOGS/cifar10_resnet20") names=(ResNet-20) i
    for i in "${!FOLDERS[@]}"; do
        local folder="$LOGS/cifar10_${FOLDERS[i]}"
        if [ -d "$folder" ]; then folders+=("$folder"); names+=("${LABELS[i]}"); fi
    done
    python benchmarks/log_cost.py "${folders[@]}" --labels "${names[@]}" --format markdown "$@"
}

FOLDERS=(resnet110)
LABELS=("ResNet-110")
printf '### 500 images, N = 10,000\n\n'
for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        accuracy "$measure" "$sigma" --title "Expected $measure above ${SCORE[$measure]}, noise $sigma:" |
            grep -Ev '(band|levels|110) \| without'  # the baseline once, from all samples
        awk -v measure="$measure" -v sigma="$sigma" '$1 == measure && $2 == sigma {
            printf "| published | using cdf bound |"
            for (i = 3; i <= NF; i++) printf " %s |", $i; print "" }' log_files/published_accuracy.tsv
        echo
    done
done
cost --title "Samples per image, and hours:"

FOLDERS=(resnet20_staged resnet110_staged resnet20_consistency_staged resnet110_consistency_staged)
LABELS=("ResNet-20, N = 100,000" "ResNet-110, N = 100,000" "ResNet-20, consistency, N = 100,000"
    "ResNet-110, consistency, N = 100,000")
printf '\n### 250 images, up to N = 100,000\n\n'
for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        accuracy "$measure" "$sigma" --skip 40 \
            --title "Expected $measure above ${SCORE[$measure]}, noise $sigma, images 0, 40, 80, …:" | grep -v without
        echo
    done
done
cost --title "Samples per image, and hours, of the images 0, 40, 80, …:" --skip 40
