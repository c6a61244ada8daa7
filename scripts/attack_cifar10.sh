#!/usr/bin/env bash
# Tries to break the certificates of 100 CIFAR-10 test images: the logs and attacks of docs/attack.md. On a fresh clone it
# finds them complete; LOGS=log_files/new makes them again, in about 2 hours of CPU time on a core with bf16
# instructions. Repeating it resumes. On a CPU without them: LOGS=log_files/new OPTIONS="".
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER="${LOGS:-log_files}/cifar10_resnet20_attacks"
SIGMAS="${SIGMAS:-0.25 0.50}"
OPTIONS="${OPTIONS---precision bf16 --compile}"

for sigma in $SIGMAS; do
    network="models/cifar10/resnet20/noise_$sigma/checkpoint.pth.tar"
    python code/certify.py cifar10 "$network" "$sigma" "$FOLDER/{confidence_measure}/noise_$sigma" \
        --confidence_measure pred_score margin --skip 100 --N 10000 --seed 2 --save_scores $OPTIONS
    for measure in pred_score margin; do
        log="$FOLDER/$measure/noise_$sigma"
        python code/attack.py cifar10 "$network" "$sigma" "$log" "$log.attacks" --skip 100 --radii 0.25 0.5 0.75 \
            --N 2000 --seed 2 $OPTIONS
    done
done
