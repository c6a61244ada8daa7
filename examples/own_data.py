"""A data set of your own: here 500 CIFAR-10 images in a NumPy archive, with a checkpoint of train.py.

    CHECKPOINT=models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar
    python code/certify.py examples/own_data.py:images $CHECKPOINT 0.25 OUTFILE
"""
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

ARCHIVE = Path(__file__).parents[1] / "code" / "certconf" / "inputs" / "data" / "cifar10_test_every_20th.npz"


class Archive(Dataset):
    """Pairs of an image, a uint8 tensor [3, 32, 32], and its label."""

    def __init__(self):
        with np.load(ARCHIVE) as archive:
            self.pixels, self.targets = torch.from_numpy(archive["images"]), archive["labels"]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index], self.targets[index]


def images(split: str) -> Dataset:
    """The images of a split, `test` or `train` (--split)."""
    if split != "test":
        raise ValueError("this archive holds test images only")
    return Archive()
