#!/usr/bin/env bash
# What a new GPU makes of this program: tests, one certification on GPU and CPU, seconds per image, the speed of a plain
# loop beside it, and the longest kernels. Each step leaves its output in the folder OUT at once.
#   bash scripts/gpu_check.sh
#   DEVICE=cpu N=1000 BATCH=256 bash scripts/gpu_check.sh     # tries the script itself; the tests of the GPU fail
source "$(dirname "$0")/setup.sh" requirements-dev.txt

DEVICE="${DEVICE:-cuda}"
N="${N:-100000}"
BATCH="${BATCH:-4000}"
OUT="${OUT:-log_files/new/gpu_check}"
NETWORK=models/cifar10/resnet110/noise_0.25/checkpoint.pth.tar
mkdir -p "$OUT"
failed=""

step() {  # NAME COMMAND...: its output and time go to OUT/NAME.txt; the next step is taken whether it fails or not
    echo "== $1"
    local start=$SECONDS
    if "${@:2}" > "$OUT/$1.txt" 2>&1; then echo "   done"; else failed+=" $1"; echo "   FAILED, see $OUT/$1.txt"; fi
    echo "$((SECONDS - start)) s: ${*:2}" >> "$OUT/$1.txt"
}

certify() {  # LOG DEVICE OPTION...
    $python code/certify.py cifar10 $NETWORK 0.25 "$OUT/$1" --device "$2" --overwrite "${@:3}"
}

agree() {  # a GPU draws other noise than a CPU, so: the same classes, and ranges of the expected score that overlap?
    $python code/recertify.py "$OUT/small_cpu.scores" "$OUT/range_cpu" --range --overwrite
    $python code/recertify.py "$OUT/small.scores" "$OUT/range" --range --overwrite
    $python - "$OUT/range_cpu" "$OUT/range" <<'END'
import sys
from certconf.formats.log import Log
agreed = True
for cpu, gpu in zip(*(Log.read(path)[0].rows for path in sys.argv[1:]), strict=True):
    print(f"image {cpu.index}, predicted {cpu.predict} and {gpu.predict}: at R = 0, {cpu.exp_cdf[0]:.4f} to "
          f"{cpu.upper_cdf[0]:.4f} and {gpu.exp_cdf[0]:.4f} to {gpu.upper_cdf[0]:.4f}")
    agreed &= cpu.predict == gpu.predict and cpu.exp_cdf[0] <= gpu.upper_cdf[0] and gpu.exp_cdf[0] <= cpu.upper_cdf[0]
print("agreed" if agreed else "contradicted each other")
sys.exit(not agreed)
END
}

rate() {  # LOG...: seconds per image, without the first one, in which everything is loaded and compiled
    for log in "$@"; do
        awk -F '\t' -v log_file="$log" 'NR > 2 { split($NF, t, ":"); sum += 3600 * t[1] + 60 * t[2] + t[3]; images++ }
            END { printf "%s: %.3f s per image\n", log_file, sum / images }' "$OUT/$log"
    done
}

gpus=$($python -c "import torch; print(torch.cuda.device_count())")
only=()
[ "$gpus" -ge 2 ] || only=(-k "not second_gpu")
step tests $python -m pytest -m gpu "${only[@]}"
step small certify small "$DEVICE" --skip 4000 --N 1000 --batch 500 --save_scores
step small_cpu certify small_cpu cpu --skip 4000 --N 1000 --batch 500 --save_scores
step agree agree
step fp32 certify fp32 "$DEVICE" --skip 500 --N "$N" --batch "$BATCH" --no_early_abstain
step bf16_compiled certify bf16_compiled "$DEVICE" --skip 500 --N "$N" --batch "$BATCH" --no_early_abstain \
    --precision bf16 --compile
step rate rate fp32 bf16_compiled
step plain_loop $python benchmarks/sampling.py --quick --networks cifar_resnet110 --device "$DEVICE" \
    --batch "$BATCH" --out "$OUT/plain_loop.md" --overwrite
step kernels $python benchmarks/kernels.py --device "$DEVICE" --batch "$BATCH"

cat "$OUT/agree.txt" "$OUT/rate.txt"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
