"""Files of weights, read as data: what torch.save and safetensors write. No code in them is run.

A file is untrusted. PyTorch's own list says which types may stand beside tensors; some more that people save with them
(NumPy's numbers, argparse.Namespace, ...) are read as Unread, an empty stand-in, since nothing here needs their values.
Any other class is refused by name, and so is a file of another kind.
"""
import pickle
import re
import warnings
import zipfile

import torch

from certconf.errors import InputError

NUMPY = ("core.multiarray.scalar", "_core.multiarray.scalar", "core.multiarray._reconstruct",
         "_core.multiarray._reconstruct", "ndarray", "dtype")
LIGHTNING = ("pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing",
             "lightning_fabric.utilities.data", "lightning.fabric.utilities.data")
HEAD = 4096  # bytes that tell what a file is
OWN_CODE = "a network of your own code is given as FILE.py:NAME"


class Unread:
    """Stands for an object that a checkpoint holds beside its weights; its arguments and its state are dropped."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class UnreadDict:
    """Stands for a class of dictionaries: what is unpickled is a plain one."""

    def __new__(cls, *args):
        return {}


STAND_INS = [
    *((Unread, f"numpy.{name}") for name in NUMPY),
    *((Unread, f"{module}.{name}") for module in ("pathlib", "pathlib._local")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *((Unread, f"datetime.{name}") for name in ("datetime", "date", "timedelta", "timezone")),
    *((Unread, f"{module}.{name}") for module in ("builtins", "__builtin__")
      for name in ("bool", "int", "float", "str", "list", "tuple", "dict")),  # as values: a default, an option's type
    (Unread, "argparse.Namespace"), (Unread, "types.SimpleNamespace"), (UnreadDict, "collections.defaultdict"),
    *((UnreadDict, f"{module}.AttributeDict") for module in LIGHTNING),
]


def read_file(path: str):
    """What is in a file of weights, on the CPU. Raises InputError, which says what the file is and what to do."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise InputError(f"{path}: not a readable checkpoint ({error.strerror})") from None
    if kind := _other_kind(path, head):
        raise InputError(f"{path}: {kind}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2 ** 32:
        return _read_safetensors(path)
    return _read_pickle(path)


def _other_kind(path: str, head: bytes) -> str | None:
    """What a file is if it is known to hold no checkpoint, and what to do instead; or None."""
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: `git lfs pull` in its repository fetches it"
    if text.startswith((b"<!doctype html", b"<html")):
        return ("a web page, not a checkpoint: its download failed (of a large file, some hosts send a page first); "
                "open the link in a browser")
    if path.endswith(".onnx") or head[:1] == b"\x08" and head[2:3] == b"\x12":
        return ("an ONNX file, not a checkpoint: use the PyTorch network that it was exported from, or convert it (the "
                f"package onnx2torch does); {OWN_CODE}")
    if head.startswith(b"\x1f\x8b"):
        return "compressed by gzip, not a checkpoint: unpack it first"
    if not head.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of a damaged archive, of which torch.load will say so
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return f"a TorchScript file, not a checkpoint: torch.jit.load reads it; {OWN_CODE}"
    if any(name.endswith("archive_format") for name in names):
        return f"a program of torch.export, not a checkpoint: torch.export.load reads it; {OWN_CODE}"
    return None


def _read_safetensors(path: str) -> dict:
    try:
        from safetensors.torch import load_file  # only here: few need it
    except ImportError:
        raise InputError(f"{path}: reading it needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an exception of its own, and PyTorch others
        raise InputError(f"{path}: not a readable file of safetensors ({type(error).__name__})") from None


def _read_pickle(path: str):
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
            warnings.simplefilter("ignore")  # about the old serialisation, which stays readable
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_why_not_data(path, str(error))}") from None
    except Exception as error:  # torch.load's parsers raise almost any type on a damaged file
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None


def _why_not_data(path: str, error: str) -> str:
    """Why a pickle is more than data, by torch.load's error, and the line of Python that saves the weights alone."""
    found = re.search(r"GLOBAL ([\w.]+)", error)
    if not found:
        return "not a checkpoint of tensors and plain containers (its code is never run)"
    try:
        with torch.serialization.safe_globals(STAND_INS):
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the old serialisation, of which this PyTorch function knows nothing, or a damaged file
        unsafe = found.groups()
    load = f'torch.load("{path}", map_location="cpu", weights_only=False)'
    where = "where you trust the file and have its code: python -c 'import torch; torch.save"
    if any(name.startswith(("torch.nn.modules.", "torchvision.models.", "timm.models.")) for name in unsafe):
        return (f"holds a whole pickled module ({found[1]}), not a checkpoint of tensors and plain containers; save "
                f"its weights alone {where}({load}.state_dict(), \"weights.pth\")'")
    return (f"holds an object of {found[1]}, so it is not a checkpoint of tensors and plain containers (its code is "
            f"never run); save the weights alone {where}({load}[\"state_dict\"], \"weights.pth\")'")
