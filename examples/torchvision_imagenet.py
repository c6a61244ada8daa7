"""A network of torchvision with its own preprocessing, on ImageNet's validation images.

    EXAMPLE=examples/torchvision_imagenet.py
    IMAGENET_DIR=... python code/certify.py $EXAMPLE:images $EXAMPLE:network 0.25 OUTFILE --skip 100

Its weights are random unless mobilenet_v3_small.pth, its state_dict, lies beside this file.
"""
import os
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets, models, transforms

PREPROCESSING = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()
WEIGHTS = Path(__file__).parent / "mobilenet_v3_small.pth"


def images(split: str) -> torch.utils.data.Dataset:
    """PIL images of one size: resizing and cropping come before the noise, in the data set."""
    crop = transforms.Compose([transforms.Resize(PREPROCESSING.resize_size, PREPROCESSING.interpolation),
                               transforms.CenterCrop(PREPROCESSING.crop_size)])
    part = "train" if split == "train" else "val"
    return datasets.ImageFolder(os.path.join(os.environ["IMAGENET_DIR"], part), crop, allow_empty=True)


def network() -> nn.Module:
    """Pixels [B, 3, 224, 224] in [0, 1] to logits [B, 1000]: normalisation comes after the noise, in the network."""
    torch.manual_seed(0)  # the same weights in every process and every start
    network = models.mobilenet_v3_small(weights=None)
    if WEIGHTS.exists():
        network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return nn.Sequential(transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std), network)
