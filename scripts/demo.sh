#!/usr/bin/env bash
# Certifies 25 CIFAR-10 test images with the bundled ResNet-20 and prints their certified accuracy.
source "$(dirname "$0")/setup.sh" requirements.txt

$python code/certify.py cifar10 models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 \
    'log_files/demo/{confidence_measure}' --confidence_measure pred_score margin --skip 400 --N 10000 \
    --settle 0.5 0

echo; echo "Fraction of images classified correctly, with an expected score certified above 0.5 at L2 distance R:"
$python cert_acc.py log_files/demo/pred_score 0.5 --format text
echo; echo "Fraction of images classified correctly, with an expected margin certified above 0 at L2 distance R:"
$python cert_acc.py log_files/demo/margin 0 --format text
