"""Certificate.upper_bound: base classifiers whose shifted expectation is known, and how often the range fails."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binomtest, norm
from test_certificate import ALPHA, SHIFTS, SIGMA, certificate_of, certified, confident_scores, half_space, least_limit

from certconf.statistics.bounds import (
    clopper_pearson_band,
    clopper_pearson_ranks,
    dkw_band,
    failure_probability,
    mirrored_ranks,
)
from certconf.statistics.certificate import RADII, CertificateSpec
from certconf.statistics.measures import MEASURES

BANDS = ["clopper_pearson", "dkw"]
UNLIKELY = 1e-4  # a simulation may fail by chance this often, were its seed not fixed


def upper_bounds(certificate):
    return np.array([certificate.upper_bound(radius) for radius in RADII])


def most_limit(p, bound="clopper_pearson"):
    """How high a band's upper limit on a probability p may lie, as least_limit has it for lower ones."""
    return 1 - least_limit(1 - p, bound)


# --- known expectations -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bound", BANDS)
@pytest.mark.parametrize("measure", ["pred_score", "margin"])
@pytest.mark.parametrize("u", [0.5, 1.0, 2.5])
def test_half_space(u, measure, bound):
    """The best shift leads straight away from the hyperplane: P(class 0) = Phi(u + R / sigma). Holds and is tight."""
    certificate = certified(half_space, u, measure, bound)
    low, width = MEASURES[measure].score_min, MEASURES[measure].range
    truth, most = (low + width * ndtr(ndtri(p) + SHIFTS) for p in (ndtr(u), most_limit(ndtr(u), bound)))
    assert np.all(upper_bounds(certificate) >= truth)
    assert np.all(upper_bounds(certificate) <= most + 1e-9)


@pytest.mark.parametrize("measure", ["pred_score", "margin"])
@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_soft_half_space(slope, measure):
    """Logits linear in u: with unlimited samples the bound is E[score] at the best shift, found by quadrature."""
    certificate = certified(lambda u: slope * u, 1.5, measure)
    low, width = MEASURES[measure].score_min, MEASURES[measure].range
    u = np.linspace(-15, 15, 6001)
    scores = expit(2 * slope * u)
    density = 2 * slope * scores * (1 - scores)
    most = low + width * trapezoid(density * ndtr(ndtri(most_limit(ndtr(1.5 - u))) + SHIFTS[:, None]), u)
    for bound, limit, shift in zip(upper_bounds(certificate), most, SHIFTS, strict=True):
        mean = quad(lambda u, c=1.5 + shift: expit(2 * slope * u) * norm.pdf(u, c), -15, 25, points=[0, 1.5 + shift])[0]
        assert low + width * mean <= bound <= limit + 1e-9


def test_soft_slab():
    """A score whose level sets are slabs |u| < c: the bound holds for shifts to either side, though it is not tight."""
    certificate = certified(lambda u: 4 - 2 * u.abs(), 0.5)
    for shift, bound in zip(SHIFTS, upper_bounds(certificate), strict=True):
        for centre in (0.5 - shift, 0.5 + shift):
            truth = quad(lambda u, c=centre: expit(8 - 4 * abs(u)) * norm.pdf(u, c), -15, 15, points=[-2, 0, 2])[0]
            assert bound >= truth


# --- the mirrored band ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bound", BANDS)
@pytest.mark.parametrize("weights", ["falling", "equal"])
@pytest.mark.parametrize("kept", ["falling", "equal", None])
def test_band(bound, weights, kept):
    """At the mirrored ranks of the lower band, whatever ranks are kept; calibrated for them, with falling limits."""
    n = 3000
    spec = CertificateSpec(MEASURES["pred_score"], n, 0.01, SIGMA, bound, weights=weights, kept_ranks=kept)
    band = spec.upper_band
    assert band.ranks.tolist() == sorted(n + 1 - rank for rank in spec.band.ranks.tolist())
    assert np.all(np.diff(band.prob) <= 0)
    if bound == "clopper_pearson":
        assert 0.0099 < failure_probability(n, band.ranks, band.prob) <= 0.01
    else:
        assert np.array_equal(band.prob, dkw_band(n, 0.01, band.ranks).prob)


def test_mirrored_ranks():
    """In a sorted sample of distinct scores, the mirror image of the score of rank r has the mirrored rank."""
    scores = np.arange(1.0, 11.0)  # X_(r) = r
    ranks = np.array([1, 3, 10])
    mirrored = np.sort(11 - scores)
    assert mirrored[mirrored_ranks(10, ranks) - 1].tolist() == [11 - 10, 11 - 3, 11 - 1]


def test_delta_widens_the_range():
    """Both bounds give away the total variation between the drawn and the exact noise."""
    plain, wide = (certificate_of(confident_scores(), delta=delta) for delta in (0.0, 0.01))
    assert wide.lower_bound(0.0) < plain.lower_bound(0.0) - 0.005
    assert wide.upper_bound(0.0) > plain.upper_bound(0.0) + 0.0005


# --- what holds of every sample ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_formula(measure):
    """sum_j (s_{j+1} - s_j) Phi(Phi^-1(q_j) + R / sigma), q_j = 1 - p of the mirrored rank, summed one by one."""
    certificate = certificate_of(confident_scores(measure), measure)
    n, low, high = 1000, MEASURES[measure].score_min, MEASURES[measure].score_max
    band = clopper_pearson_band(n, ALPHA, mirrored=True)
    limit = dict(zip((n + 1 - band.ranks).tolist(), band.prob.tolist(), strict=True))
    scores = dict(zip(clopper_pearson_ranks(n).tolist(), certificate.order_statistics.tolist(), strict=True))
    edges = [*(scores[rank] for rank in sorted(scores)), high]
    for radius in (0.0, 0.25):
        total = edges[0]
        for i, rank in enumerate(sorted(scores)):
            total += (edges[i + 1] - edges[i]) * ndtr(ndtri(1 - limit[rank]) + radius / SIGMA)
        assert certificate.upper_bound(radius) == pytest.approx(total, abs=1e-9)
        assert low < certificate.mean <= certificate.upper_bound(radius) <= high


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=50, max_size=50), st.sampled_from(BANDS))
def test_order(scores, bound):
    """lower <= mean <= upper, and the range widens with the radius, up to that of the measure."""
    certificate = certificate_of(scores, "margin", bound)
    lower = [certificate.lower_bound(radius) for radius in RADII]
    upper = [certificate.upper_bound(radius) for radius in RADII]
    assert -1 <= lower[-1] and lower[0] <= certificate.mean <= upper[0] and upper[-1] <= 1
    assert upper == sorted(upper)


def test_abstention_and_given_up():
    """An abstention claims nothing: the greatest score; as does an image that was given up, with a cutoff or none."""
    certificate = certificate_of([0.3] * 1000)
    assert certificate.upper_cdf == (1.0,) * len(RADII)
    shown = certificate.without_cutoff()
    assert shown.upper_cdf == tuple(certificate.upper_bound(radius) for radius in RADII)
    assert 0.3 < shown.upper_cdf[0] < 0.35
    assert certificate.spec.abstention(4, 0.2).upper_bound(0.0) == 1.0


def test_bad_radius():
    for radius in (-0.1, math.nan):
        with pytest.raises(ValueError, match="radius"):
            certificate_of(confident_scores()).upper_bound(radius)


# --- how often the range fails ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bound", BANDS)
def test_coverage_of_the_pair(bound):
    """Scores Phi(a + b Z): the worst and the best shift are along Z. The pair fails with probability alpha at most.

    Each side is at alpha / 2; E[Phi(a + b (Z + t))] = Phi((a + b t) / sqrt(1 + b^2)) in closed form.
    """
    n, alpha, runs, a, b = 100, 0.2, 2000, 0.5, 1.0
    spec = CertificateSpec(MEASURES["pred_score"], n, alpha / 2, SIGMA, bound)
    samples = np.sort(ndtr(a + b * np.random.default_rng(5).standard_normal((runs, n))), axis=1)
    shifts = np.array([0.0, 1.0, 2.0])
    least, most = (ndtr((a + sign * b * shifts) / math.sqrt(1 + b * b)) for sign in (-1, 1))
    failures = 0
    for sample in samples:
        certificate = spec.certificate(0, float(sample.mean()), sample[spec.band.ranks - 1])
        lower, upper = ([side(shift * SIGMA) for shift in shifts] for side in (certificate.lower_bound,
                                                                              certificate.upper_bound))
        failures += bool(np.any(lower > least) or np.any(upper < most))
    assert binomtest(failures, runs, alpha, alternative="greater").pvalue > UNLIKELY


@pytest.mark.parametrize("kept", ["falling", "equal"])
def test_coverage_of_the_limits(kept):
    """The mirrored limits themselves: some q_j < P(score > X_(r)) in alpha of all samples, no more and no less."""
    n, alpha, runs = 200, 0.1, 5000
    spec = CertificateSpec(MEASURES["pred_score"], n, alpha, SIGMA, kept_ranks=kept)
    scores = np.sort(np.random.default_rng(3).random((runs, n)), axis=1)
    failures = np.any(spec.upper_band.prob > scores[:, n - spec.upper_band.ranks], axis=1).sum()  # P(score <= X) = X
    assert binomtest(failures, runs, alpha).pvalue > UNLIKELY
