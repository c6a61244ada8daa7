"""Staged sampling: an image's scores are looked at before all N are drawn, and sampling stops once it is settled.

Look k = 0 ... K-1 is at the first n_k scores, n_k = N / 2^((K-1-k)/3), and has a spec of its own: the band, the
limits and the certificate of n_k scores at error probability alpha_k, where sum alpha_k <= alpha. Sampling stops at the first look
that settles, for a score S, at every radius whether the bound exceeds S, and whether the certificate abstains. The row
is that look's certificate.

Why its error probability is at most alpha, however it is decided when to stop. The n_k and alpha_k are fixed before
the sampling. The first n_k scores are i.i.d. (imagine that all N are drawn and shown in stages), so the band of look k
fails with probability at most alpha_k. Outside an event of probability at most sum alpha_k no band fails: the bounds of
all the looks hold together, at all radii and scores, and so do those of the look that is chosen, by whatever rule and
after seeing whatever scores. The same holds for the limits on the mean (`exp`), with an event of their own.

So giving up needs no error budget: a radius given up too early costs a certificate, and makes none false. What is
settled is the bound from the CDF; the columns `exp` of a staged log are not those of the paper's baseline at its best.
"""
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import betaincinv

from certconf.statistics.bounds import shifted_probability
from certconf.statistics.certificate import ABSTAIN, Certificate, CertificateSpec

MOST_LOOKS = 22
LOOKS_PER_DOUBLING = 3
SMALLEST_LOOK = 500  # samples; fewer settle hardly any image
GROWTH = 1.4  # of alpha_k from look to look: most images that are certified need a late one
OPTIMISM = 0.3  # level of the upper limits by which a radius is given up


@dataclass(frozen=True)
class Look:
    """One look at an image's scores: `spec` makes its certificate, `final` is the spec of the last look."""

    spec: CertificateSpec
    final: CertificateSpec

    def settles(self, certificate: Certificate) -> bool:
        """Whether sampling may stop at this look, whose certificate is given.

        The last look settles everything; another one does if even an optimist sees the image abstain in the end, or if
        it does not abstain and its bound exceeds the score at every radius that an optimist does not give up.
        """
        if self.spec.n == self.final.n:
            return True
        best_at_image, *best = self.reach(certificate.thresholds)
        if best_at_image < self.spec.measure.cutoff:
            return True
        score = self.spec.settle
        return certificate.prediction != ABSTAIN and all(
            bound > score or limit <= score for bound, limit in zip(certificate.exp_cdf, best, strict=True))

    def reach(self, thresholds: np.ndarray) -> np.ndarray:
        """An optimist's guess of the last look's bound, at radius 0 and at each of the radii: [1 + R].

        thresholds: the order statistics of this look, at its band's ranks, [J]. The guess is the bound that the last
        look's band would give a sample with the optimistic survival function.
        """
        measure = self.spec.measure
        edges = np.concatenate([[measure.score_min], thresholds, [measure.score_max]]).astype(np.float64)
        return measure.score_min + self._optimistic @ np.diff(edges)

    @cached_property
    def _optimistic(self) -> np.ndarray:
        """Phi(Phi^-1(L(u)) - R / sigma) for the J + 1 steps of the optimistic survival function: [1 + R, J + 1].

        The survival function is u = 1 up to the lowest score and, above X_(r), the Clopper-Pearson upper limit on
        P(score > X_(r)), which n - r of n scores exceed. L(u) is the last band's limit where a share u of its sample,
        (N - r + 1) / N, is at or above X_(r); between its ranks, on a straight line.
        """
        n, ranks = self.spec.n, self.spec.band.ranks
        upper = np.append(1.0, betaincinv(n - ranks + 1.0, ranks, 1 - OPTIMISM))
        last = self.final.band
        share = (self.final.n - last.ranks + 1.0) / self.final.n
        prob = np.interp(upper, share[::-1], last.prob[::-1])
        with np.errstate(over="ignore"):  # an infinite shift leaves the lowest score
            return shifted_probability(prob, self.spec.shift(np.array((0.0, *self.spec.radii)))[:, None])


@lru_cache
def plan_looks(spec: CertificateSpec) -> tuple[Look, ...]:
    """The looks of a spec, whose n and alpha are those of all looks together; one look if spec.settle is None.

    spec.eta: of an earlier plan of the same spec, one for each look, to save the calibration. Raises ValueError if
    spec.settle is not strictly inside the measure's range, or spec.eta has another number of entries.
    """
    if spec.settle is None:
        return (Look(spec.prepare(), spec),)
    spec.measure.check_score(spec.settle)
    sizes = look_sizes(spec.n)
    alphas = look_alphas(spec.alpha, len(sizes))
    specs = [replace(spec, n=n, alpha=alpha, eta=eta).prepare()
             for n, alpha, eta in zip(sizes, alphas, spec.eta or [None] * len(sizes), strict=True)]
    return tuple(Look(each, specs[-1]) for each in specs)


def describe_looks(spec: CertificateSpec) -> list[list] | None:
    """The looks as a record holds them, [[n_k, alpha_k], ...]; None if spec.settle is None."""
    return None if spec.settle is None else [[look.spec.n, look.spec.alpha] for look in plan_looks(spec)]


def look_etas(spec: CertificateSpec) -> float | tuple[float | None, ...] | None:
    """What spec.eta must be to save the calibration of its bands: one number, or one for each look."""
    found = tuple(look.spec.band.eta for look in plan_looks(spec))
    return found[0] if spec.settle is None else found


def look_sizes(n: int) -> list[int]:
    """n_k = n / 2^((K-1-k)/3), rounded down: at most MOST_LOOKS, the first at least SMALLEST_LOOK, the last n."""
    sizes = (int(n * 2 ** (-back / LOOKS_PER_DOUBLING)) for back in reversed(range(MOST_LOOKS)))
    return [size for size in sizes if size == n or size >= SMALLEST_LOOK]


def look_alphas(alpha: float, looks: int) -> list[float]:
    """alpha_k proportional to GROWTH^k; their exact sum is at most alpha, and below it by rounding only."""
    total = math.fsum(GROWTH ** k for k in range(looks))
    early = [alpha * (GROWTH ** k / total) for k in range(looks - 1)]
    rest = Fraction(alpha) - sum(map(Fraction, early))
    last = float(rest)
    return [*early, last if Fraction(last) <= rest else math.nextafter(last, 0.0)]
