"""Small tables of text in four formats."""
import csv
import io
from collections.abc import Sequence

FORMATS = ("text", "markdown", "latex", "csv")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    """A table as text, one line a row, in one of FORMATS. The cells are strings."""
    lines = [list(header), *map(list, rows)]
    if style == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()
    if style == "latex":
        body = [" & ".join(map(_escape_latex, line)) + r" \\" for line in lines]
        return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline", body[0], r"\hline",
                          *body[1:], r"\hline", r"\end{tabular}"]) + "\n"
    if style == "markdown":
        lines.insert(1, ["---"] + ["---:"] * (len(header) - 1))
        return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() + "\n"
                   for line in lines)


def _escape_latex(cell: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    words |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(words.get(character, character) for character in cell)
