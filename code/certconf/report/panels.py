"""Figures of four panels, both measures at both noise levels, from the logs FOLDER/MEASURE/noise_SIGMA.

All but `networks` need their saved scores. Certified: the class is right and the bound above the measure's cutoff.
"""
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from certconf.errors import InputError
from certconf.files import file_sha256
from certconf.formats.attacks import Attacks
from certconf.formats.log import Log
from certconf.formats.scores import SavedScores, read_scores, scores_path
from certconf.report.accuracy import BAND_MEAN, CEILING, POINTS, Panel, draw_accuracy
from certconf.report.curves import CDF, MEAN, Curve, exact_curve
from certconf.report.figures import COLOURS, RADIUS, new_figure
from certconf.report.page_data import BANDS
from certconf.statistics.certificate import ABSTAIN, Certificate
from certconf.statistics.measures import MEASURES, SOFT_MEASURES, Measure

PLACES = [Path(measure, f"noise_{sigma}") for measure in SOFT_MEASURES for sigma in ("0.25", "0.50")]
PUBLISHED = Path(__file__).parents[3] / "log_files" / "published_accuracy.tsv"


def read_run(log: Path) -> SavedScores:
    """The saved scores of a log. Raises InputError if the sampling stopped for another score than the cutoff."""
    saved = read_scores(str(log))
    check_settle(saved.path, saved.plan.settle, saved.spec.measure.cutoff)
    return saved


def check_settle(path: str, settle: float | None, cutoff: float) -> None:
    """Raise InputError if the sampling stopped for the sake of another score than the cutoff."""
    if settle not in (None, cutoff):
        raise InputError(f"{path}: sampled with --settle {settle}, not {cutoff:g}")


def title_of(measure: Measure, sigma: float) -> str:
    """What is counted in a panel."""
    return f"{measure.name} above {measure.cutoff:g}, sigma {sigma:.2f}"


# --- certified accuracy against radius ------------------------------------------------------------------------------

def draw_bounds(folder: Path) -> Figure:
    """Certified accuracy by four bounds from the same scores."""
    panels = []
    for place in PLACES:
        saved = read_run(folder / place)
        title = f"{title_of(saved.spec.measure, saved.spec.sigma)}, N = {saved.spec.n:,}"
        panels.append((title, bounds_of(saved)))
    return draw_accuracy(panels, columns=2)


def bounds_of(saved: SavedScores) -> Panel:
    """The curve of each bound at the measure's cutoff. Raises InputError for a run with --settle."""
    if saved.plan.settle is not None:
        raise InputError(f"{saved.path}: of a run with --settle, which stops for the sake of one bound")
    score, radii = saved.spec.measure.cutoff, {}
    for bound, name in BANDS.items():
        plan = saved.plan.of(replace(saved.spec, bound=bound))
        right = [found for _, label, found in saved.certificates(plan) if found.chosen == label]
        radii[name, CDF] = [found.radius(score) for found in right]
        if bound == saved.spec.bound:
            radii[BAND_MEAN, BAND_MEAN] = [radius_of_mean(found, score) for found in right]
            radii["mean alone, limit from Hoeffding (the paper's baseline)", MEAN] = [
                found.radius(score, naive=True) for found in right]
    return {label: {name: exact_curve(certified, saved.images)} for (label, name), certified in radii.items()}


def radius_of_mean(certificate: Certificate, score: float) -> float:
    """The radius of the naive bound if its limit on the mean is the band's own bound at R = 0, not Hoeffding's."""
    measure = certificate.spec.measure
    mean, threshold = ((value - measure.score_min) / measure.range for value in (certificate.lower_bound(0.0), score))
    return max(float(ndtri(mean) - ndtri(threshold)) * certificate.spec.sigma, 0.0)


def draw_networks(labels: dict[str, str]) -> Figure:
    """The CDF bound of several folders, by their labels, and what the paper's authors published."""
    panels = []
    for place in PLACES:
        measure, sigma = MEASURES[place.parent.name], float(place.name.removeprefix("noise_"))
        panel = {label: curves_of_network(Path(folder, place), measure.cutoff) for folder, label in labels.items()}
        panel["published, N = 100,000"] = {POINTS: published(place)}
        panels.append((title_of(measure, sigma), panel))
    return draw_accuracy(panels, columns=2)


def curves_of_network(path: Path, score: float) -> dict[str, Curve]:
    """The accuracy by the CDF bound and, with saved scores, its ceiling: where it ends even if all scores are 1.

    A run without saved scores is known at the radii of its log only. So is one with --settle: between them its images
    had too few samples. Raises InputError.
    """
    log, settings = Log.read(str(path))
    check_settle(log.path, settings.get("settle"), score)
    points = {POINTS: Curve(log.radii, log.certified_accuracy(score), "steps-pre")}
    if not os.path.exists(scores_path(log.path)):
        return points
    saved = read_scores(log.path)
    last = saved.plan.looks[-1].spec
    ceiling = {CEILING: Curve([last.sigma * float(ndtri(last.band.prob[0]))], [0.0], exact=True)}
    if saved.plan.settle is not None:
        return points | ceiling
    right = [found for _, truth, found in saved.certificates(saved.plan) if found.prediction == truth]
    return {CDF: exact_curve([found.radius(score) for found in right], saved.images)} | ceiling


def published(place: Path) -> Curve:
    """What the paper's authors published, at the radii of their logs."""
    header, *rows = (line.split("\t") for line in PUBLISHED.read_text().splitlines())
    row, = (row for row in rows if [place.parent.name, place.name] == [row[0], f"noise_{row[1]}"])
    return Curve(tuple(map(float, header[2:])), tuple(map(float, row[2:])), "steps-pre")


# --- other axes -----------------------------------------------------------------------------------------------------

def draw_samples(folder: Path) -> Figure:
    """The images certified at one, two and three sigma, against the samples at which their sampling stopped."""
    figure, panels = four_panels(sharey=True)
    for axes, place in zip(panels, PLACES, strict=True):
        saved = read_run(folder / place)
        if saved.plan.settle is None:
            raise InputError(f"{saved.path}: not of a run with --settle, which stops once an image is settled")
        images = [found for _, label, found in saved.certificates(saved.plan) if found.prediction == label]
        sizes = [n for n, _ in saved.plan.schedule]
        for multiple, colour, marker in zip((1, 2, 3), COLOURS, "osd", strict=False):
            radius = multiple * saved.spec.sigma
            taken = np.array([found.spec.n for found in images if found.lower_bound(radius) > saved.plan.settle])
            accuracy = [(taken <= size).sum() / saved.images for size in sizes]
            axes.plot(sizes, accuracy, f"{marker}-", markersize=4, color=colour, drawstyle="steps-post",
                      label=f"R = {multiple} sigma", clip_on=False)
        mean = f"mean n = {saved.records['n'].mean():,.0f}"
        axes.set(title=f"{title_of(saved.spec.measure, saved.spec.sigma)}, {mean}", xscale="log",
                 xlabel="samples per image, n", ylabel="fraction certified within n samples")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        axes.set_xticks([], minor=True)
        axes.label_outer()
    axes.set_ylim(bottom=0)
    return with_legend(figure, axes)


def draw_range(folder: Path) -> Figure:
    """The mean certified range of the expected score against radius, and the mean score that attacks reached."""
    figure, panels = four_panels()
    radii = np.linspace(0, 1.5, 61)
    for axes, place in zip(panels, PLACES, strict=True):
        log = str(folder / place)
        saved = read_scores(log)
        lower, upper, kept = mean_range(saved, radii)
        attacks, settings = Attacks.read(f"{log}.attacks")
        if settings.get("log_sha256") != file_sha256(log) or {row.index for row in attacks.attacked} != kept:
            raise InputError(f"{attacks.path}: not an attack of all images of {log} that do not abstain")
        axes.fill_between(radii, lower, upper, color=COLOURS[0], alpha=0.2, linewidth=0, label="certified range")
        axes.plot(radii, lower, color=COLOURS[0])
        axes.plot(radii, upper, color=COLOURS[0])
        axes.plot(attacks.radii, np.mean([row.score for row in attacks.attacked], 0), "o", color=COLOURS[1],
                  label="reached by an attack")
        axes.set(title=f"{saved.spec.measure.name}, sigma {saved.spec.sigma:.2f}, {len(kept)} images", xlim=(0, 1.5),
                 ylim=(saved.spec.measure.score_min, 1), xlabel=RADIUS, ylabel="expected score (mean over images)")
    return with_legend(figure, axes)


def mean_range(saved: SavedScores, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """The mean lower and upper bound at each radius [R], over the images that do not abstain, and their indices.

    Each side holds at half of the run's alpha, for each image alone. Raises InputError if all images abstain, or if
    there is no band at half of alpha.
    """
    kept = {index for index, _, found in saved.certificates(saved.plan) if found.prediction != ABSTAIN}
    if not kept:
        raise InputError(f"{saved.path}: all images abstain")
    try:
        side = saved.certificates(saved.plan.of(replace(saved.spec, alpha=saved.spec.alpha / 2)))
        bounds = np.array([[(found.lower_bound(radius), found.upper_bound(radius)) for radius in radii]
                           for index, _, found in side if index in kept])
    except ValueError as error:
        raise InputError(f"{saved.path}: {error}") from None
    return *bounds.mean(0).T, kept


def four_panels(**options) -> tuple[Figure, Sequence[Axes]]:
    """A figure of four panels."""
    figure = new_figure(8.8, 6.6)
    return figure, figure.subplots(2, 2, **options).flat


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """The figure with a grid in every panel, and below them the legend of one."""
    for each in figure.axes:
        each.grid(color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


FIGURES = {"bounds": draw_bounds, "networks": draw_networks, "samples": draw_samples, "range": draw_range}
