"""Figures and tables of results: certified accuracy against radius, and what decides it.

    python code/analyze.py LOG [LOG ...] --score 0.5 --out figures/cifar10.png
    python code/analyze.py LOG LOG --score 0.5 0.7 --table csv --labels "ResNet-20" "ResNet-110" --title "Noise 0.25"
    python code/analyze.py OUTFILE.scores --score 0.5 --out figures/exact.png
    python code/analyze.py RADIUS_FILE [RADIUS_FILE ...] --out figures/smooth.pdf
    python code/analyze.py LOG ATTACKS --score 0.5 --out figures/attacked.png
    python code/analyze.py FOLDER [FOLDER ...] --figure networks --out figures/networks.png

Reads logs (certify.py), saved scores (certify.py --save_scores), radius files (radius.py) and attacks (attack.py). The
bound from the CDF is solid, the bound without it dashed; several scores are panels side by side. A log is known at the
radii of its columns, which are marked; its bound at R also holds at every smaller radius, so its curve is the staircase
below the true one. Saved scores and radius files give the exact curve at every radius. A radius file has a score of its
own. Attacks (dotted) count the images whose class is right and whose attacked score is above the score; an attack at R
is also one at every larger radius. For images between attacks and bounds, neither is known. An image whose bound at
radius 0 is below the measure's cutoff abstains in a log and is not certified there; in saved scores and radius files it
is certified if its bound is above the score.

--figure draws another figure, of four panels, from the saved scores FOLDER/MEASURE/noise_SIGMA.scores of both measures
and noise levels. Certified: the class is right and the bound above the measure's cutoff.

bounds     certified accuracy against radius: four bounds from the same scores
networks   certified accuracy against radius: several folders (logs will do), and what the paper's authors published
samples    the images certified at three radii, against the samples that were enough for them (runs with --settle)
range      the certified range of the score against radius, and what attacks reached (noise_SIGMA.attacks of attack.py)
"""
import argparse
import math
import sys
from pathlib import Path

from certconf.errors import InputError, run_cli
from certconf.files import refuse_existing
from certconf.formats.rows import shortest
from certconf.report.curves import Source, read_sources
from certconf.report.labels import add_label_options, label_of_files
from certconf.report.tables import FORMATS, radius_table
from certconf.statistics.certificate import RADII

FIGURES = ("accuracy", "bounds", "networks", "samples", "range")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="+",
                        help="logs, attacks, radius files (known by their headers) and OUTFILE.scores; with --figure "
                             "FOLDER, which holds MEASURE/noise_SIGMA.scores")
    parser.add_argument("--figure", choices=FIGURES, default=FIGURES[0], help="see above (default: %(default)s)")
    parser.add_argument("--score", type=float, nargs="+", default=[], metavar="S",
                        help="certified: the bound on the expected score is strictly above it (needed for logs and "
                             "saved scores; default: the score of the radius files)")
    parser.add_argument("--out", help="picture to draw: .png, .pdf or .svg (default: none)")
    parser.add_argument("--table", choices=[style for style in FORMATS if style != "text"],
                        help="print a table (default: none)")
    add_label_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the picture")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for arguments that cannot be used."""
    if args.out is None and args.table is None:
        raise InputError("give --out, --table or both")
    if args.figure != "accuracy" and (args.table or args.score or args.out is None):
        raise InputError(f"--figure {args.figure} needs --out, and takes no --score and no --table")
    if args.figure not in ("accuracy", "networks") and (len(args.file) > 1 or args.labels):
        raise InputError(f"--figure {args.figure} takes one FOLDER, and no --labels")
    if not all(map(math.isfinite, args.score)) or len(set(args.score)) < len(args.score):
        raise InputError("--score: finite numbers, each once")


def table(sources: dict[str, Source], scores: list, style: str, title: str | None) -> str:
    """One row for each score, file and bound; a cell for each radius that some log or attack has."""
    radii = sorted({radius for source in sources.values() for radius in source.radii}) or RADII
    rows = []
    for score in scores:
        for label, source in sources.items():
            for name, curve in source.curves[score].items():
                shown = str(source.settings.get("score", "") if score is None else score)
                rows.append(({"log": label, "score": shown, "bound": name},
                             {radius: f"{value:.4f}" for radius in radii if (value := curve.at(radius)) is not None}))
    return radius_table(rows, style, title)


def draw(sources: dict[str, Source], scores: list):
    """The figure: a panel for each score; sources: by their labels."""
    from certconf.report.accuracy import draw_accuracy  # only here: matplotlib takes a while to load

    return draw_accuracy([("" if score is None else f"expected score above {shortest(score)}",
                           {label: source.curves[score] for label, source in sources.items()}) for score in scores],
                         columns=len(scores))


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    labels = label_of_files(args.file, args.labels)
    if args.out is not None:
        from certconf.report import figures
        figures.check_figure_path(args.out)
        refuse_existing([args.out], args.overwrite)
        if len(set(args.file)) > len(figures.COLOURS):
            raise InputError(f"one figure distinguishes at most {len(figures.COLOURS)} files by colour")
    if args.figure != "accuracy":
        from certconf.report import panels
        draw_panels = panels.FIGURES[args.figure]
        figure = draw_panels(labels if args.figure == "networks" else Path(args.file[0]))
    else:
        scores = args.score or [None]
        sources = {labels[source.path]: source for source in read_sources(args.file, args.score)}
        if args.table:
            print(table(sources, scores, args.table, args.title), end="")
        if args.out is None:
            return
        figure = draw(sources, scores)
    figure.suptitle(args.title)
    figures.save_figure(figure, args.out, args.overwrite)


if __name__ == "__main__":
    sys.exit(run_cli(main))
