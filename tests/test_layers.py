"""No import runs upward: each module of code/ imports only modules of lower layers."""
import ast
from functools import cache

import pytest
from helpers import CODE, PROGRAMS

# from the ground up; a module may import those of the lines above its own, and, in a room, of its own room
LAYERS = ["errors", "files", "statistics", "formats", "report", "sampling", "inputs", "consistency", "pgd", "core",
          "training", "runner"]
WITH_TORCH = {"sampling", "inputs", "consistency", "pgd", "core", "training"}
WITHOUT_TORCH = {"inputs.catalogue", "inputs.user_code", "sampling.law", "sampling.streams"}
HEIGHT = {name: height for height, name in enumerate(LAYERS)} | {name: len(LAYERS) for name in PROGRAMS}
MODULES = {path.relative_to(CODE).with_suffix("").as_posix().replace("/", ".").removeprefix("certconf."): path
           for path in sorted(CODE.rglob("*.py")) if path.name != "__init__.py"}


def room(module):
    return module.split(".")[0]


@cache
def imports(module, at_start=False):
    """The modules that a file imports, by their full names: anywhere in it, or as soon as it is imported itself."""
    found, tree = set(), ast.parse(MODULES[module].read_text())
    for node in tree.body if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            home = node.module.removeprefix("certconf.")
            for alias in node.names:
                inside = alias.name if home == "certconf" else f"{home}.{alias.name}"
                found.add(inside if inside in MODULES else home)
    return found


def test_every_module_has_a_layer():
    assert {room(module) for module in MODULES} <= set(HEIGHT)
    assert {module for module, path in MODULES.items() if "__main__" in path.read_text()} == set(PROGRAMS)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upward(module):
    """Programs import no program, and core knows neither a run nor a file format of ours."""
    for name in imports(module):
        if room(name) in HEIGHT:
            inside = room(name) == room(module) and name != module
            assert inside or HEIGHT[room(name)] < HEIGHT[room(module)], f"{module}: {name}"


def test_no_cycle_in_a_room():
    """Repeatedly take away the modules that import no other one: nothing is left."""
    left = {module: imports(module) & set(MODULES) for module in MODULES}
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_who_imports_torch():
    """torch takes seconds to load: programs answer without it, and load it when they need it."""
    def reaches_torch(module):
        names = imports(module, at_start=True)
        return bool({"torch", "torchvision"} & {room(name) for name in names}) or any(
            reaches_torch(name) for name in names if name in MODULES)

    assert {module for module in MODULES if reaches_torch(module)} == {
        module for module in MODULES if {module, room(module)} & WITH_TORCH and module not in WITHOUT_TORCH}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "statistics"])
def test_pure(module):
    """Mathematics alone: no file is opened, and nothing of the system is imported."""
    assert not {room(name) for name in imports(module)} & {"torch", "os", "sys", "pathlib", "io", "errors", "files"}
    calls = {node.func.id for node in ast.walk(ast.parse(MODULES[module].read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"open", "print"}
