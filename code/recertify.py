"""Certify again from saved scores, with another alpha, band or radii, without sampling.

    python code/recertify.py OUTFILE.scores OUTLOG
    python code/recertify.py OUTFILE.scores OUTLOG --bound dkw --radii 0 0.1 0.2 0.3

OUTFILE.scores is what `certify.py --save_scores` left beside its OUTFILE. With no option the log is that of the run.
One band at one alpha holds at all radii and scores at once, so these may be chosen after looking at the results. A
band and an alpha may not: each is a statement of its own, and to claim the better of two costs the sum of their
alphas. OUTLOG.json says post_hoc where band or alpha are not those of the run.
"""
import argparse
import sys
import time
from contextlib import closing
from dataclasses import replace

from certificate import BOUNDS, Rule
from errors import run
from runs.log import Row, check_rule, columns, parse_log
from runs.output import RunOutput
from runs.record import start_of_run
from runs.scores import SavedScores, read_scores


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", help="OUTFILE.scores of a run with --save_scores")
    parser.add_argument("outlog", help="the log to write")
    parser.add_argument("--alpha", type=float, help="error probability (default: the run's; another is post hoc)")
    parser.add_argument("--bound", choices=BOUNDS, help="band (default: the run's; another is post hoc)")
    parser.add_argument("--radii", type=float, nargs="+", metavar="R", help="radii (default: the run's)")
    parser.add_argument("--no_abstain", action="store_true", help="write the bounds below the measure's cutoff, too")
    parser.add_argument("--overwrite", action="store_true", help="start anew; the old log is kept as OUTLOG.bak")
    return parser.parse_args()


def make_rule(args: argparse.Namespace, saved: SavedScores) -> Rule:
    """The rule that the arguments ask for. Raises InputError."""
    own = saved.rule
    rule = replace(own, alpha=own.alpha if args.alpha is None else args.alpha, bound=args.bound or own.bound,
                   radii=tuple(args.radii or own.radii))
    if rule.alpha != own.alpha or rule.bound != own.bound:
        rule = replace(rule, eta=None)  # the recorded eta belongs to (N, alpha)
    check_rule(rule)
    return rule


def main() -> None:
    args = parse_arguments()
    saved = read_scores(args.scores)
    saved.refuse_own_files(args.outlog)
    rule = make_rule(args, saved)
    settings = {**saved.settings, "program": "recertify", "bound": rule.bound, "alpha": rule.alpha,
                "radii": list(rule.radii), "no_abstain": args.no_abstain, "scores_sha256": saved.sha256,
                "post_hoc": (rule.bound, rule.alpha) != (saved.rule.bound, saved.rule.alpha)}
    score_range = rule.measure.score_min, rule.measure.score_max
    output = RunOutput(args.outlog, settings, start_of_run(vars(args)), columns(rule.radii),
                       lambda path, data: parse_log(path, data, score_range), overwrite=args.overwrite)
    with closing(output):
        lines, start = [], time.perf_counter()
        for index, label, certificate in saved.certificates(rule):
            if args.no_abstain:
                certificate = certificate.without_cutoff()
            lines.append((index, Row.of(index, label, certificate, time.perf_counter() - start).line()))
            start = time.perf_counter()
        output.complete(lines, rule.band.eta, saved.non_finite)


if __name__ == "__main__":
    sys.exit(run(main, "stopped; the same command goes on"))
