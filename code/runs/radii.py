"""The radius files: the certified radius of every image, in the format of Cohen et al. (2019), whose tools read it.

A tab-separated file with one row an image:
    idx label predict radius correct time
Where the bound is not above the score at the image itself, predict is -1, radius 0.0 and correct 0.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from certificate import ABSTAIN
from errors import InputError
from runs.log import TIME, Table, integer, join, natural, number, parse_table, read_bytes, round_down
from runs.record import read_record, without_row

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
NAIVE = "naive"  # the bound without the CDF, as a record names it
LARGEST = 1e9  # more than any distance between two images


@dataclass(frozen=True)
class Row:
    """One image of a radius file; radius: certified for `predict` at the file's score."""

    index: int
    label: int
    predict: int
    radius: float
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    def line(self) -> str:
        """The row as it stands in the file."""
        return join(self.index, self.label, self.predict, round_down(self.radius), int(self.correct),
                    timedelta(seconds=self.seconds))


@dataclass(frozen=True)
class Radii(Table):
    """A radius file."""

    def certified_accuracy(self, radii: Sequence[float]) -> np.ndarray:
        """The fraction of all images that is correct with a certified radius above each of `radii`, [len(radii)].

        The bound falls with the radius, so "bound above the score at R" is "certified radius above R".
        """
        certified = np.sort([row.radius for row in self.rows if row.correct])
        return (len(certified) - np.searchsorted(certified, radii, side="right")) / self.images

    def steps(self) -> np.ndarray:
        """0 and the radii at which the certified accuracy falls, increasing."""
        return np.unique([0.0, *(row.radius for row in self.rows if row.correct)])


def is_radius_file(path: str) -> bool:
    """Whether the header of `path` is that of a radius file. Raises InputError."""
    header = read_bytes(path).split(b"\n", 1)[0].rstrip(b"\r")
    return header == "\t".join(COLUMNS).encode()


def parse_radii(path: str, data: bytes) -> Radii:
    """Parse and check a radius file, which may have no row yet. Raises InputError with file, line and reason."""
    def read_header(fields):
        if fields != COLUMNS:
            raise ValueError("not the header of a radius file")
        return fields

    return Radii(**vars(parse_table(path, data, read_header, lambda fields, header: parse_row(fields))))


def read_recorded_radii(path: str) -> tuple[Radii, dict]:
    """The radius file in `path`, with at least one row, and the settings in its record, or {}. Raises InputError."""
    radii, record = parse_radii(path, read_bytes(path)), read_record(path)
    if not radii.rows:
        raise InputError(f"{path}: no complete row in it")
    return replace(radii, missing=len(without_row(record, radii.indices))), record["settings"] if record else {}


def parse_row(fields: Sequence[str]) -> Row:
    """A row from its fields. Raises ValueError with the reason."""
    index, label, predict, radius, correct, time = fields
    if not TIME.fullmatch(time):
        raise ValueError(f"time {time!r} is not a time")
    row = Row(natural(index, "idx"), natural(label, "label"), integer(predict, "predict"), number(radius, 0, LARGEST))
    if row.predict < ABSTAIN:
        raise ValueError(f"predict {predict} is no class")
    if correct != str(int(row.correct)):
        raise ValueError(f"correct is {correct!r}, but predict {predict} and label {label}")
    if row.predict == ABSTAIN and row.radius:
        raise ValueError("an abstention with a radius")
    return row
