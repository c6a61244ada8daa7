"""runner/worker.py and heartbeat.py: several processes, of which one fails, stops, dies, or is slow to leave."""
import os
import signal
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from certify_runs import PATIENCE, start_ranks
from helpers import CODE, ROOT
from torch import distributed

from certconf.runner import worker
from certconf.runner.worker import Worker

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {code!r})
from certconf import errors
from certconf.runner import heartbeat
from certconf.runner.worker import Worker

heartbeat.HEARTBEAT_INTERVAL, heartbeat.HEARTBEAT_TIMEOUT = 0.2, 2.0
rank, attempt = int(os.environ["RANK"]), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))

def work(task):
    {work}
    return task ** 2

def main():
    with Worker.from_environment() as worker:
        {before}
        tasks = worker.share(list(range(6)) if rank == 0 else None)
        for task, result in worker.map(work, tasks):
            print(task, result, flush=True)
        {after}

sys.exit(errors.run_cli(main, "stopped"))
"""
# rank 1 gets the task that it fails at, whichever that is, while rank 0 is at work or waits for it
FAIL_ON_1 = "time.sleep(0.2)\n    if rank == 1: {}"


def script(folder, work="pass", before="pass", after="pass"):
    path = folder / "ranks.py"
    path.write_text(SCRIPT.format(code=str(CODE), work=work, before=before, after=after))
    return path


@contextmanager
def two_ranks(path, **options):
    """Two ranks that run a script; what is left of them at the end is killed."""
    ranks = start_ranks(path.parent, path, **options)
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()


@pytest.mark.parametrize("error, status, line", [
    ("raise RuntimeError('this image is too much')", 1, "error: rank 1 failed: RuntimeError: this image is too much"),
    ("raise errors.InputError('no such image')", 2, "error: no such image")])
def test_an_exception_of_another_rank(error, status, line, tmp_path):
    """It ends the run on rank 0, with one line, once the rows before it are written; its own rank has the traceback."""
    with two_ranks(script(tmp_path, FAIL_ON_1.format(error))) as (first, second):
        found, out, err = first.outcome()
        assert (found, err) == (status, [line])
        rows = out.splitlines()
        assert len(rows) < 6 and rows == [f"{task} {task ** 2}" for task in range(len(rows))]
        found, out, err = second.outcome()
        assert (found, out) == (0, "") and bool(err) == (status == 1)


def test_a_rank_that_stops(tmp_path):
    """No sign of life: rank 0 ends the run with a line, although it is in the middle of an image that takes long."""
    work = "time.sleep(100) if rank == 0 else os.kill(os.getpid(), signal.SIGSTOP)"
    with two_ranks(script(tmp_path, work)) as (first, _):
        status, out, (line,) = first.outcome()
        assert (status, out) == (1, "")
        assert line.startswith("error: rank 1 is lost: no sign of life for 2 s; ") and "resumes" in line


def test_rank_0_dies(tmp_path):
    """The others end as well, with a line, and need no agent that ends them."""
    with two_ranks(script(tmp_path, "time.sleep(1)\n    time.sleep(100) if rank else os.kill(os.getpid(), 9)")) as (
            first, second):
        assert first.outcome()[0] == -signal.SIGKILL
        status, _, (*_, line) = second.outcome()
        assert status == 1 and line.startswith("error: ") and "store is lost" in line


def test_rank_0_refuses(tmp_path):
    """Bad arguments: one line from rank 0, and the others end silently, whether or not they have an agent."""
    refuse = "if rank == 0: raise errors.InputError('bad arguments')"
    with two_ranks(script(tmp_path, before=refuse)) as (first, second):
        assert first.outcome() == (2, "", ["error: bad arguments"])
        assert second.outcome() == (0, "", [])


def test_rank_0_leaves_last(tmp_path):
    """It holds the store, which a slow rank still needs."""
    with two_ranks(script(tmp_path, after="if rank == 1: time.sleep(2); worker.store.set('late', 'yes')")) as ranks:
        (first, out, err), second = (rank.outcome() for rank in ranks)
        assert (first, err) == (0, []) and out.splitlines() == [f"{task} {task ** 2}" for task in range(6)]
        assert second == (0, "", [])


def test_a_restart(tmp_path):
    """torchrun --max-restarts: its store stays, and the second start reads nothing that the first one left there."""
    work = "time.sleep(0.1)\n    if attempt == 0 and task == 3: raise RuntimeError('only the first time')"
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    rows = [f"{task} {task ** 2}" for task in range(6)]
    for attempt, status, expected in ((0, 1, rows[:3]), (1, 0, rows)):
        with two_ranks(script(tmp_path, work), port=store.port, TORCHELASTIC_USE_AGENT_STORE=True,
                       TORCHELASTIC_RESTART_COUNT=attempt) as (first, _):
            found, out, err = first.outcome()
            assert (found, out.splitlines()) == (status, expected), err


@pytest.mark.parametrize("local_size, expected", [(4, "16"), (128, "1")])
def test_compile_threads(local_size, expected, monkeypatch):
    """Ranks share the cores of a machine among their compilers, unless the user has chosen. No process is started."""
    monkeypatch.setattr(worker.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(distributed, "rendezvous", lambda url: iter([(None, 0, 2)]))
    monkeypatch.setattr(distributed, "PrefixStore", lambda prefix, store: None)
    monkeypatch.setattr(worker, "Heartbeat", lambda *args: SimpleNamespace(start=lambda: None))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_size))
    for chosen, threads in ((None, expected), ("7", "7")):
        monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
        if chosen:
            monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", chosen)
        Worker(0, 2, 0).__enter__()
        assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == threads


def test_slurm_script(tmp_path):
    """srun passes the CPUs of a task on, which it does not do by itself, and a node that fails ends the job."""
    for name, answer in (("scontrol", "echo node1"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(["bash", "scripts/certify_slurm.sh", "cifar10", "a checkpoint"], cwd=ROOT, text=True,
                            capture_output=True, timeout=PATIENCE,
                            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "32",
                                 "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"})
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert words[:3] == ["--cpus-per-task=32", "--kill-on-bad-exit=1", "torchrun"]
    assert words[-4:] == ["--", "code/certify.py", "cifar10", "a checkpoint"]
