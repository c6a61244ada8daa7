"""The data sets and architectures that have names, and what is fixed about them. Loads nothing."""
from dataclasses import dataclass

from certconf.errors import InputError
from certconf.inputs.user_code import is_user_code

SPLITS = ("train", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """What is fixed about a data set; mean and std per channel, of pixels in [0, 1]."""

    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train_size: int | None  # images in the split, or None if the files decide
    test_size: int | None

    def size(self, split: str) -> int | None:
        """The number of images in a split, or None if the files decide."""
        return self.train_size if split == "train" else self.test_size


INFO = {
    "cifar10": DatasetInfo(10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 50000, 10000),
    "imagenet": DatasetInfo(1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None, None),
}
DATASETS = tuple(INFO)
DATASET_OF = {"resnet50": "imagenet", "cifar_resnet20": "cifar10", "cifar_resnet110": "cifar10"}  # by architecture


def check_dataset_name(name: str) -> None:
    """Raise InputError for a name that no data set has."""
    if name not in DATASETS and not is_user_code(name):
        raise InputError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}, FILE.py:NAME")


def requested_indices(size: int, skip: int, stop: int) -> range:
    """The indices 0, skip, 2 skip, ... below `stop` (-1: no limit) and below `size`."""
    return range(0, size if stop < 0 else min(stop, size), skip)
