"""The logs of certify.py and recertify.py.

    idx label predict exp_cdf_00 exp_cdf_25 ... exp_00 exp_25 ... correct time

An abstention has predict -1, all bounds 0.0 (for a margin, whose range is [-1, 1], this is no bound) and correct 0. A
row holds two statements, all exp_cdf_* and all exp_*, each wrong with probability at most alpha before the sampling;
two measures are two statements more. A log of ranges (recertify.py --range) has upper bounds, too, as columns
upper_cdf_00 upper_cdf_25 ... after those; on abstention they are the measure's greatest score.
"""
import math
from collections.abc import Sequence

import numpy as np

from certconf.errors import InputError
from certconf.formats.rows import Column, Schema, Table, round_up
from certconf.statistics.certificate import ABSTAIN

RADIUS_LIMIT = 1e7  # of the radii that a column can name
LOG = Schema("certification log", (Column("exp_cdf"), Column("exp")))
RANGES = Schema("log of ranges", (*LOG.columns, Column("upper_cdf", round_up, abstention=math.inf)),
                ordered=("exp_cdf", "upper_cdf"))


def check_radii(radii: Sequence[float]) -> None:
    """Raise InputError unless the radii are 0 or above, increasing, and multiples of 0.01, as the columns need."""
    for radius in radii:
        if not 0 <= radius < RADIUS_LIMIT or radius != round(100 * radius) / 100:
            raise InputError(f"radius {radius}: radii are multiples of 0.01, at least 0 and below {RADIUS_LIMIT:g}")
    if not radii or any(a >= b for a, b in zip(radii, radii[1:], strict=False)):
        raise InputError("radii must be increasing")


class Log(Table):
    """A certification log, of bounds or of ranges."""

    schemas = (LOG, RANGES)

    def certified(self, score: float, cdf: bool = True) -> np.ndarray:
        """Which images are certified above `score`: bool [rows, radii], correct and bound strictly above."""
        return (self.values("exp_cdf" if cdf else "exp") > score) & self.values("correct")[:, None]

    def certified_accuracy(self, score: float, cdf: bool = True) -> np.ndarray:
        """The fraction of all images that is certified above `score` at each radius, [radii]."""
        return self.certified(score, cdf).sum(0) / self.images

    def certified_brier(self) -> np.ndarray:
        """The greatest mean of (1{right} - confidence of the predicted class)^2 at each radius, [radii].

        The log must be one of ranges, of pred_score. An image that abstains, or has no row, has no bounds and counts
        as 1, the worst case.
        """
        farthest = np.where(self.values("correct")[:, None], 1 - self.values("exp_cdf"), self.values("upper_cdf"))
        farthest[self.values("predict") == ABSTAIN] = 1
        return ((farthest ** 2).sum(0) + len(self.missing)) / self.images
