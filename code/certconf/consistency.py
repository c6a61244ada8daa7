"""Consistency training (Jeong and Shin, NeurIPS 2020, arXiv 2006.04062, section 3): the loss of several noise draws."""
import math

import torch

LEAST = 1e-20  # probabilities are clamped to it before a logarithm, so that no gradient is infinite


def consistency_loss(logits: torch.Tensor, labels: torch.Tensor, strength: float, entropy: float) -> torch.Tensor:
    """The mean over images of CE + strength * KL + entropy * H, a scalar, with gradients through every term.

    logits [m, B, K] of m noise draws for each of B images, labels [B]. With p_i = softmax of draw i and p their mean:
    CE is the mean over i of -log p_i[label], KL the mean over i of KL(p || p_i), and H the entropy of p.
    """
    log_each = torch.log_softmax(logits, dim=-1).clamp(min=math.log(LEAST))
    mean = torch.softmax(logits, dim=-1).mean(0)
    log_mean = mean.clamp(min=LEAST).log()
    draws = len(logits)
    cross_entropy = -log_each.gather(-1, labels.expand(draws, -1)[..., None]).mean()
    divergence = (mean * (log_mean - log_each)).sum(-1).mean()
    uncertainty = -(mean * log_mean).sum(-1).mean()
    return cross_entropy + strength * divergence + entropy * uncertainty
