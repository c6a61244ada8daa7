"""--help: every argument is explained, every option shows its default, and every number its range."""
import argparse
import re
import sys

import pytest
from helpers import CODE, DEMO_CHECKPOINT, PROGRAMS, run_program

# what a range looks like: "1 or more", "0 to 255", "at least 0.001", "below 1", "strictly between 0 and 1"
RANGE = re.compile(r"or more|or above|\d to \S*\d|at least|below|above|between|multiples of")


def actions(program, monkeypatch):
    """The arguments that a program declares."""
    class Declared(Exception):
        pass

    def stop(parser, *args):
        raise Declared(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Declared) as declared:
        __import__(program).parse_arguments()
    parser = declared.value.args[0]
    return parser, [action for action in parser._actions if action.dest != "help"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_defaults_and_ranges(program, monkeypatch):
    parser, declared = actions(program, monkeypatch)
    assert len(declared) > 3
    for action in declared:
        name, text = action.dest, action.help or ""
        if not action.choices:
            assert text, f"{name} is not explained"
        if action.option_strings and action.nargs != 0 and not action.required:
            assert "default:" in text, f"{name} shows no default"
        if action.type in (int, float):
            assert RANGE.search(text), f"{name} shows no range"
    monkeypatch.setattr(sys, "argv", [f"{program}.py"])
    assert not re.search(r"\d,\d\d\d\b", parser.format_help()), "a number with separators cannot be pasted"


def loaded(program, *args) -> set:
    """Which of the large packages a program has loaded when it ends."""
    code = (f"import runpy, sys; sys.argv = {[program, *map(str, args)]}\ntry:\n"
            "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end:\n    assert not end.code, end\nprint(*sys.modules)")
    result = run_program("-c", code, env={"PYTHONPATH": CODE})  # not of an installation elsewhere
    assert result.returncode == 0, result.stderr
    return {"torch", "torchvision", "pandas", "matplotlib", "timm"} & set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("program", ["certify", "predict", "attack"])
def test_help_loads_no_torch(program):
    assert loaded(f"code/{program}.py", "--help") == set()


def test_a_cifar_run_loads_no_torchvision(tmp_path):
    assert loaded("code/certify.py", "cifar10", DEMO_CHECKPOINT, 0.25, tmp_path / "log", "--max", 1, "--N", 100,
                  "--batch", 100) == {"torch"}
