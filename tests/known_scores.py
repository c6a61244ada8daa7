"""Base classifiers whose shifted expectation is known, and the certificates of scores that a test chooses."""
import numpy as np
import torch
from scipy.stats import beta
from torch import nn

from certconf.statistics.certificate import Certificate, CertificateSpec
from certconf.statistics.measures import MEASURES

SIGMA, ALPHA = 0.25, 0.001
SHAPE = (3, 4, 4)
DIRECTION = nn.functional.normalize(torch.randn(48, generator=torch.Generator().manual_seed(1)), dim=0)


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


def certificate_of(scores, measure="pred_score", bound="clopper_pearson", chosen=4, **changes) -> Certificate:
    """The certificate of given scores."""
    scores = np.sort(np.asarray(scores, dtype=np.float32))
    spec = CertificateSpec(MEASURES[measure], len(scores), ALPHA, SIGMA, bound, **changes)
    return spec.certificate(chosen, float(scores.mean(dtype=np.float64)), scores[spec.band.ranks - 1])


def confident_scores(measure="pred_score", n=1000):
    """Quantiles of Beta(20, 1), stretched over the measure's range: a mean of about 0.95 of it."""
    return MEASURES[measure].score_min + MEASURES[measure].range * beta.ppf((np.arange(n) + 0.5) / n, 20, 1)
