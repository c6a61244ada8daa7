"""Small tables of text in four formats."""
import csv
import io
from collections.abc import Sequence

FORMATS = ("text", "markdown", "latex", "csv")


def radius_table(rows: Sequence[tuple[dict[str, str], dict[float, str]]], style: str, title: str | None = None) -> str:
    """A table of rows (names, cells): columns of the names, then one for each radius that some row has a cell of."""
    radii = sorted({radius for _, cells in rows for radius in cells})
    header = [*rows[0][0], *(f"R = {radius:.2f}" for radius in radii)]
    return format_table(header, [[*names.values(), *(cells.get(radius, "") for radius in radii)]
                                 for names, cells in rows], style, title)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str, title: str | None = None) -> str:
    """A header and rows as text in one of FORMATS, a line each, below the title (a comment in latex and csv)."""
    lines = [list(header), *map(list, rows)]
    above = {"latex": f"% {title}\n", "csv": f"# {title}\n"}.get(style, f"{title}\n\n") if title else ""
    return above + {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv}[style](lines)


def _text(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() + "\n"
                   for line in lines)


def _markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def _latex(lines: list[list[str]]) -> str:
    escapes = str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
                            | {character: "\\" + character for character in "&%$#_{}"})
    head, *body = (" & ".join(cell.translate(escapes) for cell in line) + r" \\" for line in lines)
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}", r"\hline", head, r"\hline", *body,
                      r"\hline", r"\end{tabular}"]) + "\n"


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
