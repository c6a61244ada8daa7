"""The record of a run, OUTFILE.json: its settings, each of its starts, and the images without a row."""
import json
import os
from collections.abc import Iterable

from certconf.errors import InputError
from certconf.files import read_bytes, write_whole
from certconf.statistics.measures import MEASURES, Measure

NON_FINITE = "non_finite"  # the entry that lists images with non-finite scores, which have no row
DEPTH = 10  # deeper than any valid record is nested


def record_path(outfile: str) -> str:
    """The path of a log's record."""
    return outfile + ".json"


def read_record(outfile: str) -> dict | None:
    """The record beside a log, or None if there is none. Raises InputError for a damaged one."""
    path = record_path(outfile)
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        raise InputError(f"{path}: not a regular file")
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not a JSON record of a run") from None
    settings, starts, failed = ((record.get(name) for name in ("settings", "starts", NON_FINITE))
                                if isinstance(record, dict) else (None, None, None))
    if (_nested_deeper(record, DEPTH) or not isinstance(settings, dict) or not isinstance(starts, list) or not starts
            or not all(isinstance(start, dict) for start in starts)):
        raise InputError(f"{path}: not a record of a run (no settings or no starts in it)")
    if not isinstance(failed, list | None) or not all(type(index) is int and index >= 0 for index in failed or []):
        raise InputError(f"{path}: {NON_FINITE} in it is no list of indices")
    return record


def without_row(record: dict | None, done: Iterable[int]) -> list[int]:
    """The images that a record lists as having non-finite scores and that are not `done` since: they have no row."""
    return sorted(set((record or {}).get(NON_FINITE) or []) - set(done))


def recorded_measure(settings: dict) -> Measure | None:
    """The measure that a record's settings name; None if they name none."""
    name = settings.get("confidence_measure")
    return MEASURES.get(name) if isinstance(name, str) else None


def recorded_alpha(settings: dict) -> float | None:
    """The error probability in a record's settings; None if there is none strictly between 0 and 1."""
    alpha = settings.get("alpha")
    return alpha if isinstance(alpha, float) and 0 < alpha < 1 else None


def _nested_deeper(value, levels: int) -> bool:
    """Whether lists and dictionaries are nested more than `levels` deep."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_nested_deeper(item, levels - 1) for item in inside)


def write_record(outfile: str, record: dict) -> None:
    """Write the record whole or not at all. Raises InputError."""
    write_whole(record_path(outfile), (json.dumps(record, indent=1) + "\n").encode())
