"""Predict the class with the highest expected confidence under noise, and give limits on that confidence.

    python code/predict.py cifar10 models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 OUTFILE --skip 20

OUTFILE gets one row per image: idx label predict lower upper correct time. predict is wrong (not the class with the
highest expected softmax score) with probability at most ALPHA, and -1 if the samples do not decide; the expected score
of the class chosen lies in [lower, upper] with probability 1 - ALPHA. Repeating a command resumes from the rows that
are done.
"""
import argparse
import sys
import time

from certconf import errors
from certconf.core import Smooth
from certconf.formats.predictions import COLUMNS, Row, parse_predictions
from certconf.inputs.datasets import ImageSet
from certconf.runner.checks import check_spec
from certconf.runner.options import add_sampling_options, check_sampling_options
from certconf.runner.output import ResumableLog
from certconf.runner.run import STOPPED, ImageResult, Run
from certconf.statistics.bounds import SMALLEST_ALPHA
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser, least_n=2, least_alpha=2 * SMALLEST_ALPHA)  # each limit gets alpha / 2
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for arguments that no run can use."""
    check_sampling_options(args)
    if args.N < 2:
        raise errors.InputError("--N must be 2 or above")
    check_spec(CertificateSpec(MEASURES["pred_score"], args.N, args.alpha / 2, args.sigma, weights="equal"))


def open_logs(run: Run) -> list[ResumableLog]:
    """The one table of predictions."""
    return [ResumableLog(run.args.outfile, run.settings(program="predict"), run.start(), COLUMNS, parse_predictions,
                         overwrite=run.args.overwrite)]


def predict_image(smooth: Smooth, images: ImageSet, index: int, args: argparse.Namespace) -> ImageResult:
    """The row of an image in the one table."""
    x, label = images.load(index)
    start = time.perf_counter()
    found = smooth.predict(x, args.N0, args.N, args.alpha, args.batch, index=index, seed=args.seed)
    seconds = time.perf_counter() - start
    row = Row(index, label, found.prediction, seconds, found.lower, found.upper)
    return ImageResult([(row.line(),)], args.N)


def main() -> int:
    args = parse_arguments()
    with Run(args, check_arguments, open_logs) as run:
        smooth = Smooth(run.subject.network, run.subject.num_classes, args.sigma, device=str(run.device),
                        precision=args.precision, compile=args.compile, noise=args.noise,
                        round_images=args.round_images)
        for index, result in run.map(lambda i: predict_image(smooth, run.subject.images, i, args)):
            run.write(index, result)
    return run.status


if __name__ == "__main__":
    sys.exit(errors.run(main, STOPPED))
