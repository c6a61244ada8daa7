"""README.md and docs/: every command parses, every file that they name exists, and the Python example runs."""
import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from certify_runs import call_program
from helpers import ROOT
from test_layers import PROGRAMS as NAMES

DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PROGRAMS = {**{f"code/{name}.py": name for name in NAMES}, "cert_acc.py": "cert_acc",
            "benchmarks/sampling.py": "sampling", "benchmarks/precision.py": "precision",
            "benchmarks/freed_memory.py": "freed_memory", "benchmarks/looks.py": "looks",
            "benchmarks/rounding.py": "rounding", "benchmarks/ceiling.py": "ceiling",
            "benchmarks/kernels.py": "kernels"}
FOLDERS = ("code/", "scripts/", "benchmarks/", "tests/", "docs/", "models/", "log_files/", "figures/")
COMMANDS = ("", "bash", "sh")  # the languages of fenced blocks that hold commands
# programs that are not ours, whose arguments are not checked
FOREIGN = {"source", "cd", "export", "git", "pip", "awk", "grep", "nvidia-smi"}
INPUTS = ("base_classifier", "log_file", "scores", "file", "source", "init")  # arguments that name files to read
OUTPUTS = ("outfile", "outlog", "outdir", "out", "page", "strip")  # arguments that name files to write

# Named in the documents, and never in the clone: what the user downloads.
DOWNLOADS = ("models/imagenet/", "resnet18.pth")
# Where the commands write; git ignores them, so a reader who has pasted a command has them, and the clone has not.
NEW_FILES = ("log_files/new/", "figures/new", "models/cifar10/my_")


# The package as scripts/setup.sh installs it.
INSTALLED = {**os.environ, "PYTHONPATH": str(ROOT / "code")}


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: (language, content)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    """The inline code outside fenced blocks; a span may go over a line's end."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def command_lines(document: str) -> list[str]:
    """Each line of the blocks of commands, and each inline code that is a command with arguments."""
    text = text_of(document)
    lines = [line for language, content in blocks(text) if language in COMMANDS
             for line in content.replace("\\\n", " ").splitlines()]
    lines += [span for span in inline(text) if re.match(r"([A-Z_]+=\S+ )*(python|torchrun|bash|sbatch) ", span)]
    return [line for line in lines if shlex.split(line, comments=True)]


def words_of(line: str) -> list[str]:
    """The words of a command without what stands before it: a prompt, variables, torchrun and its options."""
    words = shlex.split(line, comments=True)
    while words and (words[0] in ("$", "time") or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        del words[0]
    if words[0] == "torchrun":
        words = ["python", *words[words.index("--") + 1:]]
    if words[:2] == ["sbatch", "scripts/certify_slurm.sh"]:
        words = ["python", "code/certify.py", *words[2:]]
    return words


def parse(program: str, arguments: list[str]):
    """What a program's own parser makes of arguments. Fails the test if it refuses them."""
    message = io.StringIO()
    before = sys.argv
    try:
        sys.argv = [program, *arguments]
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(message):
            return __import__(PROGRAMS[program]).parse_arguments()
    except SystemExit as end:
        if end.code == 0:  # --help
            return None
        pytest.fail(f"{program} {shlex.join(arguments)}: {message.getvalue().splitlines()[-1]}")
    finally:
        sys.argv = before


def named(args, names: tuple[str, ...]) -> list[str]:
    """The paths among a program's arguments, with the places in them filled in."""
    values = [value for name in names if (value := getattr(args, name, None))]
    paths = [path for value in values for path in ([value] if isinstance(value, str) else value)]
    for name in ("confidence_measure", "score"):
        place = f"{{{name}}}"
        paths = [path.replace(place, str(value)) for path in paths
                 for value in (getattr(args, name) if place in path else [""])]
    return paths


def exists(path: str) -> bool:
    file, _, function = path.partition(":")  # FILE.py:NAME
    if function:
        return (ROOT / file).is_file() and f"def {function}(" in (ROOT / file).read_text()
    return (ROOT / path).exists() or path.startswith(DOWNLOADS)


def check_command(line: str, written: set[str]) -> None:
    """One command: its program accepts it, what it reads exists or was written before, and what it writes does not."""
    program, *arguments = words_of(line)
    if program in FOREIGN:
        return
    if program == "bash":
        assert arguments[0].startswith("scripts/") and (ROOT / arguments[0]).is_file(), line
        return
    assert program == "python", f"a command that this test does not know: {line}"
    if arguments[0] == "-c":
        compile(arguments[1], line, "exec")
    elif arguments[0] == "-m":
        assert arguments[1] in ("pytest", "ruff"), line
        assert all((ROOT / word).exists() for word in arguments[2:] if word.startswith("tests/")), line
    elif arguments[0].startswith("examples/"):
        assert (ROOT / arguments[0]).is_file() and len(arguments) == 2, line  # a folder to write to
    else:
        assert arguments[0] in PROGRAMS, line
        args = parse(arguments[0], arguments[1:])
        if args is None:
            return
        for path in named(args, INPUTS):
            assert exists(path) or any(path == known or path == f"{known}.scores" or path.startswith(f"{known}/")
                                       for known in written), f"{line}\nreads {path}"
        for path in named(args, OUTPUTS):
            assert path.startswith(NEW_FILES) or not (ROOT / path).is_file(), f"{line}\nwould write over {path}"
            written.add(path)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands(document):
    """No command can rot: each is read by its own program's parser. A document may read what it wrote before."""
    lines, written = command_lines(document), set()
    assert lines or document not in ("README.md", "docs/reproduce.md", "docs/guide.md", "docs/performance.md")
    for line in lines:
        check_command(line, written)


NETWORK = "models/cifar10/resnet20/noise_0.25/checkpoint.pth.tar"


@pytest.mark.parametrize("line", [
    f"python code/certify.py cifar10 {NETWORK} 0.25 log_files/new/x --skp 20",
    f"python code/certify.py cifar10 {NETWORK} 0.25 log_files/new/x --split validation",
    "python code/certify.py cifar10 examples/own_data.py:nothing 0.25 log_files/new/x",
    "torchrun --nproc_per_node=2 -- code/certify.py cifar10 models/none 0.25 log_files/new/x",
    "python code/radius.py log_files/new/none.scores log_files/new/x --score 0.5",
    "python code/recertify.py log_files/cifar10_resnet20/margin/noise_0.25.scores README.md",
    "python code/nothing.py", "bash scripts/nothing.sh", "pyhton cert_acc.py", "python -c 'print('"])
def test_bad_commands_are_found(line):
    with pytest.raises((AssertionError, SyntaxError, pytest.fail.Exception)):
        check_command(line, set())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths(document):
    """Relative links and pictures exist, with their headings, and so does each file of the clone named in code."""
    text = text_of(document)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        full = (ROOT / document).parent / path if path else ROOT / document
        assert full.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", full.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}, target
    for span in inline(text):
        if span.startswith(FOLDERS) and not re.search(r"[\s{}*<>]|[A-Z]{3,}", span) and "/new" not in span:
            assert exists(span), span


def test_the_readme_links_every_page():
    assert {path for path in DOCUMENTS[1:]} <= set(re.findall(r"\]\((docs/\w+\.md)\)", text_of("README.md")))


def test_python_example():
    """The README's example runs, and prints what the README shows, to a part in a thousand."""
    fenced = blocks(text_of("README.md"))
    position = next(i for i, (language, _) in enumerate(fenced) if language == "python")
    code, (language, shown) = fenced[position][1], fenced[position + 1]
    assert language == "text"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=INSTALLED, capture_output=True, text=True,
                            timeout=300)
    assert result.returncode == 0, result.stderr
    number = r"-?\d+(?:\.\d+)?"
    assert re.sub(number, "0", result.stdout) == re.sub(number, "0", shown)
    found, expected = ([float(text) for text in re.findall(number, output)] for output in (result.stdout, shown))
    assert found == pytest.approx(expected, rel=1e-3)


def test_python_example_of_a_data_set(tmp_path):
    """docs/own_network.md: its example runs, and writes the logs that it names."""
    code, = (content for language, content in blocks(text_of("docs/own_network.md")) if language == "python")
    assert code.count("log_files/new/python/") == 1
    code = code.replace("log_files/new/python/", f"{tmp_path}/")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=INSTALLED, capture_output=True, text=True,
                            timeout=300)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"pred_score", "pred_score.json", "margin", "margin.json"}
    assert len((tmp_path / "margin").read_text().splitlines()) == 1 + int(re.search(r"max=(\d+)", code)[1])


def test_python_blocks_compile():
    for document in DOCUMENTS:
        for language, content in blocks(text_of(document)):
            if language == "python":
                ast.parse(content)


def table_of(report: str, first: str) -> str:
    """The table of a report in benchmarks/results whose header starts with `first`."""
    text = (ROOT / "benchmarks/results" / report).read_text()
    return text[text.index(f"| {first} |"):].split("\n\n")[0].strip()


@pytest.mark.parametrize("name, instructions", [("cifar", "AVX512"), ("resnet50", "AVX512"), ("avx2", "AVX2")])
def test_speed_tables(name, instructions):
    """docs/performance.md has the tables of the reports, each from a CPU with the instructions that it says."""
    report = f"sampling_cpu_quick_{name}.md"
    assert f", {instructions}\n" in (ROOT / "benchmarks/results" / report).read_text()
    table, page = table_of(report, "network"), text_of("docs/performance.md")
    assert "| plain loop |" in table and "| plain loop, best batch |" in table and "| fp32, compiled |" in table
    assert f"\n\n{table}\n\n" in page
    if name == "cifar":
        assert f"\n\n{table_of(report, 'bounds of one image')}\n\n" in page


def test_first_table_of_reproduce():
    """docs/reproduce.md shows what its first command prints."""
    (language, command), (shown_as, shown), *_ = blocks(text_of("docs/reproduce.md"))
    assert (language, shown_as) == ("bash", "text")
    result = call_program(*words_of(command)[1:])
    assert (result.returncode, result.stdout) == (0, shown), result.stderr


def test_memory_table():
    """docs/performance.md shows the table of the benchmark's report."""
    table = table_of("freed_memory_cpu.md", "network")
    assert table.count("\n") == 4 and f"\n\n{table}\n\n" in text_of("docs/performance.md")


def test_documents_say_nothing_of_paths_outside():
    """No absolute path of a machine."""
    for document in DOCUMENTS:
        assert not re.search(r"(?<![\w/.])/(home|work|root|Users|mnt)/", text_of(document)), Path(document)
