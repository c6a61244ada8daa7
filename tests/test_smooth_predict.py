"""core.py: Smooth.predict, whose predictions are wrong with probability alpha at most, and its two limits."""
import math

import pytest
import torch
from scipy.special import ndtr
from scipy.stats import binomtest
from torch import nn

from certconf.core import Smooth
from certconf.statistics.bounds import clopper_pearson_eta
from certconf.statistics.certificate import ABSTAIN

SIGMA = 0.25
UNLIKELY = 1e-4  # a simulation may fail by chance this often, were its seed not fixed


class Threshold(nn.Module):
    """Class 0 with softmax 1 where the one pixel is above 0, else class 1: E[score of 0] = Phi(x / sigma)."""

    def forward(self, x):
        return torch.where(x.flatten(1) > 0, 1.0, -1.0) * torch.tensor([100.0, -100.0])


def predictions(p0, count, n=100, alpha=0.2, n0=1):
    """Predictions for images whose E[score of class 0] is p0, each with noise of its own."""
    x = torch.full((1, 1, 1), SIGMA * float(torch.special.ndtri(torch.tensor(p0, dtype=torch.float64))))
    smoothed = Smooth(Threshold(), 2, SIGMA, device="cpu", noise="float")  # x is off the 8-bit grid
    return [smoothed.predict(x, n0, n, alpha, 64, index=index) for index in range(count)]


def test_wrong_predictions_are_rare():
    """Two classes nearly tied, and n0 = 1, which chooses the wrong one half of the time: at most alpha are wrong."""
    wrong = sum(result.prediction == 1 for result in predictions(0.505, 200))
    assert binomtest(wrong, 200, 0.2, alternative="greater").pvalue > UNLIKELY


@pytest.mark.parametrize("p0", [0.505, 0.9])
def test_limits_hold(p0):
    """lower <= E <= upper, both at once, for all but a fraction alpha of the runs; chosen says of which class."""
    results = predictions(p0, 200)
    truth = [p0 if result.chosen == 0 else 1 - p0 for result in results]
    missed = sum(not result.lower <= p <= result.upper for result, p in zip(results, truth, strict=True))
    assert binomtest(missed, 200, 0.2, alternative="greater").pvalue > UNLIKELY
    width = 2 * 5 * math.sqrt(p0 * (1 - p0) / 100) + 0.1
    assert all(result.upper - result.lower < width for result in results)


def test_clear_cases():
    """A clear winner is predicted, a tie (but once in 1000) is not; the class chosen is known anyway."""
    assert all(result.prediction == result.chosen == 0 for result in predictions(ndtr(2.5), 20, n=500, n0=20))
    assert all(result.prediction == ABSTAIN and result.chosen in (0, 1) for result in predictions(0.5, 20, alpha=0.001))


@pytest.mark.parametrize("n, alpha", [(10, 0.2), (500, 0.01)])
def test_limits_of_equal_scores(n, alpha):
    """All scores are 1: the lower limit is eta^(1/n), eta that of alpha / 2 for the two sides; the upper one is 1."""
    results = predictions(ndtr(9), 2, n=n, alpha=alpha)
    for result in results:
        assert result.chosen == 0
        assert result.lower == pytest.approx(clopper_pearson_eta(n, alpha / 2, "equal") ** (1 / n), abs=1e-9)
        assert result.upper == pytest.approx(1, abs=1e-9)


def test_limits_mirror():
    """Two classes: limits on the one's score are 1 minus those on the other's, on the same samples."""
    class Mirrored(Threshold):
        def forward(self, x):
            return super().forward(x).flip(1)

    for index in range(5):
        one, two = (Smooth(kind(), 2, SIGMA, device="cpu").predict(torch.zeros(1, 1, 1), 11, 100, 0.1, 64, index=index)
                    for kind in (Threshold, Mirrored))
        assert one.chosen == 1 - two.chosen
        assert (one.lower, one.upper) == (two.lower, two.upper)


def test_predict_needs_pred_score_and_two_samples():
    """The lead's variance needs two samples; limits are for the expected pred_score."""
    x = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="pred_score"):
        Smooth(Threshold(), 2, SIGMA, "margin", device="cpu").predict(x, 10, 100, 0.1, 64, index=0)
    for n0, n, alpha, batch in ((0, 9, 0.1, 64), (9, 1, 0.1, 64), (9, 9, 0.0, 64), (9, 9, 1.0, 64), (9, 9, 0.1, 0)):
        with pytest.raises(ValueError, match="need n0"):
            Smooth(Threshold(), 2, SIGMA, device="cpu").predict(x, n0, n, alpha, batch, index=0)
