"""What certifying cost: samples per image and hours, read off the logs and saved scores of runs of certify.py.

    python benchmarks/log_cost.py log_files/cifar10_resnet20 log_files/cifar10_resnet20_staged --skip 40

A row for each noise level of each FOLDER, which holds MEASURE/noise_SIGMA for pred_score and margin from one pass. The
pass draws samples of an image until both measures are settled; before it stand the samples after which each measure
was, all as mean and standard error over the images. Without --settle a run draws all N. The N0 samples that select the
class are not counted. Hours: the sum of the times in the rows, which depend on the machine and on what else ran on it.
"""
import argparse
import sys
from pathlib import Path

import code_path
import numpy as np

from certconf.errors import InputError, run_cli
from certconf.formats.log import Log
from certconf.formats.scores import SavedScores, read_scores
from certconf.report.labels import add_label_options, label_of_files
from certconf.report.tables import FORMATS, format_table
from certconf.statistics.measures import SOFT_MEASURES


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path, help="holds MEASURE/noise_SIGMA and MEASURE/noise_SIGMA.scores")
    parser.add_argument("--skip", type=int, default=1,
                        help="count images with indices 0, SKIP, 2 SKIP, ... only; 1 or more (default: %(default)s)")
    add_label_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    args = parser.parse_args()
    if args.skip < 1:
        raise InputError(f"--skip must be 1 or above, not {args.skip}")
    return args


def costs(folder: Path, noise: str, skip: int) -> dict[str, str]:
    """The row of a pass. Raises InputError if the logs of the two measures are not of one pass."""
    logs = [folder / name / noise for name in SOFT_MEASURES]
    saved = [read_scores(str(log)) for log in logs]
    counted = [each.records["idx"] % skip == 0 for each in saved]
    images, other = (each.records["idx"][kept].tolist() for each, kept in zip(saved, counted, strict=True))
    seconds = [seconds_of(log, skip) for log in logs]
    if images != other or seconds[0] != seconds[1]:
        raise InputError(f"{logs[0]} and {logs[1]} are not of one pass")
    samples = np.array([samples_of(each)[kept] for each, kept in zip(saved, counted, strict=True)])
    cells = [mean_and_error(each) for each in (*samples, samples.max(0))]
    return {"noise": noise.removeprefix("noise_"), "images": str(len(images)),
            "N": f"{saved[0].spec.n:,}"} | dict(zip((*SOFT_MEASURES, "one pass"), cells, strict=True)) | {
            "hours": f"{seconds[0] / 3600:.2f}"}


def mean_and_error(values: np.ndarray) -> str:
    """The mean with its standard error, which one value alone does not have."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:,.0f}" if len(values) > 1 else ""
    return f"{values.mean():,.0f}{error}"


def samples_of(saved: SavedScores) -> np.ndarray:
    """The number of samples of each image, [images]."""
    return saved.records["n"] if saved.plan.settle is not None else np.full(len(saved.records), saved.spec.n)


def seconds_of(log: Path, skip: int) -> float:
    """The times in the rows of a log, added up."""
    return sum(row.seconds for row in Log.read(str(log), skip)[0].rows)


def main() -> None:
    args = parse_arguments()
    labels = label_of_files(args.folder, args.labels)
    rows = [{"log": str(labels[folder])} | costs(folder, path.stem, args.skip) for folder in args.folder
            for path in sorted((folder / SOFT_MEASURES[0]).glob("noise_*.scores"))]
    if not rows:
        raise InputError("no MEASURE/noise_SIGMA.scores in these folders")
    print(format_table(list(rows[0]), [list(row.values()) for row in rows], args.format, args.title), end="")


if __name__ == "__main__":
    sys.exit(run_cli(main))
