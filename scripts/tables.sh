#!/usr/bin/env bash
# Prints the tables of docs/results.md: certified accuracy of our logs, beside what the paper's authors published for a
# ResNet-110 with N = 100,000 and the DKW band (their logs, through their cert_acc.py).
set -euo pipefail
cd "$(dirname "$0")/.."

SIGMAS="${SIGMAS:-0.25 0.50}"
LOGS="${LOGS:-log_files/cifar10_resnet20}"

declare -A SCORE=([pred_score]=0.5 [margin]=0)
declare -A PUBLISHED=(
    [pred_score_0.25]="0.7080 0.5420 0.3360 0.0000 0.0000 0.0000 0.0000"
    [pred_score_0.50]="0.5340 0.4280 0.3420 0.2440 0.1460 0.0140 0.0000"
    [margin_0.25]="0.7540 0.5860 0.3560 0.0000 0.0000 0.0000 0.0000"
    [margin_0.50]="0.6560 0.5360 0.4040 0.2880 0.1600 0.0160 0.0000"
)

for measure in pred_score margin; do
    logs=()
    for sigma in $SIGMAS; do logs+=("$LOGS/$measure/noise_$sigma" "$LOGS/$measure/noise_${sigma}_dkw"); done
    echo "Expected $measure above ${SCORE[$measure]}:"; echo
    python cert_acc.py "${logs[@]}" "${SCORE[$measure]}" --format markdown
    for sigma in $SIGMAS; do
        echo "| published, noise $sigma | using cdf bound | ${PUBLISHED[${measure}_$sigma]// / | } |"
    done
    echo
done
