"""Reading a file whole, its SHA-256, and writing one whole: no file replaces another unless the user asks for it."""
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from certconf.errors import InputError


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file that the user named. Raises InputError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def file_sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_existing(paths: Iterable[str | os.PathLike], overwrite: bool) -> None:
    """Raise InputError if a file exists and --overwrite is not given: before any work is done."""
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{path} exists: --overwrite replaces it")


def write_new(path: str | os.PathLike, data: bytes, overwrite: bool) -> None:
    """Write a file, and the folders it is in. Raises InputError if it exists or cannot be written."""
    refuse_existing([path], overwrite)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb" if overwrite else "xb") as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all; it replaces an existing one. Raises InputError."""
    unfinished = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(unfinished)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
