"""kill -9 at random moments, and the command again each time: the log is that of an uninterrupted run."""
import random
import signal
import time

import pytest
from certify_runs import (
    PATIENCE,
    arguments,
    certify,
    confident_checkpoint,
    end,
    rows_in,
    start,
    start_program,
    wait_for_rows,
    weights_file,
    without_times,
)
from helpers import CERTIFY

KILLS, MANY_KILLS = 5, 20


def moments(kills: int, rows: int, seconds: float, seed: int = 20) -> list[tuple[int, float]]:
    """Random moments in a run: after so many rows and so many seconds, each later than the one before."""
    generator = random.Random(seed)
    counts = sorted(generator.randrange(rows) for _ in range(kills))
    return [(count, generator.uniform(0, seconds)) for count in counts]


def kill(process, out, rows: int, seconds: float) -> None:
    """Kill a run `seconds` after its log has this many rows."""
    wait_for_rows(out, rows, process)
    time.sleep(seconds)
    process.kill()
    assert end(process) == -signal.SIGKILL, "the run ended before it was killed"


def assert_survives(launch, moments_of_death, folder, names) -> None:
    """launch(out) starts the run; the last start is left alone. Compare with a run into another file, and its scores.

    names: the logs of the run, as they follow OUTFILE's own name.
    """
    first = folder / ("killed" + names[0])
    for rows, seconds in moments_of_death:
        before = {name: rows_in(folder / ("killed" + name)) for name in names}
        kill(launch(folder / "killed{}"), first, rows, seconds)
        assert all(rows_in(folder / ("killed" + name)) >= before[name] for name in names), "rows are lost"
    for out in ("killed{}", "whole{}"):
        assert end(launch(folder / out)) == 0
    for name in names:
        assert without_times(folder / ("killed" + name)) == without_times(folder / ("whole" + name))
        scores = [(folder / (out + name + ".scores")) for out in ("killed", "whole")]
        assert [path.exists() for path in scores] in ([True, True], [False, False])
        if scores[0].exists():
            assert scores[0].read_bytes() == scores[1].read_bytes() != b""


BOTH = ("--confidence_measure", "pred_score", "margin", "--save_scores")


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY_KILLS, marks=pytest.mark.long)])
@pytest.mark.parametrize("options, names", [((), [""]), (BOTH, ["pred_score", "margin"])], ids=["one log", "two logs"])
def test_kills_among_the_writes(options, names, kills, tmp_path):
    """50 images, by a network so small that most of the time goes into the files."""
    weights, place = weights_file(tmp_path), "{confidence_measure}" if options else ""

    def launch(out):
        return start(*arguments(weights, str(out).replace("{}", place), *options, stop=1000))

    assert_survives(launch, moments(kills, 45, 0.02, seed=kills), tmp_path, names)


def test_kills_of_a_real_network(tmp_path):
    """Most of these come in the middle of an image."""
    checkpoint = confident_checkpoint(tmp_path)

    def launch(out):
        return start(*arguments(checkpoint, str(out).replace("{}", ""), "--save_scores"), network="real")

    assert_survives(launch, moments(KILLS, 11, 0.05), tmp_path, [""])


@pytest.mark.long
def test_many_kills_of_the_command(tmp_path):
    """The command as a user types it, killed at any time since its start: before it has opened its files, too.

    All 500 images, so that no start comes to their end.
    """
    checkpoint = confident_checkpoint(tmp_path)
    generator = random.Random(22)
    args = arguments(checkpoint, tmp_path / "killed", "--save_scores", stop=10000)
    begin = time.monotonic()
    process = start_program(*args, program=(CERTIFY,))
    wait_for_rows(tmp_path / "killed", 1, process)
    until_first_row = time.monotonic() - begin
    process.kill()
    process.communicate(timeout=PATIENCE)
    for _ in range(MANY_KILLS):
        process = start_program(*args, program=(CERTIFY,))
        time.sleep(generator.uniform(0.3, 1.3) * until_first_row)
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
    for out in ("killed", "whole"):
        result = certify(*arguments(checkpoint, tmp_path / out, "--save_scores", stop=10000), network="real")
        assert result.returncode == 0, result.stderr
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    assert (tmp_path / "killed.scores").read_bytes() == (tmp_path / "whole.scores").read_bytes()
