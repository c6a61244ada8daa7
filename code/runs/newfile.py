"""Files that a program makes whole, such as pictures: none replaces another file unless the user asks for it."""
import os
from collections.abc import Iterable

from errors import InputError


def refuse_existing(paths: Iterable[str | os.PathLike], overwrite: bool) -> None:
    """Raise InputError where a file is there already and --overwrite is not given: before any work is done."""
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{path} is there already: --overwrite replaces it")


def write_new(path: str | os.PathLike, data: bytes, overwrite: bool) -> None:
    """Write a file, and the folders it is in. Raises InputError where it is there already or cannot be written."""
    refuse_existing([path], overwrite)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb" if overwrite else "xb") as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all, in the place of one that is there. Raises InputError."""
    unfinished = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
