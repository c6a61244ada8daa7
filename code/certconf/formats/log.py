"""The logs of certify.py and recertify.py.

A log is a tab-separated file with one row per image:
    idx label predict exp_cdf_00 exp_cdf_25 ... exp_00 exp_25 ... correct time
with a column exp_cdf_%02d and exp_%02d of round(100 R) for each radius R. An abstention has predict -1, all bounds 0.0
(for a margin, whose range is [-1, 1], this is no bound) and correct 0. A row holds two statements, all exp_cdf_* and
all exp_*, each wrong with probability at most alpha before the sampling; two measures are two statements more.
A log of ranges (recertify.py --range) has upper bounds, too, as columns upper_cdf_00 upper_cdf_25 ... after those; on
abstention they are the measure's greatest score.
"""
import decimal
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.record import read_record, recorded_measure, without_row
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
)
from certconf.statistics.certificate import ABSTAIN, Certificate

RADIUS_LIMIT = 1e7  # of the radii that a column can name
UPPER = "upper_cdf"  # how the columns of upper bounds begin
LEAST_DIGITS = 3  # of a published log, whose trailing zeros are not printed


def check_radii(radii: Sequence[float]) -> None:
    """Raise InputError unless the radii are 0 or above, increasing, and multiples of 0.01, as the columns need."""
    for radius in radii:
        if not 0 <= radius < RADIUS_LIMIT or radius != round(100 * radius) / 100:
            raise InputError(f"radius {radius}: radii are multiples of 0.01, at least 0 and below {RADIUS_LIMIT:g}")
    if not radii or any(a >= b for a, b in zip(radii, radii[1:], strict=False)):
        raise InputError("radii must be increasing")


def columns(radii: Sequence[float], upper: bool = False) -> list[str]:
    """The columns of a log with bounds at these radii; upper: with upper bounds, too."""
    kinds = ("exp_cdf", "exp", UPPER) if upper else ("exp_cdf", "exp")
    return radius_columns(kinds, radii)


def radii_of(header: Sequence[str]) -> tuple[float, ...]:
    """The radii that a header names. Raises ValueError for a header that no log has."""
    radii = named_radii(header, "exp_cdf")
    if not radii or list(header) not in (columns(radii), columns(radii, upper=True)):
        raise ValueError("not the header of a certification log")
    return radii


@dataclass(frozen=True)
class Row(ImageRow):
    """One image of a log; bounds per radius, as in Certificate. upper_cdf: () in a log of lower bounds alone."""

    exp_cdf: tuple[float, ...]
    exp: tuple[float, ...]
    upper_cdf: tuple[float, ...] = ()

    @classmethod
    def of(cls, index: int, label: int, certificate: Certificate, seconds: float, upper: bool = False) -> "Row":
        """The row of a certificate; upper: with its upper bounds."""
        return cls(index, label, certificate.prediction, seconds, certificate.exp_cdf, certificate.exp,
                   certificate.upper_cdf if upper else ())

    def line(self) -> str:
        """The row as it is written in the log; the bounds are rounded outwards."""
        return self.line_with(*map(round_down, self.exp_cdf + self.exp), *map(round_up, self.upper_cdf))


@dataclass(frozen=True)
class Log(RowFile):
    """A certification log and the radii of its header."""

    radii: tuple[float, ...]

    @property
    def has_upper(self) -> bool:
        """Whether it has upper bounds."""
        return _has_upper(self.header)

    def certified(self, score: float, cdf: bool = True) -> np.ndarray:
        """Which images are certified above `score`: bool [rows, radii], correct and bound strictly above."""
        bounds = np.array([row.exp_cdf if cdf else row.exp for row in self.rows])
        return (bounds > score) & np.array([row.correct for row in self.rows])[:, None]

    def certified_accuracy(self, score: float, cdf: bool = True) -> np.ndarray:
        """The fraction of all images that is certified above `score` at each radius, [radii]."""
        return self.certified(score, cdf).sum(0) / self.images

    def certified_brier(self) -> np.ndarray:
        """The greatest mean of (1{right} - confidence of the predicted class)^2 at each radius, [radii].

        The log must have upper bounds, of pred_score. An image that abstains, or has no row, has no bounds and counts
        as 1, the worst case.
        """
        worst = np.ones((len(self.rows), len(self.radii)))
        for i, row in enumerate(self.rows):
            if row.predict != ABSTAIN:
                worst[i] = np.square(1 - np.array(row.exp_cdf) if row.correct else row.upper_cdf)
        return (worst.sum(0) + len(self.missing)) / self.images


def parse_log(path: str, data: bytes, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """Parse and check a certification log, which may have no row yet. Raises InputError with file, line and reason."""
    parts = 3 if _has_upper(data.split(b"\n", 1)[0].decode(errors="replace").split("\t")) else 2
    table = parse_rows(path, data, radii_of, lambda fields: _parse_row(fields, score_range, parts))
    return Log(**vars(table), radii=radii_of(table.header) if table.header else ())


def read_log(path: str, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """The log in `path`, with at least one row. Raises InputError."""
    log = parse_log(path, read_bytes(path), score_range)
    if not log.rows:
        raise InputError(f"{path}: no complete row in it")
    return log


def read_recorded_log(path: str, skip: int = 1) -> tuple[Log, dict]:
    """A log and the settings of its run ({} without a record), checked against the range of the recorded measure.

    Of its images, those with the indices 0, skip, 2 skip, ... only. Raises InputError, also if there are none.
    """
    record = read_record(path)
    settings = record["settings"] if record else {}
    measure = recorded_measure(settings)
    log = read_log(path, (measure.score_min, measure.score_max) if measure else (-1.0, 1.0))
    missing = tuple(index for index in without_row(record, log.indices) if index % skip == 0)
    rows = [row for row in log.rows if row.index % skip == 0]
    if not rows:
        raise InputError(f"{path}: no row of the images 0, {skip}, {2 * skip}, ...")
    return replace(log, rows=rows, missing=missing), settings


def _has_upper(header: Sequence[str]) -> bool:
    return any(column.startswith(UPPER) for column in header)


def _parse_row(fields: Sequence[str], score_range: tuple[float, float], parts: int) -> Row:
    image, bounds = parse_image(fields), fields[3:-2]
    size = len(bounds) // parts
    row = Row(*image, *(_bounds(bounds[i:i + size], score_range, i == 2 * size) for i in range(0, len(bounds), size)))
    if row.predict == ABSTAIN and (any(row.exp_cdf + row.exp) or any(v < score_range[1] for v in row.upper_cdf)):
        raise ValueError("an abstention with a bound")
    for lower, upper in zip(row.exp_cdf, row.upper_cdf, strict=False):  # there may be none
        if lower > upper:
            raise ValueError(f"lower bound {lower:g} is above upper bound {upper:g}")
    return row


def _bounds(texts: Sequence[str], score_range: tuple[float, float], rising: bool) -> tuple[float, ...]:
    """The bounds of a row at increasing radii, which fall but for the rounding of a print, or (rising) rise."""
    values = tuple(number(text, *score_range) for text in texts)
    for before, after, *pair in zip(values, values[1:], texts, texts[1:], strict=False):
        if (before - after if rising else after - before) > max(map(_last_digit, pair)) * (1 + 1e-9):
            how = "an upper bound falls" if rising else "a bound rises"
            raise ValueError(f"{how} with the radius ({pair[0]} to {pair[1]})")
    return values


def _last_digit(text: str) -> float:
    """The size of one unit in the last digit that `text` was printed to."""
    value = decimal.Decimal(text)
    return 0.0 if not value else 10.0 ** (value.adjusted() + 1 - max(LEAST_DIGITS, len(value.as_tuple().digits)))
