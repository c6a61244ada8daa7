"""The table that predict.py writes: idx label predict lower upper correct time."""
from collections.abc import Sequence
from dataclasses import dataclass

from certconf.formats.rows import ImageRow, RowFile, number, parse_image, parse_rows, round_down, round_up

COLUMNS = ("idx", "label", "predict", "lower", "upper", "correct", "time")


@dataclass(frozen=True)
class Row(ImageRow):
    """One image: the class predicted, and limits on the expected score of the class chosen."""

    lower: float
    upper: float

    def line(self) -> str:
        """The row as it is written in the table; the limits are rounded outwards."""
        return self.line_with(round_down(self.lower), round_up(self.upper))


def parse_predictions(path: str, data: bytes) -> RowFile:
    """Parse and check the table. Raises InputError with file, line and reason."""
    return parse_rows(path, data, _check_header, _parse_row)


def _check_header(fields: Sequence[str]) -> None:
    if fields != COLUMNS:
        raise ValueError("not the header of a table of predictions")


def _parse_row(fields: Sequence[str]) -> Row:
    row = Row(*parse_image(fields), *(number(text, 0.0, 1.0) for text in fields[3:5]))
    if row.lower > row.upper:
        raise ValueError(f"lower {row.lower:g} is above upper {row.upper:g}")
    return row
