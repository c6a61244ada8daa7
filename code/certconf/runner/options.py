"""The arguments that the sampling programs (certify.py, predict.py, attack.py) share."""
import argparse

from certconf.inputs.catalogue import DATASET_OF, DATASETS, SPLITS
from certconf.sampling import PRECISIONS
from certconf.sampling.law import LARGEST_INTEGER_SIGMA, NOISES, SMALLEST_SIGMA
from certconf.sampling.streams import SEEDS
from certconf.statistics.bounds import LARGEST_N, SMALLEST_ALPHA


def add_sampling_options(parser: argparse.ArgumentParser, least_n: int = 1,
                         least_alpha: float = SMALLEST_ALPHA, attacks: bool = False) -> None:
    """Data set, network, noise, and what fixes the samples; least_n, least_alpha: of the program's statistics.

    attacks: the program reads a LOG, whose classes are chosen already.
    """
    parser.add_argument("dataset", help=f"{', '.join(DATASETS)}, or FILE.py:NAME, a data set in your own file, or "
                                        "a function that returns that of a split (see docs/own_network.md)")
    parser.add_argument("base_classifier", help="checkpoint of a network (see docs/own_network.md), or FILE.py:NAME, "
                                                "a torch module from pixels in [0, 1] to logits, or a function that "
                                                "returns one")
    parser.add_argument("sigma", type=float,
                        help=f"standard deviation of the noise, pixels in [0, 1]; {SMALLEST_SIGMA} to "
                             f"{LARGEST_INTEGER_SIGMA:g} (no upper limit with --noise float)")
    if attacks:
        parser.add_argument("log", help="of certify.py or recertify.py, with its record: what is attacked")
    parser.add_argument("outfile", help="the log; the same command resumes a run that was stopped")
    parser.add_argument("--arch", help=f"the network whose weights BASE_CLASSIFIER holds: {', '.join(DATASET_OF)}, "
                                       "torchvision:NAME or timm:NAME (default: the checkpoint's own)")
    parser.add_argument("--checkpoint_key", metavar="KEY",
                        help="the entry of the checkpoint with the weights (default: the one that fits)")
    parser.add_argument("--batch", type=int, default=1000,
                        help="samples of a forward pass, 1 or more (on a CPU: at most; default: %(default)s)")
    parser.add_argument("--skip", type=int, default=1,
                        help="use the images with indices 0, SKIP, 2 SKIP, ...; 1 or more (default: %(default)s)")
    parser.add_argument("--max", type=int, default=-1,
                        help="stop before this index, 1 or more (default: %(default)s, no limit)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="images to use (default: %(default)s)")
    if not attacks:
        parser.add_argument("--N0", type=int, default=100,
                            help="samples that choose the class, 1 or more (default: %(default)s)")
    parser.add_argument("--N", type=int, default=100000,
                        help=f"samples that bound its score, {least_n} to {LARGEST_N} (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.001,
                        help=f"error probability of an image's result, at least {least_alpha:g} and below 1 "
                             "(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=f"of the noise, 0 to {SEEDS - 1} (default: %(default)s)")
    parser.add_argument("--noise", choices=NOISES, default=NOISES[0],
                        help="integer: certificates that hold in floating point, of 8-bit images; float: float32 noise "
                             "is taken for a Gaussian (default: %(default)s)")
    parser.add_argument("--round_images", action="store_true",
                        help="with integer noise: if an image is not 8-bit, certify the nearest one that is")
    parser.add_argument("--device", default="auto",
                        help="auto (CUDA, then CPU), cpu, cuda or cuda:K (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="of the network; the certificate is that of the network at this precision "
                             "(default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--random_network", action="store_true",
                        help="the network draws at random on purpose, for each image its own numbers, independent of "
                             "all others: do not check that it gives the same logits again")
    parser.add_argument("--overwrite", action="store_true", help="start over; the old log is kept as OUTFILE.bak")
