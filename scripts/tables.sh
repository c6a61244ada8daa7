#!/usr/bin/env bash
# Prints the tables of docs/results.md: certified accuracy of our logs, beside what the paper's authors published for a
# ResNet-110 with N = 100,000 and the DKW band (their logs, through their cert_acc.py).
set -euo pipefail
cd "$(dirname "$0")/.."

SIGMAS="${SIGMAS:-0.25 0.50}"
LOGS="${LOGS:-log_files/cifar10_resnet20}"

declare -A SCORE=([pred_score]=0.5 [margin]=0)
for measure in pred_score margin; do
    logs=()
    for sigma in $SIGMAS; do logs+=("$LOGS/$measure/noise_$sigma" "$LOGS/$measure/noise_${sigma}_dkw"); done
    echo "Expected $measure above ${SCORE[$measure]}:"; echo
    python cert_acc.py "${logs[@]}" "${SCORE[$measure]}" --format markdown
    awk -v measure="$measure" '$1 == measure {
        printf "| published, noise %s | using cdf bound |", $2; for (i = 3; i <= NF; i++) printf " %s |", $i; print "" }' \
        log_files/published_accuracy.tsv
    echo
done
