"""From order statistics to certificates: bounds on the expected score at every radius, and certified radii.

The lower bounds from the CDF hold together with probability 1 - alpha; so do those from the mean, and so do the upper
bounds. For two of these kinds at once with probability 1 - alpha, certify at alpha / 2.
"""
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy.optimize import brentq

from certconf.statistics.bounds import (
    Band,
    clopper_pearson_band,
    clopper_pearson_ranks,
    dkw_band,
    dkw_ranks,
    expected_score_bound,
    hoeffding_lower,
    mirrored_ranks,
    naive_bound,
    shifted_probability,
    two_valued_band,
    weighted_score_bound,
)
from certconf.statistics.measures import Measure

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
BOUNDS = ("clopper_pearson", "dkw")
ABSTAIN = -1
RADIUS_TOLERANCE = 1e-9  # of sigma


@dataclass(frozen=True)
class CertificateSpec:
    """All that is fixed of a certificate before the sampling: how the N scores of one image become its bounds.

    bound: one of BOUNDS; alpha: error probability of a certificate; sigma, radii: in pixels of range [0, 1], sigma that
    of the noise as it is drawn; delta: upper bound on the total variation between the law of the noisy images that were
    drawn and the exact one (see noise.py);
    weights: see clopper_pearson_band; kept_ranks: the weights whose ranks saved scores hold, which the band then uses
    whatever its own weights and bound, or None; eta: where the calibration of the band begins, see Plan.starts.
    """

    measure: Measure
    n: int
    alpha: float
    sigma: float
    bound: str = "clopper_pearson"
    radii: tuple[float, ...] = RADII
    weights: str = "falling"
    kept_ranks: str | None = None
    eta: float | None = None
    delta: float = 0.0

    @cached_property
    def band(self) -> Band:
        """The confidence band of the score's distribution. Raises ValueError for a bad n, alpha or bound.

        It holds under exact noise, whose probabilities are within delta of those of the noise that was drawn.
        """
        band = _band(self.n, self.alpha, self.bound, self.weights, self.kept_ranks, self.eta, self.measure.two_valued)
        return replace(band, prob=np.maximum(band.prob - self.delta, 0.0))

    @cached_property
    def upper_band(self) -> Band:
        """The band of the mirrored score, from the same order statistics: `band`'s own ranks, mirrored."""
        band = _band(self.n, self.alpha, self.bound, self.weights, self.kept_ranks, None, mirrored=True)
        return replace(band, prob=np.maximum(band.prob - self.delta, 0.0))

    @cached_property
    def shifted(self) -> np.ndarray:
        """Phi(Phi^-1(p_j) - R / sigma), [radii, ranks]: for every image. Raises ValueError for a bad radius."""
        for radius in self.radii:
            _check_radius(radius)
        with np.errstate(over="ignore"):  # an infinite shift leaves the lowest score
            return shifted_probability(self.band.prob, np.asarray(self.radii)[:, None] / self.sigma)

    def prepare(self) -> "CertificateSpec":
        """Compute band and shifted probabilities now, which are the same for every image, and return self.

        Raises ValueError for a bad n, alpha, bound or radius: before any sampling.
        """
        _ = self.band, self.shifted
        return self

    def certificate(self, chosen: int, mean: float, order_statistics: np.ndarray) -> "Certificate":
        """The certificate of class `chosen` from its scores' mean and their order statistics at band.ranks, [J]."""
        mean_lower = hoeffding_lower(mean, self.n, self.alpha, self.measure.range)
        mean_lower -= self.measure.range * self.delta
        return Certificate(self, chosen, mean, mean_lower, np.asarray(order_statistics, dtype=np.float64))

    def best(self) -> "Certificate":
        """The certificate of n scores that are all the highest possible one: no other's bounds are higher."""
        highest = self.measure.score_max
        return self.certificate(0, highest, np.full(len(self.band.ranks), highest))

    def abstention(self, chosen: int, mean: float) -> "Certificate":
        """A certificate that claims nothing, for an image given up after some of its samples with this mean."""
        return Certificate(self, chosen, mean, self.measure.score_min, None)


@lru_cache
def _band(n: int, alpha: float, bound: str, weights: str, kept_ranks: str | None, eta: float | None,
          two_valued: bool = False, mirrored: bool = False) -> Band:
    if bound == "clopper_pearson" and two_valued:
        return two_valued_band(n, alpha, kept_ranks or weights)
    if bound == "clopper_pearson":
        return clopper_pearson_band(n, alpha, weights, kept_ranks, mirrored, eta)
    if bound == "dkw":
        ranks = clopper_pearson_ranks(n, kept_ranks) if kept_ranks else dkw_ranks(n)
        return dkw_band(n, alpha, mirrored_ranks(n, ranks) if mirrored else ranks)
    raise ValueError(f"unknown bound {bound!r}: choose from {', '.join(BOUNDS)}")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What N scores say of one image. It unpacks as (prediction, exp_cdf, exp).

    prediction    the class chosen from the selection samples, or ABSTAIN
    exp_cdf, exp  lower bounds on its expected score at spec.radii, with and without the CDF; on abstention all 0.0,
                  which is no bound
    upper_cdf     upper bounds at spec.radii, from the CDF; all score_max on abstention
    chosen        the class before any abstention
    mean          the mean of its sampled scores
    With probability at least 1 - alpha over the sampling, all of exp_cdf, lower_bound and radius hold at once, at
    every x' with ||x' - x||_2 <= radius (exp: with probability 1 - alpha of its own; upper_cdf and upper_bound, too).
    """

    spec: CertificateSpec
    chosen: int
    mean: float
    mean_lower: float = field(repr=False)
    order_statistics: np.ndarray | None = field(repr=False)

    @cached_property
    def prediction(self) -> int:
        """`chosen`, or ABSTAIN if the CDF bound at radius 0 is below the measure's cutoff (or NaN)."""
        return self.chosen if self.lower_bound(0.0) >= self.spec.measure.cutoff else ABSTAIN

    @cached_property
    def exp_cdf(self) -> tuple[float, ...]:
        """Bounds from the CDF (Kumar et al. 2020, Theorem 2)."""
        if self.prediction == ABSTAIN:
            return (0.0,) * len(self.spec.radii)
        if self.order_statistics is None:
            return (self.spec.measure.score_min,) * len(self.spec.radii)
        lowest = self.spec.measure.score_min
        return tuple(weighted_score_bound(self.order_statistics, self.spec.shifted, lowest).tolist())

    @cached_property
    def exp(self) -> tuple[float, ...]:
        """Bounds from the mean alone (Theorem 1)."""
        if self.prediction == ABSTAIN:
            return (0.0,) * len(self.spec.radii)
        return tuple(self.naive_lower_bound(radius) for radius in self.spec.radii)

    @cached_property
    def upper_cdf(self) -> tuple[float, ...]:
        """Upper bounds from the CDF."""
        if self.prediction == ABSTAIN:
            return (self.spec.measure.score_max,) * len(self.spec.radii)
        return tuple(self.upper_bound(radius) for radius in self.spec.radii)

    def __iter__(self):
        return iter((self.prediction, self.exp_cdf, self.exp))

    def lower_bound(self, radius: float) -> float:
        """The bound from the CDF at any radius >= 0, whether the certificate abstains or not."""
        _check_radius(radius)
        spec, lowest = self.spec, self.spec.measure.score_min
        if self.order_statistics is None:
            return lowest
        return float(expected_score_bound(self.order_statistics, spec.band.prob, radius / spec.sigma, lowest))

    def upper_bound(self, radius: float) -> float:
        """The upper bound from the CDF at any radius >= 0, whether the certificate abstains or not.

        sum_j (s_{j+1} - s_j) Phi(Phi^-1(q_j) + R / sigma), with an upper limit q_j on P(score > s_j); s_0 is the lowest
        score, q_0 = 1, and s_{J+1} the highest score. Written as score_min + score_max less the lower bound of the
        mirrored score, whose limits are 1 - q_j. With the lower bound: both hold with probability 1 - 2 spec.alpha.
        """
        _check_radius(radius)
        measure, spec = self.spec.measure, self.spec
        if self.order_statistics is None:
            return measure.score_max
        total = measure.score_min + measure.score_max
        mirrored, shift = total - self.order_statistics[::-1], radius / spec.sigma
        return total - float(expected_score_bound(mirrored, spec.upper_band.prob, shift, measure.score_min))

    def naive_lower_bound(self, radius: float) -> float:
        """The bound from the mean alone at any radius >= 0, never below score_min."""
        _check_radius(radius)
        measure = self.spec.measure
        bound = naive_bound(self.mean_lower, radius / self.spec.sigma, measure.score_min, measure.score_max)
        return max(float(bound), measure.score_min)

    def radius(self, score: float, naive: bool = False) -> float:
        """sup{R : bound(R) > score}, rounded down by at most 1e-9 sigma; 0.0 if bound(0) <= score.

        score: strictly inside the measure's range, else ValueError.
        """
        self.spec.measure.check_score(score)
        bound = self.naive_lower_bound if naive else self.lower_bound
        if not bound(0.0) > score:
            return 0.0
        tolerance, high = RADIUS_TOLERANCE * self.spec.sigma, self.spec.sigma
        while bound(high) > score:
            high *= 2
        root = brentq(lambda radius: bound(radius) - score, 0.0, high, xtol=tolerance / 4)
        while root > 0 and not bound(root) > score:  # the lower end of the root's bracket
            root -= tolerance / 2
        return max(root, 0.0)

    def without_cutoff(self) -> "Certificate":
        """The same certificate, never abstaining."""
        return replace(self, spec=replace(self.spec, measure=replace(self.spec.measure, cutoff=-np.inf)))


def _check_radius(radius: float) -> None:
    """Raise ValueError for a radius below 0, or NaN."""
    if not radius >= 0:
        raise ValueError(f"a radius must be 0 or above, not {radius}")
