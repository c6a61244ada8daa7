"""Certified radii from saved scores: how far may x' move before the expected score can fall to a threshold?

    python code/radius.py OUTFILE.scores RADII.tsv --score 0.5
    python code/radius.py OUTFILE.scores 'radii_{score}.tsv' --score 0.3 0.5 0.7 --bound dkw

OUTFILE.scores is what `certify.py --save_scores` left beside its OUTFILE. The file has one row per image, in the format
of Cohen et al. (2019): idx label predict radius correct time, with radius = sup{R : bound(R) > SCORE}; predict -1 if
the bound at the image itself is not above SCORE. Scores may be chosen after looking at the results; another band than
the run's is a statement of its own, and claiming the better of two costs the sum of their alphas.
"""
import argparse
import sys
import time
from contextlib import closing
from dataclasses import replace

from certconf.errors import InputError, run_cli
from certconf.formats.radii import NAIVE, RADII, Radii
from certconf.formats.rows import round_down, shortest
from certconf.formats.scores import SavedScores, read_scores, refuse_files_of
from certconf.report.notes import report_settled
from certconf.runner.config import check_plan
from certconf.runner.output import ResumableLog
from certconf.runner.settings import settings_of, start_of_run
from certconf.statistics.certificate import ABSTAIN, BOUNDS

PLACE = "{score}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", help="OUTFILE.scores of a run with --save_scores")
    parser.add_argument("outfile", help="the table of radii; with {score} in its name if there are several scores")
    parser.add_argument("--score", type=float, nargs="+", required=True, metavar="S",
                        help="certified: the bound on the expected score is strictly above it; strictly between the "
                             "measure's limits, -1 and 1 for margin, 0 and 1 for the others")
    parser.add_argument("--bound", choices=(*BOUNDS, NAIVE),
                        help="dkw needs an alpha of 0.5 at most (default: the run's band; another is post hoc)")
    parser.add_argument("--overwrite", action="store_true", help="start over; the old file is kept as OUTFILE.bak")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace, saved: SavedScores) -> None:
    """Raise InputError for scores that have no radius."""
    try:
        for score in args.score:
            saved.spec.measure.check_score(score)
    except ValueError as error:
        raise InputError(f"--score: {error}") from None
    if len(set(args.score)) < len(args.score) or len(args.score) > 1 and PLACE not in args.outfile:
        raise InputError(f"--score: each score once, and OUTFILE must contain {PLACE} if there are several")


def write_radii(args: argparse.Namespace, saved: SavedScores, score: float) -> float:
    """Write the table of one score, and return the average certified radius (0 for a wrong class or none)."""
    own = saved.spec
    bound = args.bound or own.bound
    plan = check_plan(own if bound == NAIVE else replace(own, bound=bound), like=saved.plan)
    settings = {**saved.settings, **settings_of(args, program="radius", bound=bound, score=score,
                                                scores_sha256=saved.sha256, post_hoc=bound != own.bound)}
    outfile = args.outfile.replace(PLACE, shortest(score))
    refuse_files_of(saved.log, outfile)
    log = ResumableLog(outfile, settings, RADII.header(), Radii.parse, overwrite=args.overwrite)
    total, lines = 0.0, []
    with closing(log):
        for index, label, certificate in saved.certificates(plan):
            start = time.perf_counter()
            radius = certificate.radius(score, naive=bound == NAIVE)
            predict = certificate.chosen if radius > 0 else ABSTAIN
            lines.append((index, RADII.line(index, label, predict, time.perf_counter() - start, radius)))
            total += radius * (predict == label)
        log.complete(start_of_run(args), lines, saved.non_finite)
    return total / saved.images


def main() -> None:
    args = parse_arguments()
    saved = read_scores(args.scores)
    check_arguments(args, saved)
    for score in args.score:
        print(f"average certified radius at score {shortest(score)}: {round_down(write_radii(args, saved, score))}")
    report_settled(saved.path, saved.settings)


if __name__ == "__main__":
    sys.exit(run_cli(main, "stopped; the same command resumes"))
