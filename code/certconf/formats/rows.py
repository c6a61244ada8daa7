"""Files of rows: tab-separated text, a header and one row per image; the one reader that checks all that is read."""
import decimal
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from certconf.errors import InputError
from certconf.statistics.certificate import ABSTAIN

DIGITS = 8  # significant digits of a printed bound
FLOOR = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_FLOOR)
CEILING = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_CEILING)
TIME = re.compile(r"(?:(\d{1,7}) days?, )?(\d{1,9}):(\d\d):(\d\d(?:\.\d+)?)")
INTEGER = re.compile(r"-?\d{1,18}")
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


@dataclass(frozen=True)
class ImageRow:
    """What the row of an image holds in every file: its index, its label, the class predicted, the seconds taken."""

    index: int
    label: int
    predict: int
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    def line_with(self, *values: str) -> str:
        """The row as it is written, with these values between predict and correct."""
        return join_fields(self.index, self.label, self.predict, *values, int(self.correct),
                           timedelta(seconds=self.seconds))


def parse_image(fields: Sequence[str]) -> tuple[int, int, int, float]:
    """Index, label, predict and seconds of a row, checked together with correct. Raises ValueError with the reason."""
    index, label, predict, *_, correct, time = fields
    parts = TIME.fullmatch(time)
    if not parts:
        raise ValueError(f"time {time!r} is not a time")
    days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    taken = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    row = ImageRow(natural(index, "idx"), natural(label, "label"), integer(predict, "predict"), taken)
    if row.predict < ABSTAIN:
        raise ValueError(f"predict {predict} is no class")
    if correct != str(int(row.correct)):
        raise ValueError(f"correct is {correct!r}, but predict {predict} and label {label}")
    return row.index, row.label, row.predict, row.seconds


@dataclass(frozen=True)
class RowFile:
    """What a file of rows holds: its header, the checked rows, their ends, and whether its last line is torn.

    ends: the byte offset of the end of the header and of each row in the file; rows may be only some of these. missing:
    the images that the record lists as having non-finite scores, and so no row.
    """

    path: str
    header: tuple[str, ...]
    rows: list
    ends: list[int]
    torn: bool
    missing: tuple[int, ...] = field(default=(), kw_only=True)

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


def parse_rows(path: str, data: bytes, read_header: Callable, read_row: Callable) -> RowFile:
    """Parse a file of rows. read_header(fields) and read_row(fields) raise ValueError with a reason.

    A last line without a line end is torn: it is left out. Raises InputError with file, line and reason.
    """
    lines = data.split(b"\n")
    torn, lines = bool(lines[-1]), lines[:-1]
    rows, ends, seen, header = [], [], set(), ()
    for line_number, line in enumerate(lines, start=1):
        try:
            fields = tuple(line.decode("ascii").rstrip("\r").split("\t"))
            if line_number == 1:
                read_header(fields)
                header = fields
            else:
                if len(fields) != len(header):
                    raise ValueError(f"{len(fields)} fields, not {len(header)}")
                rows.append(read_row(fields))
                if rows[-1].index in seen:
                    raise ValueError(f"index {rows[-1].index} occurs twice")
                seen.add(rows[-1].index)
        except ValueError as error:
            reason = "not ASCII text" if isinstance(error, UnicodeError) else error
            raise InputError(f"{path}:{line_number}: {reason}") from None
        ends.append((ends[-1] if ends else 0) + len(line) + 1)
    return RowFile(path, header, rows, ends or [0], torn)


def report_flaws(table: RowFile) -> None:
    """Report on stderr what a reader of the file's numbers should know: a torn last line, images without a row."""
    if table.torn:
        print(f"{table.path}: its last line is torn and is left out", file=sys.stderr)
    report_missing(table.path, table.missing)


def report_missing(path: str, missing: Sequence[int]) -> None:
    """Report on stderr how many images have no row."""
    if missing:
        print(f"{path}: {len(missing)} images with non-finite scores have no row, and count as not certified",
              file=sys.stderr)


def report_different_images(images: dict[str, frozenset[int]], hint: str = "") -> None:
    """Report on stderr if files that are compared, by their paths, are not of the same images."""
    if len(set(images.values())) > 1:
        print(f"{', '.join(images)}: not of the same images{hint}", file=sys.stderr)


# --- fields ---------------------------------------------------------------------------------------------------------

def radius_columns(kinds: Sequence[str], radii: Sequence[float]) -> list[str]:
    """The columns of a file with kinds of values at each radius: KIND_NN with NN = 100 R, of two digits or more."""
    return ["idx", "label", "predict", *(f"{kind}_{round(100 * radius):02d}" for kind in kinds for radius in radii),
            "correct", "time"]


def named_radii(header: Sequence[str], kind: str) -> tuple[float, ...]:
    """The radii of the columns of one kind; () if they do not increase."""
    names = (re.fullmatch(rf"{kind}_(\d{{2,9}})", column) for column in header)
    radii = tuple(int(name[1]) / 100 for name in names if name)
    return radii if list(radii) == sorted(set(radii)) else ()


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
