"""Where the time of noisy forward passes goes: the ten operations that take the longest, by PyTorch's profiler.

    python benchmarks/kernels.py --device cuda --precision bf16 --batch 4000
    python benchmarks/kernels.py --network models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar --batch 256

On a GPU these are its kernels, on a CPU operators. The passes are eager: a compiled network's kernels have no names.
"""
import argparse
import sys

import code_path
import torch
from machine import describe
from torch.profiler import ProfilerActivity, profile

from certconf.errors import run_cli
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.sampling import PRECISIONS
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import ESTIMATION

PASSES = 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="models/cifar10/resnet110/noise_0.25/checkpoint.pth.tar",
                        metavar="CHECKPOINT", help="of a CIFAR-10 network (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1000, help="as for certify.py (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto (CUDA, then CPU), cpu, cuda or cuda:K")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    device = choose_device(args.device)
    network, _ = load_checkpoint(args.network, "cifar10")
    images, _ = open_images("cifar10", "test", skip=20)
    sampler = Sampler(network, make_noise("integer", 0.25, device), device, args.precision, False)

    def passes() -> None:
        for scores in sampler.softmax(images.load(0)[0], PASSES * args.batch, args.batch, (0, 0, ESTIMATION)):
            scores.sum().item()  # waits for the device

    passes()  # the first ones allocate memory and choose algorithms
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        passes()
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(describe(device))
    print(profiler.key_averages().table(sort_by=by, row_limit=10, max_name_column_width=60))


if __name__ == "__main__":
    sys.exit(run_cli(main))
