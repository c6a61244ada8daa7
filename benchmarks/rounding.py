"""How much rounding changes logits between calls and in other places of a batch: what the checks before sampling allow.

    python benchmarks/rounding.py
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/rounding.py

The bundled networks on five test images of CIFAR-10, with noise 0.25. Prints the largest change as a share of the
largest logit, as certconf/sampling/checks.py has it, beside what is allowed. The second command is of a CPU without
AVX-512.
"""
import argparse
import sys
from pathlib import Path

import code_path
import torch

from certconf import errors
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.sampling.checks import ROUNDING, changes
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import CHECK_SEED, Sampler

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ("resnet20/noise_0.25", "resnet110/noise_0.25")
SIGMA, PASS = 0.25, 64


def largest_change(sampler: Sampler, images: list[torch.Tensor]) -> float:
    """Over both checks and all images."""
    sampler._build(images[0])
    batches = [next(sampler._noisy_batches(x, PASS, CHECK_SEED)).clone() for x in images]
    return max(change for noisy in batches
               for change in changes(lambda batch: sampler._logits(sampler._run, batch), noisy, random=False))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K (default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", choices=ROUNDING, default=["fp32", "bf16"],
                        help="(default: fp32 bf16)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    device, (images, _) = choose_device(args.device), open_images("cifar10", "test", 20)
    chosen = [images.load(index)[0] for index in range(0, 100, 20)]
    for name in CHECKPOINTS:
        network, _ = load_checkpoint(str(ROOT / "models" / "cifar10" / name / "checkpoint.pth.tar"), "cifar10")
        for precision in args.precisions:
            for compile in (False, True):
                sampler = Sampler(network, make_noise("integer", SIGMA, device), device, precision, compile)
                print(f"{name}  {precision}  {'compiled' if compile else 'eager':8}  "
                      f"{largest_change(sampler, chosen):.1e} of {ROUNDING[precision]:g}", flush=True)


if __name__ == "__main__":
    sys.exit(errors.run_cli(main))
