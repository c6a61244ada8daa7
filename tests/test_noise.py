"""sampling/noise.py: the law of the integers, exactly; the streams; networks that look for floats under the noise."""
import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, norm
from torch import nn

from certconf.core import Smooth
from certconf.errors import InputError
from certconf.sampling.law import rounded_gaussian
from certconf.sampling.noise import LOW_BITS, SPLIT, IntegerNoise, eight_bit, make_noise
from certconf.sampling.streams import (
    ATTACK,
    ESTIMATION,
    INDICES,
    SEARCH,
    SEEDS,
    SELECTION,
    TRAINING_EPOCHS,
    TRAINING_SEEDS,
    stream_seed,
    training_seed,
)
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES

CPU = torch.device("cpu")
SIGMAS = (0.001, 0.12, 0.25, 0.5, 1.0, 8.0)


# --- the law ----------------------------------------------------------------------------------------------------------

def normal_tail(x: Decimal) -> Decimal:
    """P(Z > x) for x >= 0 from the power series of the distribution function, in 120 digits."""
    getcontext().prec = 120
    term = total = x
    n = 0
    while abs(term) > Decimal(10) ** -110:
        n += 1
        term *= -x * x / (2 * n)
        total += term / (2 * n + 1)
    return Decimal("0.5") - total / (2 * PI).sqrt()


getcontext().prec = 120


def arctan_inverse(n: int) -> Decimal:
    """arctan(1 / n)."""
    return sum(Decimal((-1) ** k) / ((2 * k + 1) * Decimal(n) ** (2 * k + 1)) for k in range(200))


PI = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))  # Machin's formula


def drawn_law(law: IntegerNoise) -> dict[int, Fraction]:
    """The probability of every integer, from the table and the thresholds that the draws go through."""
    table, thresholds = law.table.tolist(), law.thresholds.tolist()
    least, counts = -(len(thresholds) // 2), {}
    for cell, value in enumerate(table):
        start, end = cell << LOW_BITS, (cell + 1) << LOW_BITS
        if value != SPLIT:
            counts[value] = counts.get(value, 0) + end - start
            continue
        first = sum(t <= start for t in thresholds) if len(thresholds) < 2000 else int(
            np.searchsorted(law.thresholds.numpy(), start, side="right"))
        edges = [start, *(t for t in thresholds[first:first + 40000] if t < end), end]
        for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
            counts[least + first + k] = counts.get(least + first + k, 0) + high - low
    return {k: Fraction(count, 2 ** 63) for k, count in counts.items()}


@pytest.mark.parametrize("sigma", [0.001, 0.12, 0.25, 0.5])
def test_exact_law_of_the_integers(sigma):
    """Each integer's probability, in rational arithmetic from the table itself, is the rounded Gaussian's to 2^-63."""
    law = drawn_law(IntegerNoise(sigma, CPU))
    assert sum(law.values()) == 1 and min(law) == -max(law)
    exact_sigma = 255 * Decimal(sigma)
    tails = [normal_tail((Decimal(k) + Decimal("0.5")) / exact_sigma) for k in range(max(law) + 2)]
    distance = 2 * abs(Fraction(1) - 2 * Fraction(tails[0]) - law[0]) / 2
    for k in range(1, max(law) + 2):
        exact, drawn = Fraction(tails[k - 1] - tails[k]), law.get(k, Fraction(0))
        assert law.get(-k, Fraction(0)) == drawn
        assert abs(drawn - exact) <= Fraction(1, 2 ** 63)
        distance += 2 * abs(drawn - exact)
    distance = (distance + 2 * Fraction(tails[-1])) / 2
    stated = Fraction(rounded_gaussian(sigma)[1])
    assert distance <= stated <= distance * Fraction(1001, 1000) + Fraction(1, 2 ** 80)


@pytest.mark.parametrize("sigma, figure", [(0.25, 2.2e-17), (0.5, 4.2e-17)])
def test_stated_total_variation(sigma, figure):
    """The figures that were found before this code was written; and at most 6.3e-12 for an image of ImageNet's size."""
    law = IntegerNoise(sigma, CPU)
    assert law.delta(1) == pytest.approx(figure, rel=0.02)
    assert law.delta(150_528) < 6.3e-12


@pytest.mark.parametrize("sigma", SIGMAS)
def test_thresholds(sigma):
    """Symmetric, in [1, 2^63), with all duplicates; the integers reach as far as 63 bits tell, and fit an int16."""
    thresholds = [int(t) for t in rounded_gaussian(sigma)[0]]
    assert thresholds == sorted(thresholds) and thresholds[0] >= 1
    assert [2 ** 63 - t for t in reversed(thresholds)] == thresholds
    reach = len(thresholds) // 2
    assert norm.sf((reach - 0.5) / (255 * sigma)) * 2 ** 63 >= 0.49
    assert norm.sf((reach + 0.5) / (255 * sigma)) * 2 ** 63 <= 0.51
    assert reach + 255 < 20_000


@pytest.mark.parametrize("sigma", [0.001, 0.25, 2.0])
@pytest.mark.parametrize("draw", ["_draw", "_draw_by_table"])
def test_drawn_integers(draw, sigma):
    """4 million draws against the table's law: chi-square over the integers that are expected 50 times."""
    law, count = IntegerNoise(sigma, CPU), 2 ** 22
    drawn = getattr(law, draw)(count, torch.Generator().manual_seed(5)).to(torch.int64)
    scale = 255 * sigma
    edges = np.arange(-30_000, 30_001)
    expected = count * np.diff(norm.cdf((np.append(edges, 30_001) - 0.5) / scale))
    seen = np.bincount((drawn + 30_000).numpy(), minlength=len(edges)).astype(float)
    often = expected >= 50
    seen, expected = ([*array[often], array[~often].sum()] for array in (seen, expected))
    kept = [i for i, value in enumerate(expected) if value >= 1]
    seen, expected = np.array(seen)[kept], np.array(expected)[kept]
    assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-4


def test_draws_in_cells_with_a_threshold_use_the_other_bits():
    """At sigma 8 every sixth cell has thresholds: with a uniform part added, the draws are normal (KS test)."""
    law = IntegerNoise(8.0, CPU)
    assert (law.table == SPLIT).float().mean() > 0.15
    drawn = law._draw_by_table(2 ** 20, torch.Generator().manual_seed(3)).double()
    jitter = torch.rand(2 ** 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 0.5
    assert kstest(((drawn + jitter) / 2040).numpy(), "norm").pvalue > 1e-4


# --- pixels -----------------------------------------------------------------------------------------------------------

def test_pixels_are_those_of_the_eight_bit_image():
    """One float for every sum |z| <= 20,000, and ToTensor's for 0 ... 255."""
    law = IntegerNoise(0.25, CPU)
    sums = torch.arange(-20_000, 20_001).to(torch.float32) / law._levels
    assert len(sums.unique()) == 40_001
    grid = torch.arange(256).view(1, 16, 16)
    assert torch.equal(eight_bit(grid.to(torch.uint8).float().div(255), False), grid.to(torch.int16))
    assert torch.equal(eight_bit((grid.double() / 255).float(), False), grid.to(torch.int16))


def test_noisy_pixels_are_whole_steps():
    """(a + k) / 255 in float32, with |k| as a Gaussian's."""
    x = (torch.randint(256, (4, 4, 3), generator=torch.Generator().manual_seed(1)) / 255)
    law, out = IntegerNoise(0.5, CPU), torch.empty(32, 4, 4, 3)
    law.fill(out, law.start(x), torch.Generator().manual_seed(2))
    steps = (out.double() * 255).round()
    assert torch.equal((steps / 255).float(), out)
    assert 0.9 < ((steps - 255 * x.double()) / 127.5).std() < 1.1


@pytest.mark.parametrize("value", [1 / 128, -1 / 255, 256 / 255, 0.5, 1e-9])
def test_other_images_are_refused_or_rounded(value):
    """An image off the grid, or outside [0, 1], is named; round_images takes the nearest 8-bit image."""
    x = torch.zeros(2, 2, 3)
    x[0, 0, 0] = value
    with pytest.raises(InputError, match="--noise float"):
        eight_bit(x, False)
    assert eight_bit(x, True)[0, 0, 0] == min(max(round(255 * value), 0), 255)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_images_are_refused(value):
    """Rounding does not make them images."""
    for rounded in (False, True):
        with pytest.raises(InputError):
            eight_bit(torch.tensor([[[value]]]), rounded)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.0009, 8.001, math.nan, math.inf])
def test_sigmas_of_integer_noise(sigma):
    """0.001 to 8."""
    with pytest.raises(ValueError, match="integer noise needs"):
        make_noise("integer", sigma, CPU)


@pytest.mark.parametrize("sigma", [0.0, 0.0009, 1e39, math.nan, math.inf])
def test_sigmas_of_float_noise(sigma):
    """At least 0.001, and finite in float32."""
    with pytest.raises(ValueError, match="float32"):
        make_noise("float", sigma, CPU)


def test_unknown_noise():
    """Named, with the choices."""
    with pytest.raises(ValueError, match="integer, float"):
        make_noise("uniform", 0.25, CPU)


# --- streams ----------------------------------------------------------------------------------------------------------

@given(st.integers(0, SEEDS - 1), st.integers(0, INDICES - 1), st.sampled_from([SELECTION, ESTIMATION, ATTACK, SEARCH]))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_stream_seed_is_injective(seed, index, stream):
    """The three numbers can be read back from its 32 bits, of which the top one is 1."""
    value = stream_seed(seed, index, stream)
    assert value >> 31 == 1
    assert (value >> 23 & 0xFF, value >> 2 & 0x1FFFFF, value & 3) == (seed, index, stream)


@given(st.integers(0, TRAINING_SEEDS - 1), st.integers(0, TRAINING_EPOCHS - 1))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_training_shares_no_stream_with_certification(seed, epoch):
    """Its 32 bits start with 0, and seed and epoch can be read back; the bundled networks' streams are these."""
    value = training_seed(seed, epoch)
    assert value >> 31 == 0
    assert (value >> 16, value & 0xFFFF) == (seed, epoch)
    assert value == (seed << 16) + epoch


def test_domains_of_the_streams():
    """2^8 seeds, 2^21 indices (ImageNet's training set has 1,281,167 images); what lies outside is refused."""
    assert stream_seed(0, 0, SELECTION) == 2 ** 31
    assert stream_seed(SEEDS - 1, INDICES - 1, SEARCH) == 2 ** 32 - 1
    assert training_seed(TRAINING_SEEDS - 1, TRAINING_EPOCHS - 1) == 2 ** 31 - 1
    for bad in ((-1, 0, 0), (SEEDS, 0, 0), (0, -1, 0), (0, INDICES, 0), (0, 0, 4), (0, 0, -1)):
        with pytest.raises(ValueError, match="need 0 <= seed"):
            stream_seed(*bad)
    for bad in ((-1, 0), (TRAINING_SEEDS, 0), (0, -1), (0, TRAINING_EPOCHS)):
        with pytest.raises(ValueError, match="need 0 <= seed"):
            training_seed(*bad)


# --- networks that look for floats under the noise --------------------------------------------------------------------
# Each scores 1 or 0 (as nearly as a softmax of +-50 does). The certificate at x must be at most the exact mean at x'.

class Detector(nn.Module):
    """Logits +-50 for whether `found` (images -> bool [B]) holds: scores 1 and 0 of class 0."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, x):
        sign = self.found(x).to(x.dtype) * 2 - 1
        return torch.stack([50 * sign, -50 * sign], 1)


def certificate(found, x, sigma, n, noise_name="integer"):
    smooth = Smooth(Detector(found), 2, sigma, device="cpu", noise=noise_name)
    return smooth.certify(x, 100, n, 0.001, 1000, index=0, seed=1)


def pixels_in_steps_of_2_to_minus_31(x):
    """Whether every pixel is a multiple of 2^-31: so is every float32 of 2^-8 or above, and so is 0."""
    scaled = x.flatten(1).double() * 2 ** 31
    return (scaled == scaled.round()).all(1)


def test_network_that_reads_the_last_bits_of_the_noise():
    """Pixels 2/255 at x, 0 at x' (Voracek and Hein's kind of attack). Float noise is certified at x and fails at x'.

    Under integer noise every pixel of x' is 0 or at least 1/255 > 2^-8, so the exact mean at x' is 1.
    """
    x, other, distance = torch.full((1, 32, 32), 2 / 255), torch.zeros(1, 32, 32), math.sqrt(1024) * 2 / 255
    floats = certificate(pixels_in_steps_of_2_to_minus_31, x, 0.25, 4000, "float")
    fails = Smooth(Detector(pixels_in_steps_of_2_to_minus_31), 2, 0.25, device="cpu", noise="float")
    there = torch.cat([part[:, 0].clone() for part in fails.sampler.softmax(other, 1000, 1000, (2, 0, ESTIMATION))])
    assert floats.lower_bound(distance) > 0.95 and there.mean() < 0.01
    integers = certificate(pixels_in_steps_of_2_to_minus_31, x, 0.25, 4000)
    assert 0.95 < integers.lower_bound(distance) <= 1
    holds = Smooth(Detector(pixels_in_steps_of_2_to_minus_31), 2, 0.25, device="cpu")
    assert all((part[:, 0] == 1).all() for part in holds.sampler.softmax(other, 1000, 1000, (2, 0, ESTIMATION)))


@pytest.mark.parametrize("side, sigmas, n", [
    (32, 4.3, 10_000), pytest.param(224, 5.7684, 14_000, marks=pytest.mark.long)])
def test_network_that_looks_for_the_largest_noise(side, sigmas, n):
    """No pixel's noise above some sigmas: float normals of 24-bit uniforms never reach 5.7684, a Gaussian does.

    The exact mean under integer noise is Phi((floor(sigmas s) + 1/2) / s)^pixels, s = 63.75.
    """
    limit = math.floor(sigmas * 63.75)
    exact = norm.cdf((limit + 0.5) / 63.75) ** (3 * side ** 2)
    found = certificate(lambda x: x.amax((1, 2, 3)) < (limit + 0.5) / 255, torch.zeros(3, side, side), 0.25, n)
    assert exact - 0.02 < found.lower_bound(0.0) <= exact < 1


def last_bit(x):
    """Whether the last bit of the first pixel's float32 is 0."""
    return x[:, 0, 0, 0].contiguous().view(torch.int32) % 2 == 0


def parity(x):
    """Whether the sum of all pixels, in steps of 1/255, is even."""
    return (x.double() * 255).round().sum((1, 2, 3)) % 2 == 0


def half_space(x):
    """Whether the first pixel is at least 100 steps."""
    return x[:, 0, 0, 0] >= 99.5 / 255


@pytest.mark.parametrize("found, sigma, at_x, at_other, least_bound", [
    (last_bit, 0.001, 128, 129, 0.0), (last_bit, 0.25, 120, 130, 0.5), (parity, 0.001, 10, 11, 0.001),
    (half_space, 0.25, 140, 130, 0.6), (half_space, 0.001, 100, 99, 0.01)])
def test_networks_that_look_for_the_grid(found, sigma, at_x, at_other, least_bound):
    """x and x' differ in the first of three pixels: the bound is at most the exact mean at x', a sum over integers.

    At sigma 0.001 nearly all noise is 0 and the grid is all there is; the half-space shows that the bound is not loose.
    """
    x = torch.zeros(1, 1, 3)
    x[0, 0, 0] = at_x / 255
    claimed = certificate(found, x, sigma, 10_000)
    integers = np.arange(-1000, 1001)
    law = np.diff(norm.cdf((np.arange(-1000, 1002) - 0.5) / (255 * sigma)))
    if found is parity:
        odd = at_other % 2
        exact = (1 + (-1) ** odd * float(law @ (-1.0) ** np.abs(integers)) ** 3) / 2
    else:
        noisy = (torch.from_numpy(at_other + integers).double() / 255).float()
        exact = float(law @ found(noisy.view(-1, 1, 1, 1)).numpy())
    exact = exact if claimed.chosen == 0 else 1 - exact
    assert least_bound <= claimed.lower_bound(abs(at_x - at_other) / 255) <= exact + 1e-12


# --- sigma ------------------------------------------------------------------------------------------------------------

def test_float_noise_shifts_by_the_sigma_it_draws():
    """float32(0.12) is below 0.12, so the true shift is larger than R / 0.12: a half-space network's exact mean.

    At R = 3 sigma its mean is Phi(Phi^-1(p) - R / float32(0.12)); dividing by 0.12 is 2.7e-8 / 0.5 too high there.
    """
    sigma = 0.12
    assert float(np.float32(sigma)) < sigma
    spec = CertificateSpec(MEASURES["pred_score"], 10_000, 0.001, make_noise("float", sigma, CPU).sigma)
    thresholds = np.ones(len(spec.band.ranks))
    bound = spec.certificate(0, 1.0, thresholds).lower_bound(3 * sigma)
    exact = norm.cdf(norm.ppf(spec.band.prob[0]) - 3 * sigma / float(np.float32(sigma)))
    assert bound <= exact and exact - bound < 1e-11
    assert norm.cdf(norm.ppf(spec.band.prob[0]) - 3.0) - bound > 1e-9


def test_points_outside_the_pixels():
    """With a reach, integers outside 0 ... 255 are taken as they are, with the very noise of those inside."""
    point = torch.tensor([-300.0, 0.0, 255.0, 25_755.0]).div(255).view(1, 2, 2)
    with pytest.raises(InputError, match="multiples of 1/255"):
        make_noise("integer", 0.25, CPU).start(point)
    noise = make_noise("integer", 0.25, CPU, reach=25_500)
    assert noise.start(point).flatten().tolist() == [-300, 0, 255, 25_755]
    drawn = []
    for image in (point, torch.zeros_like(point)):
        out = torch.empty(8, 1, 2, 2)
        noise.fill(out, noise.start(image), torch.Generator().manual_seed(0))
        drawn.append((out.double() * 255).round().long())
    assert torch.equal(drawn[0] - drawn[1], torch.tensor([-300, 0, 255, 25_755]).view(1, 1, 2, 2).expand(8, 1, 2, 2))
