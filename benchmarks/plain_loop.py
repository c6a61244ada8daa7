"""The baseline: a straightforward certification with PyTorch and scipy.stats, not written for speed.

    python benchmarks/plain_loop.py cifar_resnet20 cpu 128

As a program it waits for numbers of samples, one a line, and answers `done` once it has drawn them. sampling.py runs it
like this, since in the process of a Smooth the loop would gain from the memory that this program keeps (see
certconf/sampling/devices.py). Of the package it uses the networks' definitions only.
"""
import math
import sys

import code_path
import numpy as np
import torch
from scipy.stats import norm
from torch import nn

from certconf.inputs.architectures import DATASET_OF, build_network

THRESHOLDS = 10_000
SIDE = {"cifar10": 32, "imagenet": 224}  # of the images, in pixels
SIGMA = 0.25
DONE, NO_MEMORY = "done", "out of memory"


def network_and_image(arch: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights in eval mode and an 8-bit image [3, H, W], the same in every process."""
    torch.manual_seed(0)
    side = SIDE[DATASET_OF[arch]]
    return build_network(arch, DATASET_OF[arch]).eval(), torch.randint(256, (3, side, side)) / 255


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


def main() -> None:
    arch, device, batch = sys.argv[1:]
    network, x = network_and_image(arch)
    network, x = network.to(device), x.to(device)
    torch.backends.cudnn.allow_tf32 = False  # float32, as this program's fp32 is
    for line in sys.stdin:
        try:
            plain_scores(network, x, SIGMA, 0, int(line), int(batch))
            print(DONE, flush=True)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(NO_MEMORY, flush=True)


if __name__ == "__main__":
    main()
