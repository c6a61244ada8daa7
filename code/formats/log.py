"""The logs of certify.py and recertify.py.

A log is a tab-separated file with one row per image:
    idx label predict exp_cdf_00 exp_cdf_25 ... exp_00 exp_25 ... correct time
with a column exp_cdf_%02d and exp_%02d of round(100 R) for each radius R. An abstention has predict -1, all bounds 0.0
(for a margin, whose range is [-1, 1], this is no bound) and correct 0. A row holds two statements, all exp_cdf_* and
all exp_*, each wrong with probability at most alpha before the sampling; two measures are two statements more.
"""
import decimal
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from certificate import ABSTAIN, Certificate
from errors import InputError
from files import read_bytes
from formats.record import read_record, without_row
from formats.rows import ImageRow, RowFile, number, parse_image, parse_rows, round_down
from measures import MEASURES

RADIUS_LIMIT = 1e7  # of the radii that a column can name
LEAST_DIGITS = 3  # of a published log, whose trailing zeros are not printed


def check_radii(radii: Sequence[float]) -> None:
    """Raise InputError unless the radii are 0 or above, increasing, and multiples of 0.01, as the columns need."""
    for radius in radii:
        if not 0 <= radius < RADIUS_LIMIT or radius != round(100 * radius) / 100:
            raise InputError(f"radius {radius}: radii are multiples of 0.01, at least 0 and below {RADIUS_LIMIT:g}")
    if not radii or any(a >= b for a, b in zip(radii, radii[1:], strict=False)):
        raise InputError("radii must be increasing")


def columns(radii: Sequence[float]) -> list[str]:
    """The columns of a log with bounds at these radii."""
    names = [f"{round(100 * radius):02d}" for radius in radii]
    return ["idx", "label", "predict", *(f"exp_cdf_{name}" for name in names), *(f"exp_{name}" for name in names),
            "correct", "time"]


def radii_of(header: Sequence[str]) -> tuple[float, ...]:
    """The radii that a header names. Raises ValueError for a header that no log has."""
    radii = tuple(int(name) / 100 for name in (re.fullmatch(r"exp_cdf_(\d{2,9})", column) for column in header)
                  if name for name in name.groups())
    if not radii or list(header) != columns(radii) or any(a >= b for a, b in zip(radii, radii[1:], strict=False)):
        raise ValueError("not the header of a certification log")
    return radii


@dataclass(frozen=True)
class Row(ImageRow):
    """One image of a log; bounds per radius, as in Certificate."""

    exp_cdf: tuple[float, ...]
    exp: tuple[float, ...]

    @classmethod
    def of(cls, index: int, label: int, certificate: Certificate, seconds: float) -> "Row":
        """The row of a certificate."""
        return cls(index, label, certificate.prediction, certificate.exp_cdf, certificate.exp, seconds=seconds)

    def line(self) -> str:
        """The row as it is written in the log."""
        return self.line_with(*map(round_down, self.exp_cdf + self.exp))


@dataclass(frozen=True)
class Log(RowFile):
    """A certification log and the radii of its header."""

    radii: tuple[float, ...]

    def certified(self, score: float, cdf: bool = True) -> np.ndarray:
        """Which images are certified above `score`: bool [rows, radii], correct and bound strictly above."""
        bounds = np.array([row.exp_cdf if cdf else row.exp for row in self.rows])
        return (bounds > score) & np.array([row.correct for row in self.rows])[:, None]

    def certified_accuracy(self, score: float, cdf: bool = True) -> np.ndarray:
        """The fraction of all images that is certified above `score` at each radius, [radii]."""
        return self.certified(score, cdf).sum(0) / self.images


def parse_log(path: str, data: bytes, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """Parse and check a certification log, which may have no row yet. Raises InputError with file, line and reason."""
    table = parse_rows(path, data, radii_of, lambda fields: _parse_row(fields, score_range))
    return Log(**vars(table), radii=radii_of(table.header) if table.header else ())


def read_log(path: str, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """The log in `path`, with at least one row. Raises InputError."""
    log = parse_log(path, read_bytes(path), score_range)
    if not log.rows:
        raise InputError(f"{path}: no complete row in it")
    return log


def read_recorded_log(path: str) -> tuple[Log, dict]:
    """A log and the settings of its run ({} without a record), checked against the range of the recorded measure."""
    record = read_record(path)
    settings = record["settings"] if record else {}
    name = settings.get("confidence_measure")
    measure = MEASURES.get(name) if isinstance(name, str) else None
    log = read_log(path, (measure.score_min, measure.score_max) if measure else (-1.0, 1.0))
    return replace(log, missing=len(without_row(record, log.indices))), settings


def _parse_row(fields: Sequence[str], score_range: tuple[float, float]) -> Row:
    image, bounds = parse_image(fields), fields[3:-2]
    half = len(bounds) // 2
    row = Row(*image, _bounds(bounds[:half], score_range), _bounds(bounds[half:], score_range))
    if row.predict == ABSTAIN and any(row.exp_cdf + row.exp):
        raise ValueError("an abstention with a bound")
    return row


def _bounds(texts: Sequence[str], score_range: tuple[float, float]) -> tuple[float, ...]:
    values = tuple(number(text, *score_range) for text in texts)
    for before, after, *pair in zip(values, values[1:], texts, texts[1:], strict=False):
        if after > before + max(map(_last_digit, pair)) * (1 + 1e-9):
            raise ValueError(f"a bound rises with the radius ({pair[0]} to {pair[1]})")
    return values


def _last_digit(text: str) -> float:
    """The size of one unit in the last digit that `text` was printed to."""
    value = decimal.Decimal(text)
    return 0.0 if not value else 10.0 ** (value.adjusted() + 1 - max(LEAST_DIGITS, len(value.as_tuple().digits)))
