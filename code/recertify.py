"""Certify again from saved scores, with another alpha, band or radii, without sampling.

    python code/recertify.py OUTFILE.scores OUTLOG
    python code/recertify.py OUTFILE.scores OUTLOG --bound dkw --radii 0 0.1 0.2 0.3
    python code/recertify.py OUTFILE.scores OUTLOG --range

OUTFILE.scores is what `certify.py --save_scores` left beside its OUTFILE. With no option the log is that of the run.
One band at one alpha holds at all radii and scores at once, so these may be chosen after looking at the results. A
band, its weights and an alpha may not: another one is a statement of its own, and claiming the better of two costs the
sum of their alphas. OUTLOG.json says post_hoc if they are not those of the run.

--range adds upper bounds. The lower and the upper ones hold at alpha / 2 each (side_alpha in OUTLOG.json), and so
together with probability 1 - alpha. The lower ones lie a little below those of the run: a statement of its own.
"""
import argparse
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial

from certconf.errors import InputError, run_cli
from certconf.formats.log import LOG, RANGES, Log
from certconf.formats.scores import SavedScores, read_scores, refuse_files_of
from certconf.runner.config import check_plan
from certconf.runner.output import ResumableLog
from certconf.runner.settings import settings_of, start_of_run
from certconf.statistics.bounds import SMALLEST_ALPHA, WEIGHTS
from certconf.statistics.certificate import BOUNDS, CertificateSpec
from certconf.statistics.sequential import Plan


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", help="OUTFILE.scores of a run with --save_scores")
    parser.add_argument("outlog", help="the log to write")
    parser.add_argument("--alpha", type=float,
                        help=f"error probability, at least {SMALLEST_ALPHA:g} and below 1 (default: the run's; another "
                             "is post hoc)")
    parser.add_argument("--bound", choices=BOUNDS,
                        help="band; dkw needs an alpha of 0.5 at most (default: the run's; another is post hoc)")
    parser.add_argument("--levels", "--weights", dest="weights", choices=WEIGHTS,
                        help="levels of the Clopper-Pearson limits (default: the run's; others are post hoc)")
    parser.add_argument("--radii", type=float, nargs="+", metavar="R",
                        help="increasing multiples of 0.01, 0 or above (default: the run's)")
    parser.add_argument("--range", action="store_true",
                        help="write upper bounds, too; lower and upper ones hold at half of alpha each")
    parser.add_argument("--no_abstain", action="store_true", help="write the bounds below the measure's cutoff, too")
    parser.add_argument("--overwrite", action="store_true", help="start over; the old log is kept as OUTLOG.bak")
    return parser.parse_args()


def make_plan(args: argparse.Namespace, saved: SavedScores) -> Plan:
    """The plan that the arguments ask for: with --range that of each side, at half of alpha. Raises InputError."""
    own = saved.spec
    alpha = own.alpha if args.alpha is None else args.alpha
    if not 0 < alpha < 1:
        raise InputError(f"--alpha must lie strictly between 0 and 1, not {alpha}")
    spec = replace(own, alpha=alpha / 2 if args.range else alpha, bound=args.bound or own.bound,
                   weights=args.weights or own.weights, radii=tuple(args.radii or own.radii))
    return check_plan(spec, like=saved.plan)


def statement(spec: CertificateSpec) -> tuple:
    """What must be fixed before the scores are seen; a certificate by another one is post hoc."""
    return spec.alpha, spec.bound, spec.weights if spec.bound == "clopper_pearson" else None


def main() -> None:
    args = parse_arguments()
    saved = read_scores(args.scores)
    refuse_files_of(saved.log, args.outlog)
    plan = make_plan(args, saved)
    spec = plan.spec
    sides = {"alpha": 2 * spec.alpha, "side_alpha": spec.alpha} if args.range else {"alpha": spec.alpha}
    settings = {**saved.settings,
                **settings_of(args, program="recertify", bound=spec.bound, **sides, radii=list(spec.radii),
                              weights=spec.weights, scores_sha256=saved.sha256, looks=plan.recorded_looks(),
                              post_hoc=args.range or statement(spec) != statement(saved.spec))}
    schema, score_range = RANGES if args.range else LOG, (spec.measure.score_min, spec.measure.score_max)
    log = ResumableLog(args.outlog, settings, schema.header(spec.radii),
                       partial(Log.parse, score_range=score_range), overwrite=args.overwrite)
    with closing(log):
        lines, start = [], time.perf_counter()
        for index, label, certificate in saved.certificates(plan):
            if args.no_abstain:
                certificate = certificate.without_cutoff()
            bounds = [getattr(certificate, column.name) for column in schema.columns]
            seconds = time.perf_counter() - start
            lines.append((index, schema.line(index, label, certificate.prediction, seconds, *bounds)))
            start = time.perf_counter()
        log.complete(start_of_run(args), lines, saved.non_finite)


if __name__ == "__main__":
    sys.exit(run_cli(main, "stopped; the same command resumes"))
