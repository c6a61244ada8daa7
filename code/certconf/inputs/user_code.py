"""Code of the user's own: FILE.py:NAME names a function, a class or an object in a Python file.

The file is run, and only because the user typed its name; checkpoints stay data (see architectures.py). Its imports
look in its own folder first, as if Python had been started with it, then among the installed packages.
"""
import importlib.util
import inspect
import os
import re
import sys
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from certconf.errors import InputError

OF_OBJECTS = ("forward", "module", "__getitem__")  # of a module, an exported program, a data set, which may be callable
REFERENCE = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def is_user_code(text: str) -> bool:
    """Whether an argument has the form FILE.py:NAME."""
    return REFERENCE.fullmatch(text) is not None


def file_of(text: str) -> str:
    """The file that an argument names: FILE.py of FILE.py:NAME, or else the argument itself."""
    return REFERENCE.fullmatch(text)[1] if is_user_code(text) else text


def call(text: str, *args):
    """What FILE.py:NAME stands for: what a function or class NAME returns for the args, or else the object itself.

    A class gets the args only if it needs one, or names one `split`. Raises InputError if there is no NAME, or for an
    exception.
    """
    path, name = REFERENCE.fullmatch(text).groups()
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    with as_input_error(text):
        found = getattr(_module(os.path.realpath(path)), name, None)
        if found is None:
            raise InputError(f"{path}: no function, class or object {name} in it")
        if inspect.isclass(found):
            asks = any(each.name == "split" or each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
                       for each in inspect.signature(found).parameters.values())
            return found(*args) if asks else found()
        is_object = any(hasattr(found, name) for name in OF_OBJECTS)
        return found(*args) if callable(found) and not is_object else found


@contextmanager
def as_input_error(name: str):
    """Exceptions of this block become an InputError that begins with `name`; if it is FILE.py:NAME, after a traceback.

    So an error in the user's file is shown where it is to be mended.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the user's code raises what it likes
        if is_user_code(name):
            traceback.print_exception(error)
        raise InputError(f"{name}: {type(error).__name__}: {error}") from error


def _look_first_in(folder: str) -> None:
    """Make `folder` the first place of imports, and code/ the last: a program's name is no module of the user's.

    It stays so, since functions of the user's file may import when they are called.
    """
    programs = str(Path(__file__).parents[2])
    others = [path for path in sys.path if os.path.realpath(path or ".") not in (folder, programs)]
    sys.path[:] = [folder, *others, programs]


@cache
def _module(path: str) -> ModuleType:
    """The module in a file, which is run once, whatever is named in it."""
    _look_first_in(os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(path, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # in sys.modules, as dataclasses need it
    spec.loader.exec_module(module)
    return module
