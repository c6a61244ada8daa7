"""The radius files: the certified radius of every image, in the format of Cohen et al. (2019), whose tools read it.

A tab-separated file with one row per image:
    idx label predict radius correct time
If the bound at the image itself is not above the score, predict is -1, radius 0.0 and correct 0.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.record import read_record, without_row
from certconf.formats.rows import ImageRow, RowFile, number, parse_image, parse_rows, round_down
from certconf.statistics.certificate import ABSTAIN, Certificate

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
NAIVE = "naive"  # the bound without the CDF, as a record names it
LARGEST = 1e9  # more than any distance between two images


@dataclass(frozen=True)
class Row(ImageRow):
    """One image of a radius file; radius: certified for `predict` at the file's score."""

    radius: float

    @classmethod
    def of(cls, index: int, label: int, certificate: Certificate, radius: float, seconds: float) -> "Row":
        """The row of a certificate with this radius: an abstention if it is 0."""
        return cls(index, label, certificate.chosen if radius > 0 else ABSTAIN, seconds, radius)

    def line(self) -> str:
        """The row as it is written in the file."""
        return self.line_with(round_down(self.radius))


@dataclass(frozen=True)
class Radii(RowFile):
    """A radius file."""

    def certified_accuracy(self, radii: Sequence[float]) -> np.ndarray:
        """The fraction of all images that is correct with a certified radius above each of `radii`, [len(radii)].

        The bound falls with the radius, so "bound above the score at R" is "certified radius above R".
        """
        return accuracy_at(radii, self.of_correct, self.images)

    @property
    def of_correct(self) -> list[float]:
        """The certified radii of the images whose class is right."""
        return [row.radius for row in self.rows if row.correct]


def accuracy_at(radii: Sequence[float], certified: Sequence[float], images: int) -> np.ndarray:
    """The fraction of `images` whose certified radius is above each of `radii`; certified: of the correct ones."""
    return (len(certified) - np.searchsorted(np.sort(certified), radii, side="right")) / images


def exact_accuracy(certified: Sequence[float], images: int) -> tuple[np.ndarray, np.ndarray]:
    """0 and the radii at which the certified accuracy falls, increasing, and the accuracy from each of them on."""
    steps = np.unique([0.0, *certified])
    return steps, accuracy_at(steps, certified, images)


def is_radius_file(path: str) -> bool:
    """Whether the header of `path` is that of a radius file. Raises InputError."""
    header = read_bytes(path).split(b"\n", 1)[0].rstrip(b"\r")
    return header == "\t".join(COLUMNS).encode()


def parse_radii(path: str, data: bytes) -> Radii:
    """Parse and check a radius file, which may have no row yet. Raises InputError with file, line and reason."""
    return Radii(**vars(parse_rows(path, data, _check_header, _parse_row)))


def read_recorded_radii(path: str) -> tuple[Radii, dict]:
    """The radius file in `path`, with at least one row, and the settings in its record, or {}. Raises InputError."""
    radii, record = parse_radii(path, read_bytes(path)), read_record(path)
    if not radii.rows:
        raise InputError(f"{path}: no complete row in it")
    return replace(radii, missing=tuple(without_row(record, radii.indices))), record["settings"] if record else {}


def _check_header(fields: Sequence[str]) -> None:
    if fields != COLUMNS:
        raise ValueError("not the header of a radius file")


def _parse_row(fields: Sequence[str]) -> Row:
    row = Row(*parse_image(fields), number(fields[3], 0, LARGEST))
    if row.predict == ABSTAIN and row.radius:
        raise ValueError("an abstention with a radius")
    return row
