"""What the user asks of a run: frozen configurations, filled by a command line or by certify_dataset, and checked.

A field has the name of its option, and its default. Values of Python (NumPy's numbers, integers for floats, lists) are
taken as the command line would read them.
"""
import math
import operator
import os
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from types import UnionType

from certconf.errors import InputError
from certconf.formats.log import check_radii
from certconf.formats.scores import refuse_files_of
from certconf.inputs.catalogue import check_dataset_name
from certconf.sampling import PRECISIONS
from certconf.sampling.law import NOISES, check_sigma
from certconf.sampling.streams import SEEDS
from certconf.statistics.bounds import WEIGHTS
from certconf.statistics.certificate import BOUNDS, RADII, CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

PLACE = "{confidence_measure}"
CHOICES = {"noise": NOISES, "precision": PRECISIONS, "bound": BOUNDS, "weights": WEIGHTS,
           "confidence_measure": MEASURES}
POSITIVE = ("batch", "skip", "N", "N0", "steps", "draws")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Network, images, noise, and what fixes the samples. Raises InputError for a value that no run can use."""

    dataset: str
    base_classifier: str
    sigma: float
    outfile: str
    arch: str | None = None
    checkpoint_key: str | None = None
    batch: int = 1000
    skip: int = 1
    max: int = -1
    split: str | None = "test"
    N: int = 100000
    alpha: float = 0.001
    seed: int = 0
    noise: str = NOISES[0]
    round_images: bool = False
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    random_network: bool = False
    overwrite: bool = False

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _read(field.name, field.type, getattr(self, field.name)))
        if self.split is not None:  # certify_dataset names objects, not data sets
            check_dataset_name(self.dataset)
        try:
            check_sigma(self.noise, self.sigma)
        except ValueError as error:
            raise InputError(f"SIGMA or --noise: {error}") from None
        if self.noise == "float" and self.round_images:
            raise InputError("--round_images belongs to integer noise, not to --noise float")
        if not 0 <= self.seed < SEEDS:
            raise InputError(f"--seed must be between 0 and {SEEDS - 1}, not {self.seed}")
        for name in POSITIVE:
            if getattr(self, name, 1) < 1:
                raise InputError(f"--{name} must be 1 or above, not {getattr(self, name)}")
        if self.max < 1 and self.max != -1:
            raise InputError(f"--max must be 1 or above (or -1: no limit), not {self.max}")
        if not 0 < self.alpha < 1:
            raise InputError(f"--alpha must lie strictly between 0 and 1, not {self.alpha}")
        if os.path.realpath(self.outfile) == os.path.realpath(self.base_classifier):
            raise InputError(f"{self.outfile}: is BASE_CLASSIFIER itself; choose another name")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(SamplingConfig):
    """N0: samples that choose the class."""

    N0: int = 100

    def __post_init__(self):
        super().__post_init__()
        if self.N < 2:
            raise InputError("--N must be 2 or above")
        # of the limits on the expected score, each of which gets alpha / 2
        check_plan(CertificateSpec(MEASURES["pred_score"], self.N, self.alpha / 2, self.sigma, weights="equal"))


@dataclass(frozen=True, kw_only=True)
class CertifyConfig(SamplingConfig):
    """N0, measures, band, radii and staged sampling, too; early_abstain is off if the scores are saved."""

    N0: int = 100
    confidence_measure: tuple[str, ...] = ("pred_score",)
    bound: str = BOUNDS[0]
    weights: str = WEIGHTS[0]
    radii: tuple[float, ...] = RADII
    early_abstain: bool = True
    save_scores: bool = False
    settle: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.save_scores:
            object.__setattr__(self, "early_abstain", False)
        if self.settle is not None and len(self.settle) != len(self.confidence_measure):
            raise InputError("--settle: one score for each measure")
        if len(set(self.confidence_measure)) < len(self.confidence_measure):
            raise InputError("--confidence_measure: each measure once")
        if len(self.confidence_measure) > 1 and PLACE not in self.outfile:
            raise InputError(f"OUTFILE must contain {PLACE} if there are several measures")

    def plans(self) -> list[Plan]:
        """The plan of each measure's certificates. Raises InputError, also if every image would abstain."""
        scores = self.settle or [None] * len(self.confidence_measure)
        plans = [check_plan(CertificateSpec(MEASURES[name], self.N, self.alpha, self.sigma, self.bound, self.radii,
                                            self.weights, self.weights if self.save_scores else None), score)
                 for name, score in zip(self.confidence_measure, scores, strict=True)]
        if hopeless := [plan for plan in plans if not plan.can_certify()]:
            names = ", ".join(plan.spec.measure.name for plan in hopeless)
            raise InputError(f"--N {self.N} certifies nothing: at alpha {self.alpha:g} every image abstains ({names}), "
                             f"whatever its scores; --N {max(plan.least_n() for plan in hopeless)} is the least")
        return plans

    def ceilings(self, plans: list[Plan]) -> list[str]:
        """A line for each measure: how far its bounds can reach at best."""
        lines = []
        for plan in plans:
            score, ceiling = plan.score, math.ceil(100 * plan.ceiling()) / 100
            beyond = [radius for radius in self.radii if radius >= ceiling]
            lines.append(f"ceiling: with this N, alpha and sigma no {plan.spec.measure.name} bound exceeds {score:g} "
                         f"at radius {ceiling:.2f} or above" + (f" (--radii: from {beyond[0]:g} on)" if beyond else ""))
        return lines

    def log_path(self, measure: str) -> str:
        """The log of a measure."""
        return self.outfile.replace(PLACE, measure)


@dataclass(frozen=True, kw_only=True)
class AttackConfig(SamplingConfig):
    """A log, and the search for images that break its certificates."""

    log: str
    N: int = 10000
    alpha: float = 1e-6
    radii: tuple[float, ...] | None = None
    steps: int = 20
    draws: int = 64
    clip: bool = False

    def __post_init__(self):
        super().__post_init__()
        refuse_files_of(self.log, self.outfile)
        if self.radii is not None:
            check_radii(self.radii)


def check_plan(spec: CertificateSpec, settle: float | None = None, like: Plan | None = None) -> Plan:
    """The plan of a spec, prepared; like: a plan whose score, looks and starts it takes over.

    Raises InputError for radii, a score, or (n, alpha) that it cannot have.
    """
    check_radii(spec.radii)
    try:
        if like is not None:
            return like.of(spec).prepare()
        return Plan(spec, settle).prepare()
    except ValueError as error:
        raise InputError(f"--N, --alpha, --bound or --settle: {error}") from None


def _read(name: str, kind, value):
    """A value as the type of its field. Raises InputError."""
    if isinstance(kind, UnionType):  # of a type and None
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    with suppress(TypeError, ValueError):
        if typing.get_origin(kind) is tuple:
            each = typing.get_args(kind)[0]
            listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            return tuple(_of_type(name, each, item) for item in listed)
        return _of_type(name, kind, value)
    raise InputError(f"--{name}: {value!r} is no value of this option")


def _of_type(name: str, kind: type, value):
    """A single value. Raises TypeError or ValueError."""
    if kind is int and type(value) is not bool:
        return operator.index(value)
    if kind is float and not isinstance(value, str | bool):
        return float(value)
    if type(value) is not kind or name in CHOICES and value not in CHOICES[name]:
        raise ValueError
    return value
