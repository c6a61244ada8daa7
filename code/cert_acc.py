"""Certified accuracy of certification logs: the fraction of images that are correct and bounded above a score.

    python cert_acc.py LOG_FILE SCORE
    python cert_acc.py LOG_FILE SCORE --confidence 0.99
    python cert_acc.py LOG_FILE LOG_FILE ... SCORE --format markdown
    python cert_acc.py LOG_FILE LOG_FILE SCORE --skip 40 --labels ResNet-20 ResNet-110 --title "Images 0, 40, 80, ..."
    python cert_acc.py --brier LOG_FILE

With one log and no option it prints what the paper's own cert_acc.py prints. --confidence gives lower limits on the
certified accuracy over the population that the images are an independent sample of, one radius at a time. --skip K
counts the images 0, K, 2K, ... only, which compares logs on the images that they share.

--brier takes logs of `recertify.py --range` and no SCORE. It prints the certified Brier score of the confidence in the
class predicted at the image itself: the mean over the images of (1 - lower)^2 if the prediction is right, and upper^2
if it is wrong. Each image's range holds with probability 1 - alpha, which is all that is claimed. Images that abstain
count as 1, the worst case, since their rows hold no bounds; `recertify.py --range --no_abstain` writes the bounds of
all images.
"""
import argparse
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

import numpy as np

from certconf.errors import InputError, run_cli
from certconf.formats.log import RANGES, Log
from certconf.formats.record import recorded_alpha
from certconf.report.labels import add_label_options, label_of_files
from certconf.report.notes import report_different_images, report_flaws, report_post_hoc, report_settled
from certconf.report.tables import FORMATS, radius_table
from certconf.statistics.bounds import population_limit
from certconf.statistics.certificate import ABSTAIN

NAMES = {True: "using cdf bound", False: "without cdf bound"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "%(prog)s [options] LOG_FILE [LOG_FILE ...] SCORE\n       %(prog)s [options] --brier LOG_FILE ..."
    parser.add_argument("log_file", nargs="+", metavar="LOG_FILE ... SCORE",
                        help="logs of certify.py or recertify.py, or the paper's; certified: the bound on the expected "
                             "score is strictly above SCORE")
    parser.add_argument("--brier", action="store_true",
                        help="the certified Brier score instead, of logs of recertify.py --range of pred_score")
    parser.add_argument("--skip", type=int, default=1,
                        help="count images with indices 0, SKIP, 2 SKIP, ... only; 1 or more (default: %(default)s)")
    parser.add_argument("--confidence", type=float,
                        help="add lower limits at this confidence on the population's certified accuracy, strictly "
                             "between 0 and 1 (default: none)")
    parser.add_argument("--alpha", type=float,
                        help="error probability of a row, strictly between 0 and 1, for logs without a record; if a "
                             "record has a smaller one, this one counts (default: the record's)")
    parser.add_argument("--format", choices=FORMATS,
                        help="print one table (default: the paper's report of a single log, else text)")
    add_label_options(parser)
    args = parser.parse_args()
    if not args.brier:
        *args.log_file, score = args.log_file
        if not args.log_file:
            parser.error("LOG_FILE and SCORE are needed")
        try:
            args.score = float(score)
        except ValueError:
            parser.error(f"SCORE must be a number, not {score!r}")
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for values that have no meaning."""
    if args.brier and (args.confidence is not None or args.alpha is not None):
        raise InputError("--confidence and --alpha are for certified accuracy, not for --brier")
    if not args.brier and not np.isfinite(args.score):
        raise InputError(f"SCORE must be a finite number, not {args.score}")
    if args.skip < 1:
        raise InputError(f"--skip must be 1 or above, not {args.skip}")
    for name in ("confidence", "alpha"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1:
            raise InputError(f"--{name} must lie strictly between 0 and 1, not {value}")
    if args.confidence is not None and 1 - args.confidence == 1:
        raise InputError(f"--confidence {args.confidence} is 0 in float64")


def print_reference_report(log: Log, score: float) -> None:
    """What the paper's cert_acc.py prints, byte for byte."""
    print(f"Expected score threshold = {score:f}")
    for cdf, name in NAMES.items():
        print("\n")
        for radius, accuracy in zip(log.radii, log.certified_accuracy(score, cdf), strict=True):
            print(f"Certified accuracy ({name}) at radius {radius:.2f} = {accuracy:f}")


def row_alpha(args: argparse.Namespace, path: str, settings: dict) -> float:
    """The error probability of a log's rows, the larger of its record's and --alpha. Raises InputError."""
    known = [alpha for alpha in (recorded_alpha(settings), args.alpha) if alpha is not None]
    if not known:
        raise InputError(f"{path}: has no record of its alpha: give --alpha")
    return max(known)


def decimals(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number to four decimals; a bound is rounded outwards."""
    return str(Decimal(float(value)).quantize(Decimal("0.0001"), rounding))


def accuracy_rows(args: argparse.Namespace, path: str, log: Log, settings: dict) -> list[tuple[str, list[str]]]:
    """What a table says of a log: (what is counted, a number for each radius). Raises InputError."""
    rows = []
    for cdf, name in NAMES.items():
        rows.append((name, [decimals(value) for value in log.certified_accuracy(args.score, cdf)]))
        if args.confidence is not None:
            alpha = row_alpha(args, path, settings)
            limits = population_limit(log.certified(args.score, cdf).sum(0), log.images, args.confidence, alpha)
            rows.append((f"{name}, population", [decimals(limit, ROUND_FLOOR) for limit in limits]))
    return rows


def brier_rows(args: argparse.Namespace, path: str, log: Log, settings: dict) -> list[tuple[str, list[str]]]:
    """The certified Brier scores, rounded up. Raises InputError for a log that has none."""
    if log.schema is not RANGES or settings.get("confidence_measure") != "pred_score":
        raise InputError(f"{path}: the Brier score needs a log that recertify.py --range wrote, of pred_score")
    abstained = int((log.values("predict") == ABSTAIN).sum()) + len(log.missing)
    return [(f"{abstained} of {log.images}", [decimals(value, ROUND_CEILING) for value in log.certified_brier()])]


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    labels = label_of_files(args.log_file, args.labels)
    logs = {path: Log.read(path, args.skip) for path in args.log_file}
    for path, (log, settings) in logs.items():
        report_flaws(log)
        if args.confidence is not None:
            report_post_hoc(path, settings)
        if not args.brier:
            report_settled(path, settings)
    report_different_images({path: log.all_indices for path, (log, _) in logs.items()},
                            "; --skip K counts the images 0, K, 2K, ... only")
    if len(logs) == 1 and not any((args.brier, args.format, args.confidence, args.labels, args.title)):
        print_reference_report(next(iter(logs.values()))[0], args.score)
        return
    what, rows_of = ("counted as 1", brier_rows) if args.brier else ("certified accuracy", accuracy_rows)
    rows = [({"log": labels.get(path, path), what: name}, dict(zip(log.radii, values, strict=True)))
            for path, (log, settings) in logs.items() for name, values in rows_of(args, path, log, settings)]
    print(radius_table(rows, args.format or "text", args.title), end="")


if __name__ == "__main__":
    sys.exit(run_cli(main))
