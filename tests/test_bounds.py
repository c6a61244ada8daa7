"""statistics/bounds.py against the 2020 reference, exact arithmetic, formulas worked by hand, and simulation."""
import json
import math
from fractions import Fraction
from functools import partial
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betainc, betaincinv, gammaln, logsumexp
from scipy.stats import binom, binomtest, norm

from certconf.statistics import bounds
from certconf.statistics.measures import MEASURES

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "reference_bounds.json").read_text())
RADII = np.arange(7) * 0.25
BANDS = {"falling": bounds.clopper_pearson_band, "equal": partial(bounds.clopper_pearson_band, weights="equal"),
         "dkw": bounds.dkw_band}
UNLIKELY = 1e-4  # a simulation may fail by chance this often, were its seed not fixed


# --- the 2020 reference ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_reference(case):
    """Theorem 2 with DKW (exp_cdf), Theorem 1 with Hoeffding (exp), and the decision to abstain."""
    measure, n, alpha = MEASURES[case["measure"]], case["n"], case["alpha"]
    scores = np.load(DATA / "reference_bounds.npz")[case["name"]].astype(np.float64)
    assert scores.shape == (n,)
    band = bounds.dkw_band(n, alpha)
    thresholds = np.sort(scores)[band.ranks - 1]
    ours = bounds.expected_score_bound(thresholds, band.prob, RADII / case["sigma"], measure.score_min)
    above = 1e-9
    if case["name"] == "uneven_n":  # 10,000 does not divide n: the reference is too high there, by O(1/n)
        np.testing.assert_allclose(ours, case["exp_cdf"], rtol=0, atol=1e-3)
        above = 0
    else:
        np.testing.assert_allclose(ours, case["exp_cdf"], rtol=0, atol=1e-9)
    assert np.all(ours <= np.array(case["exp_cdf"]) + above)
    assert (ours[0] < measure.cutoff) == case["abstain"]

    lower = bounds.hoeffding_lower(scores.mean(), n, alpha, measure.range)
    naive = bounds.naive_bound(lower, RADII / case["sigma"], measure.score_min, measure.score_max)
    np.testing.assert_allclose(naive, case["exp"], rtol=0, atol=1e-9)


# --- Clopper-Pearson: one limit -------------------------------------------------------------------------------------

def level(k, n, p):
    """P(k successes or more out of n) at probability p: the first term in 300 bits, times the sum relative to it.

    20,000 terms are enough where k is not far below n p, since no standard deviation here is above 1,600.
    """
    with mpmath.workprec(300):
        p = mpmath.mpf(float(p))
        first = mpmath.binomial(n, k) * p ** k * (1 - p) ** (n - k)
        i = np.arange(k, min(n, k + 20_000), dtype=np.float64)
        return first * (1 + math.fsum(np.cumprod((n - i) / (i + 1) * float(p / (1 - p)))))


def counts(n):
    """Counts of successes out of n >= 2, from 1 to n."""
    return sorted({k for k in (1, 2, 3, 10, n // 10, n // 2, 9 * n // 10, n - 10, n - 1, n) if 1 <= k <= n})


def test_level():
    """The check of the checks: exact arithmetic, at p = 1/4 and float64's 0.9."""
    for p in (0.25, 0.9):
        exact = sum(math.comb(20, i) * Fraction(p) ** i * (1 - Fraction(p)) ** (20 - i) for i in range(15, 21))
        assert float(level(15, 20, p)) == pytest.approx(float(exact), rel=1e-14)


@pytest.mark.parametrize("n", [1, 2, 50, 100_000])
@pytest.mark.parametrize("eta", [1e-15, 1e-5, 0.05, 0.9])
def test_limit_has_its_level(n, eta):
    """Not above eta by more than the error of betainc, and below it by the factor 1 - 1e-12 of the limit alone."""
    for k in {1, (n + 1) // 2, n}:
        ratio = level(k, n, bounds.clopper_pearson_limit(k, n, eta)) / eta
        assert 1 - 2e-12 * n - 1e-9 < ratio < 1 + 1e-9


@pytest.mark.parametrize("n", [2, 100, 10_000, 1_000_000, 10_000_000])
def test_betainc(n):
    """What checks the limits is within 1e-9 of the level, at the limit and 1 % below it: far less than the margin."""
    assert 1e-9 < (1 - bounds.QUANTILE_MARGIN) / 1000
    for eta in (0.9, 1e-3, 1e-12, 1e-60, 1e-107):
        for k in counts(n):
            for p in bounds.clopper_pearson_limit(k, n, eta) * np.array([1, 0.99]):
                exact = level(k, n, p)
                assert exact < 1e-300 or abs(betainc(k, n - k + 1, p) / exact - 1) < 1e-9


WRONG = {  # instead of betaincinv
    "1 % up": lambda a, b, y: 1.01 * betaincinv(a, b, y),
    "1 % down": lambda a, b, y: 0.99 * betaincinv(a, b, y),
    "up and down": lambda a, b, y: np.where(np.asarray(a) % 2, 1.01, 0.99) * betaincinv(a, b, y),
    "level up": lambda a, b, y: betaincinv(a, b, np.minimum(1.01 * y, 1.0)),
    "a little up": lambda a, b, y: betaincinv(a, b, y) * (1 + 1e-11),
    "1": lambda a, b, y: np.ones_like(betaincinv(a, b, y)),
    "NaN": lambda a, b, y: np.full_like(betaincinv(a, b, y), np.nan),
}


@pytest.fixture(params=WRONG)
def wrong_quantile(request, monkeypatch):
    """bounds with a wrong betaincinv and no eta kept from the right one; the name of the error."""
    monkeypatch.setattr(bounds, "betaincinv", WRONG[request.param])
    monkeypatch.setattr(bounds, "clopper_pearson_eta", bounds.clopper_pearson_eta.__wrapped__)
    return request.param


@pytest.mark.parametrize("n", [2, 100, 100_000, 10_000_000])
@pytest.mark.parametrize("eta", [0.5, 1e-3, 1e-12, 1e-60])
def test_limits_from_a_wrong_quantile_are_safe(wrong_quantile, n, eta):
    """The level is at most eta, even so; an error of 1 % costs 2 % of the limit at most."""
    ks = counts(n)
    limits = bounds.clopper_pearson_limit(np.array(ks), n, eta * bounds.QUANTILE_MARGIN)
    for k, limit in zip(ks, limits, strict=True):
        assert 0 <= limit < 1 and (limit == 0 or level(k, n, limit) <= eta)
        assert limit == bounds.clopper_pearson_limit(k, n, eta * bounds.QUANTILE_MARGIN)
        if wrong_quantile not in ("1", "NaN"):
            assert limit > 0.98 * betaincinv(k, n - k + 1, eta)


@pytest.mark.parametrize("weights, mirrored", [("falling", False), ("falling", True), ("equal", False)])
def test_bands_from_a_wrong_quantile_are_safe(wrong_quantile, weights, mirrored):
    """In exact arithmetic the band fails with probability at most alpha, calibrated or not."""
    for n, alpha in ((10, 0.01), (30, 1e-3), (30, 1e-12)):
        band = bounds.clopper_pearson_band(n, alpha, weights=weights, mirrored=mirrored)
        assert exact_failure(n, band.ranks, band.prob) <= Fraction(alpha)


def test_limits_from_a_wrong_quantile_do_not_rise(monkeypatch):
    """Limits that lie closer together than their errors: the band stays a survival function, and is calibrated."""
    monkeypatch.setattr(bounds, "betaincinv", WRONG["up and down"])
    monkeypatch.setattr(bounds, "clopper_pearson_eta", bounds.clopper_pearson_eta.__wrapped__)
    band = bounds.clopper_pearson_band(1000, 0.001)
    assert np.all(np.diff(band.prob) <= 0)
    assert 0 < bounds.failure_probability(1000, band.ranks, band.prob) <= 0.001


def test_other_limits_from_a_wrong_quantile_are_safe(wrong_quantile):
    """The band of two values, whose limits have the level alpha each, and the population's limit: no level is above."""
    n, alpha = 50, 0.001
    band = bounds.two_valued_band(n, alpha)
    assert all(p == 0 or level(n - r + 1, n, p) <= alpha for r, p in zip(band.ranks, band.prob, strict=True))
    limits = bounds.population_limit(np.arange(n + 1), n, 0.99, 0.0)
    assert limits[0] == 0
    assert all(p == 0 or level(k, n, p) <= 1 - 0.99 for k, p in enumerate(limits) if k)


def test_limit_is_safe():
    """P(k successes or more) where the probability is the limit: eta, and in exact arithmetic not above it."""
    n = 20
    for k in range(1, n + 1):
        p = Fraction(float(bounds.clopper_pearson_limit(k, n, 0.001)))
        tail = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert 0.001 * (1 - 1e-9) <= tail <= Fraction(0.001)


@pytest.mark.parametrize("n", [1000, 100_000, 10_000_000])
@pytest.mark.parametrize("eta", [1e-3, 1e-8, 1e-20, 1e-60, 1e-100, 1e-108])
def test_limit_at_small_levels(n, eta):
    """P(k or more successes) at the limit, summed from the binomial probabilities: never above eta, and hardly below.

    The limit's level is lowered by 1e-5, and its factor 1 - 1e-12 counts as 1e-5 more at n successes. The smallest
    level of a falling band is above 1e-108: alpha = 1e-100, over the sum of the weights, less than 10, and times the
    weight of rank LARGEST_N, above 3e-5.
    """
    assert 1e-100 * bounds.limit_weights([bounds.LARGEST_N], "falling")[0] / 10 > 1e-108
    for k in (1, 2, 3, 10, 100, n // 10, n // 3, n // 2, 2 * n // 3, n - 100, n - 10, n - 1, n):
        p = bounds.clopper_pearson_limit(k, n, eta * bounds.QUANTILE_MARGIN)
        tail = logsumexp(binom.logpmf(np.arange(k, min(n, k + 20_000) + 1), n, p))
        assert -3e-5 < tail - math.log(eta) < 0


# --- Clopper-Pearson: all limits at once ----------------------------------------------------------------------------

def exact_failure(n, ranks, prob):
    """1 - P(U_(r_j) <= 1 - p_j for all j), in rational arithmetic; ranks must end at n.

    P(U_(1) <= c_1, ..., U_(n) <= c_n) = n! A_1(0), where A_(n+1) = 1 and A_k(u) = integral of A_(k+1) from u to c_k:
    a polynomial each, as c_k increases. A rank without a limit takes the c of the next rank that has one.
    """
    limits = {int(rank): 1 - Fraction(float(p)) for rank, p in zip(ranks, prob, strict=True)}
    total, c, polynomial = Fraction(math.factorial(n)), limits[n], [Fraction(1)]
    for rank in range(n, 0, -1):
        c = limits.get(rank, c)
        integral = [Fraction(0)] + [a / (power + 1) for power, a in enumerate(polynomial)]
        at_c = sum(a * c**power for power, a in enumerate(integral))
        polynomial = [at_c] + [-a for a in integral[1:]]
    return 1 - total * polynomial[0]


def test_exact_failure():
    """The check of the checks, by hand: n = 1 fails where U > 1 - p; n = 2: P(U_(1) <= a, U_(2) <= b) = 2ab - a^2."""
    assert exact_failure(1, [1], [0.25]) == Fraction(1, 4)
    a, b = Fraction(1, 2), Fraction(3, 4)
    assert exact_failure(2, [1, 2], [0.5, 0.25]) == 1 - (2 * a * b - a * a)


@pytest.mark.parametrize("n, ranks, prob", [
    (1, [1], [0.25]),
    (2, [1, 2], [0.5, 0.25]),
    (2, [2], [0.125]),
    (10, np.arange(1, 11), np.linspace(0.7, 0.01, 10)),
    (10, np.arange(1, 11), np.linspace(0.7, 0.01, 10) / 1000),
    (10, [1, 4, 10], [0.7, 0.2, 0.0]),
    (30, np.arange(1, 31), np.maximum(np.linspace(1, 1 / 30, 30) - 0.2, 0)),
])
def test_failure_probability_exact(n, ranks, prob):
    """Never below the exact probability, and at most 2e-6 of it above."""
    ratio = bounds.failure_probability(n, np.array(ranks), np.array(prob)) / float(exact_failure(n, ranks, prob))
    assert 1 <= ratio <= 1 + 2e-6


@pytest.mark.parametrize("window", [0, 0.5, 1])
def test_failure_probability_counts_what_it_does_not_follow(window, monkeypatch):
    """Windows so narrow that much of the probability lies outside: the bound is loose, and never below the truth."""
    monkeypatch.setattr(bounds, "WINDOW", window)
    for n in (10, 30):
        ranks = np.arange(1, n + 1)
        for prob in (np.linspace(0.7, 0.01, n), np.linspace(0.7, 0.01, n) / 5):
            assert exact_failure(n, ranks, prob) <= bounds.failure_probability(n, ranks, prob)


@pytest.mark.parametrize("n, k, prob", [
    (10, 1, 1e-13), (1000, 1, 1e-14), (1000, 5, 1e-5), (100_000, 1, 3e-17), (100_000, 50_000, 0.49),
])
def test_failure_probability_of_one_limit(n, k, prob):
    """k successes or more where the probability is p: I_p(k, n - k + 1), also where 1 - p rounds to 1 in float64."""
    failure = bounds.failure_probability(n, np.array([n - k + 1]), np.array([prob]))
    assert 1 - 1e-9 <= failure / betainc(k, n - k + 1, prob) <= 1 + 2e-6


@pytest.mark.parametrize("n", [5, 20, 50])
def test_failure_probability_simulated(n):
    """Order statistics of uniforms: a limit fails where p_j > 1 - U_(r_j)."""
    rng = np.random.default_rng(n)
    uniforms = np.sort(rng.random((20_000, n)), axis=1)
    for make_band in BANDS.values():
        band = make_band(n, 0.2)
        failures = np.any(band.prob > 1 - uniforms[:, band.ranks - 1], axis=1).sum()
        expected = bounds.failure_probability(n, band.ranks, band.prob)
        assert binomtest(failures, len(uniforms), expected).pvalue > UNLIKELY


@pytest.mark.parametrize("n", [1, 2, 10, 50])
@pytest.mark.parametrize("alpha", [1e-15, 1e-10, 1.7e-10, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("weights", bounds.WEIGHTS)
def test_calibration_exact(n, alpha, weights):
    """The band fails with probability at most alpha, in exact arithmetic, and hardly less."""
    band = bounds.clopper_pearson_band(n, alpha, weights=weights)
    failure = exact_failure(n, band.ranks, band.prob)
    assert failure <= Fraction(alpha)
    assert alpha < 1e-10 or n == 1 or bounds.failure_probability(n, band.ranks, band.prob) <= alpha
    if alpha >= bounds.SMALLEST_CALIBRATED_ALPHA and n > 1:
        assert failure >= Fraction(alpha) * (1 - Fraction(1, 10_000))
    w = bounds.limit_weights(band.ranks, weights)
    if n == 1:
        assert band.eta * w[0] == pytest.approx(alpha, rel=1e-15)
    elif alpha == 1e-15:  # Bonferroni
        assert 1 - 2e-5 < band.eta * w.sum() / alpha < 1


@pytest.mark.parametrize("n, alpha", [(2, 0.3), (10, 0.001), (50, 1e-10), (50, 0.5)])
@pytest.mark.parametrize("weights", bounds.WEIGHTS)
def test_calibration_of_the_mirrored_band_exact(n, alpha, weights):
    band = bounds.clopper_pearson_band(n, alpha, weights=weights, mirrored=True)
    assert Fraction(alpha) * (1 - Fraction(1, 10_000)) <= exact_failure(n, band.ranks, band.prob) <= Fraction(alpha)


@pytest.mark.parametrize("weights, mirrored", [("falling", False), ("falling", True), ("equal", False)])
def test_calibration_of_many_samples_simulated(weights, mirrored):
    """n = 100,000: the order statistics that count are sums of Gamma spacings, drawn without the others."""
    n, alpha, runs = 100_000, 0.1, 10_000
    band = bounds.clopper_pearson_band(n, alpha, weights=weights, mirrored=mirrored)
    rng, shape = np.random.default_rng(3), np.diff(band.ranks, prepend=0)
    failed = 0
    for _ in range(10):
        spacings = rng.standard_gamma(np.append(shape, n + 1 - band.ranks[-1]), (runs // 10, len(shape) + 1))
        uniforms = np.cumsum(spacings, axis=1)
        failed += np.any(band.prob > 1 - uniforms[:, :-1] / uniforms[:, -1:], axis=1).sum()
    assert binomtest(failed, runs, alpha).pvalue > UNLIKELY


@pytest.mark.parametrize("n", [2, 3, 5, 20, 100, 700])
@pytest.mark.parametrize("alpha", [1e-10, 3e-10, 1e-8])
def test_calibration_just_above_bonferroni(n, alpha):
    """Small alphas, where the limits hardly ever fail together and eta is close to the lower end of its bracket."""
    for weights in bounds.WEIGHTS:
        band = bounds.clopper_pearson_band(n, alpha, weights=weights)
        assert band.eta >= alpha / bounds.limit_weights(band.ranks, weights).sum() * (1 - 1e-5)
        assert bounds.failure_probability(n, band.ranks, band.prob) <= alpha


def test_falling_weights():
    """r^-1.25 + 0.1 r^-0.5 by hand at ranks 1, 16 and 10^4, decreasing; equal ones are 1."""
    expected = [1.1, 1 / 32 + 0.1 / 4, 1e-5 + 0.001]
    assert bounds.limit_weights([1, 16, 10_000], "falling") == pytest.approx(expected, rel=1e-12)
    assert np.all(np.diff(bounds.limit_weights(np.arange(1, 100_000), "falling")) < 0)
    assert bounds.limit_weights([1, 16], "equal").tolist() == [1, 1]


@pytest.mark.parametrize("weights", bounds.WEIGHTS)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 29, 30, 31, 59, 60, 61, 100, 999, 5000, 40_000, 300_000])
def test_limits_fall_with_the_rank(n, weights):
    """p_j, the probability of X_(r_j) or more, is a survival function at any eta: nowhere does it rise or repeat."""
    for alpha in (1e-90, 1e-12, 1e-4, 0.05, 0.9):
        ranks = bounds.clopper_pearson_ranks(n, weights)
        w = bounds.limit_weights(ranks, weights)
        etas = [alpha / w.sum(), alpha / w.max()]  # the ends of its bracket
        if n <= 1000:
            etas.append(bounds.clopper_pearson_eta(n, alpha, weights))
        for eta in etas:
            prob = bounds.clopper_pearson_limit(n - ranks + 1, n, eta * w)
            assert np.all(np.diff(prob) < 0) and 0 < prob[-1] <= prob[0] < 1


def test_check_figures():
    """The figures of the project's plan for n = 100,000, alpha = 0.001, equal weights."""
    assert len(bounds.clopper_pearson_ranks(100_000, "equal")) == 998
    assert len(bounds.clopper_pearson_ranks(100_000, "equal", 300)) == 301
    assert bounds.clopper_pearson_eta(100_000, 0.001, "equal") == pytest.approx(8.92e-6, abs=0.005e-6)
    assert bounds.clopper_pearson_eta(100_000, 0.001, "equal", intervals=300) == pytest.approx(1.307e-5, abs=0.0005e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 45, 999, 1000, 12_345, 1_000_000])
def test_ranks(n):
    """Increasing, from 1, in [1, n]; the Clopper-Pearson ranks are round(n sin^2) and end at n.

    With falling weights the 30 lowest and the 30 highest ranks are among them.
    """
    wanted = {min(max(round(n * math.sin(i * math.pi / 2000) ** 2), 1), n) for i in range(1001)}
    assert bounds.clopper_pearson_ranks(n, "equal").tolist() == sorted(wanted)
    assert bounds.clopper_pearson_ranks(n, "equal")[-1] == n
    ends = {rank for rank in (*range(1, 31), *range(n - 29, n + 1)) if 1 <= rank <= n}
    assert bounds.clopper_pearson_ranks(n).tolist() == sorted(wanted | ends)
    step = math.ceil(n / 10_000)
    assert bounds.dkw_ranks(n).tolist() == list(range(1, n + 1, step))


# --- both bands -----------------------------------------------------------------------------------------------------

def test_dkw_by_hand():
    """n = 100, alpha = e^-2: the width is sqrt(2 / 200) = 0.1. Massart's one-sided constant needs alpha <= 0.5."""
    band = bounds.dkw_band(100, math.exp(-2), ranks=np.array([1, 51, 95]))
    np.testing.assert_allclose(band.prob, [0.9, 0.4, 0.0], atol=1e-12)
    bounds.dkw_band(10, 0.5)
    with pytest.raises(ValueError):
        bounds.dkw_band(10, 0.51)


SCORES = {  # from a uniform u: the score, and the function s -> P(score >= s) at the scores that occur
    "continuous": (lambda u: u, lambda s: 1 - s),
    "half are 1": (lambda u: np.minimum(2 * u, 1), lambda s: 1 - s / 2),
    "four values": (lambda u: np.floor(4 * u) / 4, lambda s: 1 - s),
    "two values": (lambda u: np.where(u < 0.03, 0.0, 1.0), lambda s: np.where(s > 0, 0.97, 1.0)),
}


@pytest.mark.parametrize("n, alpha", [(50, 0.2), (200, 0.2), (120, 0.05)])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("name", BANDS)
def test_coverage(name, scores, n, alpha):
    """The share of samples where some p_j > P(score >= X_(r_j)): at most alpha; alpha itself where that is promised."""
    transform, survival = SCORES[scores]
    band, runs = BANDS[name](n, alpha), 5000
    sample = np.sort(transform(np.random.default_rng(7).random((runs, n))), axis=1)
    failures = np.any(band.prob > survival(sample[:, band.ranks - 1]), axis=1).sum()
    assert binomtest(failures, runs, alpha, alternative="greater").pvalue > UNLIKELY
    if name != "dkw" and scores == "continuous":
        assert binomtest(failures, runs, alpha, alternative="less").pvalue > UNLIKELY


@pytest.mark.parametrize("make_band", BANDS.values(), ids=BANDS)
@pytest.mark.parametrize("n, alpha", [(0, 0.1), (-5, 0.1), (10, 0.0), (10, 1.0), (10, -0.1), (10, 2.0), (10, math.nan)])
def test_refusals(make_band, n, alpha):
    with pytest.raises(ValueError):
        make_band(n, alpha)


@pytest.mark.parametrize("n", [1000, 100_000])
@pytest.mark.parametrize("weights", bounds.WEIGHTS)
def test_calibration_is_cheap_and_close(weights, n, monkeypatch):
    """At most four values of the failure probability; it is at most alpha, and above it 2e-6 further."""
    seen, real = [], bounds.failure_probability
    monkeypatch.setattr(bounds, "failure_probability", lambda *args: seen.append(real(*args)) or seen[-1])
    alpha = 0.00123  # of no other test: nothing is cached
    eta = bounds.clopper_pearson_eta(n, alpha, weights)
    assert len(seen) <= 4 and alpha * (1 - 1e-6) <= seen[-1] <= alpha
    ranks = bounds.clopper_pearson_ranks(n, weights)
    levels = eta * (1 + 2e-6) * bounds.limit_weights(ranks, weights)
    assert real(n, ranks, bounds.clopper_pearson_limit(n - ranks + 1, n, levels)) > alpha


@pytest.mark.parametrize("weights", bounds.WEIGHTS)
def test_start_of_the_calibration(weights):
    """From a calibrated eta, that eta; from any other number, one that is as good as from no start."""
    eta = bounds.clopper_pearson_eta(100, 0.01, weights)
    close = eta * (1 - 2e-7)
    assert bounds.clopper_pearson_band(100, 0.01, weights, start=close).eta == pytest.approx(close, rel=1e-12)
    for wrong in (eta * (1 + 1e-6), eta * 1.5, eta / 2, 1e-300, 0.0, -1.0, 0.011, 0.01, math.nan, math.inf):
        band = bounds.clopper_pearson_band(100, 0.01, weights, start=wrong)
        assert bounds.failure_probability(100, band.ranks, band.prob) <= 0.01 and band.eta >= eta * (1 - 1e-6)


@pytest.mark.parametrize("excess, root", [
    (lambda x: x - 0.3, 0.3), (lambda x: 1e4 * (x - 0.3), 0.3), (lambda x: (x - 0.3) ** 3, 0.3),
    (lambda x: min(x - 0.3, 0.01), 0.3), (lambda x: np.arctan(1e3 * (x - 0.3)), 0.3),
    (lambda x: 1.0 if x > 0.3 else -1.0, 0.3), (lambda x: -1.0 if x < 0.3 else math.nan, 0.3),
    (lambda x: x + 1, 0.0), (lambda x: math.nan, 0.0), (lambda x: math.inf, 0.0), (lambda x: -1e-7, 1.0)])
def test_greatest_safe(excess, root):
    """Of rising functions, steep, flat, with jumps, or not numbers: never above the root, and within 2e-6 of it.

    Or its value is within 1e-6 of 0.
    """
    found = bounds._greatest_safe(excess, 0.0, 1.0, 0.5)
    assert found <= root and (found == 0 or excess(found) <= 0)
    assert root - found <= 2e-6 or -1e-6 <= excess(found)


def test_weights_on_the_ranks_of_others():
    """Saved scores of equal weights: the new weights at their ranks are a band, too, calibrated for these ranks."""
    band = bounds.clopper_pearson_band(3000, 0.01, weights="falling", ranks_of="equal")
    assert np.array_equal(band.ranks, bounds.clopper_pearson_ranks(3000, "equal"))
    assert 0.0099 < bounds.failure_probability(3000, band.ranks, band.prob) <= 0.01


def test_unknown_weights():
    with pytest.raises(ValueError, match="weights"):
        bounds.clopper_pearson_band(100, 0.01, weights="rising")


def test_a_mirrored_band_bounds_from_above():
    """The band of the scores 1 - s holds limits on P(score <= s) from below, so on the expectation from above.

    Its ranks in the sample of s are n + 1 - r_j, its limits fall as s rises, and it fails as seldom.
    """
    n, alpha, runs = 200, 0.1, 4000
    band = bounds.clopper_pearson_band(n, alpha)
    scores = np.sort(np.random.default_rng(11).beta(8, 1, (runs, n)), axis=1)
    mirrored = 1 - scores[:, n - band.ranks]  # 1 - X_(n + 1 - r)
    below = (1 - mirrored) ** 8  # P(score <= X)
    failures = np.any(band.prob > below, axis=1).sum()
    assert binomtest(failures, runs, alpha).pvalue > UNLIKELY
    upper = 1 - bounds.expected_score_bound(mirrored[0], band.prob, np.array([0.0, 0.5]), 0.0)
    assert scores[0].mean() < upper[0] < upper[1] < 1


# --- the bound on the expected score --------------------------------------------------------------------------------

def beta_like(n, seed=0):
    return np.sort(np.random.default_rng(seed).beta(3, 1, n))


@pytest.mark.parametrize("score_min", [0.0, -1.0])
@pytest.mark.parametrize("make_band", BANDS.values(), ids=BANDS)
def test_expected_score_bound(make_band, score_min):
    """The sum as a plain loop; decreasing in the shift; at shift 0 at most the mean; never below score_min."""
    scores = beta_like(500)
    band = make_band(500, 0.01)
    thresholds, shifts = scores[band.ranks - 1], np.array([0.0, 0.1, 1.0, 2.5, 60.0])
    values = bounds.expected_score_bound(thresholds, band.prob, shifts, score_min)
    assert values.shape == shifts.shape
    for shift, value in zip(shifts, values, strict=True):
        total, last = score_min, score_min
        for threshold, p in zip(thresholds, band.prob, strict=True):
            total += (threshold - last) * (norm.cdf(norm.ppf(p) - shift) if p > 0 else 0.0)
            last = threshold
        assert value == pytest.approx(total, abs=1e-11)
        alone = bounds.expected_score_bound(thresholds, band.prob, shift, score_min)
        assert np.shape(alone) == () and alone == pytest.approx(value, abs=1e-14)
        weights = bounds.shifted_probability(band.prob, shift)
        assert bounds.weighted_score_bound(thresholds, weights, score_min) == pytest.approx(value, abs=1e-14)
    assert np.all(np.diff(values) < 0)
    assert values[0] <= scores.mean()
    assert values[-1] == score_min


def test_expected_score_bound_special():
    """prob 0 adds nothing. Scores all 1.0: one increment is left, with p_1 = (eta w_1)^(1/n), w_1 = 1.1."""
    assert bounds.expected_score_bound([0.3, 0.9], [0.0, 0.0], 0.5, 0.0) == 0
    for p in np.random.default_rng(0).random(100):  # at shift 0 it is p, never rounded up
        assert p - 1e-11 <= bounds.expected_score_bound([1.0], [p], 0.0, 0.0) <= p
    assert bounds.shifted_probability(0.0, 0.0) == 0
    assert bounds.shifted_probability(0.5, 1.0) == pytest.approx(norm.cdf(-1), rel=1e-12)
    band = bounds.clopper_pearson_band(1000, 0.001)
    expected = norm.cdf(norm.ppf((1.1 * band.eta) ** (1 / 1000)) - 2)
    ones = np.ones(len(band.ranks))
    assert bounds.expected_score_bound(ones, band.prob, 2.0, 0.0) == pytest.approx(expected, abs=1e-9)


def test_naive_bound():
    """At shift 0 the mean's limit, even below score_min; beyond it q = 1/2 gives Phi(-1), and q < 0 counts as 0."""
    assert bounds.naive_bound(-0.2, 0.0, 0.0, 1.0) == -0.2
    values = bounds.naive_bound(0.0, np.array([0.0, 1.0]), -1.0, 1.0)
    np.testing.assert_allclose(values, [0.0, -1 + 2 * norm.cdf(-1)], atol=1e-11)
    assert bounds.naive_bound(-0.2, 0.5, 0.0, 1.0) == 0
    assert np.shape(bounds.naive_bound(0.3, 0.5, 0.0, 1.0)) == ()


def test_quoted_figures():
    """Beta(20, 1), sigma 0.25, R = 0.75, so shift 3; n = 100,000, alpha = 0.001.

    The bound is linear in the order statistics, so their expectations, Gamma(r + 1/20) Gamma(n + 1) / (Gamma(r)
    Gamma(n + 1 + 1/20)), give its expectation. Figures from one sample: standard deviation 0.0003 (DKW) and 0.0024.
    """
    n = 100_000
    for name, figure, tolerance in (("dkw", 0.256, 0.001), ("equal", 0.557, 0.005)):
        band = BANDS[name](n, 0.001)
        log_ratio = gammaln(band.ranks + 0.05) - gammaln(band.ranks) + gammaln(n + 1) - gammaln(n + 1.05)
        expected = bounds.expected_score_bound(np.exp(log_ratio), band.prob, 3.0, 0.0)
        assert expected == pytest.approx(figure, abs=tolerance)
    unlimited = quad(lambda s: norm.cdf(norm.ppf(1 - s**20) - 3), 0, 1)[0]
    assert unlimited == pytest.approx(0.712, abs=0.0005)


# --- limits on the mean ---------------------------------------------------------------------------------------------

def test_limits_on_the_mean_by_hand():
    """Hoeffding, n = 50, alpha = 1/e: 2 sqrt(1 / 100). Bernstein, alpha = 2/e: ln(2 / alpha) = 1."""
    assert 0.5 - 2e-12 < bounds.hoeffding_lower(0.7, 50, math.exp(-1), 2.0) < 0.5
    expected = 0.5 - math.sqrt(2 * 0.04 / 101) - 2 * 7 / (3 * 100)
    assert expected - 2e-12 < bounds.empirical_bernstein_lower(0.5, 0.04, 101, 2 / math.e, 2.0) < expected


@pytest.mark.parametrize("p", [0.02, 0.5, 0.98])
def test_empirical_bernstein_error_rate(p):
    """Zeros and ones, the worst case: the limit exceeds the mean p in at most a share alpha of the samples."""
    n, alpha, runs = 100, 0.2, 5000
    sample = (np.random.default_rng(3).random((runs, n)) < p).astype(float)
    lower = bounds.empirical_bernstein_lower(sample.mean(1), sample.var(1, ddof=1), n, alpha, 1.0)
    assert binomtest(int((lower > p).sum()), runs, alpha, alternative="greater").pvalue > UNLIKELY
