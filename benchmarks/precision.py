"""How far the scores of a trained network at lower precisions lie from its float32 scores, at the same noise.

    python benchmarks/precision.py cifar10 models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 --skip 500
    python benchmarks/precision.py cifar10 CHECKPOINT 0.25 --precision tf32 bf16 fp16 --device cuda --compile

Prints a markdown table and writes it to benchmarks/results/ with a description of the machine.
"""
import argparse
import math
import statistics
import sys

import code_path
import torch
from machine import RESULTS, describe

from certconf.errors import InputError, run_cli
from certconf.files import refuse_existing, write_new
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.catalogue import DATASETS
from certconf.inputs.datasets import open_images
from certconf.report.tables import format_table
from certconf.sampling import PRECISIONS
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import ESTIMATION

NOTE = """{images} test images, {n} noisy samples of each, sigma {sigma:g}, network `{network}`{compiled}.
Differences are over the softmax of all classes of all samples. The top score of an image is that of the class with the
highest fp32 mean over its samples; its shift is (mean at this precision) - (mean at fp32), here the mean over the
images and the largest.
"""
HEADER = ["precision", "largest difference", "mean difference", "shift of the mean top score", "largest shift",
          "images with another top class"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("base_classifier", help="checkpoint of a network (see train.py)")
    parser.add_argument("sigma", type=float, help="standard deviation of the noise, pixels in [0, 1]; above 0")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp16"],
                        choices=[name for name in PRECISIONS if name != "fp32"], help="(default: bf16 fp16)")
    parser.add_argument("--skip", type=int, default=500,
                        help="use the test images with indices 0, SKIP, 2 SKIP, ...; 1 or more (default: %(default)s)")
    parser.add_argument("--max", type=int, default=-1,
                        help="stop before this index, 1 or more (default: %(default)s, no limit)")
    parser.add_argument("--N", type=int, default=1000, help="samples per image, 1 or more (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1000,
                        help="as for certify.py, 1 or more (default: %(default)s)")
    parser.add_argument("--device", default="auto",
                        help="auto (CUDA, then CPU), cpu, cuda or cuda:K (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--out", help="default: benchmarks/results/precision_ARCH_SIGMA_{cpu,cuda}.md")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for values that have no meaning."""
    if not 0 < args.sigma < math.inf:
        raise InputError(f"SIGMA must be above 0 and finite, not {args.sigma}")
    for name in ("skip", "N", "batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be 1 or above, not {getattr(args, name)}")


def all_scores(sampler: Sampler, x: torch.Tensor, index: int, n: int, batch: int) -> torch.Tensor:
    """The softmax of n noisy copies of an image, float64 [n, classes] on the CPU; the same noise in every call."""
    return torch.cat([softmax.cpu() for softmax in sampler.softmax(x, n, batch, (0, index, ESTIMATION))]).double()


def differences(scores: torch.Tensor, exact: torch.Tensor) -> tuple[float, float, float, bool]:
    """Of an image's scores [n, classes] from its fp32 scores: largest, mean, shift of the top one, other top class."""
    difference, mean, exact_mean = (scores - exact).abs(), scores.mean(0), exact.mean(0)
    top = exact_mean.argmax()
    shift = float(mean[top] - exact_mean[top])
    return float(difference.max()), float(difference.mean()), shift, bool(mean.argmax() != top)


def cells(images: list[tuple[float, float, float, bool]]) -> list[str]:
    """The cells of one precision, as in HEADER, from the differences of each image."""
    largest, means, shifts, others = zip(*images, strict=True)
    return [f"{max(largest):.2g}", f"{statistics.mean(means):.2g}", f"{statistics.mean(shifts):+.2g}",
            f"{max(shifts, key=abs):+.2g}", f"{sum(others)} of {len(images)}"]


def compare(args: argparse.Namespace, network, images, indices, device: torch.device) -> list[list[str]]:
    """The rows of the table."""
    exact, *others = (Sampler(network, make_noise("integer", args.sigma, device), device, precision, args.compile)
                      for precision in ("fp32", *args.precision))
    found = {precision: [] for precision in args.precision}
    for index in indices:
        x, _ = images.load(index)
        expected = all_scores(exact, x, index, args.N, args.batch)
        for sampler, of_images in zip(others, found.values(), strict=True):
            of_images.append(differences(all_scores(sampler, x, index, args.N, args.batch), expected))
    return [[precision, *cells(of_images)] for precision, of_images in found.items()]


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    device = choose_device(args.device)
    network, checkpoint = load_checkpoint(args.base_classifier, args.dataset)
    out = args.out or RESULTS / f"precision_{checkpoint['arch']}_{args.sigma:.2f}_{device.type}.md"
    refuse_existing([out], args.overwrite)
    images, indices = open_images(args.dataset, "test", args.skip, args.max)
    if not indices:
        raise InputError("--max leaves no image")
    table = format_table(HEADER, compare(args, network, images, indices, device), "markdown")
    note = NOTE.format(images=len(indices), n=args.N, sigma=args.sigma, network=args.base_classifier,
                       compiled=", compiled" if args.compile else "")
    text = f"# Scores at lower precisions against fp32\n\n{describe(device)}\n{table}\n{note}"
    print(text, end="")
    write_new(out, text.encode(), args.overwrite)


if __name__ == "__main__":
    sys.exit(run_cli(main))
