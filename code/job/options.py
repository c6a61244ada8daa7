"""The arguments that the sampling programs (certify.py, predict.py) share, and their checks."""
import argparse
import math

import datasets
from certificate import BOUNDS, RADII
from errors import InputError
from measures import MEASURES
from sampler import PRECISIONS, SEEDS, SMALLEST_SIGMA


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Data set, network, noise, and what fixes the samples."""
    parser.add_argument("dataset", choices=datasets.DATASETS)
    parser.add_argument("base_classifier", help="checkpoint of a network (see train.py)")
    parser.add_argument("sigma", type=float, help="standard deviation of the noise, pixels in [0, 1]")
    parser.add_argument("outfile", help="the log; a run that was stopped goes on from it")
    parser.add_argument("--batch", type=int, default=1000, help="samples of a forward pass (on a CPU: at most)")
    parser.add_argument("--skip", type=int, default=1, help="use the images with indices 0, SKIP, 2 SKIP, ...")
    parser.add_argument("--max", type=int, default=-1, help="stop before this index")
    parser.add_argument("--split", choices=datasets.SPLITS, default="test")
    parser.add_argument("--N0", type=int, default=100, help="samples that choose the class")
    parser.add_argument("--N", type=int, default=100000, help="samples that bound its score")
    parser.add_argument("--alpha", type=float, default=0.001, help="error probability of an image's certificate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto (CUDA, then CPU), cpu, cuda or cuda:K")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="of the network; the certificate is that of the network at this precision")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--overwrite", action="store_true", help="start anew; the old log is kept as OUTFILE.bak")


def add_certificate_options(parser: argparse.ArgumentParser) -> None:
    """Measures, band and radii."""
    parser.add_argument("--confidence_measure", nargs="+", choices=MEASURES, default=["pred_score"],
                        help="several share their samples; OUTFILE then contains {confidence_measure}")
    parser.add_argument("--bound", choices=BOUNDS, default=BOUNDS[0], help="confidence band of the score's CDF")
    parser.add_argument("--radii", type=float, nargs="+", default=list(RADII), metavar="R")


def check_noise_options(args: argparse.Namespace) -> None:
    """Raise InputError for a standard deviation or a seed that no noise can have."""
    if not SMALLEST_SIGMA <= args.sigma < math.inf:
        raise InputError(f"SIGMA must be at least {SMALLEST_SIGMA} and finite, not {args.sigma}")
    if not 0 <= args.seed < SEEDS:
        raise InputError(f"--seed must be between 0 and {SEEDS - 1}, not {args.seed}")


def check_sampling_options(args: argparse.Namespace) -> None:
    """Raise InputError for a value that no run can use."""
    check_noise_options(args)
    for name in ("batch", "skip", "N0", "N"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be 1 or above, not {getattr(args, name)}")
    if args.max < 1 and args.max != -1:
        raise InputError(f"--max must be 1 or above (or -1: no limit), not {args.max}")
    if not 0 < args.alpha < 1:
        raise InputError(f"--alpha must lie strictly between 0 and 1, not {args.alpha}")
