"""Starting certify.py: in this process, in one that a test can kill, and as the command that a user types."""
import io
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch
from helpers import CERTIFY, CODE, ROOT, fake_checkpoint, read_rows, without_time

OPTIONS = ("--skip", 20, "--N0", 16, "--N", 64)
PATIENCE = 240  # seconds that no wait of a test should need
LOADING = "certconf.inputs.loading"  # where a run gets its network and its images
START = multiprocessing.get_context("forkserver")  # it imports PyTorch once, for all the processes to be killed


def tiny_network(scale: float = 25.0, seed: int = 0):
    """A network that takes microseconds, so that a run spends its time on its files; about half its images abstain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = torch.nn.Linear(48, 10)
    linear.weight.data *= scale
    linear.bias.data = -0.45 * linear.weight.data.sum(1)  # about 0 for a grey image: all classes appear
    return torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), linear).eval()


def tiny_checkpoint(network=None) -> dict:
    """What call_program patches, so that every checkpoint holds this network (None: the tiny one)."""
    loaded = tiny_network() if network is None else network
    return {f"{LOADING}.load_checkpoint": lambda path, dataset, *more: (loaded, {"arch": "tiny"})}


def images_from(open_images) -> dict:
    """What call_program patches, so that every data set has the images of open_images(name, split, skip, stop)."""
    return {f"{LOADING}.open_images": open_images}


@contextmanager
def patched(patches: dict | None):
    """Replace things by name."""
    with ExitStack() as stack:
        for name, value in (patches or {}).items():
            stack.enter_context(patch(name, value))
        yield


class Slow(torch.nn.Module):
    """A network that also waits, at every forward pass."""

    def __init__(self, network: torch.nn.Module, seconds: float):
        super().__init__()
        self.network, self.seconds = network, seconds

    def forward(self, x):
        if x.shape[0]:  # torch.fx cannot trace this, and so does not leave the waiting out
            time.sleep(self.seconds)
        return self.network(x)


class Blinding(torch.nn.Module):
    """The tiny network, but its scores are NaN for images brighter than `brightest`."""

    def __init__(self, brightest: float):
        super().__init__()
        self.inner, self.brightest = tiny_network(), brightest

    def forward(self, x):
        return torch.where(x.mean((1, 2, 3))[:, None] > self.brightest, torch.nan, self.inner(x))


def arguments(checkpoint, out, *options, stop=240) -> tuple:
    """The arguments of a short run; options come last, so that they win."""
    return "cifar10", checkpoint, 0.25, out, *OPTIONS, "--max", stop, *options


def call_program(program, *args, patches=None) -> subprocess.CompletedProcess:
    """Run a program as __main__ in this process. patches: things to replace, by name."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    argv = [Path(program).name, *map(str, args)]
    with (patched(patches), patch.object(sys, "argv", argv), patch.object(sys, "path", sys.path[:]),
          redirect_stdout(out), redirect_stderr(err)):
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
            raise AssertionError(f"{program} ended without an exit status")
        except SystemExit as end:
            return subprocess.CompletedProcess(args, end.code, out.getvalue(), err.getvalue())
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)


def certify(*args, network=None, patches=None) -> subprocess.CompletedProcess:
    """call_program for code/certify.py. network: used instead of the checkpoint's (None: the tiny one).

    network may also be "real": the checkpoint's own.
    """
    fixed = {} if network == "real" else tiny_checkpoint(network)
    return call_program(CERTIFY, *args, patches={**fixed, **(patches or {})})


def _child(args: tuple, errors: str, network, file_size: int | None) -> None:
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    result = certify(*args, network=network)
    Path(errors).write_text(result.stderr)
    sys.exit(result.returncode)


def _started(target, *args) -> multiprocessing.Process:
    START.set_forkserver_preload(["certify", "certconf.core", "certconf.inputs.loading"])
    process = START.Process(target=target, args=args)
    with patch.dict(os.environ, PYTHONPATH=str(CODE), OMP_NUM_THREADS="1"):
        process.start()
    return process


def start(*args, errors=os.devnull, network=None, file_size=None) -> multiprocessing.Process:
    """Run certify() in a process of its own; its stderr lies in the file `errors` once it has ended by itself."""
    return _started(_child, args, str(errors), network, file_size)


def _program(program: str, args: tuple, environment: dict, outputs: list[str]) -> None:
    os.environ.update(environment)
    for stream, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(ROOT)
    sys.argv = [program, *args]
    runpy.run_path(program, run_name="__main__")


class Forked:
    """A program in a process of its own, which need not load PyTorch again; its output goes to files of the folder."""

    def __init__(self, folder, program, *args, **environment):
        self.out, self.err = (Path(folder) / f"{name}{environment.get('RANK', '')}" for name in ("stdout", "stderr"))
        self.process = _started(_program, str(program), tuple(map(str, args)),
                                {name: str(value) for name, value in environment.items()},
                                [str(self.out), str(self.err)])

    def outcome(self) -> tuple[int, str, list[str]]:
        """Its exit status, stdout and the lines of stderr, once it has ended."""
        status = end(self.process)
        return status, self.out.read_text(), self.err.read_text().splitlines()


def start_ranks(folder, program, *args, port: int | None = None, **environment) -> list[Forked]:
    """Start a program in two ranks, as torchrun does, but rank 0 holds the store, and no agent ends either."""
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port or free_port()}
    return [Forked(folder, program, *args, RANK=rank, LOCAL_RANK=rank, **common, **environment) for rank in range(2)]


def run_ranks(folder, program, *args) -> list[tuple[int, str, list[str]]]:
    """The outcomes of start_ranks."""
    return [rank.outcome() for rank in start_ranks(folder, program, *args)]


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def end(process: multiprocessing.Process) -> int:
    """Wait for the end of a process and return its exit status."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "a run hangs"
    return process.exitcode


def start_program(*args, program=(CERTIFY,)) -> subprocess.Popen:
    """Start the command that a user types, in a session of its own, so that a test's signals stay with it."""
    return subprocess.Popen([sys.executable, *program, *map(str, args)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def rows_in(path) -> int:
    """How many complete rows a growing log has now."""
    try:
        return max(Path(path).read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def wait_for_rows(path, count: int, process) -> None:
    """Wait until a log has `count` rows; fail where its run ends before (or never gets there)."""
    running = process.is_alive if hasattr(process, "is_alive") else lambda: process.poll() is None
    limit = time.monotonic() + PATIENCE
    while rows_in(path) < count:
        assert running() and time.monotonic() < limit, f"the run ended or hangs at {rows_in(path)} rows"
        time.sleep(0.0005)


def without_times(path) -> list[dict[str, str]]:
    """The rows of a log as they have to come again from the same arguments."""
    return without_time(read_rows(path))


def contents(folder) -> dict[str, bytes]:
    """Every file in a folder, to see that none has changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def weights_file(folder) -> Path:
    """A file to stand for a checkpoint where the tiny network is used: only its SHA-256 counts."""
    path = Path(folder) / "weights"
    path.write_bytes(b"of a tiny network")
    return path


def confident_checkpoint(folder) -> Path:
    """A checkpoint of a random ResNet whose logits are large enough for certificates."""
    def sharpen(state):
        state["1.fc.weight"] *= 30
    return fake_checkpoint(Path(folder) / "checkpoint.pth.tar", change=sharpen)
