"""The radius files: the certified radius of every image, in the format of Cohen et al. (2019), whose tools read it.

    idx label predict radius correct time

If the bound at the image itself is not above the score, predict is -1, radius 0.0 and correct 0.
"""
from collections.abc import Sequence

import numpy as np

from certconf.formats.rows import Column, Schema, Table

LARGEST = 1e9  # more than any distance between two images
RADII = Schema("radius file", (Column("radius", limits=(0, LARGEST)),), per_radius=False)
NAIVE = "naive"  # the bound without the CDF, as a record names it


class Radii(Table):
    """A radius file."""

    schemas = (RADII,)

    @property
    def of_correct(self) -> list[float]:
        """The certified radii of the images whose class is right."""
        return [row.radius for row in self.rows if row.correct]


def exact_accuracy(certified: Sequence[float], images: int) -> tuple[np.ndarray, np.ndarray]:
    """0 and the radii at which the certified accuracy falls, increasing, and the accuracy from each of them on.

    The accuracy at R is the fraction of `images` whose certified radius is above R; certified: of the correct ones.
    """
    steps = np.unique([0.0, *certified])
    return steps, (len(certified) - np.searchsorted(np.sort(certified), steps, side="right")) / images
