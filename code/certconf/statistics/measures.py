"""Confidence measures: the score that one noisy sample gives each class, from the softmax of its logits.

A measure is written with tensor methods alone, so that it runs on the scores' own device, without NumPy.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A confidence measure (Kumar et al. 2020, section 3).

    score_min, score_max   the range of a score
    cutoff                 abstain if the lower bound at radius 0 is below it
    transform              softmax [..., classes] -> scores [..., classes], both tensors
    two_valued             a score is score_min or score_max, nothing between (see bounds.two_valued_band)
    """

    name: str
    score_min: float
    score_max: float
    cutoff: float
    transform: Callable[[Any], Any]
    two_valued: bool = False

    @property
    def range(self) -> float:
        """score_max - score_min."""
        return self.score_max - self.score_min

    def check_score(self, score: float) -> None:
        """Raise ValueError for a score that every certificate or none exceeds, or NaN."""
        if not self.score_min < score < self.score_max:
            raise ValueError(f"score {score:g} is not strictly between {self.score_min:g} and {self.score_max:g}, the "
                             f"range of {self.name}")


def _pred_score(softmax):
    """The softmax itself."""
    return softmax


def _margin(softmax):
    """s_c - max_{j != c} s_j for every class c; 0 for classes that share the highest softmax."""
    highest = softmax.topk(2, dim=-1).values
    first, second = highest[..., :1], highest[..., 1:]
    return softmax - first.where(softmax < first, second)


def _top_class(softmax):
    """1 for the argmax (of several highest ones the first), 0 for every other class; NaN stays NaN."""
    first = softmax.argmax(-1, keepdim=True)
    return (softmax * 0).scatter(-1, first, 1.0).where(softmax == softmax, softmax)


MEASURES = {
    "pred_score": Measure("pred_score", 0.0, 1.0, 0.5, _pred_score),
    "margin": Measure("margin", -1.0, 1.0, 0.0, _margin),
    "top_class": Measure("top_class", 0.0, 1.0, 0.5, _top_class, two_valued=True),
}
SOFT_MEASURES = tuple(name for name, measure in MEASURES.items() if not measure.two_valued)  # the paper's
