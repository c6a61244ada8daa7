"""The baseline: a straightforward certification with PyTorch and scipy.stats, not written for speed.

    echo 1000 | python benchmarks/plain_loop.py cifar_resnet20 cpu 128

The arguments are network, device and batch. For each line of its input, a number of samples, it draws them and prints
the seconds that it took. sampling.py runs it like this. It does not import the package certconf, which would change how
the memory of its process is managed (see certconf/sampling/devices.py).
"""
import importlib.util
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from torch import nn
from torchvision.models import resnet50

CIFAR_RESNET = Path(__file__).parents[1] / "code/certconf/inputs/cifar_resnet.py"
THRESHOLDS = 10_000
SIDE = {"cifar10": 32, "imagenet": 224}  # of the images, in pixels
MEAN_STD = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
            "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
SIGMA = 0.25
NO_MEMORY = "out of memory"


class Normalize(nn.Module):
    """(x - mean) / std per channel, for pixels [B, C, H, W] in [0, 1]."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def cifar_resnet(depth: int) -> nn.Module:
    """A network of cifar_resnet.py, which needs PyTorch only and is loaded by itself, not as a part of its package."""
    spec = importlib.util.spec_from_file_location("plain_cifar_resnet", CIFAR_RESNET)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CifarResNet(depth)


def network_and_image(arch: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights, in eval mode, and an image [3, H, W] of 8-bit pixels."""
    dataset = "imagenet" if arch == "resnet50" else "cifar10"
    net = resnet50() if arch == "resnet50" else cifar_resnet(int(arch.removeprefix("cifar_resnet")))
    image = torch.randint(256, (3, SIDE[dataset], SIDE[dataset])) / 255
    return nn.Sequential(Normalize(*MEAN_STD[dataset]), net).eval(), image


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
            start = time.perf_counter()
            plain_scores(network, x, SIGMA, 0, int(line), int(batch))  # its scores are on the host: nothing is pending
            print(time.perf_counter() - start, flush=True)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(NO_MEMORY, flush=True)


if __name__ == "__main__":
    main()
