"""A denoiser in front of a classifier of CIFAR-10, here the bundled ResNet-20.

    python code/certify.py cifar10 examples/cifar10_denoised.py:network 0.25 OUTFILE --skip 20

The denoiser is untrained unless denoiser.pth, its state_dict, lies beside this file.
"""
from pathlib import Path

import torch
from torch import nn

from certconf.inputs.architectures import load_checkpoint

HERE = Path(__file__).parent
CLASSIFIER = HERE.parent / "models" / "cifar10" / "resnet20" / "noise_0.25" / "checkpoint.pth.tar"
DENOISER = HERE / "denoiser.pth"


class Denoiser(nn.Module):
    """x minus an estimate of its noise, by a small convolutional network."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.noise = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
                                   nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                                   nn.Conv2d(width, 3, 3, padding=1))
        nn.init.zeros_(self.noise[-1].weight)  # untrained, it changes nothing
        nn.init.zeros_(self.noise[-1].bias)

    def forward(self, x):
        return x - self.noise(x)


def network() -> nn.Module:
    """Pixels [B, 3, 32, 32] in [0, 1] to logits [B, 10]."""
    torch.manual_seed(0)  # the same weights in every process and every start
    denoiser = Denoiser()
    if DENOISER.exists():
        denoiser.load_state_dict(torch.load(DENOISER, weights_only=True))
    classifier, _ = load_checkpoint(str(CLASSIFIER), "cifar10")
    return nn.Sequential(denoiser, classifier)
