"""statistics/certificate.py: the lower and the upper bound of base classifiers whose shifted expectation is known."""
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_scores import (
    ALPHA,
    DIRECTION,
    SHAPE,
    SIGMA,
    AlongDirection,
    certificate_of,
    confident_scores,
    half_space,
)
from scipy.integrate import quad, trapezoid
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binomtest, norm

from certconf.core import Smooth
from certconf.statistics.bounds import clopper_pearson_band, dkw_band, failure_probability, mirrored_ranks
from certconf.statistics.certificate import ABSTAIN, RADII, CertificateSpec
from certconf.statistics.measures import MEASURES, SOFT_MEASURES

N = 5_000
SHIFTS = np.array(RADII) / SIGMA
BANDS = ["clopper_pearson", "dkw"]
UNLIKELY = 1e-4  # a simulation may fail by chance this often, were its seed not fixed
every_measure = pytest.mark.parametrize("measure", SOFT_MEASURES)
every_band = pytest.mark.parametrize("bound", BANDS)


def image(u):
    """An image at distance u sigma from the hyperplane, on the side of class 0."""
    return 0.5 + u * SIGMA * DIRECTION.view(SHAPE)


def certified(f, u, measure="pred_score", bound="clopper_pearson"):
    """The certificate of an image at u; its noise is that of index 3."""
    smooth = Smooth(AlongDirection(f), 2, SIGMA, measure, device="cpu", noise="float")  # off the 8-bit grid
    return smooth.certify(image(u), 100, N, ALPHA, 1000, bound=bound, index=3)


def upper_bounds(certificate):
    return np.array([certificate.upper_bound(radius) for radius in RADII])


# --- known expectations -----------------------------------------------------------------------------------------------

def least_limit(p, bound="clopper_pearson"):
    """How low a band's limit on a probability p may lie: what a bound has to reach to count as tight.

    Clopper-Pearson: z = 9 standard errors (level 6e-7 or so, and 4 for the sample's own error), z^2 / 2N more where
    few scores lie beyond, a step between ranks: pi / 1000 sqrt(p (1 - p)). DKW: its width, 4 standard errors and 2 / N.
    """
    error = np.sqrt(p * (1 - p) / N)
    if bound == "clopper_pearson":
        return np.maximum(p - 9 * error - 9 ** 2 / (2 * N) - math.pi / 1000 * np.sqrt(p * (1 - p)), 0)
    return np.maximum(p - 4 * error - 2 / N - math.sqrt(math.log(1 / ALPHA) / (2 * N)), 0)


def most_limit(p, bound="clopper_pearson"):
    """How high a band's upper limit on a probability p may lie."""
    return 1 - least_limit(1 - p, bound)


@every_band
@every_measure
@pytest.mark.parametrize("u", [0.5, 1.0, 2.5])
def test_half_space(u, measure, bound):
    """The worst shift leads straight to the hyperplane, the best one away from it: P(class 0) = Phi(u -+ R / sigma).

    Both bounds hold and are tight: for the half-space the theorem gives nothing away, only the band does.
    """
    certificate = certified(half_space, u, measure, bound)
    low, width = MEASURES[measure].score_min, MEASURES[measure].range
    p = ndtr(u)
    worst, least = (low + width * ndtr(ndtri(limit) - SHIFTS) for limit in (p, least_limit(p, bound)))
    best, most = (low + width * ndtr(ndtri(limit) + SHIFTS) for limit in (p, most_limit(p, bound)))
    assert certificate.prediction == 0
    assert np.all(least <= certificate.exp_cdf) and np.all(certificate.exp_cdf <= worst)
    assert np.all(certificate.exp <= worst)
    assert np.all(best <= upper_bounds(certificate)) and np.all(upper_bounds(certificate) <= most + 1e-9)


def test_closed_form_of_the_half_space():
    """The closed form above is that of this base classifier: its mean at the worst shift, within 5 standard errors."""
    noise = torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(5))
    for radius in (0.25, 0.5):
        worst = image(1.0) - radius * DIRECTION.view(SHAPE)
        mean = AlongDirection(half_space)(worst + SIGMA * noise).softmax(1)[:, 0].double().mean().item()
        p = ndtr(1.0 - radius / SIGMA)
        assert abs(mean - p) < 5 * math.sqrt(p * (1 - p) / N)


@every_measure
@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_soft_half_space(slope, measure):
    """Logits linear in u: level sets of the score are half-spaces, so with unlimited samples the bounds are the truth.

    E[score] = range * integral of d score/du * P(u or more), with P = Phi(1.5 -+ shift - u), or what the band leaves.
    """
    certificate = certified(lambda u: slope * u, 1.5, measure)
    low, width = MEASURES[measure].score_min, MEASURES[measure].range
    u = np.linspace(-15, 15, 6001)
    scores, p = expit(2 * slope * u), ndtr(1.5 - u)
    density = 2 * slope * scores * (1 - scores)

    def expectations(limit, shifts):
        return low + width * trapezoid(density * ndtr(ndtri(limit) + shifts[:, None]), u)

    def truth(shift):
        points = [0, 1.5 + shift]
        return low + width * quad(lambda u: expit(2 * slope * u) * norm.pdf(u, 1.5 + shift), -25, 25, points=points)[0]

    assert certificate.prediction == 0
    worst, best = (np.array([truth(shift) for shift in shifts]) for shifts in (-SHIFTS, SHIFTS))
    assert np.all(expectations(least_limit(p), -SHIFTS) <= certificate.exp_cdf) and np.all(certificate.exp_cdf <= worst)
    assert np.all(certificate.exp <= worst)
    upper = upper_bounds(certificate)
    assert np.all(best <= upper) and np.all(upper <= expectations(most_limit(p), SHIFTS) + 1e-9)


def test_soft_slab():
    """A score whose level sets are slabs |u| < c: the bounds hold for shifts to either side, though not tight."""
    certificate = certified(lambda u: 4 - 2 * u.abs(), 0.5)
    for shift, lower, upper in zip(SHIFTS, certificate.exp_cdf, upper_bounds(certificate), strict=True):
        for centre in (0.5 - shift, 0.5 + shift):
            truth = quad(lambda u, c=centre: expit(8 - 4 * abs(u)) * norm.pdf(u, c), -15, 15, points=[-2, 0, 2])[0]
            assert lower <= truth <= upper
    assert certificate.exp_cdf[0] > 0.5


# --- a certificate's parts --------------------------------------------------------------------------------------------

@every_measure
def test_bounds_are_the_formulas(measure):
    """Summed one by one: (s_{j+1} - s_j) Phi(Phi^-1(limit on the probability beyond s_j) -+ R / sigma).

    The lower sum begins at the lowest possible score. The upper one's limit is 1 - p of the mirrored rank, and it ends
    at the highest possible score.
    """
    certificate = certificate_of(confident_scores(measure), measure)
    scores = np.sort(confident_scores(measure).astype(np.float32)).astype(float)
    low, high, normal = MEASURES[measure].score_min, MEASURES[measure].score_max, NormalDist()
    below, above = (clopper_pearson_band(1000, ALPHA, mirrored=mirrored) for mirrored in (False, True))
    limits = dict(zip((1001 - above.ranks).tolist(), (1 - above.prob).tolist(), strict=True))
    steps = [scores[rank - 1] for rank in below.ranks.tolist()]
    for place, radius in enumerate(RADII):
        lower = low + sum((s - before) * normal.cdf(normal.inv_cdf(p) - radius / SIGMA)
                          for before, s, p in zip([low, *steps], steps, below.prob.tolist(), strict=False))
        upper = steps[0] + sum((after - s) * ndtr(ndtri(limits[rank]) + radius / SIGMA) for s, after, rank in zip(
            steps, [*steps[1:], high], below.ranks.tolist(), strict=True))
        assert certificate.lower_bound(radius) == pytest.approx(lower, abs=1e-9)
        assert certificate.exp_cdf[place] == pytest.approx(lower, abs=1e-9)
        assert certificate.upper_bound(radius) == pytest.approx(upper, abs=1e-9)
    assert tuple(certificate) == (4, certificate.exp_cdf, certificate.exp)
    assert certificate.prediction == certificate.chosen == 4


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=50, max_size=50), st.sampled_from(BANDS))
def test_order(scores, bound):
    """lower <= mean <= upper, and the range widens with the radius, up to that of the measure."""
    certificate = certificate_of(scores, "margin", bound)
    lower, upper = [certificate.lower_bound(radius) for radius in RADII], upper_bounds(certificate).tolist()
    assert -1 <= lower[-1] and lower[0] <= certificate.mean <= upper[0] and upper[-1] <= 1
    assert lower == sorted(lower, reverse=True) and upper == sorted(upper)


def test_delta_widens_the_range():
    """Both bounds give away the total variation between the drawn and the exact noise."""
    plain, wide = (certificate_of(confident_scores(), delta=delta) for delta in (0.0, 0.01))
    assert wide.lower_bound(0.0) < plain.lower_bound(0.0) - 0.005
    assert wide.upper_bound(0.0) > plain.upper_bound(0.0) + 0.0005


def test_naive_variants():
    """Theorem 1 by hand: e = mean - range sqrt(ln(1 / alpha) / 2N), then Phi(Phi^-1(q) - R / sigma); its inverse."""
    normal = NormalDist()
    for measure, low, width in (("pred_score", 0.0, 1.0), ("margin", -1.0, 2.0)):
        certificate = certificate_of(confident_scores(measure), measure)
        e = certificate.mean - width * math.sqrt(math.log(1000) / 2000)
        z = normal.inv_cdf((e - low) / width)
        expected = [e] + [low + width * normal.cdf(z - radius / SIGMA) for radius in RADII[1:]]
        assert certificate.exp == pytest.approx(expected, abs=1e-11)
        assert certificate.naive_lower_bound(0.25) == pytest.approx(expected[1], abs=1e-11)
        radius = SIGMA * (z - normal.inv_cdf((0.5 - low) / width))
        assert certificate.radius(0.5, naive=True) == pytest.approx(radius, abs=1e-8)


def test_naive_bound_stays_in_range():
    """Few samples: e itself is below the range, which bounds nothing and is the range's lower end."""
    certificate = certificate_of([0.9] * 2)
    assert certificate.mean_lower < 0  # 0.9 - sqrt(ln(1000) / 4)
    assert certificate.naive_lower_bound(0.0) == certificate.naive_lower_bound(1.0) == 0.0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=50, max_size=50), st.floats(0.01, 0.99), st.booleans())
def test_radius_inverts_the_bound(scores, score, naive):
    """At the radius the bound is above the score, and 2e-9 sigma further it is not; or it never is, and it is 0."""
    certificate = certificate_of(scores)
    bound = certificate.naive_lower_bound if naive else certificate.lower_bound
    radius = certificate.radius(score, naive=naive)
    if bound(0.0) <= score:
        assert radius == 0.0
    else:
        assert radius == 0.0 or bound(radius) > score
        assert bound(radius + 2e-9 * SIGMA) <= score


def test_radius_by_hand():
    """One jump from 0 to 1 at a limit p: Phi(Phi^-1(p) - R / sigma) = S at R = sigma (Phi^-1(p) - Phi^-1(S)).

    bound(0) <= S certifies no ball; neither does an image that was given up.
    """
    certificate = certificate_of([1.0] * 1000)
    p = clopper_pearson_band(1000, ALPHA).prob[0]
    assert certificate.radius(0.7) == pytest.approx(SIGMA * (ndtri(p) - ndtri(0.7)), abs=1e-8)
    certificate = certificate_of(confident_scores())
    assert certificate.radius(certificate.lower_bound(0.0)) == 0.0
    assert certificate.spec.abstention(4, 0.2).radius(0.01) == 0.0


@pytest.mark.parametrize("measure, score", [
    ("pred_score", 0.0), ("pred_score", 1.0), ("pred_score", math.nan), ("margin", -1.0), ("margin", math.inf)])
def test_score_outside_the_range(measure, score):
    """A radius is asked for strictly inside the measure's range."""
    with pytest.raises(ValueError, match="range"):
        certificate_of(confident_scores(measure), measure).radius(score)


@pytest.mark.parametrize("radius", [-0.1, math.nan])
@pytest.mark.parametrize("bound", ["lower_bound", "naive_lower_bound", "upper_bound"])
def test_bad_radius(bound, radius):
    """The bound is for distances."""
    with pytest.raises(ValueError, match="radius"):
        getattr(certificate_of(confident_scores()), bound)(radius)


# --- abstention -------------------------------------------------------------------------------------------------------

def test_abstention():
    """A bound below the cutoff claims nothing, although the mean is above it; what it hides can still be had."""
    certificate = certificate_of([0.502] * 1000)
    assert certificate.mean > 0.5
    # at least 0.502 (alpha / 1000)^(1 / 1000), for there are 1000 ranks at most, and at most 0.502 alpha^(1 / 1000)
    assert 0.495 < certificate.lower_bound(0.0) < 0.4986
    zeros, ones = (0.0,) * len(RADII), (1.0,) * len(RADII)
    assert (*certificate, certificate.upper_cdf) == (ABSTAIN, zeros, zeros, ones)
    assert certificate.chosen == 4
    shown = certificate.without_cutoff()
    assert shown.prediction == 4
    assert shown.exp_cdf == pytest.approx([certificate.lower_bound(radius) for radius in RADII], abs=1e-12)
    assert shown.exp == tuple(certificate.naive_lower_bound(radius) for radius in RADII)
    assert shown.upper_cdf == tuple(certificate.upper_bound(radius) for radius in RADII)
    assert shown.exp_cdf[0] > 0.495 and 0.502 < shown.upper_cdf[0] < 0.55
    assert certificate.prediction == ABSTAIN  # the certificate itself stays


def test_cutoff_itself_is_enough():
    """Abstains where the bound is below the cutoff, not where it equals it; unrounded, of the chosen band."""
    certificate = certificate_of(confident_scores())
    bound = certificate.lower_bound(0.0)
    for cutoff, prediction in ((bound, 4), (math.nextafter(bound, 1), ABSTAIN)):
        spec = replace(certificate.spec, measure=replace(MEASURES["pred_score"], cutoff=cutoff))
        assert replace(certificate, spec=spec).prediction == prediction


@every_measure
def test_given_up_bounds_nothing(measure):
    """After early abstention nothing but the ends of the range is certified, with the cutoff or without."""
    certificate = certificate_of(confident_scores(measure), measure).spec.abstention(4, 0.2)
    low = MEASURES[measure].score_min
    assert certificate.prediction == ABSTAIN
    assert certificate.lower_bound(0.0) == certificate.naive_lower_bound(0.0) == low
    assert certificate.upper_bound(0.0) == MEASURES[measure].score_max
    shown = certificate.without_cutoff()
    assert (shown.prediction, set(shown.exp_cdf + shown.exp)) == (4, {low})


@pytest.mark.parametrize("position", [0, 500, 999])
def test_nan_never_certifies(position):
    """A NaN among the order statistics makes every bound NaN, which is not at or above any cutoff."""
    scores = confident_scores().astype(np.float32)
    spec = CertificateSpec(MEASURES["pred_score"], 1000, ALPHA, SIGMA, "dkw")  # at n = 1000 every rank counts
    scores[position] = np.nan
    certificate = spec.certificate(4, 0.95, scores)
    assert certificate.prediction == ABSTAIN
    assert set(certificate.exp_cdf + certificate.exp) == {0.0}
    assert certificate.without_cutoff().prediction == ABSTAIN
    assert certificate.radius(0.5) == 0.0


def test_unknown_bound():
    """A spec with another bound cannot be used."""
    with pytest.raises(ValueError, match="unknown bound"):
        certificate_of([0.9] * 10, bound="hoeffding")


# --- the mirrored band ------------------------------------------------------------------------------------------------

@every_band
@pytest.mark.parametrize("weights", ["falling", "equal"])
@pytest.mark.parametrize("kept", ["falling", "equal", None])
def test_upper_band(bound, weights, kept):
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


# --- how often the range fails ----------------------------------------------------------------------------------------

@every_band
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
