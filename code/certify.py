"""Certify the confidence of a smoothed classifier, image by image.

    python code/certify.py cifar10 CHECKPOINT 0.25 OUTFILE --skip 20
    python code/certify.py cifar10 CHECKPOINT 0.25 'log_{confidence_measure}' --confidence_measure pred_score margin
    IMAGENET_DIR=... torchrun --nproc_per_node=8 -- code/certify.py imagenet CHECKPOINT 0.5 OUTFILE --batch 400

OUTFILE gets one row an image (its columns: runs/log.py), OUTFILE.json the settings of the run. Repeating a command
goes on where it stopped. cert_acc.py turns the log into certified accuracy.
"""
import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial

from certificate import Rule
from core import NonFiniteScores, Smooth
from errors import InputError, run
from measures import MEASURES
from runs.job import STOPPED, Job, run_job
from runs.log import Row, check_rule, columns, parse_log
from runs.options import add_certificate_options, add_sampling_options, check_sampling_options
from runs.output import RunOutput
from runs.ranks import Ranks
from runs.scores import parse_scores, scores_record

PLACE = "{confidence_measure}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--no_early_abstain", dest="early_abstain", action="store_false",
                        help="take all N samples of images that will abstain, too")
    parser.add_argument("--save_scores", action="store_true",
                        help="keep each image's order statistics in OUTFILE.scores (turns early abstention off)")
    args = parser.parse_args()
    args.early_abstain &= not args.save_scores
    return args


def make_rules(args: argparse.Namespace) -> list[Rule]:
    """The rule of each measure."""
    return [Rule(MEASURES[name], args.N, args.alpha, args.sigma, args.bound, tuple(args.radii), args.save_scores)
            for name in args.confidence_measure]


def check_arguments(args: argparse.Namespace) -> float | None:
    """Raise InputError for arguments that no run can use, and return the level eta of the band."""
    check_sampling_options(args)
    rules = make_rules(args)
    for rule in rules:
        check_rule(rule)
    if len(set(args.confidence_measure)) < len(args.confidence_measure):
        raise InputError("--confidence_measure: each measure once")
    if len(args.confidence_measure) > 1 and PLACE not in args.outfile:
        raise InputError(f"OUTFILE must contain {PLACE} where there are several measures")
    return rules[0].band.eta


def open_outputs(args: argparse.Namespace, ranks: Ranks, job: Job) -> Iterator[RunOutput]:
    """The log of each measure."""
    for measure in (rule.measure for rule in make_rules(args)):
        score_range = measure.score_min, measure.score_max
        settings = job.settings(args, program="certify", confidence_measure=measure.name, bound=args.bound,
                                radii=args.radii, save_scores=args.save_scores)
        scores = partial(parse_scores, n=args.N, score_range=score_range) if args.save_scores else None
        yield RunOutput(args.outfile.replace(PLACE, measure.name), settings,
                        job.start(args, ranks, early_abstain=args.early_abstain,
                    noise=args.noise, round_images=args.round_images), columns(args.radii),
                        partial(parse_log, score_range=score_range), scores, args.overwrite)


def make_work(args: argparse.Namespace, job: Job, eta: float | None):
    """The function that certifies the image of an index, for write_rows."""
    smooth = Smooth(job.network, job.num_classes, args.sigma, tuple(args.confidence_measure), device=str(job.device),
                    precision=args.precision, compile=args.compile, early_abstain=args.early_abstain,
                    noise=args.noise, round_images=args.round_images)

    def work(index: int):
        x, label = job.images.load(index)
        start = time.perf_counter()
        try:
            certificates = smooth.certify(x, args.N0, args.N, args.alpha, args.batch, bound=args.bound, seed=args.seed,
                                          index=index, radii=tuple(args.radii), kept_ranks=args.save_scores, eta=eta)
        except NonFiniteScores:
            return None
        seconds = time.perf_counter() - start
        return [(Row.of(index, label, certificate, seconds).line(),
                 scores_record(index, label, certificate) if args.save_scores else None)
                for certificate in certificates]

    return work


def main() -> int:
    return run_job(parse_arguments(), check_arguments, open_outputs, make_work)


if __name__ == "__main__":
    sys.exit(run(main, STOPPED))
