"""The baseline: a straightforward certification with PyTorch and scipy.stats, not written for speed."""
import math

import numpy as np
import torch
from scipy.stats import norm
from torch import nn

THRESHOLDS = 10_000


@torch.no_grad()
def plain_scores(network: nn.Module, x: torch.Tensor, sigma: float, chosen: int, n: int, batch: int) -> np.ndarray:
    """The softmax of class `chosen` at n noisy copies of x [C, H, W]: float32, eager, to the host at every batch."""
    scores = []
    for done in range(0, n, batch):
        images = x.repeat((min(batch, n - done), 1, 1, 1))
        softmax = torch.softmax(network(images + sigma * torch.randn_like(images)), dim=1)
        scores.append(softmax[:, chosen].cpu().numpy())
    return np.concatenate(scores)


def plain_bounds(scores: np.ndarray, sigma: float, alpha: float, radii: tuple[float, ...]) -> list[float]:
    """Kumar et al.'s bounds on an expected pred_score: DKW, one scalar call after another."""
    n, scores, bounds = len(scores), np.sort(scores), []
    width = math.sqrt(math.log(1 / alpha) / (2 * n))
    for radius in radii:
        bound, previous = 0.0, 0.0
        for rank in range(0, n, math.ceil(n / THRESHOLDS)):
            threshold = float(scores[rank])
            probability = max((n - rank) / n - width, 0)
            bound += (threshold - previous) * norm.cdf(norm.ppf(probability) - radius / sigma)
            previous = threshold
        bounds.append(bound)
    return bounds
