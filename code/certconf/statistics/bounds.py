"""Bands and bounds: from N i.i.d. scores to a lower bound on their expectation under a shift of the noise.

A band holds, at ranks r_1 < ... < r_J, probabilities p_j such that with probability at least 1 - alpha over the sample
    p_j <= P(score >= X_(r_j))  for all j at once,   X_(1) <= ... <= X_(N) the order statistics.
clopper_pearson_band is the default, dkw_band the paper's; two_valued_band takes the place of the first if a score has
two values, as hard labels do. They hold for every distribution of the scores, with atoms too. From a band,
expected_score_bound; from the mean alone, naive_bound. Everything is in float64, and every approximation falls on the
safe side.

From above: a band of the mirrored score, score_min + score_max - score, whose order statistic at rank n + 1 - r is the
mirror image of X_(r), bounds the mirrored expectation from below, and so the expectation itself from above.

n: number of samples, alpha: error probability, eta: error probability of a limit of weight 1, shift: radius / sigma.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import betainc, betaincinv, gammainc, gammaincc, gammaln, ndtr, ndtri, xlogy

WEIGHTS = ("falling", "equal")  # of the levels of the Clopper-Pearson band's limits
END_RANKS = 30  # the smallest and the largest scores, which falling weights always use
SMALLEST_CALIBRATED_ALPHA = 1e-10  # below it, eta = alpha / sum of the weights (Bonferroni)
LARGEST_N = 10 ** 7  # up to which the rounding in failure_probability is within its margin
SMALLEST_ALPHA = 1e-100  # then no level is below 1e-106; betaincinv is accurate to 1e-115, and wrong from 1e-160
QUANTILE_MARGIN = 1 - 1e-5  # of a level: more than betainc, which checks the limits, can be wrong
WINDOW = 12  # standard deviations of states kept in the recursion
ETA_TOLERANCE = 1e-6  # relative accuracy of eta
DKW_THRESHOLDS = 10_000
SLACK = 1e-12  # more than float64 can be wrong in one bound


@dataclass(frozen=True, eq=False)
class Band:
    """Simultaneous lower confidence limits on P(score >= X_(r)) at increasing 1-based ranks r.

    ranks: int64 [J]; prob: float64 [J] in [0, 1); eta: the level of a limit of weight 1, None if the band has none.
    """

    ranks: np.ndarray
    prob: np.ndarray
    eta: float | None = None


# --- Clopper-Pearson ------------------------------------------------------------------------------------------------

def clopper_pearson_limit(k, n, eta):
    """Lower confidence limit at level 1 - eta on a binomial probability, after k >= 1 successes out of n.

    Clopper and Pearson (1934): the eta-quantile of Beta(k, n - k + 1). The level of a limit p is P(k successes or more)
    at probability p, I_p(k, n - k + 1). betaincinv gives the limit, and betainc its level: one whose level is not at
    most eta is lowered by 2^-40 of itself, then by twice as much, and so on, in the end to 0, until its level is.
    From SciPy 1.12 on betainc itself is right to a relative 5e-10 for n <= LARGEST_N and levels down to 1e-110 (in 1.11
    to 3e-9 for n <= 10^6, but only 4e-3 at 10^7). So a caller that relies on the level lowers eta by QUANTILE_MARGIN.
    The calibrated band need not: its failure probability is that of these limits.
    k, eta: scalars or arrays that broadcast.
    """
    others = n - np.asarray(k) + 1.0
    limit = np.fmin(betaincinv(k, others, eta) * (1 - 1e-12), 1.0)  # 1 for NaN
    for step in 0.5 ** np.arange(40.0, -1.0, -1.0):
        safe = betainc(k, others, limit) <= eta
        if np.all(safe):
            break
        limit = np.where(safe, limit, limit * (1 - step))[()]  # [()]: a scalar stays one
    return limit


def population_limit(certified, n: int, confidence: float, alpha: float):
    """Lower confidence limit on the population's certified accuracy, from the count of certified images among n.

    The images are an independent sample. With Z = "its certificate says so" and T = "it is truly so", P(T) >= P(Z) -
    P(Z and not T) >= P(Z) - alpha, alpha the error probability of a certificate; and P(Z) is at least the one-sided
    Clopper-Pearson limit. certified: a scalar or array.
    """
    certified = np.asarray(certified)
    limit = clopper_pearson_limit(np.maximum(certified, 1), n, (1 - confidence) * QUANTILE_MARGIN)
    return np.where(certified > 0, np.maximum(limit - alpha, 0.0), 0.0)[()]


def clopper_pearson_ranks(n: int, weights: str = "falling", intervals: int = 1000) -> np.ndarray:
    """The 1-based ranks of the band's limits, increasing, int64 [J]; weights: one of WEIGHTS.

    round(n sin^2(i pi / (2 intervals))) for i = 0 ... intervals, in [1, n]: equally spaced on the scale on which all
    binomial limits are equally wide. With falling weights also the first and the last END_RANKS.
    """
    if not 1 <= n <= LARGEST_N:
        raise ValueError(f"need 1 <= n <= {LARGEST_N}, not n = {n}")
    # math.sin, not np.sin: its last bit, which differs between NumPy's versions, decides a tie such as n/2 for odd n.
    sines = [math.sin(i * (math.pi / (2 * intervals))) for i in range(intervals + 1)]
    ranks = np.round(n * np.square(sines))
    if weights == "falling":
        ends = np.arange(1, END_RANKS + 1)
        ranks = np.concatenate([ranks, np.minimum(ends, n), n + 1 - ends])
    return np.unique(np.clip(ranks, 1, n).astype(np.int64))


def limit_weights(ranks: np.ndarray, weights: str = "falling") -> np.ndarray:
    """w_j > 0, so that limit j has the level eta w_j; not increasing with the rank. float64 [J].

    equal: 1, the band of Berk and Jones (1979). falling: r^-1.25 + 0.1 r^-0.5, which gives the smallest scores more of
    the error: at a large shift the bound rests on them. It was found by search, over the mean bound on the images of
    earlier runs; the proof needs no more than that it is fixed before the sampling.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}: choose from {', '.join(WEIGHTS)}")
    ranks = np.asarray(ranks, dtype=np.float64)
    return np.ones(len(ranks)) if weights == "equal" else ranks ** -1.25 + 0.1 * ranks ** -0.5


def failure_probability(n: int, ranks: np.ndarray, prob: np.ndarray) -> float:
    """An upper bound, by about 1e-6 of itself, on the probability that some p_j > P(score >= X_(r_j)).

    A score is G(U) with G not falling and U uniform, so P(score >= X_(r)) >= 1 - U_(r), with equality if it is
    continuous, which is the worst case. Then the band holds if N(c_j) >= r_j for all j, with c_j = 1 - p_j and N(t) the
    number of n uniform variables at or below t. N is a Poisson process of rate n given N(1) = n. So the state
    N(c_j) goes forward by Poisson increments, and the mass at states below r_j leaves as failed. Only p_j enters,
    never 1 - p_j alone, which would lose a tiny p_j.
    """
    log_factorial = gammaln(np.arange(n + 2.0) + 1)

    def log_pmf(count, mean):  # of the Poisson distribution; count may be an array of integers in [0, n]
        return xlogy(count, mean) - mean - log_factorial[count]

    log_all = log_pmf(np.int64(n), float(n))  # ln P(n arrivals in [0, 1]), the event that everything is given
    prob = np.asarray(prob, dtype=np.float64)
    means = -n * np.diff(prob, prepend=1.0)  # of the arrivals in (c_{j-1}, c_j]
    half = WINDOW * np.sqrt(means) + WINDOW
    fewest, most = np.maximum(means - half, 0).astype(np.int64), (means + half).astype(np.int64)
    highest = np.minimum(n * (1 - prob) + WINDOW * np.sqrt(n * prob * (1 - prob)) + WINDOW, n)  # state that is followed
    # 1. Increments outside [fewest, most] are not followed and count as failures: given n arrivals they are at most
    #    1 / P(n arrivals) times as probable as without that condition.
    beyond = np.where(fewest > 0, gammaincc(np.maximum(fewest, 1), means), 0.0) + gammainc(most + 1.0, means)
    failure = float(beyond.sum() * np.exp(-log_all))
    lowest, mass = 0, np.ones(1)  # mass[i] = P(N(c_j) = lowest + i, and no limit has failed), without the condition
    for rank, p, mean, first, last, top in zip(ranks, prob, means, fewest, most, highest, strict=True):
        # 2. Forward to c_j: by a Poisson number of arrivals.
        mass = np.convolve(mass, np.exp(log_pmf(np.arange(first, min(last, n) + 1), mean)))
        states = np.arange(lowest + first, lowest + first + len(mass))
        # 3. Limit j holds at states of r_j or more. States above `top` are as good as never reached: they fail too.
        holds = (states >= rank) & (states <= top)
        fails = ~holds & (states <= n)
        # 4. A failed mass counts with P(the missing arrivals in (c_j, 1]) / P(n arrivals).
        failure += float(mass[fails] @ np.exp(log_pmf(n - states[fails], n * p) - log_all))
        # 5. Keep the states at which no limit has failed.
        if not holds.any():
            return 1.0
        lowest, mass = states[holds][0], mass[holds]
    return min(failure * (1 + 1e-6), 1.0)  # 1e-6: more than the rounding of the logarithms above, for n up to LARGEST_N


def mirrored_ranks(n: int, ranks: np.ndarray) -> np.ndarray:
    """n + 1 - r, increasing: the ranks that the order statistics at `ranks` have among the mirrored scores."""
    return n + 1 - ranks[::-1]


@lru_cache
def clopper_pearson_eta(n: int, alpha: float, weights: str = "falling", ranks_of: str | None = None,
                        intervals: int = 1000, mirrored: bool = False, start: float | None = None) -> float:
    """The largest eta at which the limits of levels eta w_j hold at all ranks at once with probability 1 - alpha.

    Calibrated exactly, to a millionth: between alpha / sum w (Bonferroni), lowered by QUANTILE_MARGIN, and alpha / max
    w, at which one limit alone fails with probability alpha. failure_probability was found to be at most alpha at what
    is returned, unless that is the lower end, where the union bound says so. start: an eta at which the search begins;
    it is returned if it is one to a millionth.
    """
    ranks = clopper_pearson_ranks(n, ranks_of or weights, intervals)
    ranks = mirrored_ranks(n, ranks) if mirrored else ranks
    each = limit_weights(ranks, weights)
    lowest, highest = alpha / each.sum() * QUANTILE_MARGIN, alpha / each.max()
    if len(ranks) == 1:
        return highest
    if alpha < SMALLEST_CALIBRATED_ALPHA:
        return lowest

    def excess(log_eta: float) -> float:
        failure = failure_probability(n, ranks, _limits(n, ranks, np.exp(log_eta) * each))
        return np.log1p((failure - alpha) / alpha)  # ln(failure / alpha), but never 0 if failure > alpha

    first = np.log(start) if start is not None and lowest < start < highest else np.log(lowest * highest) / 2
    return float(np.exp(_greatest_safe(excess, np.log(lowest), np.log(highest), first)))


def _greatest_safe(excess: Callable[[float], float], low: float, high: float, x: float) -> float:
    """An x at which excess(x), a rising function, was found to be in [-ETA_TOLERANCE, 0]; low, if there is none.

    low must be safe whatever excess(low) is, and high unsafe. Secant steps from the x given, or a bisection where one
    would leave the bracket of the greatest x found safe and the least found unsafe. As a rule three values of excess.
    """
    value, slope = excess(x), 1.0
    while not -ETA_TOLERANCE <= value <= 0:
        low, high = (x, high) if value <= 0 else (low, x)
        if high - low <= ETA_TOLERANCE:
            return low
        before, step = (x, value), x - (value + ETA_TOLERANCE / 2) / max(slope, 1e-9)
        x = step if low < step < high else (low + high) / 2
        value = excess(x)
        slope = (value - before[1]) / (x - before[0])
    return x


def clopper_pearson_band(n: int, alpha: float, weights: str = "falling", ranks_of: str | None = None,
                         mirrored: bool = False, start: float | None = None) -> Band:
    """Clopper-Pearson limits of levels eta w_j, calibrated to hold at all ranks at once with probability 1 - alpha.

    n >= 1, 1e-100 <= alpha < 1; weights, ranks_of: the weights, and those whose ranks are used (default: the same);
    mirrored: for the mirrored scores, at the mirrored ranks, so that it needs no order statistics but those; start: see
    clopper_pearson_eta.
    p_j falls with j by itself, since the limit falls with the rank and with its level, and w_j does not rise.
    """
    _check(n, alpha)
    ranks = clopper_pearson_ranks(n, ranks_of or weights)
    ranks = mirrored_ranks(n, ranks) if mirrored else ranks
    eta = clopper_pearson_eta(n, alpha, weights, ranks_of, mirrored=mirrored, start=start)
    return Band(ranks, _limits(n, ranks, eta * limit_weights(ranks, weights)), eta)


def two_valued_band(n: int, alpha: float, ranks_of: str = "falling") -> Band:
    """Clopper-Pearson limits on P(score >= X_(r)), each at level alpha itself: only for a score of two values a < b.

    Let k of the n scores be b, and p = P(score = b). X_(r) is b from rank n - k + 1 on. At the ranks before, X_(r) = a
    and P(score >= X_(r)) = 1: no limit fails. The limits fall with the rank, so if one fails, the first at a rank
    r_j >= n - k + 1 does: it is L(m), m = n - r_j + 1 <= k, L(m) the Clopper-Pearson limit after m successes. L rises
    with m, so L(k) >= L(m) > p: the limit for the binomial count k fails, which has probability at most alpha. So the
    band holds with probability 1 - alpha, although the rank that counts is random: k alone decides it. Limits below
    L(m) fail only where L(m) does.

    The bound jumps once: a + (b - a) Phi(Phi^-1(L(m)) - shift), and is above (a + b) / 2 up to the radius
    sigma Phi^-1(L(m)) of Cohen et al. (2019), whose limit is L(k): the rounding of k down to m is all that is lost.
    ranks_of: the weights whose ranks are used. eta is the level of all limits.
    """
    _check(n, alpha)
    ranks, level = clopper_pearson_ranks(n, ranks_of), alpha * QUANTILE_MARGIN
    return Band(ranks, _limits(n, ranks, np.full(len(ranks), level)), level)


def _limits(n: int, ranks: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The Clopper-Pearson limit on P(score >= X_(r)) at each rank and level: n - r + 1 scores are at X_(r) or above.

    Not increasing with the rank, even if some limits had to be lowered: a limit above an earlier one becomes that one.
    """
    return np.minimum.accumulate(clopper_pearson_limit(n - ranks + 1, n, levels))


# --- DKW ------------------------------------------------------------------------------------------------------------

def dkw_ranks(n: int) -> np.ndarray:
    """At most 10,000 ranks: 1 and every ceil(n / 10000)-th after it, int64 [J]."""
    return np.arange(1, n + 1, -(-n // DKW_THRESHOLDS))


def dkw_band(n: int, alpha: float, ranks: np.ndarray | None = None) -> Band:
    """p_j = (n - r_j + 1) / n - sqrt(ln(1 / alpha) / (2 n)), at least 0: the paper's band.

    The one-sided inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's (1990) constant, which needs
    alpha <= 0.5. It holds at all ranks, so any `ranks` may be asked for (default: dkw_ranks).
    """
    _check(n, alpha)
    if alpha > 0.5:
        raise ValueError(f"the one-sided DKW inequality needs alpha <= 0.5, not {alpha}")
    ranks = dkw_ranks(n) if ranks is None else np.asarray(ranks, dtype=np.int64)
    return Band(ranks, np.maximum((n - ranks + 1) / n - _hoeffding_width(n, alpha), 0.0))


def _hoeffding_width(n: int, alpha: float) -> float:
    return float(np.sqrt(np.log(1 / alpha) / (2 * n)))


def _check(n: int, alpha: float) -> None:
    if not 1 <= n <= LARGEST_N or not SMALLEST_ALPHA <= alpha < 1:
        raise ValueError(f"need 1 <= n <= {LARGEST_N} and {SMALLEST_ALPHA:g} <= alpha < 1, not {n} and {alpha}")


# --- bounds on the expected score ------------------------------------------------------------------------------------

def shifted_probability(prob, shift):
    """Phi(Phi^-1(prob) - shift): the least P(score >= s) at distance shift * sigma, for prob at distance 0.

    Neyman and Pearson's lemma for two Gaussians (Cohen et al. 2019, Lemma 4). Broadcasts; 0 stays 0.
    """
    return ndtr(ndtri(prob) - shift)


def expected_score_bound(thresholds, prob, shift, score_min: float):
    """score_min + sum_j (s_j - s_{j-1}) Phi(Phi^-1(p_j) - shift), s_0 = score_min (Kumar et al. 2020, Theorem 2).

    thresholds: increasing, [J]; prob: [J]; shift >= 0, a scalar or [R]. Returns a scalar or [R], at least score_min.
    """
    shift = np.asarray(shift, dtype=np.float64)
    return weighted_score_bound(thresholds, shifted_probability(prob, shift[..., None]), score_min)


def weighted_score_bound(thresholds, weights, score_min: float):
    """expected_score_bound with weights [..., J] = shifted_probability(prob, shift) computed beforehand."""
    increments = np.diff(np.asarray(thresholds, dtype=np.float64), prepend=score_min)
    return np.maximum(score_min + weights @ increments - SLACK, score_min)


def hoeffding_lower(mean: float, n: int, alpha: float, score_range: float) -> float:
    """mean - range sqrt(ln(1 / alpha) / (2 n)): lower confidence limit on an expectation (Hoeffding 1963)."""
    return mean - score_range * _hoeffding_width(n, alpha) - SLACK


def naive_bound(mean_lower: float, shift, score_min: float, score_max: float):
    """The bound from the mean alone (Kumar et al. 2020, Theorem 1).

    mean_lower itself at shift 0; at a larger shift score_min + range Phi(Phi^-1(q) - shift), where q is the share
    (mean_lower - score_min) / range, at least 0. shift: scalar or [R].
    """
    shift = np.asarray(shift, dtype=np.float64)
    q = np.clip((mean_lower - score_min) / (score_max - score_min), 0.0, 1.0)
    beyond = score_min + (score_max - score_min) * shifted_probability(q, shift) - SLACK
    return np.where(shift == 0, mean_lower, np.maximum(beyond, score_min))


def empirical_bernstein_lower(mean, variance, n: int, alpha: float, score_range: float):
    """Lower confidence limit on an expectation from the sample mean and (n - 1)-normalised sample variance; n >= 2.

    mean - sqrt(2 variance ln(2 / alpha) / n) - range 7 ln(2 / alpha) / (3 (n - 1)) (Maurer and Pontil 2009, Theorem 4).
    """
    if n < 2 or not 0 < alpha < 1:
        raise ValueError(f"need n >= 2 and 0 < alpha < 1, not n = {n}, alpha = {alpha}")
    log = np.log(2 / alpha)
    return mean - np.sqrt(2 * variance * log / n) - score_range * 7 * log / (3 * (n - 1)) - SLACK
