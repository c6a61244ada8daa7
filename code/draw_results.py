"""Figures of results, from the saved scores FOLDER/MEASURE/noise_SIGMA.scores of both measures and noise levels.

    python code/draw_results.py bounds log_files/cifar10_resnet20 figures/new_bounds.png
    python code/draw_results.py networks log_files/cifar10_resnet20 log_files/cifar10_resnet20_consistency NETWORKS.png
    python code/draw_results.py samples log_files/cifar10_resnet20_consistency figures/new_samples.png
    python code/draw_results.py range FOLDER figures/new_range.png

Certified: the class is right and the bound above the measure's cutoff.

bounds     certified accuracy against radius: four bounds from the same scores
networks   certified accuracy against radius: several folders, and what the paper's authors published
samples    the images certified at three radii, against the samples that were enough for them (runs with --settle)
range      the certified range of the score against radius, and what attacks reached (noise_SIGMA.attacks of attack.py)
"""
import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
from matplotlib.axes import Axes
from scipy.special import ndtri

from certconf.errors import InputError, run
from certconf.files import file_sha256, refuse_existing
from certconf.formats.attacks import read_recorded_attacks
from certconf.formats.radii import exact_accuracy
from certconf.formats.scores import SavedScores, read_scores
from certconf.report.figures import COLOURS, check_figure_path, new_figure, save_figure
from certconf.runner.config import check_plan
from certconf.statistics.certificate import ABSTAIN, Certificate
from certconf.statistics.measures import SOFT_MEASURES

SIGMAS = ("0.25", "0.50")
PUBLISHED = Path(__file__).parents[1] / "log_files" / "published_accuracy.tsv"
BANDS = {"clopper_pearson": "Clopper-Pearson band", "dkw": "DKW band (the paper's)"}
MEAN_BAND, MEAN_HOEFFDING = "mean alone, limit from the band", "mean alone, limit from Hoeffding (the paper's baseline)"
STYLES = dict(zip((*BANDS.values(), MEAN_BAND, MEAN_HOEFFDING), zip(COLOURS, ("-", "-", ":", "--"), strict=False),
                  strict=True))
RADIUS, ACCURACY = "radius (L2 distance, pixels in [0, 1])", "certified accuracy (fraction)"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES, help="see above")
    parser.add_argument("folder", nargs="+", type=Path, help="holds MEASURE/noise_SIGMA.scores; several for networks")
    parser.add_argument("out", help="picture to draw: .png, .pdf or .svg")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture")
    args = parser.parse_args()
    if len(args.folder) > 1 and args.figure != "networks":
        parser.error(f"{args.figure} takes one FOLDER")
    if len(args.folder) > len(COLOURS):
        parser.error(f"at most {len(COLOURS)} FOLDERs, one for each colour")
    return args


# --- bounds and networks: certified accuracy against radius ---------------------------------------------------------

def read_run(path: Path) -> SavedScores:
    """Saved scores. Raises InputError if the sampling stopped for the sake of another score than the cutoff."""
    saved = read_scores(str(path))
    if saved.plan.settle not in (None, saved.spec.measure.cutoff):
        raise InputError(f"{saved.path}: sampled with --settle {saved.plan.settle}, not {saved.spec.measure.cutoff:g}")
    return saved


def draw_bounds(panels: Iterator, folder: Path) -> None:
    """Certified accuracy by four bounds from the same scores."""
    for axes, place in panels:
        saved = read_run(folder / place)
        if saved.plan.settle is not None:
            raise InputError(f"{saved.path}: of a run with --settle, which stops for the sake of one bound")
        radii = radii_of_bounds(saved)
        for name, (colour, line) in STYLES.items():
            draw_accuracy(axes, saved, radii[name], line, color=colour, label=name)
        axes.set(title=f"{title(saved)}, N = {saved.spec.n:,}", xlabel=RADIUS, ylabel=ACCURACY, xlim=(0, None))


def radii_of_bounds(saved: SavedScores) -> dict[str, list[float]]:
    """For each bound the certified radii at the measure's cutoff, of the images whose class is right."""
    score, radii = saved.spec.measure.cutoff, {}
    for bound, name in BANDS.items():
        plan = check_plan(replace(saved.spec, bound=bound), like=saved.plan)
        right = [found for _, label, found in saved.certificates(plan) if found.chosen == label]
        radii[name] = [found.radius(score) for found in right]
        if bound == saved.spec.bound:
            radii[MEAN_BAND] = [radius_of_mean(found, score) for found in right]
            radii[MEAN_HOEFFDING] = [found.radius(score, naive=True) for found in right]
    return radii


def radius_of_mean(certificate: Certificate, score: float) -> float:
    """The radius of the naive bound if its limit on the mean is the band's own bound at R = 0, not Hoeffding's."""
    measure = certificate.spec.measure
    mean, threshold = ((value - measure.score_min) / measure.range for value in (certificate.lower_bound(0.0), score))
    return max(float(ndtri(mean) - ndtri(threshold)) / certificate.spec.shift(1.0), 0.0)


def draw_networks(panels: Iterator, *folders: Path) -> None:
    """Dotted: where a curve ends even if all scores are 1. Crosses: the published accuracy.

    A run with --settle is drawn at its own radii only: between them its images had too few samples.
    """
    published = pandas.read_csv(PUBLISHED, sep="\t", dtype={"sigma": str}).set_index(["measure", "sigma"])
    for axes, place in panels:
        ends = []
        for folder, colour in zip(folders, COLOURS, strict=False):
            saved = read_run(folder / place)
            score = saved.spec.measure.cutoff
            style = {"color": colour, "label": f"{folder.name}, N = {saved.spec.n:,}, {saved.images} images"}
            right = [found for _, label, found in saved.certificates(saved.plan) if found.prediction == label]
            if saved.plan.settle is None:
                draw_accuracy(axes, saved, [found.radius(score) for found in right], "-", **style)
            else:
                certified = np.array([found.exp_cdf for found in right]) > score
                axes.plot(saved.spec.radii, certified.sum(0) / saved.images, "o", markersize=5, **style)
            last = saved.plan.looks[-1].spec
            ends.append(last.sigma * float(ndtri(last.band.prob[0])))
        row = published.loc[place.parent.name, place.stem.removeprefix("noise_")]
        axes.plot([float(radius) for radius in row.index], row, "x", color="black", label="published, N = 100,000",
                  zorder=3)
        for end, folder, colour in zip(ends, folders, COLOURS, strict=False):
            axes.axvline(end, color=colour, linestyle=":", label=f"ceiling of {folder.name}")
        axes.set(title=title(saved), xlabel=RADIUS, ylabel=ACCURACY, xlim=(-0.02 * max(ends), 1.05 * max(ends)))


def draw_accuracy(axes: Axes, saved: SavedScores, radii: list[float], line: str, **style) -> None:
    """The fraction of all images certified at R, against R; radii: of the images whose class is right."""
    axes.plot(*exact_accuracy(radii, saved.images), line, drawstyle="steps-post", **style)


# --- samples --------------------------------------------------------------------------------------------------------

def draw_samples(panels: Iterator, folder: Path) -> None:
    """The images certified at one, two and three sigma, against the samples at which their sampling stopped."""
    for axes, place in panels:
        saved = read_run(folder / place)
        if saved.plan.settle is None:
            raise InputError(f"{saved.path}: not of a run with --settle, which stops once an image is settled")
        images = [(found.spec.n, found) for _, label, found in saved.certificates(saved.plan)
                  if found.prediction == label]
        sizes = [n for n, _ in saved.plan.schedule]
        for multiple, colour, marker in zip((1, 2, 3), COLOURS, "osd", strict=False):
            radius = multiple * saved.spec.sigma
            taken = np.array([n for n, found in images if found.lower_bound(radius) > saved.plan.settle])
            accuracy = [(taken <= size).sum() / saved.images for size in sizes]
            axes.plot(sizes, accuracy, f"{marker}-", markersize=4, color=colour, drawstyle="steps-post",
                      label=f"R = {multiple} sigma", clip_on=False)
        axes.set(title=f"{title(saved)}, mean n = {saved.records['n'].mean():,.0f}", xscale="log",
                 xlabel="samples per image, n", ylabel="fraction certified with at most n samples")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        axes.set_xticks([], minor=True)


# --- range ----------------------------------------------------------------------------------------------------------

def draw_range(panels: Iterator, folder: Path) -> None:
    """The mean certified range of the expected score against radius, and the mean score that attacks reached."""
    radii = np.linspace(0, 1.5, 61)
    for axes, place in panels:
        log = str(folder / place).removesuffix(".scores")
        saved = read_scores(log)
        lower, upper, kept = mean_range(saved, radii)
        attacks, settings = read_recorded_attacks(f"{log}.attacks")
        if settings.get("log_sha256") != file_sha256(log) or {row.index for row in attacks.attacked} != kept:
            raise InputError(f"{attacks.path}: not an attack of all images of {log} that do not abstain")
        axes.fill_between(radii, lower, upper, color=COLOURS[0], alpha=0.2, linewidth=0, label="certified range")
        axes.plot(radii, lower, color=COLOURS[0])
        axes.plot(radii, upper, color=COLOURS[0])
        axes.plot(attacks.radii, np.mean([row.score for row in attacks.attacked], 0), "o", color=COLOURS[1],
                  label="reached by an attack")
        axes.set(title=f"{saved.spec.measure.name}, sigma {saved.spec.sigma:.2f}, {len(kept)} images", xlim=(0, 1.5),
                 ylim=(saved.spec.measure.score_min, 1), xlabel=RADIUS, ylabel="expected score (mean over images)")


def mean_range(saved: SavedScores, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """The mean lower and upper bound at each radius [R], over the images that do not abstain, and their indices.

    Each side holds at half of the run's alpha, for each image alone. Raises InputError if all images abstain.
    """
    side = check_plan(replace(saved.spec, alpha=saved.spec.alpha / 2), like=saved.plan)
    kept = {index for index, _, found in saved.certificates(saved.plan) if found.prediction != ABSTAIN}
    if not kept:
        raise InputError(f"{saved.path}: all images abstain")
    bounds = np.array([[(found.lower_bound(radius), found.upper_bound(radius)) for radius in radii]
                       for index, _, found in saved.certificates(side) if index in kept])
    return *bounds.mean(0).T, kept


# --- the figure -----------------------------------------------------------------------------------------------------

FIGURES = {"bounds": draw_bounds, "networks": draw_networks, "samples": draw_samples, "range": draw_range}


def title(saved: SavedScores) -> str:
    """What is counted in a panel."""
    measure = saved.spec.measure
    return f"{measure.name} above {measure.cutoff:g}, sigma {saved.spec.sigma:.2f}"


def draw(figure_name: str, folders: list[Path]):
    """The figure: four panels, a row for each measure and a column for each noise level, and one legend."""
    figure = new_figure(8.8, 6.6)
    places = [Path(measure, f"noise_{sigma}.scores") for measure in SOFT_MEASURES for sigma in SIGMAS]
    FIGURES[figure_name](zip(figure.subplots(2, 2).flat, places, strict=True), *folders)
    top = max(axes.get_ylim()[1] for axes in figure.axes)
    for axes in figure.axes:
        axes.grid(color="0.9")
        if figure_name != "range":
            axes.set_ylim(0, top)  # the same in all panels
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def main() -> None:
    args = parse_arguments()
    check_figure_path(args.out)
    refuse_existing([args.out], args.overwrite)
    save_figure(draw(args.figure, args.folder), args.out, args.overwrite)


if __name__ == "__main__":
    sys.exit(run(main))
