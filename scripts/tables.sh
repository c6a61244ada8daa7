#!/usr/bin/env bash
# Prints the tables of docs/results.md: certified accuracy of the shipped logs and what they cost, beside what the paper's
# authors published for a ResNet-110 with N = 100,000 and the DKW band (their logs, through their cert_acc.py).
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
declare -A SCORE=([pred_score]=0.5 [margin]=0)

accuracy() {  # MEASURE SKIP LOG...
    python cert_acc.py "${@:3}" "${SCORE[$1]}" --skip "$2" --format markdown
}

for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        echo "Expected $measure above ${SCORE[$measure]}, noise $sigma:"; echo
        accuracy "$measure" 20 "$LOGS/cifar10_resnet20/$measure/noise_$sigma"{_dkw,_equal,} \
            "$LOGS"/cifar10_{resnet110,resnet20_consistency}/"$measure/noise_$sigma" |
            grep -Ev '(dkw|equal|/cifar10_resnet110/.*|_consistency/.*) \| without'  # the baseline once, from all samples
        awk -v measure="$measure" -v sigma="$sigma" '$1 == measure && $2 == sigma {
            printf "| published | using cdf bound |"; for (i = 3; i <= NF; i++) printf " %s |", $i; print "" }' \
            log_files/published_accuracy.tsv
        echo
    done
done
echo "Samples per image, and hours:"; echo
python benchmarks/log_cost.py "$LOGS"/cifar10_{resnet20,resnet110,resnet20_consistency} --format markdown
echo

for measure in pred_score margin; do
    for sigma in 0.25 0.50; do
        echo "Step by step, expected $measure above ${SCORE[$measure]}, noise $sigma, images 0, 40, 80, ...:"; echo
        accuracy "$measure" 40 "$LOGS/cifar10_resnet20/$measure/noise_$sigma"{_dkw,_equal,} \
            "$LOGS"/cifar10_{resnet20_staged,resnet20_consistency_staged}/"$measure/noise_$sigma" | grep -v without
        echo
    done
done
echo "Samples per image, and hours, of these images:"; echo
python benchmarks/log_cost.py "$LOGS"/cifar10_{resnet20,resnet20_staged,resnet20_consistency_staged} --skip 40 \
    --format markdown
