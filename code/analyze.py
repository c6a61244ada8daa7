"""Certified accuracy against radius: a figure, a table, or both.

    python code/analyze.py LOG [LOG ...] --score 0.5 --out figures/cifar10.png
    python code/analyze.py LOG [LOG ...] --score 0.5 0.7 --table markdown
    python code/analyze.py OUTFILE.scores --score 0.5 --out figures/exact.png
    python code/analyze.py RADIUS_FILE [RADIUS_FILE ...] --out figures/smooth.pdf
    python code/analyze.py LOG ATTACKS --score 0.5 --out figures/attacked.png

Reads logs (certify.py), saved scores (certify.py --save_scores), radius files (radius.py) and attacks (attack.py). The
bound from the CDF is solid, the bound without it dashed; several scores are panels side by side. A log is known at the
radii of its columns, which are marked; its bound at R also holds at every smaller radius, so its curve is the staircase
below the true one. Saved scores and radius files give the exact curve at every radius. A radius file has a score of its
own. Attacks (dotted) count the images whose class is right and whose attacked score is above the score; an attack at R
is also one at every larger radius. For images between attacks and bounds, neither is known. An image whose bound at
radius 0 is below the measure's cutoff abstains in a log and is not certified there; in saved scores and radius files it
is certified if its bound is above the score.
"""
import argparse
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.lines import Line2D

from certconf.errors import InputError, run
from certconf.files import file_sha256, refuse_existing
from certconf.formats.attacks import is_attack_file, read_recorded_attacks
from certconf.formats.log import read_recorded_log
from certconf.formats.radii import NAIVE, exact_accuracy, is_radius_file, read_recorded_radii
from certconf.formats.record import report_settled
from certconf.formats.rows import report_different_images, report_flaws, report_missing, shortest
from certconf.formats.scores import SavedScores, read_scores
from certconf.report.figures import COLOURS, check_figure_path, new_figure, save_figure
from certconf.report.tables import FORMATS, format_table
from certconf.statistics.certificate import RADII
from certconf.statistics.measures import MEASURES

MARKERS = "os^DvPX"
CDF, MEAN, ATTACKED = "CDF bound", "without the CDF", "attacked score"
LINES = {CDF: "-", MEAN: "--", ATTACKED: ":"}
LABEL = {"confidence_measure": "{}", "score": "score above {}", "sigma": "sigma {}", "N": "N {}", "bound": "{}",
         "arch": "{}"}
PLAIN_NAMES = {"clopper_pearson": "Clopper-Pearson", "dkw": "DKW", NAIVE: "mean alone"}


@dataclass(frozen=True)
class Curve:
    """Accuracy [J] at increasing radii [J]; exact: known at every radius, and falls at these.

    style: steps-pre if what holds at a radius also holds at the smaller ones, steps-post if at the larger ones.
    """

    radii: Sequence[float]
    accuracy: np.ndarray
    style: str = "steps-post"
    exact: bool = False

    def at(self, radius: float) -> float | None:
        """The accuracy at a radius, None if it is not known there."""
        if self.exact:
            return float(self.accuracy[np.searchsorted(self.radii, radius, side="right") - 1])
        return dict(zip(self.radii, self.accuracy, strict=True)).get(radius)

    def staircase(self) -> tuple[Sequence[float], Sequence[float]]:
        """The corners to draw in the curve's style: a log's bound at its first radius holds at 0, too."""
        if self.style == "steps-post" or self.radii[0] == 0:
            return self.radii, self.accuracy
        return [0.0, *self.radii], [self.accuracy[0], *self.accuracy]


@dataclass(frozen=True)
class Source:
    """A file to draw: for each score its curves, by their names in LINES."""

    path: str
    settings: dict
    label: str
    curves: dict[float | None, dict[str, Curve]]
    radii: tuple[float, ...] = ()  # of the file's columns
    log_sha256: str | None = None  # of the log that it is, or that it attacks
    images: frozenset[int] = frozenset()  # that count in it


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="+",
                        help="logs, attacks, radius files (known by their headers) and OUTFILE.scores")
    parser.add_argument("--score", type=float, nargs="+", default=[], metavar="S",
                        help="certified: the bound on the expected score is strictly above it (needed for logs and "
                             "saved scores; default: the score of the radius files)")
    parser.add_argument("--out", help="picture to draw: .png, .pdf or .svg (default: none)")
    parser.add_argument("--table", choices=[style for style in FORMATS if style != "text"],
                        help="print a table (default: none)")
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
            raise InputError(f"one figure distinguishes at most {len(COLOURS)} files by colour")


def read_sources(args: argparse.Namespace) -> list[Source]:
    """The files, in the order given. Raises InputError."""
    sources = [read_source(path, args.score) for path in dict.fromkeys(args.file)]
    check_attacks(sources, args.score)
    report_different_images({source.path: source.images for source in sources})
    labels = [source.label for source in sources]
    return [replace(source, label=f"{source.label} ({source.path})") if labels.count(source.label) > 1 else source
            for source in sources]


def check_attacks(sources: list[Source], scores: list[float]) -> None:
    """Raise InputError for an attack beside logs if it is of none of them, or of other images than its log counts."""
    certified = [source for source in sources if ATTACKED not in names_of(source)]
    for attack in (source for source in sources if certified and ATTACKED in names_of(source)):
        own = [source for source in certified if source.log_sha256 == attack.log_sha256]
        if not own:
            raise InputError(f"{attack.path}: an attack of none of the logs that are drawn with it")
        for source in own:
            if attack.images != source.images:
                raise InputError(f"{attack.path}: not all images of its log are attacked, or others are")
            if not source.path.endswith(".scores"):
                continue
            cutoff = MEASURES[source.settings["confidence_measure"]].cutoff
            if min(scores) < cutoff:
                raise InputError(f"{source.path}: below {cutoff:g} it counts images that abstain, which were "
                                 "not attacked: draw the log instead")


def names_of(source: Source) -> set[str]:
    """The names of a source's curves."""
    return {name for curves in source.curves.values() for name in curves}


def read_source(path: str, scores: list[float]) -> Source:
    """One file, and its curves at the scores. Raises InputError."""
    if path.endswith(".scores"):
        return source_of_scores(read_scores(path), scores)
    if is_radius_file(path):
        return source_of_radii(path, scores)
    if is_attack_file(path):
        return source_of_attacks(path, scores)
    log, settings = read_recorded_log(path)
    report_flaws(log)
    report_settled(path, settings)
    if not scores:
        raise InputError(f"{path} is a log: give --score")
    curves = {score: {name: Curve(log.radii, log.certified_accuracy(score, name == CDF), "steps-pre")
                      for name in (CDF, MEAN)} for score in scores}
    return Source(path, settings, label(path, settings), curves, log.radii, file_sha256(path), log.all_indices)


def source_of_radii(path: str, scores: list[float]) -> Source:
    """A radius file: one curve, at its own score. Raises InputError for another score."""
    radii, settings = read_recorded_radii(path)
    report_flaws(radii)
    if scores and scores != [settings.get("score")]:
        raise InputError(f"{path} is a radius file, for one score of its own: "
                         f"{settings.get('score', 'not recorded')}, not {' '.join(map(str, scores))}")
    curves = {MEAN if settings.get("bound") == NAIVE else CDF: exact_curve(radii.of_correct, radii.images)}
    return Source(path, settings, label(path, settings), dict.fromkeys(scores or [None], curves),
                  images=radii.all_indices)


def source_of_attacks(path: str, scores: list[float]) -> Source:
    """A file of attack.py. Raises InputError without a score."""
    attacks, settings = read_recorded_attacks(path)
    report_flaws(attacks)
    if not scores:
        raise InputError(f"{path} holds attacks: give --score")
    curves = {score: {ATTACKED: Curve(attacks.radii, attacks.accuracy(score))} for score in scores}
    return Source(path, settings, f"attack: {label(path, settings)}", curves, attacks.radii, settings.get("log_sha256"),
                  attacks.all_indices)


def source_of_scores(saved: SavedScores, scores: list[float]) -> Source:
    """Saved scores under the band of their run. Raises InputError for a score that no bound of theirs can exceed."""
    if not scores:
        raise InputError(f"{saved.path} holds saved scores: give --score")
    try:
        for score in scores:
            saved.spec.measure.check_score(score)
    except ValueError as error:
        raise InputError(f"{saved.path}: {error}") from None
    report_settled(saved.path, saved.settings)
    report_missing(saved.path, saved.non_finite)
    right = [found for _, label, found in saved.certificates(saved.plan) if found.chosen == label]
    curves = {score: {name: exact_curve([found.radius(score, naive=name == MEAN) for found in right], saved.images)
                      for name in (CDF, MEAN)} for score in scores}
    log = saved.path.removesuffix(".scores")
    return Source(saved.path, saved.settings, label(saved.path, saved.settings), curves,
                  log_sha256=file_sha256(log) if os.path.isfile(log) else None,
                  images=frozenset((*saved.records["idx"].tolist(), *saved.non_finite)))


def exact_curve(certified: Sequence[float], images: int) -> Curve:
    """The certified accuracy at every radius, from the certified radii of the images whose class is right."""
    return Curve(*exact_accuracy(certified, images), exact=True)


def label(path: str, settings: dict) -> str:
    """A run as its record describes it, or its path if it has no record."""
    parts = [text.format(PLAIN_NAMES.get(str(settings[key]), settings[key]))
             for key, text in LABEL.items() if key in settings]
    return ", ".join(parts) or path


def print_table(sources: list[Source], scores: list, style: str) -> None:
    """One row for each score, file and bound; a cell for each radius that some log or attack has."""
    import pandas  # only here: a figure needs none

    radii = sorted({radius for source in sources for radius in source.radii}) or list(RADII)
    rows = []
    for score in scores:
        for source in sources:
            for name, curve in source.curves[score].items():
                shown = str(source.settings.get("score", "") if score is None else score)
                cells = {f"R = {radius:.2f}": f"{value:.4f}" for radius in radii
                         if (value := curve.at(radius)) is not None}
                rows.append({"log": source.label, "score": shown, "bound": name} | cells)
    columns = ["log", "score", "bound", *(f"R = {radius:.2f}" for radius in radii)]
    print(format_table(pandas.DataFrame(rows, columns=columns), style), end="")


def draw_panel(axes, sources: list[Source], score: float | None) -> None:
    """The curves of all files at one score."""
    for source, colour, marker in zip(sources, COLOURS, MARKERS, strict=False):
        for name, curve in source.curves[score].items():
            line = {"color": colour, "linestyle": LINES[name], "clip_on": False}
            axes.plot(*curve.staircase(), drawstyle=curve.style, **line)
            if not curve.exact:
                axes.plot(curve.radii, curve.accuracy, marker, color=colour, markersize=4, clip_on=False)
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
    handles = [Line2D([], [], color=colour, marker=marker if source.radii else "", markersize=4,
                      label=textwrap.fill(source.label, 75))
               for source, colour, marker in zip(sources, COLOURS, MARKERS, strict=False)]
    drawn = set().union(*map(names_of, sources))
    handles += [Line2D([], [], color="0.4", linestyle=line, label=name)
                for name, line in LINES.items() if name in drawn and len(drawn) > 1]
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
    sys.exit(run(main))
