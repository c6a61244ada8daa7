"""Tables of text: whatever is in a cell, a reader of the format finds it again."""
import csv
import io
import re

import pytest

from certconf.report.tables import FORMATS, format_table, radius_table

ODD = "a_b&c|50%#{x}$"  # what a path may hold and a table must escape
HEADER = ["log", "what is shown", "R = 0.00"]
ROWS = [[ODD, "one, two", "0.7500"], ["second", "none", ""]]


def cells_of(text: str, style: str) -> list[list[str]]:
    """A table parsed by a reader of its format: the header and the rows."""
    if style == "csv":
        return list(csv.reader(io.StringIO(text)))
    if style == "text":
        return [(re.split(r"  +", line) + [""])[:3] for line in text.splitlines()]
    if style == "markdown":
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
        assert re.fullmatch(r"( *:?-+:? *)+", "".join(lines[1])) and len(lines[1]) == len(lines[0])
        return [[cell.strip().replace(r"\|", "|") for cell in line] for line in (lines[0], *lines[2:])]
    body = re.fullmatch(r"\\begin{tabular}{([lrc]+)}\n(.*)\\end{tabular}\n", text, re.S)
    lines = [line for line in body[2].splitlines() if line != r"\hline"]
    assert all(line.endswith(r" \\") for line in lines)
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]
    assert {len(row) for row in rows} == {len(body[1])}
    return [[re.sub(r"\\([&%$#_{}])", r"\1", cell.strip()) for cell in row] for row in rows]


@pytest.mark.parametrize("style", FORMATS)
def test_every_format(style):
    text = format_table(HEADER, ROWS, style)
    assert cells_of(text, style) == [HEADER, *ROWS]
    above, rest = format_table(HEADER, ROWS, style, "A title").split("A title")
    assert rest.lstrip("\n") == text and above == {"latex": "% ", "csv": "# "}.get(style, "")


def test_a_radius_that_a_row_lacks():
    """Its cell is empty; columns are sorted by the radius, not by its text."""
    rows = [({"log": "a"}, {0.5: "1", 10.0: "2"}), ({"log": "b"}, {0.25: "3", 0.5: "4"})]
    assert cells_of(radius_table(rows, "csv"), "csv") == [
        ["log", "R = 0.25", "R = 0.50", "R = 10.00"], ["a", "", "1", "2"], ["b", "3", "4", ""]]
