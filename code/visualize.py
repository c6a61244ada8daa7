"""Show what Gaussian noise does to a test image.

    python code/visualize.py cifar10 OUTDIR IDX 0.0 0.25 0.50 1.00
    python code/visualize.py cifar10 OUTDIR IDX 0.0 0.25 0.50 1.00 --strip figures/noise.png
    IMAGENET_DIR=... python code/visualize.py imagenet OUTDIR IDX 0.0 0.25 0.50 1.00

Writes OUTDIR/IDX_0.png, IDX_25.png, IDX_50.png, IDX_100.png: 100 times the standard deviation. It is the same noise at
every level, scaled. Pixels outside [0, 1] are clipped for the picture only: the network sees them as they are.
"""
import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from certconf.errors import InputError, run_cli
from certconf.files import refuse_existing, write_new
from certconf.inputs.catalogue import DATASETS, check_dataset_name
from certconf.report.figures import check_figure_path, new_figure, save_figure
from certconf.report.pictures import picture

if TYPE_CHECKING:
    import torch

SCALE = {"cifar10": 8, "imagenet": 1}
LARGEST_SIGMA = 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help=f"{', '.join(DATASETS)}, or FILE.py:NAME (see docs/own_network.md)")
    parser.add_argument("outdir", help="folder of the pictures")
    parser.add_argument("index", type=int, metavar="IDX", help="index of the test image, 0 or above")
    parser.add_argument("sigmas", type=float, nargs="+", metavar="SIGMA",
                        help=f"standard deviation of the noise, pixels in [0, 1]; 0 to {LARGEST_SIGMA:g}")
    parser.add_argument("--scale", type=int, help="pixels of the picture for one of the image, per side; 1 to 64 "
                                                  f"(default: {SCALE['cifar10']} for cifar10, 1 for others)")
    parser.add_argument("--strip", metavar="FILE",
                        help="also draw all of them side by side: .png, .pdf or .svg (default: do not)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, 0 to 2^32 - 1 (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing pictures")
    args = parser.parse_args()
    args.scale = SCALE.get(args.dataset, 1) if args.scale is None else args.scale
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for values that have no meaning."""
    check_dataset_name(args.dataset)
    for sigma in args.sigmas:
        if not 0 <= sigma <= LARGEST_SIGMA:
            raise InputError(f"SIGMA must be between 0 and {LARGEST_SIGMA:g}, not {sigma}")
    if not 1 <= args.scale <= 64:
        raise InputError(f"--scale must be between 1 and 64, not {args.scale}")
    if not 0 <= args.seed < 2 ** 32:  # PyTorch's CPU generator uses 32 bits of its seed
        raise InputError(f"--seed must be between 0 and 2^32 - 1, not {args.seed}")
    if args.strip is not None:
        check_figure_path(args.strip)


def picture_paths(args: argparse.Namespace) -> list[Path]:
    """The path of each sigma's picture. Raises InputError if two would share a file, or one exists."""
    paths = [Path(args.outdir) / f"{args.index}_{round(100 * sigma)}.png" for sigma in args.sigmas]
    everything = paths + ([Path(args.strip)] if args.strip is not None else [])
    if len({path.absolute() for path in everything}) < len(everything):
        raise InputError("two pictures would have the same name: it holds round(100 SIGMA)")
    refuse_existing(everything, args.overwrite)
    return paths


def load_image(args: argparse.Namespace) -> "torch.Tensor":
    """The pixels of the test image, [C, H, W]. Raises InputError."""
    from certconf.inputs.datasets import open_images  # with PyTorch, which takes seconds
    if args.index < 0:
        raise InputError(f"IDX must be 0 or above, not {args.index}")
    images, _ = open_images(args.dataset, "test", skip=max(args.index, 1), stop=args.index + 1)
    if args.index >= images.size:
        raise InputError(f"IDX {args.index}: the test images are 0 ... {images.size - 1}")
    x, _ = images.load(args.index)
    if len(x) not in (1, 3):
        raise InputError(f"IDX {args.index}: an image of {len(x)} channels is no picture")
    return x


def noisy_pictures(x: "torch.Tensor", sigmas: list[float], seed: int) -> list[Image.Image]:
    """x with noise of each standard deviation, as pictures of its own size."""
    import torch
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return [picture((x + sigma * noise).numpy()) for sigma in sigmas]


def png(image: Image.Image, scale: int) -> bytes:
    """An image as a PNG file, every pixel a square of scale x scale."""
    buffer = io.BytesIO()
    image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST).save(buffer, "png")
    return buffer.getvalue()


def draw_strip(pictures: list[Image.Image], sigmas: list[float]):
    """The figure of all pictures side by side."""
    figure = new_figure(1.7 * len(pictures), 2.0)
    for axes, image, sigma in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, sigmas, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")  # colours as they are
        axes.set_title(f"σ = {sigma:.2f}")
        axes.set_axis_off()
    return figure


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    paths = picture_paths(args)
    pictures = noisy_pictures(load_image(args), args.sigmas, args.seed)
    for path, image in zip(paths, pictures, strict=True):
        write_new(path, png(image, args.scale), args.overwrite)
    if args.strip is not None:
        save_figure(draw_strip(pictures, args.sigmas), args.strip, args.overwrite)


if __name__ == "__main__":
    sys.exit(run_cli(main))
