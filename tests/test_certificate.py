"""statistics/certificate.py, and the certificates of base classifiers whose shifted expectation is known."""
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from helpers import run_program
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid
from scipy.special import expit, ndtr, ndtri
from scipy.stats import beta, norm
from torch import nn

from certconf.core import Smooth
from certconf.statistics.bounds import clopper_pearson_band, expected_score_bound
from certconf.statistics.certificate import ABSTAIN, RADII, Certificate, CertificateSpec
from certconf.statistics.measures import MEASURES

SIGMA, N, ALPHA = 0.25, 5_000, 0.001
SHAPE = (3, 4, 4)
DIRECTION = nn.functional.normalize(torch.randn(48, generator=torch.Generator().manual_seed(1)), dim=0)
SHIFTS = np.array(RADII) / SIGMA


class AlongDirection(nn.Module):
    """Two classes, whose logits (f(u), -f(u)) depend on u alone: how many sigma the image lies from a hyperplane."""

    def __init__(self, f):
        super().__init__()
        self.f = f
        self.register_buffer("direction", DIRECTION.clone())

    def forward(self, x):
        u = (x.flatten(1) - 0.5) @ self.direction / SIGMA
        return torch.stack([self.f(u), -self.f(u)], dim=1)


def half_space(u):
    """Class 0 for u > 0, with a softmax of exactly 1 or 0."""
    return torch.where(u > 0, 1e4, -1e4)


def image(u):
    """An image at distance u sigma from the hyperplane, on the side of class 0."""
    return 0.5 + u * SIGMA * DIRECTION.view(SHAPE)


def certified(f, u, measure="pred_score", bound="clopper_pearson"):
    """The certificate of an image at u; its noise is that of index 3."""
    smooth = Smooth(AlongDirection(f), 2, SIGMA, measure, device="cpu", noise="float")  # off the 8-bit grid
    return smooth.certify(image(u), 100, N, ALPHA, 1000, bound=bound, index=3)


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


@pytest.mark.parametrize("bound", ["clopper_pearson", "dkw"])
@pytest.mark.parametrize("measure", ["pred_score", "margin"])
@pytest.mark.parametrize("u", [0.5, 1.0, 2.5])
def test_half_space(u, measure, bound):
    """The worst shift leads straight to the hyperplane: P(class 0) = Phi(u - R / sigma). The bound holds and is tight.

    For the half-space the theorem gives nothing away, only the band does.
    """
    certificate = certified(half_space, u, measure, bound)
    low, score_range = MEASURES[measure].score_min, MEASURES[measure].range
    truth, least = (low + score_range * ndtr(ndtri(p) - SHIFTS) for p in (ndtr(u), least_limit(ndtr(u), bound)))
    assert certificate.prediction == 0
    assert np.all(certificate.exp_cdf <= truth)
    assert np.all(certificate.exp_cdf >= least)
    assert np.all(certificate.exp <= truth)


def test_closed_form_of_the_half_space():
    """The closed form above is that of this base classifier: its mean at the worst shift, within 5 standard errors."""
    noise = torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(5))
    for radius in (0.25, 0.5):
        worst = image(1.0) - radius * DIRECTION.view(SHAPE)
        mean = AlongDirection(half_space)(worst + SIGMA * noise).softmax(1)[:, 0].double().mean().item()
        p = ndtr(1.0 - radius / SIGMA)
        assert abs(mean - p) < 5 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize("measure", ["pred_score", "margin"])
@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_soft_half_space(slope, measure):
    """Logits linear in u: level sets of the score are half-spaces, so with unlimited samples the bound is the truth.

    E[score] = range * integral of d score/du * P(u or more), with P = Phi(1.5 - shift - u), or what the band leaves.
    """
    certificate = certified(lambda u: slope * u, 1.5, measure)
    low, score_range = MEASURES[measure].score_min, MEASURES[measure].range
    u = np.linspace(-15, 15, 6001)
    scores = expit(2 * slope * u)
    density = 2 * slope * scores * (1 - scores)

    def expectations(p):
        return low + score_range * trapezoid(density * ndtr(ndtri(p) - SHIFTS[:, None]), u)

    truth, least = expectations(ndtr(1.5 - u)), expectations(least_limit(ndtr(1.5 - u)))
    mean = low + score_range * quad(lambda u: expit(2 * slope * u) * norm.pdf(u, 1.5), -15, 15)[0]
    assert truth[0] == pytest.approx(mean, abs=1e-5)
    assert certificate.prediction == 0
    assert np.all(certificate.exp_cdf <= truth)
    assert np.all(certificate.exp_cdf >= least)
    assert np.all(certificate.exp <= truth)


def test_soft_slab():
    """A score whose level sets are slabs |u| < c: the bound holds for shifts to either side, though it is not tight."""
    certificate = certified(lambda u: 4 - 2 * u.abs(), 0.5)
    for shift, bound in zip(SHIFTS, certificate.exp_cdf, strict=True):
        for centre in (0.5 - shift, 0.5 + shift):
            truth = quad(lambda u, c=centre: expit(8 - 4 * abs(u)) * norm.pdf(u, c), -15, 15, points=[-2, 0, 2])[0]
            assert bound <= truth
    assert certificate.exp_cdf[0] > 0.5


# --- a certificate's parts --------------------------------------------------------------------------------------------

def certificate_of(scores, measure="pred_score", bound="clopper_pearson", chosen=4, **changes) -> Certificate:
    """The certificate of given scores."""
    scores = np.sort(np.asarray(scores, dtype=np.float32))
    spec = CertificateSpec(MEASURES[measure], len(scores), ALPHA, SIGMA, bound, **changes)
    return spec.certificate(chosen, float(scores.mean(dtype=np.float64)), scores[spec.band.ranks - 1])


def confident_scores(measure="pred_score", n=1000):
    """Quantiles of Beta(20, 1), stretched over the measure's range: a mean of about 0.95 of it."""
    return MEASURES[measure].score_min + MEASURES[measure].range * beta.ppf((np.arange(n) + 0.5) / n, 20, 1)


@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_bounds_are_the_formula(measure):
    """exp_cdf and lower_bound are expected_score_bound of the band and thresholds; unpacking gives the same tuples."""
    scores = np.sort(confident_scores(measure).astype(np.float32)).astype(float)
    certificate = certificate_of(scores, measure)
    band = clopper_pearson_band(1000, ALPHA)
    expected = expected_score_bound(scores[band.ranks - 1], band.prob, SHIFTS, MEASURES[measure].score_min)
    assert certificate.exp_cdf == pytest.approx(expected, abs=1e-12)
    assert [certificate.lower_bound(radius) for radius in RADII] == pytest.approx(expected, abs=1e-12)
    assert tuple(certificate) == (4, certificate.exp_cdf, certificate.exp)
    assert certificate.prediction == certificate.chosen == 4


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


def test_radius_of_a_half_space():
    """One jump from 0 to 1 at a limit p: Phi(Phi^-1(p) - R / sigma) = S at R = sigma (Phi^-1(p) - Phi^-1(S))."""
    certificate = certificate_of([1.0] * 1000)
    p = clopper_pearson_band(1000, ALPHA).prob[0]
    assert certificate.radius(0.7) == pytest.approx(SIGMA * (ndtri(p) - ndtri(0.7)), abs=1e-8)
    assert certificate.lower_bound(certificate.radius(0.7)) == pytest.approx(0.7, abs=1e-8)


def test_radius_of_a_bound_at_the_score():
    """bound(0) <= S certifies no ball; neither does an image that was given up."""
    certificate = certificate_of(confident_scores())
    assert certificate.radius(certificate.lower_bound(0.0)) == 0.0
    assert certificate.radius(0.9999) == 0.0
    assert certificate.spec.abstention(4, 0.2).radius(0.01) == 0.0


@pytest.mark.parametrize("measure, score", [
    ("pred_score", 0.0), ("pred_score", 1.0), ("pred_score", -0.5), ("pred_score", math.nan), ("margin", -1.0),
    ("margin", 1.0), ("margin", math.inf)])
def test_score_outside_the_range(measure, score):
    """A radius is asked for strictly inside the measure's range."""
    with pytest.raises(ValueError, match="range"):
        certificate_of(confident_scores(measure), measure).radius(score)


def test_bad_radius():
    """The bound is for distances."""
    certificate = certificate_of(confident_scores())
    for radius in (-0.1, math.nan):
        for bound in (certificate.lower_bound, certificate.naive_lower_bound):
            with pytest.raises(ValueError, match="radius"):
                bound(radius)


# --- abstention -------------------------------------------------------------------------------------------------------

def test_abstention():
    """A bound below the cutoff claims nothing, although the mean is above it; the bound itself can still be had."""
    certificate = certificate_of([0.502] * 1000)
    assert certificate.mean > 0.5
    # at least 0.502 (alpha / 1000)^(1 / 1000), for there are 1000 ranks at most, and at most 0.502 alpha^(1 / 1000)
    assert 0.495 < certificate.lower_bound(0.0) < 0.4986
    zeros = (0.0,) * len(RADII)
    assert tuple(certificate) == (ABSTAIN, zeros, zeros)
    assert certificate.chosen == 4


def test_cutoff_itself_is_enough():
    """Abstains where the bound is below the cutoff, not where it equals it; unrounded, of the chosen band."""
    certificate = certificate_of(confident_scores())
    bound = certificate.lower_bound(0.0)
    for cutoff, prediction in ((bound, 4), (math.nextafter(bound, 1), ABSTAIN)):
        spec = replace(certificate.spec, measure=replace(MEASURES["pred_score"], cutoff=cutoff))
        assert replace(certificate, spec=spec).prediction == prediction


def test_without_cutoff():
    """What an abstention hides: the bounds at every radius."""
    certificate = certificate_of([0.3] * 1000)
    assert certificate.prediction == ABSTAIN
    shown = certificate.without_cutoff()
    assert shown.prediction == 4
    assert shown.exp_cdf == pytest.approx([certificate.lower_bound(radius) for radius in RADII], abs=1e-12)
    assert shown.exp_cdf[0] > 0.25
    assert shown.exp == tuple(certificate.naive_lower_bound(radius) for radius in RADII)
    assert certificate.prediction == ABSTAIN  # the certificate itself stays


@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_given_up_bounds_nothing(measure):
    """After early abstention nothing but the lower end of the range is certified, with the cutoff or without."""
    certificate = certificate_of(confident_scores(measure), measure).spec.abstention(4, 0.2)
    low = MEASURES[measure].score_min
    assert certificate.prediction == ABSTAIN
    assert certificate.lower_bound(0.0) == certificate.naive_lower_bound(0.0) == low
    shown = certificate.without_cutoff()
    assert (shown.prediction, set(shown.exp_cdf + shown.exp)) == (4, {low})


@pytest.mark.parametrize("position", [0, 500, 999])
def test_nan_never_certifies(position):
    """A NaN among the thresholds makes every bound NaN, which is not at or above any cutoff."""
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


def test_no_torch():
    """Logs and tables are read without torch, whose import takes seconds."""
    names = "certconf.formats.scores, certconf.runner.run"
    result = run_program("-c", f"import sys; sys.path.insert(0, 'code'); import {names}\n"
                               "sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
