"""Bands and bounds: from N i.i.d. scores to a lower bound on their expectation under a shift of the noise.

A band holds, at ranks r_1 < ... < r_J, probabilities p_j such that with probability at least 1 - alpha over the sample
    p_j <= P(score >= X_(r_j))  for all j at once,   X_(1) <= ... <= X_(N) the order statistics.
Two bands: clopper_pearson_band (the default) and dkw_band (the paper's). Both hold for every score distribution, with
atoms too. From a band, expected_score_bound; from the mean alone, naive_bound. Everything is in float64, and every
approximation falls on the safe side.

n: number of samples, alpha: error probability, eta: error probability of one limit, shift: radius / sigma.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, gammaln, ndtr, ndtri, xlogy
from scipy.stats import poisson

SMALLEST_CALIBRATED_ALPHA = 1e-10  # below it, eta = alpha / number of ranks (Bonferroni)
LARGEST_N = 10 ** 7  # up to which the rounding in failure_probability is within its margin
SMALLEST_ALPHA = 1e-100  # far below it, betaincinv loses its accuracy
QUANTILE_MARGIN = 1 - 1e-6  # betaincinv errs as if eta were larger by up to 3e-7 of itself (n near LARGEST_N)
WINDOW = 12  # standard deviations of states kept in the recursion
ETA_TOLERANCE = 1e-6  # relative accuracy of eta
DKW_THRESHOLDS = 10_000
SLACK = 1e-12  # more than float64 can be wrong in one bound


@dataclass(frozen=True, eq=False)
class Band:
    """Simultaneous lower confidence limits on P(score >= X_(r)) at increasing 1-based ranks r.

    ranks: int64 [J]; prob: float64 [J] in [0, 1); eta: the level of each limit, None where the band has none.
    """

    ranks: np.ndarray
    prob: np.ndarray
    eta: float | None = None


# --- Clopper-Pearson ------------------------------------------------------------------------------------------------

def clopper_pearson_limit(k, n, eta):
    """Lower confidence limit at level 1 - eta on a binomial probability, after k >= 1 successes out of n.

    Clopper and Pearson (1934): the eta-quantile of Beta(k, n - k + 1), as SciPy finds it. Where its error would count,
    eta is lowered by QUANTILE_MARGIN; the calibrated band is judged by failure_probability of the limits as they are.
    """
    return betaincinv(k, n - np.asarray(k) + 1.0, eta) * (1 - 1e-12)


def population_limit(certified, n: int, confidence: float, alpha: float):
    """Lower confidence limit on the population's certified accuracy, from the count of certified images among n.

    The images are an independent sample. With Z = "its certificate says so" and T = "it is truly so", P(T) >= P(Z) -
    P(Z and not T) >= P(Z) - alpha, alpha the error probability of a certificate; and P(Z) is at least the one-sided
    Clopper-Pearson limit. certified: a scalar or array.
    """
    from statsmodels.stats.proportion import proportion_confint  # only here: few runs need it, and it loads slowly
    limit, _ = proportion_confint(np.asarray(certified), n, alpha=2 * (1 - confidence) * QUANTILE_MARGIN, method="beta")
    return np.maximum(limit * (1 - 1e-12) - alpha, 0.0)


def clopper_pearson_ranks(n: int, intervals: int = 1000) -> np.ndarray:
    """round(n sin^2(i pi / (2 intervals))) for i = 0 ... intervals, clipped to [1, n], duplicates removed: int64 [J].

    Equally spaced on the scale on which all binomial limits are equally wide.
    """
    if not 1 <= n <= LARGEST_N:
        raise ValueError(f"need 1 <= n <= {LARGEST_N}, not n = {n}")
    angle = np.arange(intervals + 1) * (np.pi / (2 * intervals))
    return np.unique(np.clip(np.round(n * np.sin(angle) ** 2), 1, n).astype(np.int64))


def failure_probability(n: int, ranks: np.ndarray, prob: np.ndarray) -> float:
    """An upper bound, exact to about 1e-9 of itself, on the probability that some p_j > P(score >= X_(r_j)).

    For continuous scores (the worst case) the band holds where N(c_j) >= r_j for all j, with c_j = 1 - p_j and N(t)
    the number of n uniform variables at or below t. N is a Poisson process of rate n given N(1) = n. So the state
    N(c_j) goes forward by Poisson increments, the mass at states below r_j leaves, and each leaving mass counts with
    P(n - m more arrivals in (c_j, 1]) / P(n arrivals). Mass above the window of states is counted as leaving too. Only
    p_j enters, never 1 - p_j alone, which would lose a tiny p_j.
    """
    log_factorial = gammaln(np.arange(n + 2.0) + 1)

    def log_pmf(count, mean):  # of the Poisson distribution; count may be an array of integers in [0, n]
        return xlogy(count, mean) - mean - log_factorial[count]

    log_all = log_pmf(np.int64(n), float(n))
    prob = np.asarray(prob, dtype=np.float64)
    failure, previous, states, mass = 0.0, 1.0, np.zeros(1, dtype=np.int64), np.ones(1)
    for rank, p in zip(ranks, prob, strict=True):
        mean = n * (previous - p)
        low, high = (int(edge) for edge in mean + np.array([-1, 1]) * (WINDOW * np.sqrt(mean) + WINDOW))
        steps = np.arange(max(low, 0), min(high, n) + 1)
        # increments outside `steps`: no conditional mass exceeds the unconditional one by more than 1 / P(n arrivals)
        failure += (poisson.cdf(low - 1, mean) + poisson.sf(high, mean)) * np.exp(-log_all)
        mass = np.convolve(mass, np.exp(log_pmf(steps, mean)))
        states = np.arange(states[0] + steps[0], states[0] + steps[0] + len(mass))
        top = n * (1 - p) + WINDOW * np.sqrt(n * p * (1 - p)) + WINDOW
        possible = states <= n
        stays = possible & (states >= rank) & (states <= top)
        leaves = possible & ~stays
        still = log_pmf(n - states[leaves], n * p) - log_all
        failure += float(mass[leaves] @ np.exp(still))
        if not stays.any():
            return 1.0
        states, mass, previous = states[stays], mass[stays], p
    return min(failure * (1 + 1e-6), 1.0)  # 1e-6: more than the rounding of the logarithms above, for n up to LARGEST_N


@lru_cache
def clopper_pearson_eta(n: int, alpha: float, intervals: int = 1000) -> float:
    """The largest level eta at which the Clopper-Pearson limits at all ranks hold at once with probability 1 - alpha.

    The one-sided equal-local-level band of Berk and Jones (1979), calibrated exactly: a root of failure_probability
    between alpha / J (Bonferroni) and alpha, and there the end of the bracket that is safe.
    """
    ranks = clopper_pearson_ranks(n, intervals)
    if len(ranks) == 1:
        return alpha
    if alpha < SMALLEST_CALIBRATED_ALPHA:
        return alpha / len(ranks) * QUANTILE_MARGIN

    def excess(log_eta: float) -> float:
        prob = clopper_pearson_limit(n - ranks + 1, n, np.exp(log_eta))
        return np.log(failure_probability(n, ranks, prob) / alpha)

    lowest, highest = np.log(alpha / len(ranks)), np.log(alpha)
    if excess(highest) <= 0:
        return alpha
    log_eta = brentq(excess, lowest, highest, xtol=ETA_TOLERANCE)
    while log_eta > lowest and excess(log_eta) > 0:
        log_eta -= ETA_TOLERANCE
    return float(np.exp(max(log_eta, lowest)))


def clopper_pearson_band(n: int, alpha: float, eta: float | None = None) -> Band:
    """Clopper-Pearson limits at one level eta, calibrated to hold at all ranks at once with probability 1 - alpha.

    n >= 1, 1e-100 <= alpha < 1. Pass the eta of an earlier call with the same (n, alpha) to save most of its 2 seconds:
    it is checked, and calibrated anew if it is not safe.
    """
    _check(n, alpha)
    ranks = clopper_pearson_ranks(n)
    if eta is None or not _is_safe(eta, n, alpha, ranks):
        eta = clopper_pearson_eta(n, alpha)
    return Band(ranks, clopper_pearson_limit(n - ranks + 1, n, eta), eta)


def _is_safe(eta: float, n: int, alpha: float, ranks: np.ndarray) -> bool:
    if not alpha / len(ranks) < eta <= alpha or alpha < SMALLEST_CALIBRATED_ALPHA:
        return False  # no calibration gives it
    return failure_probability(n, ranks, clopper_pearson_limit(n - ranks + 1, n, eta)) <= alpha


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
    return mean - score_range * _hoeffding_width(n, alpha)


def naive_bound(mean_lower: float, shift, score_min: float, score_max: float):
    """The bound from the mean alone (Kumar et al. 2020, Theorem 1): mean_lower itself at shift 0, and beyond

    score_min + range Phi(Phi^-1(q) - shift), q = (mean_lower - score_min) / range, at least 0. shift: scalar or [R].
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
    return mean - np.sqrt(2 * variance * log / n) - score_range * 7 * log / (3 * (n - 1))
