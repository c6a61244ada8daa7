"""What goes wrong around a run: another run, signals, a full disk, a folder that is none."""
import itertools
import os
import random
import signal
import time

import pytest
from certify_runs import (
    PATIENCE,
    Forked,
    Slow,
    arguments,
    certify,
    confident_checkpoint,
    contents,
    end,
    rows_in,
    start,
    start_program,
    tiny_network,
    wait_for_rows,
    weights_file,
    without_times,
)
from helpers import CERTIFY, assert_refused

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--", CERTIFY)  # its own --max-...
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def weights(tmp_path):
    return weights_file(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return confident_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, checkpoint):
    """The rows of an uninterrupted run of the real network."""
    out = tmp_path_factory.mktemp("whole") / "log"
    assert certify(*arguments(checkpoint, out), network="real").returncode == 0
    return without_times(out)


def told(stderr: str) -> list[str]:
    """What a run said on stderr beside its progress bar and the ceiling of its bounds."""
    return [line for line in stderr.replace("\r", "\n").splitlines()
            if line.strip() and not any(word in line for word in ("image/s", "s/image", "ceiling:"))]


def assert_complete(path, at_least: int = 0) -> None:
    """A log ends in a complete row, and has so many."""
    data = path.read_bytes()
    widths = {line.count(b"\t") for line in data.split(b"\n")[:-1]}
    assert data.endswith(b"\n") and len(widths) == 1 and rows_in(path) >= at_least


# --- another run ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_two_runs_on_one_file(options, weights, tmp_path):
    """The second is refused at once, whatever its arguments; the first does not notice."""
    assert certify(*arguments(weights, tmp_path / "whole")).returncode == 0
    first = start(*arguments(weights, tmp_path / "log"), network=Slow(tiny_network(), 0.1))
    wait_for_rows(tmp_path / "log", 2, first)
    record = (tmp_path / "log.json").read_bytes()
    second = certify(*arguments(weights, tmp_path / "log", *options))
    assert first.is_alive(), "the second run waited for the first"
    assert_refused(second, str(tmp_path / "log"), "another run")
    assert (tmp_path / "log.json").read_bytes() == record and not list(tmp_path.glob("*.bak*"))
    assert end(first) == 0
    assert without_times(tmp_path / "log") == without_times(tmp_path / "whole")


def test_one_of_two_logs_is_in_use(weights, tmp_path):
    """A pass that writes two logs is refused where another run holds one of them, and leaves no trace of the other."""
    first = start(*arguments(weights, tmp_path / "margin", "--confidence_measure", "margin"),
                  network=Slow(tiny_network(), 0.1))
    wait_for_rows(tmp_path / "margin", 1, first)
    both = arguments(weights, tmp_path / "{confidence_measure}", "--confidence_measure", "pred_score", "margin")
    assert_refused(certify(*both), str(tmp_path / "margin"), "another run")
    assert sorted(contents(tmp_path)) == ["margin", "margin.json", "weights"]
    first.kill()
    end(first)


# --- signals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("signum", STATUS, ids=["ctrl-c", "sigterm"])
def test_stopped_command(signum, checkpoint, whole, tmp_path):
    """The shell's exit status, one line that says how to go on, and complete rows that a repeat goes on from.

    The row that is on its way to the disk when the signal comes may be taken back; the one before it may not.
    """
    command = Forked(tmp_path, CERTIFY, *arguments(checkpoint, tmp_path / "log"))
    wait_for_rows(tmp_path / "log", 2, command.process)
    os.kill(command.process.pid, signum)
    status, out, err = command.outcome()
    assert (status, out) == (STATUS[signum], "")
    line, = told("\n".join(err))
    assert "stopped" in line and "same command" in line
    assert_complete(tmp_path / "log", at_least=1)
    assert rows_in(tmp_path / "log") < 12
    assert certify(*arguments(checkpoint, tmp_path / "log"), network="real").returncode == 0
    assert without_times(tmp_path / "log") == whole


def test_stopped_among_the_writes(weights, tmp_path):
    """Signals at random moments of a run that does little but write."""
    generator, options = random.Random(20), ("--save_scores",)
    for rows, signum in zip((1, 10, 19, 28, 40), itertools.cycle(STATUS), strict=False):
        process = start(*arguments(weights, tmp_path / "log", *options, stop=1000), errors=tmp_path / "stderr")
        wait_for_rows(tmp_path / "log", rows, process)
        time.sleep(generator.uniform(0, 0.02))
        before = rows_in(tmp_path / "log")
        os.kill(process.pid, signum)
        assert end(process) == STATUS[signum]
        assert [line for line in told((tmp_path / "stderr").read_text()) if "stopped" not in line] == []
        assert_complete(tmp_path / "log", at_least=before - 1)
    for name in ("log", "whole"):
        assert certify(*arguments(weights, tmp_path / name, *options, stop=1000)).returncode == 0
    assert without_times(tmp_path / "log") == without_times(tmp_path / "whole")
    assert (tmp_path / "log.scores").read_bytes() == (tmp_path / "whole.scores").read_bytes()


def test_stopped_torchrun(checkpoint, whole, tmp_path):
    """SIGTERM to torchrun, which passes it on: no written row is lost, and one process goes on where two stopped."""
    process = start_program(*arguments(checkpoint, tmp_path / "log"), program=TORCHRUN)
    wait_for_rows(tmp_path / "log", 2, process)
    written = (tmp_path / "log").read_bytes().splitlines(keepends=True)[:2]  # another may be on its way to the disk
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert (tmp_path / "log").read_bytes().startswith(b"".join(written))
    assert_complete(tmp_path / "log", at_least=1)
    result = certify(*arguments(checkpoint, tmp_path / "log"), network="real")
    assert result.returncode == 0 and [line for line in told(result.stderr) if "another processes than" in line]
    assert without_times(tmp_path / "log") == whole


# --- disks and folders ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("limit, options", [(5000, ()), (5100, ("--save_scores",))])
def test_a_full_disk(limit, options, weights, tmp_path):
    """A limit on the size of files: the disk is full at the same byte each time. A repeat with room completes."""
    run = arguments(weights, tmp_path / "log", *options, stop=1000)
    assert end(start(*run, errors=tmp_path / "stderr", file_size=limit)) == 2
    line, = told((tmp_path / "stderr").read_text())
    assert line.startswith(f"error: {tmp_path / 'log'}") and "cannot be written" in line and "complete" in line
    assert_complete(tmp_path / "log", at_least=1)
    assert max(path.stat().st_size for path in tmp_path.glob("log*")) > limit - 400
    for name in ("log", "whole"):
        assert certify(*arguments(weights, tmp_path / name, *options, stop=1000)).returncode == 0
    assert without_times(tmp_path / "log") == without_times(tmp_path / "whole")


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_disk_without_room_for_the_record(limit, weights, tmp_path):
    """The run has not begun: nothing is left of it that would stand in the way of the next one."""
    assert end(start(*arguments(weights, tmp_path / "run" / "log"), errors=tmp_path / "stderr", file_size=limit)) != 0
    assert rows_in(tmp_path / "run" / "log") == 0
    result = certify(*arguments(weights, tmp_path / "run" / "log"))
    assert result.returncode == 0, result.stderr
    assert sorted(contents(tmp_path / "run")) == ["log", "log.json"]


@pytest.mark.parametrize("out", ["file/deeper/log", "folder", "folder/", "x" * 300, "recorded"])
def test_files_that_cannot_be_written(out, weights, tmp_path):
    """A file where a folder should be, a folder where a file should be, a name that is too long."""
    (tmp_path / "file").write_text("something else")
    (tmp_path / "folder").mkdir()
    (tmp_path / "recorded.json").mkdir()
    before = contents(tmp_path)
    assert_refused(certify(*arguments(weights, f"{tmp_path}/{out}")), str(tmp_path))
    assert contents(tmp_path) == before
