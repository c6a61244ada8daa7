"""No import runs upward: each module of code/ imports only modules of lower layers."""
import ast

import pytest
from helpers import CODE

# from the ground up; a module may import those of the lines above its own, and, in a room, of its own room
LAYERS = [
    ["errors"],
    ["devices", "files", "user_code"],
    ["bounds", "measures"],
    ["certificate"],
    ["stages"],
    ["formats", "report"],
    ["consistency", "noise"],
    ["archs", "datasets"],
    ["architectures", "pgd", "sampler"],
    ["core"],
    ["job"],
]
DOORS = ["analyze", "attack", "cert_acc", "certify", "draw_results", "predict", "radius", "recertify",
         "train", "visualize"]
PURE = {"bounds", "measures", "certificate", "stages"}  # no torch, no files
WITH_TORCH = {"consistency", "devices", "noise", "archs", "datasets", "architectures", "sampler", "core",
              "job.heartbeat", "job.options", "job.run", "job.subject", "job.worker", "attack", "certify", "pgd",
              "predict", "train", "visualize"}
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names} | {name: len(LAYERS) for name in DOORS}
MODULES = {path.relative_to(CODE).with_suffix("").as_posix().replace("/", "."): path
           for path in sorted(CODE.rglob("*.py")) if path.name != "__init__.py"}


def room(module):
    return module.split(".")[0]


def imports(module):
    """The modules that a file imports, anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                      for alias in node.names}
    return found


def test_every_module_has_a_layer():
    assert {room(module) for module in MODULES} <= set(HEIGHT)
    assert {module for module, path in MODULES.items() if "__main__" in path.read_text()} == set(DOORS)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upward(module):
    """Doors import no door, formats and report know neither job nor each other, and core knows no file format."""
    for name in imports(module):
        if room(name) in HEIGHT:
            assert HEIGHT[room(name)] < HEIGHT[room(module)] or room(name) == room(module) != name, f"{module}: {name}"


def test_no_cycle_in_a_room():
    """Repeatedly take away the modules that import no other one: nothing is left."""
    left = {module: imports(module) & set(MODULES) for module in MODULES}
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_who_imports_torch():
    """torch takes seconds to load: programs that only read files start without it."""
    def reaches_torch(module):
        names = imports(module)
        return bool({"torch", "torchvision"} & {room(name) for name in names}) or any(
            reaches_torch(name) for name in names if name in MODULES)

    assert {module for module in MODULES if reaches_torch(module)} == {
        module for module in MODULES if module in WITH_TORCH or room(module) in WITH_TORCH}


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure(module):
    """Mathematics alone: no file is opened, and nothing of the system is imported."""
    assert not {room(name) for name in imports(module)} & {"torch", "os", "sys", "pathlib", "io", "errors", "files"}
    calls = {node.func.id for node in ast.walk(ast.parse(MODULES[module].read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"open", "print"}
