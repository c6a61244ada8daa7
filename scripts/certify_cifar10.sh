#!/usr/bin/env bash
# Makes the CIFAR-10 logs of docs/results.md again, in the folder LOGS, both measures from one pass. The shipped ones
# took about 16.5 hours of a core with bf16 instructions. Repeating it resumes. On a CPU without these instructions:
#   OPTIONS="" bash scripts/certify_cifar10.sh
# LOGS=log_files stops at the first log that --settle made: an earlier version made most of them, with fewer looks.
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files/new}"
OPTIONS="${OPTIONS---precision bf16 --compile}"

certify() {  # FOLDER NETWORK OPTION...: a log of each measure at each noise level
    for sigma in ${SIGMAS-0.25 0.50}; do
        python code/certify.py cifar10 "models/cifar10/$2/noise_$sigma/checkpoint.pth.tar" "$sigma" \
            "$LOGS/$1/{confidence_measure}/noise_$sigma" --confidence_measure pred_score margin --seed 1 \
            --save_scores "${@:3}" $OPTIONS
    done
}

recertify() {  # SUFFIX OPTION...: another band from the saved scores of the ResNet-20
    for scores in "$LOGS"/cifar10_resnet20/*/*.scores; do
        python code/recertify.py "$scores" "${scores%.scores}_$1" "${@:2}"
    done
}

# 500 images, N = 10,000
certify cifar10_resnet20 resnet20 --skip 20 --N 10000
recertify dkw --bound dkw
recertify equal --levels equal
certify cifar10_resnet110 resnet110 --skip 20 --N 10000 --settle 0.5 0
# 250 images, N = 100,000
certify cifar10_resnet20_staged resnet20 --skip 40 --N 100000 --settle 0.5 0
certify cifar10_resnet20_consistency_staged resnet20_consistency --skip 40 --N 100000 --settle 0.5 0
SIGMAS=0.25 certify cifar10_resnet110_staged resnet110 --skip 40 --N 100000 --settle 0.5 0
certify cifar10_resnet110_consistency_staged resnet110_consistency --skip 40 --N 100000 --settle 0.5 0
