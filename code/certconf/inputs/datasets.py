"""The data sets: their constants, and the sources of their images.

cifar10   torchvision's CIFAR10 in ./dataset_cache, downloaded at first use. The 500 test images with indices
          0, 20, 40, ... come with the repository and serve any request for these alone.
imagenet  an ImageFolder under $IMAGENET_DIR with train/ and val/ (resize 256, centre crop 224).
FILE.py:NAME  a map-style data set of the user's own, or a function or class that makes one from a split.

torchvision takes seconds to load, so the functions that use it import it.
"""
import hashlib
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from certconf.errors import InputError
from certconf.inputs.catalogue import INFO, requested_indices
from certconf.inputs.user_code import as_input_error, call, is_user_code

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

CACHE = "./dataset_cache"
IMAGENET_SIZES = {"train": 1_281_167, "val": 50_000}  # of ILSVRC 2012
BUNDLED = Path(__file__).parent / "data" / "cifar10_test_every_20th.npz"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_KEYS = ("image", "img")  # of an item that is a dictionary
MOST_CHANNELS = 4  # of an array whose last axis they are
FINGERPRINTED = 32  # images that the fingerprint of a data set covers if its labels are known without loading all


@dataclass(frozen=True)
class ImageSet:
    """Images by index: size, and load(i) -> (pixels in [0, 1] as float32 [C, H, W], label).

    fingerprint() is the SHA-256 of all labels and of the images (the first 32 if the labels are known without them),
    for the user's own data set; None for the others. classes: their names by label, () if the data set has none.
    remarks: lines that its user should read.
    """

    size: int
    load: Callable[[int], tuple[torch.Tensor, int]]
    fingerprint: Callable[[], str] | None = None
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def open_images(name: str, split: str, skip: int = 1, stop: int = -1) -> tuple[ImageSet, range]:
    """The images of a split under the test transform, and the indices that --skip and --max request of it.

    Raises InputError if the data are neither present nor downloadable.
    """
    if is_user_code(name):
        images = image_set(call(name, split), name)
        return images, requested_indices(images.size, skip, stop)
    if name == "cifar10":
        size = INFO[name].size(split)
        indices = requested_indices(size, skip, stop)
        bundled = _bundled_images()
        if split == "test" and all(i in bundled for i in indices):
            return ImageSet(size, lambda i: bundled[i], classes=CIFAR10_CLASSES), indices
        pixels, labels = cifar10_tensors(train=split == "train")
        return ImageSet(size, lambda i: (pixels[i].float() / 255, int(labels[i])), classes=CIFAR10_CLASSES), indices
    from torchvision.models import ResNet50_Weights
    part = "train" if split == "train" else "val"
    folder = imagenet_folder(part, imagenet_test_transform())
    remarks = () if len(folder) == IMAGENET_SIZES[part] else (
        f"IMAGENET_DIR: {len(folder)} images in {part}/, of the {IMAGENET_SIZES[part]} that ImageNet has there",)
    images = ImageSet(len(folder), lambda i: _load(folder, i),
                      classes=tuple(ResNet50_Weights.DEFAULT.meta["categories"]), remarks=remarks)
    return images, requested_indices(images.size, skip, stop)


def _load(folder: "ImageFolder", index: int) -> tuple[torch.Tensor, int]:
    try:
        return folder[index]
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for a damaged file
        raise InputError(f"{folder.samples[index][0]}: not a readable image ({error})") from None


# --- the user's own ---------------------------------------------------------------------------------------------------

def image_set(data, name: str) -> ImageSet:
    """The images of a map-style data set of the user's own, called `name`. Raises InputError if it is none.

    All images must have the size of the first: the noise's delta, which a run records, depends on it.
    """
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(f"{name}: {type(data).__name__} is not a map-style data set (with a length and items)")
    with as_input_error(name):
        size = len(data)
    if not size:
        raise InputError(f"{name}: no image in it")

    shape = None  # of the first image, once it is loaded

    def load(index: int) -> tuple[torch.Tensor, int]:
        with as_input_error(name):
            found = data[index]
        if isinstance(found, Mapping):  # Hugging Face
            image = next((found[key] for key in IMAGE_KEYS if key in found), None)
            found = (image, found["label"]) if image is not None and "label" in found else found
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise InputError(f"{name}: item {index} is {type(found).__name__}, not a pair (image, label) nor a "
                             "dictionary with `image` (or `img`) and `label`")
        x, label = _pixels(f"{name}: image {index}", found[0]), _label(f"{name}: label {index}", found[1])
        if shape not in (None, x.shape):
            raise InputError(f"{name}: image {index} is {list(x.shape)}, not {list(shape)} as the first: all images of "
                             "a data set must have one size")
        return x, label

    def fingerprint() -> str:
        labels, images = [], hashlib.sha256()
        with as_input_error(name):
            targets = getattr(data, "targets", None)  # as in torchvision: the labels
            known = hasattr(targets, "__len__") and len(targets) == size
        for index in range(min(size, FINGERPRINTED) if known else size):
            x, label = load(index)
            images.update(x.numpy().tobytes())
            labels.append(label)
        if known:
            labels = [_label(f"{name}: target {index}", target) for index, target in enumerate(targets)]
        return hashlib.sha256(np.array(labels, "<i8").tobytes() + images.digest()).hexdigest()

    shape, classes = load(0)[0].shape, getattr(data, "classes", ())  # classes: as in torchvision
    return ImageSet(size, load, fingerprint, tuple(map(str, classes)) if isinstance(classes, list | tuple) else ())


def _pixels(where: str, image) -> torch.Tensor:
    """An image of the user's data set as float32 [C, H, W] in [0, 1]. Raises InputError."""
    if isinstance(image, Image.Image) and image.mode in ("L", "RGB"):
        image = np.array(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (
            image.ndim == 2 or image.ndim == 3 and image.shape[2] <= MOST_CHANNELS):
        image = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1).copy())
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8:
        image = image.float() / 255
    if (not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.layout != torch.strided
            or image.is_meta):
        kind = getattr(image, "mode", type(image).__name__)
        if isinstance(image, torch.Tensor):
            kind = f"a tensor of {image.dtype} ({image.layout}, on {image.device})"
        if isinstance(image, np.ndarray):
            kind = f"an ndarray of {image.dtype}, {list(image.shape)}"
        raise InputError(f"{where} is {kind}, not a dense float tensor, a uint8 tensor, a uint8 array [height, "
                         "width] or [height, width, channels] of NumPy, or a PIL image of mode L or RGB")
    x = image.detach().to("cpu", torch.float32).contiguous()
    if x.ndim != 3 or not x.numel():
        raise InputError(f"{where} is {list(x.shape)}, not [channels, height, width]")
    if not (x.min() >= 0 and x.max() <= 1):
        raise InputError(f"{where} has pixels outside [0, 1] ({x.min():g} to {x.max():g}): normalisation belongs to "
                         "the network")
    return x


def _label(where: str, label) -> int:
    """A label of the user's data set. Raises InputError unless it is an integer, 0 or above."""
    try:
        value = operator.index(label)
    except (TypeError, ValueError):
        value = -1
    if not 0 <= value < 2 ** 63 or isinstance(label, bool) or getattr(label, "dtype", None) == torch.bool:
        raise InputError(f"{where} is {label!r}, not an integer of 0 or above")
    return value


# --- CIFAR-10 and ImageNet --------------------------------------------------------------------------------------------

def _bundled_images() -> dict[int, tuple[torch.Tensor, int]]:
    with np.load(BUNDLED) as archive:
        pixels = torch.from_numpy(archive["images"]).float() / 255
        return {int(i): (x, int(y)) for i, x, y in zip(archive["indices"], pixels, archive["labels"], strict=True)}


def cifar10_tensors(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """All of CIFAR-10's training or test images: uint8 [N, 3, 32, 32] and int64 labels [N]."""
    from torchvision.datasets import CIFAR10
    try:
        data = CIFAR10(CACHE, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"CIFAR-10 is not in {CACHE} and cannot be downloaded ({error}); only the test images 0, 20, 40, ... come "
            "with the repository (--split test with --skip 20, or a multiple of it)") from None
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def imagenet_folder(part: str, transform: Callable) -> "ImageFolder":
    """$IMAGENET_DIR/`part` as an ImageFolder. Raises InputError if it is missing or lacks ImageNet's 1,000 classes.

    A class folder may be empty, as in a subset of the images: the labels are the places of all folders in their order.
    Hidden files (`._x.JPEG`, which macOS leaves behind) are no images.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def is_image(path: str) -> bool:
        name = os.path.basename(path)
        return not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS)

    root = os.environ.get("IMAGENET_DIR")
    if not root:
        raise InputError("set IMAGENET_DIR to ImageNet's folder (with train/ and val/ in it)")
    try:
        folder = ImageFolder(os.path.join(root, part), transform, is_valid_file=is_image, allow_empty=True)
    except OSError as error:
        raise InputError(f"IMAGENET_DIR: {error}") from None
    if len(folder.classes) != (expected := INFO["imagenet"].num_classes):
        raise InputError(f"IMAGENET_DIR: {len(folder.classes)} class folders in {part}/, not {expected}: labels would "
                         "be wrong (a class without images needs an empty folder)")
    if not folder.samples:
        raise InputError(f"IMAGENET_DIR: no image in {part}/")
    return folder


def imagenet_test_transform() -> Callable:
    """Resize the shorter side to 256, cut out the central 224x224, scale to [0, 1]."""
    from torchvision import transforms
    return transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])


def imagenet_train_transform() -> Callable:
    """A random crop resized to 224x224 and a random flip, scaled to [0, 1]."""
    from torchvision import transforms
    return transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
                               transforms.ToTensor()])


def augment_cifar10(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """A random crop (zero padding) and a random flip of each image of a batch [B, 3, H, W], on its device."""
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    flipped = torch.rand(batch, 1, device=images.device) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    which = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
