#!/usr/bin/env bash
# The CIFAR-10 logs of docs/results.md, both measures from one pass. On a fresh clone it finds them complete;
# LOGS=log_files/new makes them again, in about 5.4 hours on a core with bf16 instructions. Repeating it resumes.
# On a CPU without these instructions: LOGS=log_files/new OPTIONS="" bash scripts/certify_cifar10.sh
set -euo pipefail
cd "$(dirname "$0")/.."

LOGS="${LOGS:-log_files}"
OPTIONS="${OPTIONS---precision bf16 --compile}"

certify() {  # FOLDER NETWORK SIGMA OPTION...
    python code/certify.py cifar10 "models/cifar10/$2/noise_$3/checkpoint.pth.tar" "$3" \
        "$LOGS/$1/{confidence_measure}/noise_$3" --confidence_measure pred_score margin --seed 1 --save_scores \
        "${@:4}" $OPTIONS
}

recertify() {  # SUFFIX OPTION...: another band from the saved scores of the ResNet-20
    for scores in "$LOGS"/cifar10_resnet20/*/*.scores; do
        python code/recertify.py "$scores" "${scores%.scores}_$1" "${@:2}"
    done
}

for sigma in 0.25 0.50; do certify cifar10_resnet20 resnet20 $sigma --skip 20 --N 10000; done
recertify dkw --bound dkw
recertify equal --weights equal
certify cifar10_resnet110 resnet110 0.25 --skip 20 --N 10000 --settle 0.5 0
for sigma in 0.25 0.50; do
    certify cifar10_resnet20_consistency resnet20_consistency $sigma --skip 20 --N 10000 --settle 0.5 0
    certify cifar10_resnet20_staged resnet20 $sigma --skip 40 --max 4000 --N 100000 --settle 0.5 0
done
certify cifar10_resnet20_consistency_staged resnet20_consistency 0.25 --skip 40 --N 100000 --settle 0.5 0
