"""Certified accuracy against radius, read from logs, attacks, radius files and saved scores."""
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certconf.errors import InputError
from certconf.files import file_sha256
from certconf.formats.attacks import Attacks
from certconf.formats.log import Log
from certconf.formats.radii import NAIVE, Radii, exact_accuracy
from certconf.formats.scores import SavedScores, read_scores
from certconf.report.notes import report_different_images, report_flaws, report_missing, report_settled
from certconf.statistics.measures import MEASURES

CDF, MEAN, ATTACKED = "CDF bound", "without the CDF", "attacked score"


@dataclass(frozen=True)
class Curve:
    """Accuracy [J] at increasing radii [J]; exact: known at every radius, and falls at these.

    style: steps-pre if what holds at a radius also holds at the smaller ones, steps-post if at the larger ones.
    """

    radii: Sequence[float]
    accuracy: Sequence[float]
    style: str = "steps-post"
    exact: bool = False

    def at(self, radius: float) -> float | None:
        """The accuracy at a radius, None if it is not known there."""
        if self.exact:
            return float(self.accuracy[np.searchsorted(self.radii, radius, side="right") - 1])
        return dict(zip(self.radii, self.accuracy, strict=True)).get(radius)

    def staircase(self) -> tuple[Sequence[float], Sequence[float]]:
        """The corners to draw in the curve's style: a log's bound at its first radius holds at 0, too."""
        if self.style == "steps-post" or self.radii[0] == 0:
            return self.radii, self.accuracy
        return [0.0, *self.radii], [self.accuracy[0], *self.accuracy]


@dataclass(frozen=True)
class Source:
    """A file to draw: for each score its curves, by their names CDF, MEAN, ATTACKED."""

    path: str
    settings: dict
    curves: dict[float | None, dict[str, Curve]]
    images: frozenset[int]  # that count in it
    radii: tuple[float, ...] = ()  # of the file's columns
    log_sha256: str | None = None  # of the log that it is, or whose scores it holds, or that it attacks

    @property
    def attacks(self) -> bool:
        """Whether it is a file of attacks."""
        return any(ATTACKED in curves for curves in self.curves.values())


def read_sources(paths: Sequence[str], scores: list[float]) -> list[Source]:
    """The files, in the order given. Raises InputError."""
    sources = [read_source(path, scores) for path in dict.fromkeys(paths)]
    check_attacks(sources, scores)
    report_different_images({source.path: source.images for source in sources})
    return sources


def check_attacks(sources: list[Source], scores: list[float]) -> None:
    """Raise InputError for an attack beside logs if it is of none of them, or of other images than its log counts."""
    certified = [source for source in sources if not source.attacks]
    for attack in (source for source in sources if certified and source.attacks):
        own = [source for source in certified if source.log_sha256 == attack.log_sha256 is not None]
        if not own:
            raise InputError(f"{attack.path}: an attack of none of the logs that are drawn with it")
        if any(attack.images != source.images for source in own):
            raise InputError(f"{attack.path}: not all images of its log are attacked, or others are")
        for source in own:
            if source.path.endswith(".scores"):
                cutoff = MEASURES[source.settings["confidence_measure"]].cutoff
                if min(scores) < cutoff:
                    raise InputError(f"{source.path}: below {cutoff:g} it counts images that abstain, which were not "
                                     "attacked: draw the log instead")


def read_source(path: str, scores: list[float]) -> Source:
    """One file, and its curves at the scores. Raises InputError."""
    if path.endswith(".scores"):
        return source_of_scores(read_scores(path), scores)
    kind = next((kind for kind in (Radii, Attacks) if kind.is_kind_of(path)), Log)
    table, settings = kind.read(path)
    report_flaws(table)
    if kind is Radii:
        own = settings.get("score")
        if scores and scores != [own]:
            raise InputError(f"{path} is a radius file, for one score of its own: "
                             f"{'not recorded' if own is None else own}, not {' '.join(map(str, scores))}")
        curves = {MEAN if settings.get("bound") == NAIVE else CDF: exact_curve(table.of_correct, table.images)}
        return Source(path, settings, dict.fromkeys(scores or [None], curves), table.all_indices)
    if not scores:
        raise InputError(f"{path} is a {table.schema.name}: give --score")
    if kind is Attacks:
        curves = {score: {ATTACKED: Curve(table.radii, table.accuracy(score))} for score in scores}
        return Source(path, settings, curves, table.all_indices, table.radii, settings.get("log_sha256"))
    report_settled(path, settings)
    curves = {score: {name: Curve(table.radii, table.certified_accuracy(score, name == CDF), "steps-pre")
                      for name in (CDF, MEAN)} for score in scores}
    return Source(path, settings, curves, table.all_indices, table.radii, file_sha256(path))


def source_of_scores(saved: SavedScores, scores: list[float]) -> Source:
    """Saved scores under the band of their run. Raises InputError for a score that no bound of theirs can exceed."""
    if not scores:
        raise InputError(f"{saved.path} holds saved scores: give --score")
    try:
        for score in scores:
            saved.spec.measure.check_score(score)
    except ValueError as error:
        raise InputError(f"{saved.path}: {error}") from None
    report_settled(saved.path, saved.settings)
    report_missing(saved.path, saved.non_finite)
    right = [found for _, label, found in saved.certificates(saved.plan) if found.chosen == label]
    curves = {score: {name: exact_curve([found.radius(score, naive=name == MEAN) for found in right], saved.images)
                      for name in (CDF, MEAN)} for score in scores}
    return Source(saved.path, saved.settings, curves, frozenset((*saved.records["idx"].tolist(), *saved.non_finite)),
                  log_sha256=file_sha256(saved.log) if os.path.isfile(saved.log) else None)


def exact_curve(certified: Sequence[float], images: int) -> Curve:
    """The certified accuracy at every radius, from the certified radii of the images whose class is right."""
    return Curve(*exact_accuracy(certified, images), exact=True)
