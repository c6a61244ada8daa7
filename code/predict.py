"""Predict the class with the highest expected confidence under noise, and give limits on that confidence.

    python code/predict.py cifar10 models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar 0.25 OUTFILE --skip 20

OUTFILE gets one row an image: idx label predict lower upper correct time. predict is wrong (not the class with the
highest expected softmax score) with probability at most ALPHA, and -1 where the samples do not decide; the expected
score of the class chosen lies in [lower, upper] with probability 1 - ALPHA. Repeating a command goes on where it
stopped.
"""
import argparse
import sys
import time

from certificate import Rule
from core import NonFiniteScores, Smooth
from errors import InputError, run
from measures import MEASURES
from runs.job import STOPPED, Job, run_job
from runs.log import check_rule
from runs.options import add_sampling_options, check_sampling_options
from runs.output import RunOutput
from runs.predictions import COLUMNS, Row, parse_predictions
from runs.ranks import Ranks


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for arguments that no run can use."""
    check_sampling_options(args)
    if args.N < 2:
        raise InputError("--N must be 2 or above")
    check_rule(Rule(MEASURES["pred_score"], args.N, args.alpha / 2, args.sigma))


def open_outputs(args: argparse.Namespace, ranks: Ranks, job: Job) -> list[RunOutput]:
    """The one table of predictions."""
    return [RunOutput(args.outfile, job.settings(args, program="predict"), job.start(args, ranks), COLUMNS,
                      parse_predictions, overwrite=args.overwrite)]


def make_work(args: argparse.Namespace, job: Job, eta: None):
    """The function that predicts the image of an index, for write_rows."""
    smooth = Smooth(job.network, job.num_classes, args.sigma, device=str(job.device), precision=args.precision,
                    compile=args.compile, noise=args.noise, round_images=args.round_images)

    def work(index: int):
        x, label = job.images.load(index)
        start = time.perf_counter()
        try:
            found = smooth.predict(x, args.N0, args.N, args.alpha, args.batch, seed=args.seed, index=index)
        except NonFiniteScores:
            return None
        seconds = time.perf_counter() - start
        return [(Row(index, label, found.prediction, found.lower, found.upper, seconds).line(), None)]

    return work


def main() -> int:
    return run_job(parse_arguments(), check_arguments, open_outputs, make_work)


if __name__ == "__main__":
    sys.exit(run(main, STOPPED))
