"""Figures: drawn and saved the same every time, whatever the user's own settings of matplotlib."""
import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from certconf.errors import InputError
from certconf.files import write_new

# Okabe and Ito (2008), distinguishable for colour-blind readers; without their yellow, hard to see on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# for each kind of picture, the metadata that would change from one run to the next
METADATA = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
RADIUS = "radius (L2 distance, pixels in [0, 1])"  # the label of an axis
SETTINGS = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "lines.linewidth": 1.4, "savefig.dpi": 150,
    "text.parse_math": False,  # a $ in a file name is a $
    "svg.hashsalt": "figure",
}


def check_figure_path(path: str | os.PathLike) -> None:
    """Raise InputError for a file name that does not end in a format of pictures."""
    if Path(path).suffix not in METADATA:
        raise InputError(f"{path}: a picture's name ends in {', '.join(METADATA)}")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(SETTINGS)
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike, overwrite: bool) -> None:
    """Write a figure in the format that its file name ends in. Raises InputError."""
    kind, buffer = Path(path).suffix, io.BytesIO()
    figure.savefig(buffer, format=kind[1:], metadata=METADATA[kind])
    write_new(path, buffer.getvalue(), overwrite)
