"""The table that predict.py writes: idx label predict lower upper correct time."""
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from certificate import ABSTAIN
from runs.log import TIME, Table, integer, join, natural, number, parse_table, round_down, round_up

COLUMNS = ["idx", "label", "predict", "lower", "upper", "correct", "time"]


@dataclass(frozen=True)
class Row:
    """One image: the class predicted, and limits on the expected score of the class chosen."""

    index: int
    label: int
    predict: int
    lower: float
    upper: float
    seconds: float = 0.0

    def line(self) -> str:
        """The row as it stands in the table; the limits are rounded outwards."""
        return join(self.index, self.label, self.predict, round_down(self.lower), round_up(self.upper),
                    int(self.predict == self.label), timedelta(seconds=self.seconds))


def parse_predictions(path: str, data: bytes) -> Table:
    """Parse and check the table. Raises InputError with file, line and reason."""
    return parse_table(path, data, _read_header, _read_row)


def _read_header(fields: Sequence[str]) -> Sequence[str]:
    if list(fields) != COLUMNS:
        raise ValueError("not the header of a table of predictions")
    return fields


def _read_row(fields: Sequence[str], header: Sequence[str]) -> Row:
    index, label, predict, lower, upper, correct, time = fields
    row = Row(natural(index, "idx"), natural(label, "label"), integer(predict, "predict"), number(lower, 0.0, 1.0),
              number(upper, 0.0, 1.0))
    if row.predict < ABSTAIN or row.lower > row.upper or correct != str(int(row.predict == row.label)):
        raise ValueError("predict, lower, upper and correct do not go together")
    if not TIME.fullmatch(time):
        raise ValueError(f"time {time!r} is not a time")
    return row
