"""What a run depends on: its settings, which all starts of a log share, and the circumstances of each start.

A new setting of a sampling program is one line in SETTINGS and one add_argument of the same name.
"""
import json
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from certconf.errors import InputError

LIBRARIES = ("torch", "torchvision", "numpy", "scipy")
# What the rows, the choice of images and the files of a run depend on: a log is resumed with the same ones only.
# Each with the option that sets it.
SETTINGS = {
    "program": "the program", "dataset": "DATASET", "split": "--split", "checkpoint_sha256": "BASE_CLASSIFIER",
    "weights_sha256": "BASE_CLASSIFIER's weights", "modules_sha256": "BASE_CLASSIFIER's modules",
    "dataset_file_sha256": "DATASET's file",
    "images_sha256": "DATASET's images",
    "arch": "BASE_CLASSIFIER", "sigma": "SIGMA", "N0": "--N0", "N": "--N", "alpha": "--alpha", "seed": "--seed",
    "precision": "--precision", "skip": "--skip", "device_type": "--device",
    "confidence_measure": "--confidence_measure", "bound": "--bound", "radii": "--radii", "weights": "--levels",
    "settle": "--settle", "looks": "the looks of --settle", "side_alpha": "--range",
    "log_sha256": "LOG", "steps": "--steps", "draws": "--draws", "clip": "--clip",
    "save_scores": "--save_scores", "no_abstain": "--no_abstain", "score": "--score", "scores_sha256": "SCORES",
    "noise": "--noise", "round_images": "--round_images", "delta": "--noise or the images' size",
    "random_network": "--random_network",
    "post_hoc": "--bound, --levels or --alpha",
}
# left out of a record at this value: the network's file says arch, objects of Python have no split, and older records
# know no random networks
LEFT_OUT = {"arch": None, "split": None, "random_network": False}
# Rows depend on these by rounding at most, or not at all (early_abstain: one more abstention, with probability 1e-6): a
# change is reported on stderr.
CIRCUMSTANCES = ("batch", "compile", "early_abstain", "processes", "device_name", "version", "libraries")


def settings_of(config, **known) -> dict:
    """The settings of a run: each that is in `known`, or else has an attribute of its name in `config`."""
    values = {**vars(config), **known}
    return {name: values[name] for name in SETTINGS
            if name in values and not (name in LEFT_OUT and values[name] == LEFT_OUT[name])}


def start_of_run(config, **known) -> dict:
    """What to record of one start: the arguments as typed, the circumstances, versions and time."""
    values = {**vars(config), **known, "version": program_version(),
              "libraries": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}}
    return {"arguments": vars(config), **{name: values[name] for name in CIRCUMSTANCES if name in values},
            "time": datetime.now(UTC).isoformat(timespec="seconds")}


def program_version() -> str:
    """The git commit of this program, with a + if files differ from it, or `unknown`."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def check_same_settings(outfile: str, old: dict, new: dict, names: Iterable[str] | None = None) -> None:
    """Raise InputError that names each setting, by its option, in which a log differs from the run at hand.

    names: those that are compared (default: all).
    """
    new = json.loads(json.dumps(new))
    names = [name for name in names or {**new, **old} if old.get(name) != new.get(name)]
    if names:
        differences = ", ".join(f"{SETTINGS.get(name, name)} ({_short(old.get(name))}, now {_short(new.get(name))})"
                                for name in names)
        raise InputError(f"{outfile} was written with other settings: {differences}; "
                         "--overwrite starts over and keeps it as .bak")


def changed_circumstances(old: dict, new: dict) -> list[str]:
    """The names of circumstances in which two starts differ."""
    new = json.loads(json.dumps(new))
    return [name for name in CIRCUMSTANCES if old.get(name) != new.get(name)]


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + '..."'
