"""The user's own names for files, and a title, in tables and figures."""
import argparse
from collections.abc import Sequence

from certconf.errors import InputError


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """--labels and --title."""
    parser.add_argument("--labels", nargs="+", metavar="NAME",
                        help="what to call the files, in their order (default: their paths)")
    parser.add_argument("--title", help="a line above the table or figure (default: none)")


def label_of_files(files: Sequence[str], labels: Sequence[str] | None) -> dict[str, str]:
    """The label of each file, by default its path. Raises InputError unless each file has a label of its own."""
    if labels and (len(labels) != len(files) or len(set(labels)) < len(labels)):
        raise InputError(f"--labels: one name for each of the {len(files)} files, each name once")
    return dict(zip(files, labels or files, strict=True))
