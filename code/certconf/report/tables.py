"""Small tables of text in four formats."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas  # a program loads it when it prints a table, not at its start

FORMATS = ("text", "markdown", "latex", "csv")


def format_table(frame: "pandas.DataFrame", style: str) -> str:
    """A table as text, one line per row, in one of FORMATS; its index is left out. Cells are strings, or missing."""
    frame = frame.fillna("")
    header, lines = list(frame), [list(frame), *frame.to_numpy().tolist()]
    if style == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
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
