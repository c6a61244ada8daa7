"""What a reader of a file's numbers should know of it, in a line each on stderr."""
import sys
from collections.abc import Sequence

from certconf.formats.rows import Table


def report_flaws(table: Table) -> None:
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


def report_settled(path: str, settings: dict) -> None:
    """Say on stderr if a log's images were sampled only until a score was settled, and what that weakens."""
    if settings.get("settle") is not None:
        print(f"{path}: sampled with --settle {settings['settle']}: its bounds at other scores or radii, and those "
              "without the CDF, are weaker than a full run's", file=sys.stderr)


def report_post_hoc(path: str, settings: dict) -> None:
    """Say on stderr if a log is not the statement of its run: its band, weights or alpha were chosen later."""
    if settings.get("post_hoc") is True:
        print(f"{path}: certified post hoc, not as its run was: its alpha adds to that of the run", file=sys.stderr)
