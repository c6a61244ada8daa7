"""What a page of certificates shows, as plain lists: bounds on a grid of radii, and what follows at a grid of scores.

The bounds are those of Certificate, rounded as in a log before they are compared with a score. The browser
gets counts and places in the grid; it computes no bound.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from certconf.statistics.certificate import Certificate, CertificateSpec
from certconf.statistics.sequential import Plan

SCALE = 1000  # bounds and scores are drawn in thousandths: whole numbers, which take little room
FEWEST_RADII = 120
UPPER_EVERY = 4  # of the radii; an upper bound takes longer than a lower one
SCORES_PER_UNIT = 100
QUANTILES = 101  # of an image's scores that are drawn
BANDS = {"clopper_pearson": "Clopper-Pearson band", "dkw": "DKW band (the paper's)"}


@dataclass(frozen=True)
class Grid:
    """The radii and scores of a page: 0, step, 2 step, ... and the multiples of 0.01 strictly inside score_range."""

    score_range: tuple[float, float]
    step: Fraction
    last: int

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """The radii: each the float nearest to its decimal number, as a user types it."""
        return tuple(float(k * self.step) for k in range(self.last + 1))

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """The scores, each the float nearest to its decimal number."""
        low, high = (round(SCORES_PER_UNIT * limit) for limit in self.score_range)
        return tuple(k / SCORES_PER_UNIT for k in range(low + 1, high))


@dataclass(frozen=True)
class Choices:
    """What the reader chooses from: the names of the logs, the images by index and name, and the grid.

    score, radius: what is chosen at first; sigma: of the noisy copies.
    """

    logs: list[str]
    bands: list[str]
    images: dict[int, str]
    grid: Grid
    score: float
    radius: float
    sigma: float

    @property
    def score_entry(self) -> str:
        """The place of the chosen score in the grid, as an expression of Vega."""
        first = self.grid.scores[0]
        return f"round((score - {first!r}) * {SCORES_PER_UNIT})"

    @property
    def radius_entry(self) -> str:
        """The place of the chosen radius in the grid, as an expression of Vega."""
        return f"round(radius / {float(self.grid.step)!r})"


def make_grid(plans: Sequence[Plan]) -> Grid:
    """The grid of runs with one range of scores: it reaches as far as any bound is above the lowest score.

    The step is the largest 1, 2.5 or 5 times a power of 10 that gives FEWEST_RADII radii or more.
    """
    measure = plans[0].spec.measure
    lowest = ndtri(1 / SCORES_PER_UNIT / measure.range)
    looks = [plan.looks[-1].spec for plan in plans]
    reach = max(spec.sigma * max(1.0, float(ndtri(spec.band.prob[0]) - lowest)) for spec in looks)
    power = Fraction(10) ** math.floor(math.log10(reach / FEWEST_RADII))
    step = max(power * factor for factor in (1, Fraction(5, 2), 5) if power * factor <= reach / FEWEST_RADII)
    return Grid((measure.score_min, measure.score_max), step, math.ceil(Fraction(reach) / step))


def on_grid(spec: CertificateSpec, grid: Grid) -> CertificateSpec:
    """A spec whose certificates have bounds at the grid's radii, also where those of the run abstain."""
    return replace(spec, radii=grid.radii, measure=replace(spec.measure, cutoff=-math.inf))


def certified_places(lower: np.ndarray, grid: Grid) -> np.ndarray:
    """The place of the largest radius with a bound above each score, -1 if there is none: int [images, scores].

    lower: float [images, radii], falling with the radius.
    """
    return np.stack([(lower > score).sum(1) - 1 for score in grid.scores], axis=1)


def curve_rows(places: np.ndarray, right: np.ndarray, grid: Grid, **names) -> list[dict]:
    """One row per radius: `count`, the number of images certified there above each score; names: added to each row.

    places: int [images, scores]; right: whether the class is right, bool [images].
    """
    certified = np.where(right[:, None], places, -1)
    return [{"k": k, "R": radius, "count": (certified >= k).sum(0).tolist(), **names}
            for k, radius in enumerate(grid.radii)]


def image_row(certificate: Certificate, lower: np.ndarray, places: np.ndarray, grid: Grid) -> dict:
    """The numbers of one image: where it is certified, its bounds and the distribution of its scores.

    certificate: under on_grid(spec); lower: its bounds, rounded down, [radii]; places: see certified_places, [scores].
    A bound is drawn in thousandths, rounded outwards.
    """
    low, high = (limit * SCALE for limit in grid.score_range)
    upper = np.array([certificate.upper_bound(radius) for radius in grid.radii[::UPPER_EVERY]])
    n, ranks = certificate.spec.n, certificate.spec.band.ranks
    drawn = np.unique(np.searchsorted(ranks, np.linspace(1, n, QUANTILES).astype(np.int64)))
    scores, first = np.unique(np.floor(certificate.order_statistics[drawn] * SCALE).astype(int), return_index=True)
    return {
        "samples": n, "mean": round(certificate.mean, 4), "radius": places.tolist(),
        "lower": np.maximum(np.floor(lower * SCALE - 1e-9), low).astype(int).tolist(),  # 1e-9: the product may round
        "upper": np.minimum(np.ceil(upper * SCALE + 1e-9), high).astype(int).tolist(),
        "scores": [round(low), *scores.tolist()],  # all scores are at least the lowest possible one
        "share": [SCALE, *np.floor((n + 1 - ranks[drawn[first]]) / n * SCALE).astype(int).tolist()],
    }
