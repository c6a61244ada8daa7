"""Certified accuracy against radius, of logs (certify.py) and radius files (radius.py): a figure, a table, or both.

    python code/analyze.py LOG [LOG ...] --score 0.5 --out figures/cifar10.png
    python code/analyze.py LOG [LOG ...] --score 0.5 0.7 --table markdown
    python code/analyze.py RADIUS_FILE [RADIUS_FILE ...] --out figures/smooth.pdf

A log is drawn at the radii of its columns, the bound from the CDF solid and the bound without it dashed; several
scores are panels side by side. A radius file has a score of its own, and its curve is exact at every radius.
"""
import argparse
import math
import sys
import textwrap
from typing import NamedTuple

from matplotlib.lines import Line2D

from certificate import RADII
from errors import InputError, exit_status
from files import refuse_existing
from formats.log import Log, read_recorded_log
from formats.radii import NAIVE, Radii, is_radius_file, read_recorded_radii
from formats.rows import report_flaws, shortest
from report.figures import COLOURS, check_figure_path, new_figure, save_figure
from report.tables import FORMATS, format_table

MARKERS = "os^DvPX"
BOUND_NAMES = {True: "CDF bound", False: "without the CDF"}
LABEL = {"confidence_measure": "{}", "score": "score above {}", "sigma": "sigma {}", "N": "N {}", "bound": "{}",
         "arch": "{}"}
PLAIN_NAMES = {"clopper_pearson": "Clopper-Pearson", "dkw": "DKW", NAIVE: "mean alone"}


class Source(NamedTuple):
    """A file to draw: what is in it, the settings of its run ({} where it has no record), and its name."""

    table: Log | Radii
    settings: dict
    label: str

    def accuracies(self, score: float | None, radii: list[float]) -> list[tuple[bool, dict[float, float]]]:
        """(whether it is the CDF bound, certified accuracy by radius) of each of its bounds; a log at its own radii."""
        if isinstance(self.table, Log):
            return [(cdf, dict(zip(self.table.radii, self.table.certified_accuracy(score, cdf), strict=True)))
                    for cdf in BOUND_NAMES]
        return [(self.settings.get("bound") != NAIVE,
                 dict(zip(radii, self.table.certified_accuracy(radii), strict=True)))]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="+", help="logs and radius files, told apart by their headers")
    parser.add_argument("--score", type=float, nargs="+", default=[], metavar="S",
                        help="certified: the bound on the expected score is strictly above it (needed for logs)")
    parser.add_argument("--out", help="picture to draw: .png, .pdf or .svg")
    parser.add_argument("--table", choices=[style for style in FORMATS if style != "text"], help="print a table")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for arguments that cannot be used."""
    if args.out is None and args.table is None:
        raise InputError("give --out, --table or both")
    if not all(map(math.isfinite, args.score)) or len(set(args.score)) < len(args.score):
        raise InputError("--score: finite numbers, each once")
    if args.out is not None:
        check_figure_path(args.out)
        refuse_existing([args.out], args.overwrite)
        if len(set(args.file)) > len(COLOURS):
            raise InputError(f"one figure tells at most {len(COLOURS)} files apart by colour")


def read_sources(args: argparse.Namespace) -> list[Source]:
    """The files, in the order given. Raises InputError."""
    sources = []
    for path in dict.fromkeys(args.file):
        table, settings = (read_recorded_radii if is_radius_file(path) else read_recorded_log)(path)
        report_flaws(table)
        if isinstance(table, Log):
            if not args.score:
                raise InputError(f"{path} is a log: give --score")
        elif args.score and args.score != [settings.get("score")]:
            raise InputError(f"{path} is a radius file, for one score of its own: "
                             f"{settings.get('score', 'not recorded')}, not {' '.join(map(str, args.score))}")
        sources.append(Source(table, settings, label(path, settings)))
    labels = [source.label for source in sources]
    return [source._replace(label=f"{source.label} ({source.table.path})") if labels.count(source.label) > 1 else source
            for source in sources]


def label(path: str, settings: dict) -> str:
    """What the record says of a run, or its path where it has no record."""
    parts = [text.format(PLAIN_NAMES.get(str(settings[key]), settings[key]))
             for key, text in LABEL.items() if key in settings]
    return ", ".join(parts) or path


def print_table(sources: list[Source], scores: list, style: str) -> None:
    """One row for each score, file and bound; a cell for each radius that some log has."""
    radii = sorted({radius for source in sources if isinstance(source.table, Log) for radius in source.table.radii})
    radii = radii or list(RADII)
    rows = [[source.label, str(source.settings.get("score", "") if score is None else score), BOUND_NAMES[cdf],
             *(f"{accuracy[radius]:.4f}" if radius in accuracy else "" for radius in radii)]
            for score in scores for source in sources for cdf, accuracy in source.accuracies(score, radii)]
    print(format_table(["log", "score", "bound", *(f"R = {radius:.2f}" for radius in radii)], rows, style), end="")


def draw_panel(axes, sources: list[Source], score: float | None) -> None:
    """The curves of all files at one score."""
    for source, colour, marker in zip(sources, COLOURS, MARKERS, strict=False):
        is_log = isinstance(source.table, Log)
        # a log's bounds are known at the marked radii, with straight lines between them to guide the eye
        style = {"marker": marker, "markersize": 4} if is_log else {"drawstyle": "steps-post"}
        for cdf, accuracy in source.accuracies(score, [] if is_log else source.table.steps().tolist()):
            axes.plot(list(accuracy), list(accuracy.values()), color=colour, linestyle="-" if cdf else "--",
                      clip_on=False, **style)
    axes.set(xlabel="radius (L2 distance, pixels in [0, 1])", ylabel="certified accuracy (fraction of images)",
             title="" if score is None else f"expected score above {shortest(score)}")
    axes.label_outer()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def draw(sources: list[Source], scores: list):
    """The figure: a panel for each score, side by side, and the legend below them."""
    figure = new_figure(max(6.4, 4.4 * len(scores)), 3.6 + 0.22 * (len(sources) + 2))
    panels = figure.subplots(1, len(scores), squeeze=False, sharex=True, sharey=True)[0]
    for axes, score in zip(panels, scores, strict=True):
        draw_panel(axes, sources, score)
    panels[0].set_xlim(left=0)  # only now: a limit that is set stops matplotlib from making room for more curves
    panels[0].set_ylim(bottom=0)
    handles = [Line2D([], [], color=colour, marker=marker if isinstance(source.table, Log) else "", markersize=4,
                      label=textwrap.fill(source.label, 75))
               for source, colour, marker in zip(sources, COLOURS, MARKERS, strict=False)]
    styles = {cdf for source in sources for cdf, _ in source.accuracies(0.0, [])}
    handles += [Line2D([], [], color="0.4", linestyle="-" if cdf else "--", label=name)
                for cdf, name in BOUND_NAMES.items() if len(styles) == 2]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)
    return figure


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    sources, scores = read_sources(args), args.score or [None]
    if args.table:
        print_table(sources, scores, args.table)
    if args.out:
        save_figure(draw(sources, scores), args.out, args.overwrite)


if __name__ == "__main__":
    sys.exit(exit_status(main))
