"""Files of rows: tab-separated text, a header and one row per image. A Schema describes a kind of file.

    idx label predict VALUE... correct time
"""
import decimal
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import ClassVar, Self

import numpy as np

from certconf.errors import InputError
from certconf.files import read_bytes
from certconf.formats.record import read_record, recorded_measure, without_row
from certconf.statistics.certificate import ABSTAIN

DIGITS = 8  # significant digits of a printed bound
FLOOR = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_FLOOR)
CEILING = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_CEILING)
TIME = re.compile(r"(?:(\d{1,7}) days?, )?(\d{1,9}):(\d\d):(\d\d(?:\.\d+)?)")
INTEGER = re.compile(r"-?\d{1,18}")
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


# --- fields ---------------------------------------------------------------------------------------------------------

def join_fields(*fields) -> str:
    """Fields as one line of a file."""
    return "\t".join(map(str, fields)) + "\n"


def round_down(value: float) -> str:
    """`value` to DIGITS significant digits, never above it."""
    return "0.0" if value == 0 else str(FLOOR.create_decimal_from_float(value))


def round_up(value: float) -> str:
    """`value` to DIGITS significant digits, never below it."""
    return "0.0" if value == 0 else str(CEILING.create_decimal_from_float(value))


def shortest(value: float) -> str:
    """`value` in the fewest characters that read back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def integer(text: str, name: str, least: int) -> int:
    """`text` as an integer, `least` or above. Raises ValueError."""
    if not INTEGER.fullmatch(text) or int(text) < least:
        raise ValueError(f"{name} {text[:40]!r} is not an integer of {least} or above")
    return int(text)


def number(text: str, low: float, high: float) -> float:
    """`text` as a finite number in [low, high]. Raises ValueError."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a finite number")
    if not low <= float(text) <= high:
        raise ValueError(f"{text[:40]} is outside the range [{low:g}, {high:g}]")
    return float(text)


def seconds_of(text: str) -> float:
    """A time, as str(timedelta) writes it, in seconds. Raises ValueError."""
    parts = TIME.fullmatch(text)
    if not parts:
        raise ValueError(f"time {text[:40]!r} is not a time")
    days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


# --- kinds of files -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Column:
    """One kind of value.

    write        how a value is printed
    limits       what a value lies in; None: in the range of the measure
    abstention   the value if the prediction is an abstention (inf: the greatest one allowed); None: any
    """

    name: str
    write: Callable[[float], str] = round_down
    limits: tuple[float, float] | None = None
    abstention: float | None = 0.0


@dataclass(frozen=True)
class Schema:
    """A kind of file.

    columns      the values between predict and correct
    per_radius   each value is there for each radius R, in columns NAME_NN with NN = 100 R, of two digits or more
    ordered      the names of lower and of upper limits on the same quantity
    """

    name: str
    columns: tuple[Column, ...]
    per_radius: bool = True
    ordered: tuple[str, str] | None = None

    def header(self, radii: Sequence[float] = ()) -> list[str]:
        """The names of all columns of a file with these radii."""
        endings = [f"_{round(100 * radius):02d}" for radius in radii] if self.per_radius else [""]
        return ["idx", "label", "predict", *(column.name + ending for column in self.columns for ending in endings),
                "correct", "time"]

    def radii_of(self, header: Sequence[str]) -> tuple[float, ...] | None:
        """The radii that a header names; None if it is not the header of such a file."""
        names = (re.fullmatch(rf"{self.columns[0].name}_(\d{{2,9}})", name) for name in header)
        radii = tuple(int(name[1]) / 100 for name in names if name)
        fits = list(header) == self.header(radii) and list(radii) == sorted(set(radii))
        return radii if fits and bool(radii) == self.per_radius else None

    def line(self, index: int, label: int, predict: int, seconds: float, *values) -> str:
        """An image as it is written; values: for each column a number, or one for each radius."""
        texts = [column.write(each) for column, value in zip(self.columns, values, strict=True)
                 for each in (value if self.per_radius else [value])]
        return join_fields(index, label, predict, *texts, int(predict == label), timedelta(seconds=seconds))

    def parse(self, fields: Sequence[str], score_range: tuple[float, float]) -> SimpleNamespace:
        """A row from its fields, of the right number. Raises ValueError with the reason.

        It has index, label, predict, correct, seconds, and for each column a number, or a tuple of one for each radius.
        """
        index, label, predict, *texts, correct, time = fields
        index, label = integer(index, "idx", 0), integer(label, "label", 0)
        predict, seconds = integer(predict, "predict", ABSTAIN), seconds_of(time)
        if correct != str(int(predict == label)):
            raise ValueError(f"correct is {correct[:40]!r}, but predict {predict} and label {label}")
        values, size = {}, len(texts) // len(self.columns)
        for place, column in enumerate(self.columns):
            low, high = column.limits or score_range
            found = tuple(number(text, low, high) for text in texts[place * size:(place + 1) * size])
            if predict == ABSTAIN and column.abstention is not None and set(found) != {min(column.abstention, high)}:
                raise ValueError(f"an abstention with a {column.name} of its own")
            values[column.name] = found
        for low, high in zip(*map(values.get, self.ordered or ()), strict=True):
            if low > high:
                raise ValueError(f"{self.ordered[0]} {low:g} is above {self.ordered[1]} {high:g}")
        if not self.per_radius:
            values = {name: value for name, (value,) in values.items()}
        return SimpleNamespace(index=index, label=label, predict=predict, correct=predict == label, seconds=seconds,
                               **values)


@dataclass(frozen=True)
class Table:
    """A file that was read: its schema, header and radii, the checked rows, and whether its last line is torn.

    ends: the byte offset of the end of the header and of each row in the file; rows may be only some of these. missing:
    the images that the record lists as having non-finite scores, and so no row.
    """

    schemas: ClassVar[tuple[Schema, ...]]  # that such a file may have
    path: str
    schema: Schema
    header: tuple[str, ...]
    radii: tuple[float, ...]
    rows: list
    ends: list[int]
    torn: bool
    missing: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        """The number of images, including those without a row."""
        return len(self.rows) + len(self.missing)

    @property
    def indices(self) -> list[int]:
        """The image index of every row."""
        return [row.index for row in self.rows]

    @property
    def all_indices(self) -> frozenset[int]:
        """The indices of all images, including those without a row."""
        return frozenset((*self.indices, *self.missing))

    def values(self, name: str) -> np.ndarray:
        """What every row holds under a name, [rows] or [rows, radii]."""
        return np.array([getattr(row, name) for row in self.rows])

    @classmethod
    def schema_of(cls, header: Sequence[str]) -> Schema | None:
        """The schema of a file with this header; None if it is of another kind."""
        return next((schema for schema in cls.schemas if schema.radii_of(header) is not None), None)

    @classmethod
    def is_kind_of(cls, path: str) -> bool:
        """Whether the file's header is of this kind. Raises InputError if it cannot be read."""
        return cls.schema_of(_fields(read_bytes(path).split(b"\n", 1)[0], "replace")) is not None

    @classmethod
    def parse(cls, path: str, data: bytes, score_range: tuple[float, float] = (-1.0, 1.0)) -> Self:
        """The table, which may have no row yet. Raises InputError with file, line and reason.

        A last line without a line end is torn: it is left out.
        """
        *lines, rest = data.split(b"\n")
        schema, header, rows, ends, seen = cls.schemas[0], [], [], [], set()
        for line_number, line in enumerate(lines, start=1):
            try:
                fields = _fields(line)
                if line_number == 1:
                    schema, header = cls.schema_of(fields), fields
                    if schema is None:
                        raise ValueError(f"not the header of a {cls.schemas[0].name}")
                elif len(fields) != len(header):
                    raise ValueError(f"{len(fields)} fields, not {len(header)}")
                else:
                    rows.append(schema.parse(fields, score_range))
                    if rows[-1].index in seen:
                        raise ValueError(f"index {rows[-1].index} occurs twice")
                    seen.add(rows[-1].index)
            except ValueError as error:
                reason = "not ASCII text" if isinstance(error, UnicodeError) else error
                raise InputError(f"{path}:{line_number}: {reason}") from None
            ends.append((ends[-1] if ends else 0) + len(line) + 1)
        return cls(path, schema, tuple(header), schema.radii_of(header) or (), rows, ends or [0], bool(rest))

    @classmethod
    def read(cls, path: str, skip: int = 1) -> tuple[Self, dict]:
        """The table in `path` and the settings of its run ({} without a record), which name the measure's range.

        Of its images, those with the indices 0, skip, 2 skip, ... only. Raises InputError, also if there are none.
        """
        record = read_record(path)
        settings = record["settings"] if record else {}
        measure = recorded_measure(settings)
        table = cls.parse(path, read_bytes(path), *([(measure.score_min, measure.score_max)] if measure else []))
        if not table.rows:
            raise InputError(f"{path}: no complete row in it")
        rows = [row for row in table.rows if row.index % skip == 0]
        if not rows:
            raise InputError(f"{path}: no row of the images 0, {skip}, {2 * skip}, ...")
        missing = tuple(index for index in without_row(record, table.indices) if index % skip == 0)
        return replace(table, rows=rows, missing=missing), settings


def _fields(line: bytes, errors: str = "strict") -> list[str]:
    return line.decode("ascii", errors).rstrip("\r").split("\t")
