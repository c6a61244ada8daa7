#!/usr/bin/env bash
# Certifies 500 CIFAR-10 test images at each noise level (both measures from one pass, scores saved), and certifies them
# again with the paper's DKW band. Repeating it resumes from the rows that are done.
# With a GPU: NETWORK=resnet110 N=100000 OPTIONS="--precision bf16 --compile" bash scripts/certify_cifar10.sh
# The logs in log_files/cifar10_resnet20 were made with these OPTIONS; fp32 is the default since a CPU without bf16
# instructions is several times as fast with it. `--precision tf32 --compile`: a GPU's fast way with float32's range.
set -euo pipefail
cd "$(dirname "$0")/.."

SIGMAS="${SIGMAS:-0.25 0.50}"
MEASURES="${MEASURES:-pred_score margin}"
NETWORK="${NETWORK:-resnet20}"
N="${N:-10000}"
SKIP="${SKIP:-20}"
OPTIONS="${OPTIONS-}"
LOGS="${LOGS:-log_files/new/cifar10_$NETWORK}"  # those in log_files/cifar10_resnet20 have other settings

for sigma in $SIGMAS; do
    python code/certify.py cifar10 "models/cifar10/$NETWORK/noise_$sigma/checkpoint.pth.tar" "$sigma" \
        "$LOGS/{confidence_measure}/noise_$sigma" --confidence_measure $MEASURES --skip "$SKIP" --N "$N" \
        --save_scores $OPTIONS
    for measure in $MEASURES; do
        log="$LOGS/$measure/noise_$sigma"
        python code/recertify.py "$log.scores" "${log}_dkw" --bound dkw
    done
done
