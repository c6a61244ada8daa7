"""Staged sampling: an image's scores are looked at before all N are drawn, and sampling stops once it is settled.

Look k = 0 ... K-1 is at the first n_k scores, n_k = N / 2^((K-1-k)/3), and has a spec of its own: the band, the limits
and the certificate of n_k scores at error probability alpha_k, where sum alpha_k <= alpha. Sampling stops at the first
look that settles, for a score S, at every radius whether the bound exceeds S, and whether the certificate abstains. The
row is that look's certificate.

Why its error probability is at most alpha, however it is decided when to stop. The n_k and alpha_k are fixed before
the sampling. The first n_k scores are i.i.d. (imagine that all N are drawn and shown in stages), so the band of look k
fails with probability at most alpha_k. Outside an event of probability at most sum alpha_k no band fails: the bounds of
all the looks hold together, at all radii and scores, and so do those of the look that is chosen, by whatever rule and
after seeing whatever scores. The same holds for the limits on the mean (`exp`), with an event of their own.

So giving up needs no error budget: a radius given up too early costs a certificate, and makes none false. What is
settled is the bound from the CDF; the columns `exp` of a staged log are not those of the paper's baseline at its best.
"""
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from scipy.special import betaincinv

from certconf.statistics.bounds import SMALLEST_ALPHA, shifted_probability
from certconf.statistics.certificate import ABSTAIN, Certificate, CertificateSpec

MOST_LOOKS = 22
LOOKS_PER_DOUBLING = 3
SMALLEST_LOOK = 500  # samples; fewer settle hardly any image
GROWTH = 1.4  # of alpha_k from look to look: most images that are certified need a late one
OPTIMISM = 0.3  # level of the upper limits by which a radius is given up


@dataclass(frozen=True)
class Look:
    """One look at an image's scores: `spec` makes its certificate, `final` that of the last look; see Plan.settle."""

    spec: CertificateSpec
    final: CertificateSpec
    settle: float | None

    def settles(self, certificate: Certificate) -> bool:
        """Whether sampling may stop at this look, whose certificate is given.

        The last look settles everything; another one does if even an optimist sees the image abstain in the end, or if
        it does not abstain and its bound exceeds the score at every radius that an optimist does not give up.
        """
        if self.spec.n == self.final.n:
            return True
        best_at_image, *best = self.optimistic_bound(certificate.order_statistics)
        if best_at_image < self.spec.measure.cutoff:
            return True
        return certificate.prediction != ABSTAIN and all(
            bound > self.settle or limit <= self.settle for bound, limit in zip(certificate.exp_cdf, best, strict=True))

    def optimistic_bound(self, order_statistics: np.ndarray) -> np.ndarray:
        """An optimist's guess of the last look's bound, at radius 0 and at each of the radii: [1 + R].

        order_statistics: of this look, at its band's ranks, [J]. The guess is the bound that the last look's band would
        give a sample with the optimistic survival function.
        """
        measure = self.spec.measure
        edges = np.concatenate([[measure.score_min], order_statistics, [measure.score_max]]).astype(np.float64)
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
            return shifted_probability(prob, np.array((0.0, *self.spec.radii))[:, None] / self.spec.sigma)


@dataclass(frozen=True)
class Plan:
    """All that is fixed before an image is sampled: its looks, and the score that they are to settle.

    spec: the certificate of all N scores with all of alpha, were they looked at once. settle: None, and then this is
    what is done; or a score strictly inside the measure's range. schedule: (n_k, alpha_k) of each look; by default
    look_sizes and split_alpha say. starts: an eta for each look, where its calibration begins: those that an older
    record holds, since a millionth more or less would change the last digits of its log. They are not trusted: see
    clopper_pearson_eta. Raises ValueError for a schedule that does not rise to N or spends more than alpha.
    """

    spec: CertificateSpec
    settle: float | None = None
    schedule: tuple[tuple[int, float], ...] | None = None
    starts: tuple[float, ...] | None = None

    def __post_init__(self):
        n, alpha = self.spec.n, self.spec.alpha
        if not SMALLEST_ALPHA <= alpha < 1:
            raise ValueError(f"need {SMALLEST_ALPHA:g} <= alpha < 1, not {alpha}")
        if self.settle is not None:
            self.spec.measure.check_score(self.settle)
        if self.schedule is None:
            sizes = [n] if self.settle is None else look_sizes(n)
            alphas = split_alpha(alpha, [GROWTH ** k for k in range(len(sizes))])
            object.__setattr__(self, "schedule", tuple(zip(sizes, alphas, strict=True)))
        if self.settle is None and len(self.schedule) > 1:
            raise ValueError("several looks need a score to settle")
        _check_schedule(self.schedule, n, alpha)

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """The looks, in order. None is calibrated here: a band is computed when a certificate needs it."""
        starts = self.starts or [None] * len(self.schedule)
        specs = [replace(self.spec, n=n, alpha=alpha, eta=start)
                 for (n, alpha), start in zip(self.schedule, starts, strict=True)]
        return tuple(Look(each, specs[-1], self.settle) for each in specs)

    def prepare(self) -> "Plan":
        """Calibrate the last look, which all others need, and return self.

        Raises ValueError for a bad n, alpha, bound or radius: before any sampling.
        """
        self.looks[-1].spec.prepare()
        return self

    def can_certify(self) -> bool:
        """Whether an image can be certified at all: not if it abstains even with all scores the highest.

        The last look decides: it has the most samples, and the largest part of alpha.
        """
        return self.looks[-1].spec.best().prediction != ABSTAIN

    def least_n(self) -> int:
        """The least n with which a plan like this one can certify an image; its schedule is the default one."""
        def enough(n: int) -> bool:
            return Plan(replace(self.spec, n=n, eta=None), self.settle).can_certify()

        high = 1
        while not enough(high):
            high *= 2
        return bisect_left(range(high), True, lo=high // 2, key=enough)

    @property
    def score(self) -> float:
        """The score that bounds are to exceed: the one to be settled, or else the measure's cutoff."""
        return self.spec.measure.cutoff if self.settle is None else self.settle

    def ceiling(self) -> float:
        """The radius from which on no bound exceeds `score`, whatever the samples."""
        return self.looks[-1].spec.best().radius(self.score)

    def schedule_at(self, alpha: float) -> tuple[tuple[int, float], ...]:
        """The same looks for another alpha > 0, which they share as they do this one."""
        if alpha == self.spec.alpha:
            return self.schedule
        sizes, shares = zip(*self.schedule, strict=True)
        return tuple(zip(sizes, split_alpha(alpha, shares), strict=True))

    def of(self, spec: CertificateSpec) -> "Plan":
        """The plan of another spec of the same samples, with the same score and looks. Raises ValueError."""
        return Plan(spec, self.settle, self.schedule_at(spec.alpha), self.starts)

    def recorded_looks(self) -> list[list] | None:
        """The looks as a record holds them, [[n_k, alpha_k], ...]; None without a score to settle."""
        return None if self.settle is None else [list(look) for look in self.schedule]


@lru_cache
def under_noise(plan: Plan, sigma: float, delta: float) -> Plan:
    """A plan for noise as it is drawn, prepared; the same object at each call, so that all images share its bands."""
    return replace(plan, spec=replace(plan.spec, sigma=sigma, delta=delta)).prepare()


def look_sizes(n: int) -> list[int]:
    """n_k = n / 2^((K-1-k)/3), rounded down: at most MOST_LOOKS, the first at least SMALLEST_LOOK, the last n."""
    sizes = (int(n * 2 ** (-back / LOOKS_PER_DOUBLING)) for back in reversed(range(1, MOST_LOOKS)))
    return [*(size for size in sizes if size >= SMALLEST_LOOK), n]


def split_alpha(alpha: float, shares: Sequence[float]) -> list[float]:
    """alpha, divided in proportion to the shares; the exact sum is at most alpha, and below it by rounding only."""
    total = math.fsum(shares)
    early = [alpha * (share / total) for share in shares[:-1]]
    rest = Fraction(alpha) - sum(map(Fraction, early))
    last = float(rest)
    return [*early, last if Fraction(last) <= rest else math.nextafter(last, 0.0)]


def _check_schedule(schedule: tuple[tuple[int, float], ...], n: int, alpha: float) -> None:
    """Raise ValueError unless the sizes rise strictly, from 1 or more to n, and the levels add up to at most alpha."""
    sizes, alphas = zip(*schedule, strict=True)
    if not (1 <= sizes[0] and sizes[-1] == n and all(one < two for one, two in pairwise(sizes))):
        raise ValueError(f"the sizes of the looks must rise to n >= 1, not {', '.join(map(str, sizes))} to {n}")
    if not (all(SMALLEST_ALPHA <= each <= alpha for each in alphas) and sum(map(Fraction, alphas)) <= Fraction(alpha)):
        raise ValueError(f"the levels of the looks must be at least {SMALLEST_ALPHA:g} and add up to at most {alpha}")
