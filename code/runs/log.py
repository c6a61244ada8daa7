"""The logs: their columns, how a row is written, and the one reader that checks all that is read.

A log is a tab-separated file with one row an image:
    idx label predict exp_cdf_00 exp_cdf_25 ... exp_00 exp_25 ... correct time
with a column exp_cdf_%02d and exp_%02d of round(100 R) for each radius R. An abstention has predict -1, all bounds 0.0
and correct 0.
"""
import decimal
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

from certificate import ABSTAIN, Certificate, Rule
from errors import InputError

RADIUS_LIMIT = 1e7  # of the radii that a column can name
DIGITS = 8  # significant digits of a printed bound
LEAST_DIGITS = 3  # of a published log, whose trailing zeros are not printed
FLOOR = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_FLOOR)
CEILING = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_CEILING)
TIME = re.compile(r"(\d+ days?, )?\d+:\d\d:\d\d(\.\d+)?")
INTEGER = re.compile(r"-?\d{1,18}")
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


def check_radii(radii: Sequence[float]) -> None:
    """Raise InputError unless the radii are 0 or above, increasing, and multiples of 0.01, as the columns need."""
    for radius in radii:
        if not 0 <= radius < RADIUS_LIMIT or radius != round(100 * radius) / 100:
            raise InputError(f"radius {radius}: radii are multiples of 0.01, at least 0 and below {RADIUS_LIMIT:g}")
    if not radii or any(a >= b for a, b in zip(radii, radii[1:], strict=False)):
        raise InputError("radii must be increasing")


def check_rule(rule: Rule) -> None:
    """Raise InputError for radii that no log has, and for a band that is not to be had at the rule's (n, alpha)."""
    check_radii(rule.radii)
    try:
        rule.band  # noqa: B018  (made and kept at the first look)
    except ValueError as error:
        raise InputError(f"--N, --alpha or --bound: {error}") from None


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


def round_down(value: float) -> str:
    """`value` to DIGITS significant digits, never above it."""
    return "0.0" if value == 0 else str(FLOOR.create_decimal_from_float(value))


def exactly(value: float) -> str:
    """`value` as short as can be without becoming another number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def round_up(value: float) -> str:
    """`value` to DIGITS significant digits, never below it."""
    return "0.0" if value == 0 else str(CEILING.create_decimal_from_float(value))


@dataclass(frozen=True)
class Row:
    """One image of a log; bounds per radius, as in Certificate."""

    index: int
    label: int
    predict: int
    exp_cdf: tuple[float, ...]
    exp: tuple[float, ...]
    seconds: float = 0.0

    @classmethod
    def of(cls, index: int, label: int, certificate: Certificate, seconds: float) -> "Row":
        """The row of a certificate."""
        return cls(index, label, certificate.prediction, certificate.exp_cdf, certificate.exp, seconds)

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    def line(self) -> str:
        """The row as it stands in the log."""
        bounds = map(round_down, self.exp_cdf + self.exp)
        return join(self.index, self.label, self.predict, *bounds, int(self.correct), timedelta(seconds=self.seconds))


def join(*fields) -> str:
    """Fields as one line of a table."""
    return "\t".join(map(str, fields)) + "\n"


@dataclass(frozen=True)
class Table:
    """What a file of rows holds: its header, the checked rows, where each row ends in the file, and a torn last line.

    ends has the byte offset of the end of the header and of each row: one more entry than rows has. missing: images
    that the record tells to have no row, since their scores are not finite.
    """

    path: str
    header: tuple[str, ...]
    rows: list
    ends: list[int]
    torn: bool
    missing: int = field(default=0, kw_only=True)

    @property
    def images(self) -> int:
        """The number of images, those without a row too."""
        return len(self.rows) + self.missing

    @property
    def indices(self) -> list[int]:
        """The image index of every row."""
        return [row.index for row in self.rows]


@dataclass(frozen=True)
class Log(Table):
    """A certification log and the radii of its header."""

    radii: tuple[float, ...]

    def certified(self, score: float, cdf: bool = True) -> np.ndarray:
        """Which images are certified above `score`: bool [rows, radii], correct and bound strictly above."""
        bounds = np.array([row.exp_cdf if cdf else row.exp for row in self.rows])
        return (bounds > score) & np.array([row.correct for row in self.rows])[:, None]

    def certified_accuracy(self, score: float, cdf: bool = True) -> np.ndarray:
        """The fraction of all images that is certified above `score` at each radius, [radii]."""
        return self.certified(score, cdf).sum(0) / self.images


def parse_table(path: str, data: bytes, read_header: Callable, read_row: Callable) -> Table:
    """Parse a file of rows. read_header(fields) and read_row(fields, header) raise ValueError with a reason.

    A last line without a line end is torn: left out. Raises InputError with file, line and reason.
    """
    lines = data.split(b"\n")
    torn, lines = bool(lines[-1]), lines[:-1]
    rows, ends, seen, header = [], [], set(), ()
    for number, line in enumerate(lines, start=1):
        try:
            fields = tuple(line.decode("ascii").rstrip("\r").split("\t"))
            if number == 1:
                header = read_header(fields)
            else:
                if len(fields) != len(header):
                    raise ValueError(f"{len(fields)} fields, not {len(header)}")
                rows.append(read_row(fields, header))
                if rows[-1].index in seen:
                    raise ValueError(f"index {rows[-1].index} stands in it twice")
                seen.add(rows[-1].index)
        except ValueError as error:
            reason = "not ASCII text" if isinstance(error, UnicodeError) else error
            raise InputError(f"{path}:{number}: {reason}") from None
        ends.append((ends[-1] if ends else 0) + len(line) + 1)
    return Table(path, header, rows, ends or [0], torn)


def parse_log(path: str, data: bytes, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """Parse and check a certification log, which may have no row yet. Raises InputError with file, line and reason."""
    def read_header(fields):
        radii_of(fields)
        return fields

    table = parse_table(path, data, read_header, lambda fields, header: parse_row(fields, score_range))
    return Log(**vars(table), radii=radii_of(table.header) if table.header else ())


def read_log(path: str, score_range: tuple[float, float] = (-1.0, 1.0)) -> Log:
    """The log in `path`, with at least one row. Raises InputError."""
    log = parse_log(path, read_bytes(path), score_range)
    if not log.rows:
        raise InputError(f"{path}: no complete row in it")
    return log


def read_bytes(path: str) -> bytes:
    """The content of a file the user named. Raises InputError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def tell_flaws(table: Table) -> None:
    """Say on stderr what a reader of the table's numbers should know: a torn last line, images without a row."""
    if table.torn:
        print(f"{table.path}: its last line is torn and is left out", file=sys.stderr)
    if table.missing:
        print(f"{table.path}: {table.missing} images with non-finite scores have no row, and count as not certified",
              file=sys.stderr)


def parse_row(fields: Sequence[str], score_range: tuple[float, float]) -> Row:
    """A log's row from its fields. Raises ValueError with the reason."""
    index, label, predict, *bounds, correct, time = fields
    if not TIME.fullmatch(time):
        raise ValueError(f"time {time!r} is not a time")
    half = len(bounds) // 2
    row = Row(natural(index, "idx"), natural(label, "label"), integer(predict, "predict"),
              _bounds(bounds[:half], score_range), _bounds(bounds[half:], score_range))
    if row.predict < ABSTAIN:
        raise ValueError(f"predict {predict} is no class")
    if correct != str(int(row.correct)):
        raise ValueError(f"correct is {correct!r}, but predict {predict} and label {label}")
    if row.predict == ABSTAIN and any(row.exp_cdf + row.exp):
        raise ValueError("an abstention with a bound")
    return row


def integer(text: str, name: str) -> int:
    """`text` as an integer. Raises ValueError."""
    if not INTEGER.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r} is not an integer")
    return int(text)


def natural(text: str, name: str) -> int:
    """`text` as an integer, 0 or above. Raises ValueError."""
    if integer(text, name) < 0:
        raise ValueError(f"{name} {text} is below 0")
    return int(text)


def number(text: str, low: float, high: float) -> float:
    """`text` as a finite number in [low, high]. Raises ValueError."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a finite number")
    if not low <= float(text) <= high:
        raise ValueError(f"{text[:40]} is outside the range [{low:g}, {high:g}]")
    return float(text)


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
