"""The files of attack.py: what was certified of each image, and the score that the attack found.

    idx label predict bound_25 ... score_25 ... lower_25 ... upper_25 ... correct time

For each radius: the log's bound (exp_cdf), the mean score of the predicted class at the attacked image, and limits on
the expected score there. An abstention of the log is not attacked: it has predict -1, and 0 in all these columns.
"""
import numpy as np

from certconf.formats.rows import Column, Schema, Table, round_up, shortest
from certconf.statistics.certificate import ABSTAIN

ATTACKS = Schema("file of attacks",
                 (Column("bound", shortest), Column("score"), Column("lower"), Column("upper", round_up)),
                 ordered=("lower", "upper"))


class Attacks(Table):
    """A file of attack.py."""

    schemas = (ATTACKS,)

    @property
    def attacked(self) -> list:
        """The rows of the images that were attacked."""
        return [row for row in self.rows if row.predict != ABSTAIN]

    def summary(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the attacked images: the mean bound, the mean score, and the least score - bound; each [radii]."""
        bounds, scores = (np.array([getattr(row, name) for row in self.attacked]) for name in ("bound", "score"))
        return bounds.mean(0), scores.mean(0), (scores - bounds).min(0)

    def accuracy(self, score: float) -> np.ndarray:
        """The fraction of all images, [radii], whose class is right and whose attacked score stays above `score`.

        An image counts at R only if it also does at every smaller radius, whose attacks lie in the ball of R, too; an
        abstention, which is not attacked, never does. But for sampling error, the log's certified accuracy is no
        higher.
        """
        above = np.logical_and.accumulate(self.values("score") > score, axis=1)
        return (above & self.values("correct")[:, None]).sum(0) / self.images

    def broken(self) -> list[tuple]:
        """(row, place of a radius) where the upper limit on the score at the attacked image is below the bound."""
        return [(row, place) for row in self.attacked for place, (upper, bound) in
                enumerate(zip(row.upper, row.bound, strict=True)) if upper < bound]
