"""The files of attack.py: what was certified of each image, and the score that the attack found.

A tab-separated file with one row per image:
    idx label predict bound_25 ... score_25 ... lower_25 ... upper_25 ... correct time
with, for each radius R, a column of round(100 R) of each kind: the log's bound (exp_cdf), the mean score of the
predicted class at the attacked image, and limits on the expected score there. An abstention of the log is not attacked:
it has predict -1, and 0 in all these columns.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.record import read_record, without_row
from certconf.formats.rows import (
    ImageRow,
    RowFile,
    named_radii,
    number,
    parse_image,
    parse_rows,
    radius_columns,
    round_down,
    round_up,
    shortest,
)
from certconf.statistics.certificate import ABSTAIN

KINDS = ("bound", "score", "lower", "upper")


@dataclass(frozen=True)
class Row(ImageRow):
    """One image; bound: the certified ones, score, lower, upper: of the attacked images; one each for every radius."""

    bound: tuple[float, ...]
    score: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def line(self) -> str:
        """The row as it is written in the file; the limits are rounded outwards."""
        return self.line_with(*map(shortest, self.bound), *map(round_down, self.score + self.lower),
                              *map(round_up, self.upper))

    @property
    def broken(self) -> tuple[bool, ...]:
        """For each radius, whether the upper limit on the score at the attacked image is below the bound."""
        return tuple(upper < bound for upper, bound in zip(self.upper, self.bound, strict=True))


@dataclass(frozen=True)
class Attacks(RowFile):
    """A file of attack.py and the radii of its header."""

    radii: tuple[float, ...]

    @property
    def attacked(self) -> list[Row]:
        """The rows of the images that were attacked."""
        return [row for row in self.rows if row.predict != ABSTAIN]

    def accuracy(self, score: float) -> np.ndarray:
        """The fraction of all images, [radii], whose class is right and whose attacked score stays above `score`.

        An image counts at R only if it also does at every smaller radius, whose attacks lie in the ball of R, too. But
        for sampling error, the accuracy that can be certified is no higher.
        """
        above = np.logical_and.accumulate(np.array([row.score for row in self.rows]) > score, axis=1)
        return (above & np.array([row.correct for row in self.rows])[:, None]).sum(0) / self.images

    def broken(self) -> list[tuple[Row, int]]:
        """The rows with a broken certificate, each with the place of a radius at which it is broken."""
        return [(row, place) for row in self.attacked for place, broken in enumerate(row.broken) if broken]


def columns(radii: Sequence[float]) -> list[str]:
    """The columns of a file with these radii."""
    return radius_columns(KINDS, radii)


def radii_of(header: Sequence[str]) -> tuple[float, ...]:
    """The radii that a header names. Raises ValueError for a header that no such file has."""
    radii = named_radii(header, "bound")
    if not radii or list(header) != columns(radii):
        raise ValueError("not the header of a file of attacks")
    return radii


def parse_attacks(path: str, data: bytes, score_range: tuple[float, float] = (-1.0, 1.0)) -> Attacks:
    """Parse and check the file, which may have no row yet. Raises InputError with file, line and reason."""
    table = parse_rows(path, data, radii_of, lambda fields: _parse_row(fields, score_range))
    return Attacks(**vars(table), radii=radii_of(table.header) if table.header else ())


def read_recorded_attacks(path: str) -> tuple[Attacks, dict]:
    """The file in `path`, of one row or more, and the settings of its run ({} without a record). Raises InputError."""
    record, attacks = read_record(path), parse_attacks(path, read_bytes(path))
    if not attacks.rows:
        raise InputError(f"{path}: no complete row in it")
    settings = record["settings"] if record else {}
    return replace(attacks, missing=tuple(without_row(record, attacks.indices))), settings


def is_attack_file(path: str) -> bool:
    """Whether a file's header is that of attacks. Raises InputError if it cannot be read."""
    return read_bytes(path).startswith(b"idx\tlabel\tpredict\tbound_")


def _parse_row(fields: Sequence[str], score_range: tuple[float, float]) -> Row:
    image, values = parse_image(fields), [number(text, *score_range) for text in fields[3:-2]]
    size = len(values) // len(KINDS)
    row = Row(*image, *(tuple(values[i:i + size]) for i in range(0, len(values), size)))
    if row.predict == ABSTAIN and any(values):
        raise ValueError("an abstention with a score")
    for lower, upper in zip(row.lower, row.upper, strict=True):
        if lower > upper:
            raise ValueError(f"lower {lower:g} is above upper {upper:g}")
    return row
