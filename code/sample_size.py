"""Certified accuracy against the number of samples N: one pass of the largest N, whose first n samples serve each n.

    python code/sample_size.py models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 log_files/new/sizes.tsv

Writes one row for each image, measure, band and N: idx label measure bound N predict, and the CDF bound at each radius.
draw_results.py draws it. Works on CIFAR-10's test images; the table is written at the end.
"""
import argparse
import sys

from tqdm import tqdm

from architectures import load_checkpoint
from bounds import LARGEST_N, SMALLEST_ALPHA
from certificate import BOUNDS, RADII, Certificate, CertificateSpec
from core import Smooth, order_statistics
from datasets import INFO, open_images
from devices import choose_device, slow_choices
from errors import InputError, run
from files import refuse_existing, write_new
from formats.log import columns
from formats.rows import join_fields, round_down
from job.checks import check_spec
from job.options import check_noise_options
from measures import MEASURES, SOFT_MEASURES
from noise import SEEDS, SMALLEST_SIGMA
from sampler import PRECISIONS

SIZES = (1000, 2000, 5000, 10000, 20000, 50000, 100000)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_classifier", help="checkpoint of a network for CIFAR-10 (see train.py)")
    parser.add_argument("sigma", type=float,
                        help=f"standard deviation of the noise, pixels in [0, 1]; at least {SMALLEST_SIGMA}")
    parser.add_argument("outfile", help="the table to write")
    parser.add_argument("--N", type=int, nargs="+", default=list(SIZES), metavar="N",
                        help=f"samples that bound the score, 1 to {LARGEST_N} (default: {' '.join(map(str, SIZES))})")
    parser.add_argument("--N0", type=int, default=100,
                        help="samples that choose the class, 1 or more (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.001,
                        help=f"error probability, {SMALLEST_ALPHA:g} to 0.5 (default: %(default)s)")
    parser.add_argument("--skip", type=int, default=500,
                        help="use the images with indices 0, SKIP, 2 SKIP, ...; 1 or more (default: %(default)s)")
    parser.add_argument("--max", type=int, default=-1,
                        help="stop before this index, 1 or more (default: %(default)s, no limit)")
    parser.add_argument("--batch", type=int, default=1000,
                        help="samples of a forward pass, 1 or more (on a CPU: at most; default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=f"of the noise, 0 to {SEEDS - 1} (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--overwrite", action="store_true", help="replace the table")
    parser.set_defaults(noise="integer", round_images=False)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for values that no run can use."""
    check_noise_options(args)
    if min(*args.N, args.N0, args.batch, args.skip) < 1:
        raise InputError("--N, --N0, --batch and --skip must be 1 or above")
    for n in args.N:
        for bound in BOUNDS:
            check_spec(CertificateSpec(MEASURES["margin"], n, args.alpha, args.sigma, bound))


def certificates(smooth: Smooth, x, index: int, args: argparse.Namespace):
    """Yield (measure, band, n, certificate) for each of them, from one pass over the image x."""
    classes, scores = smooth.sample(x, args.N0, max(args.N), args.batch, index=index, seed=args.seed)
    for measure, chosen, row in zip(smooth.measures, classes, scores, strict=True):
        for n in sorted(args.N):
            first = row[:n]
            for bound in BOUNDS:
                spec = smooth.looks(CertificateSpec(measure, n, args.alpha, args.sigma, bound), x)[0].spec
                certificate: Certificate = spec.certificate(
                    chosen, float(first.double().mean()), order_statistics(first, spec.band.ranks))
                yield measure.name, bound, n, certificate


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    refuse_existing([args.outfile], args.overwrite)
    network, _ = load_checkpoint(args.base_classifier, "cifar10")
    images, indices = open_images("cifar10", "test", args.skip, args.max)
    device = choose_device("auto")
    for line in slow_choices("auto", device, args.precision):
        print(line, file=sys.stderr)
    smooth = Smooth(network, INFO["cifar10"].num_classes, args.sigma, SOFT_MEASURES, precision=args.precision,
                    compile=args.compile)
    bounds = [column for column in columns(RADII) if column.startswith("exp_cdf")]
    lines = [join_fields("idx", "label", "measure", "bound", "N", "predict", *bounds)]
    for index in tqdm(indices, unit="image"):
        x, label = images.load(index)
        lines += [join_fields(index, label, measure, bound, n, found.prediction, *map(round_down, found.exp_cdf))
                  for measure, bound, n, found in certificates(smooth, x, index, args)]
    write_new(args.outfile, "".join(lines).encode(), args.overwrite)


if __name__ == "__main__":
    sys.exit(run(main))
