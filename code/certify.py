"""Certify the confidence of a smoothed classifier, image by image.

    python code/certify.py cifar10 CHECKPOINT 0.25 OUTFILE --skip 20
    python code/certify.py cifar10 CHECKPOINT 0.25 'log_{confidence_measure}' --confidence_measure pred_score margin
    python code/certify.py cifar10 CHECKPOINT 0.25 OUTFILE --settle 0.5
    python code/certify.py cifar10 examples/cifar10_denoised.py:network 0.25 OUTFILE --skip 20
    IMAGENET_DIR=... torchrun --nproc_per_node=8 -- code/certify.py imagenet CHECKPOINT 0.5 OUTFILE --batch 400

certconf.certify_dataset does the same from Python, for a Smooth and a data set of your own (see docs/own_network.md).

OUTFILE gets one row per image (columns: certconf/formats/log.py), OUTFILE.json the settings of the run. Repeating a
command resumes from the rows that are done. cert_acc.py turns the log into certified accuracy.
"""
import argparse
import sys

from certconf import errors
from certconf.runner.certification import certify_image, open_logs
from certconf.runner.config import CertifyConfig
from certconf.runner.options import add_sampling_options
from certconf.runner.run import STOPPED, Run
from certconf.statistics.bounds import WEIGHTS
from certconf.statistics.certificate import BOUNDS, RADII
from certconf.statistics.measures import MEASURES


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser)
    parser.add_argument("--confidence_measure", nargs="+", choices=MEASURES, default=["pred_score"],
                        help="several share their samples; OUTFILE then contains {confidence_measure} "
                             "(default: pred_score)")
    parser.add_argument("--bound", choices=BOUNDS, default=BOUNDS[0],
                        help="confidence band of the score's CDF; dkw needs an alpha of 0.5 at most "
                             "(default: %(default)s)")
    parser.add_argument("--levels", "--weights", dest="weights", choices=WEIGHTS, default=WEIGHTS[0],
                        help="levels of the Clopper-Pearson limits: falling with the rank, or equal "
                             "(default: %(default)s)")
    parser.add_argument("--radii", type=float, nargs="+", default=list(RADII), metavar="R",
                        help="increasing multiples of 0.01, 0 or above, L2 distance of pixels in [0, 1] "
                             f"(default: {' '.join(f'{radius:g}' for radius in RADII)})")
    parser.add_argument("--no_early_abstain", dest="early_abstain", action="store_false",
                        help="take all N samples of images that will abstain, too (default: give them up early)")
    parser.add_argument("--save_scores", action="store_true",
                        help="keep each image's order statistics in OUTFILE.scores (turns early abstention off)")
    parser.add_argument("--settle", type=float, nargs="+", metavar="SCORE",
                        help="one for each measure, strictly between its least and its greatest score: stop sampling "
                             "an image once it is settled at every radius whether its bound exceeds SCORE (default: "
                             "take all N samples)")
    return parser


def parse_arguments() -> argparse.Namespace:
    return make_parser().parse_args()


def main() -> int:
    args = parse_arguments()
    with Run() as run:
        config = run.config = run.share(CertifyConfig, **vars(args))
        plans = run.share(config.plans)
        open_logs(run, plans)
        if run.complete():
            return 0
        inputs = run.load()
        from certconf.core import Smooth  # PyTorch, which `load` has loaded
        smooth = Smooth(inputs.network, inputs.num_classes, config.sigma, config.confidence_measure,
                        device=str(run.device), precision=config.precision, compile=config.compile,
                        early_abstain=config.early_abstain, noise=config.noise, round_images=config.round_images,
                        random_network=config.random_network)
        run.begin(smooth.sampler)
        for index, result in run.map(lambda i: certify_image(smooth, plans, inputs.images, i, config)):
            run.write(index, result)
    return run.status


if __name__ == "__main__":
    sys.exit(errors.run_cli(main, STOPPED))
