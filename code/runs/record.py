"""The record of a run, OUTFILE.json: what its rows depend on, and how it was started each time."""
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from errors import InputError
from measures import MEASURES
from runs.log import Log, read_bytes, read_log
from runs.newfile import write_whole

NON_FINITE = "non_finite"  # the entry that lists images with non-finite scores, which have no row
DEPTH = 10  # more than a record's lists and dictionaries stand in each other
LIBRARIES = ("torch", "torchvision", "numpy", "scipy")
# settings: a row depends on them, and a log goes on with the same ones only. Each with the option that sets it.
OPTION = {
    "program": "the program", "dataset": "DATASET", "split": "--split", "checkpoint_sha256": "BASE_CLASSIFIER",
    "sigma": "SIGMA", "confidence_measure": "--confidence_measure", "bound": "--bound", "radii": "--radii",
    "N0": "--N0", "N": "--N", "alpha": "--alpha", "seed": "--seed", "precision": "--precision", "skip": "--skip",
    "device_type": "--device", "save_scores": "--save_scores", "no_abstain": "--no_abstain", "scores_sha256": "SCORES",
    "noise": "--noise", "round_images": "--round_images", "delta": "--noise or the images' size",
    "arch": "BASE_CLASSIFIER", "post_hoc": "--bound or --alpha",
}
# circumstances: recorded at each start; a change is told on stderr
CIRCUMSTANCES = ("batch", "compile", "early_abstain", "processes", "device_name", "version", "libraries")


def record_path(outfile: str) -> str:
    """Where the record of a log is."""
    return outfile + ".json"


def start_of_run(arguments: dict, **circumstances) -> dict:
    """What to record of one start: the arguments as typed, the circumstances, versions and time."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"arguments": arguments, **circumstances, "version": program_version(),
            "libraries": {"python": platform.python_version(), **libraries},
            "time": datetime.now(UTC).isoformat(timespec="seconds")}


def program_version() -> str:
    """The git commit of this program, with a + where files differ from it, or `unknown`."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def read_record(outfile: str) -> dict | None:
    """The record beside a log, or None where there is none. Raises InputError for a damaged one."""
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
    """The images that a record tells to have non-finite scores and that are not `done` since: they have no row."""
    return sorted(set((record or {}).get(NON_FINITE) or []) - set(done))


def _nested_deeper(value, levels: int) -> bool:
    """Whether lists and dictionaries stand in each other more than `levels` deep."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_nested_deeper(item, levels - 1) for item in inside)


def read_recorded_log(path: str) -> tuple[Log, dict]:
    """A log, checked against its measure's range where it has a record, and the settings of its run, or {}."""
    record = read_record(path)
    settings = record["settings"] if record else {}
    name = settings.get("confidence_measure")
    measure = MEASURES.get(name) if isinstance(name, str) else None
    log = read_log(path, (measure.score_min, measure.score_max) if measure else (-1.0, 1.0))
    return replace(log, missing=len(without_row(record, log.indices))), settings


def write_record(outfile: str, record: dict) -> None:
    """Write the record whole or not at all. Raises InputError."""
    write_whole(record_path(outfile), (json.dumps(record, indent=1) + "\n").encode())


def check_same_settings(outfile: str, old: dict, new: dict) -> None:
    """Raise InputError that names each setting, by its option, in which a log differs from the run at hand."""
    new = json.loads(json.dumps(new))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    if names:
        differences = ", ".join(f"{OPTION.get(name, name)} ({_short(old.get(name))}, now {_short(new.get(name))})"
                                for name in names)
        raise InputError(f"{outfile} was written with other settings: {differences}; "
                         "--overwrite starts anew and keeps it as .bak")


def changed_circumstances(old: dict, new: dict) -> list[str]:
    """The names of circumstances in which two starts differ."""
    new = json.loads(json.dumps(new))
    return [name for name in CIRCUMSTANCES if old.get(name) != new.get(name)]


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + '..."'
