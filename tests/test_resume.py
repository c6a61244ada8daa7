"""Repeating a command: what is missing is added, what is there stays, and no row depends on where a run stopped."""
import json
import shutil

import numpy as np
import pytest
from certify_runs import (
    Blinding,
    arguments,
    certify,
    contents,
    weights_file,
    without_times,
)
from helpers import assert_refused, read_rows

from certconf.formats.scores import scores_dtype
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

BOTH = ("--confidence_measure", "pred_score", "margin")
SCORES = scores_dtype(Plan(CertificateSpec(MEASURES["pred_score"], 64, 0.001, 0.25, kept_ranks="falling")))
RECORD_SIZE = SCORES.itemsize


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights):
    """An uninterrupted run with saved scores, to compare with. It holds certified rows, wrong ones and abstentions."""
    out = tmp_path_factory.mktemp("whole") / "log"
    result = certify(*arguments(weights, out, "--save_scores"))
    assert result.returncode == 0, result.stderr
    rows = read_rows(out)
    assert len(rows) == 12 and {row["correct"] for row in rows} == {"0", "1"} and "-1" in {r["predict"] for r in rows}
    return out


@pytest.fixture
def log(whole, tmp_path):
    """A copy of the finished run, to be disturbed."""
    return shutil.copytree(whole.parent, tmp_path / "run") / "log"


def scores_of(log):
    return log.with_name(log.name + ".scores")


def record_of(log):
    return log.with_name(log.name + ".json")


def assert_same_run(log, whole):
    """Same rows in the same order but for `time`, and the same saved scores."""
    assert without_times(log) == without_times(whole)
    assert scores_of(log).read_bytes() == scores_of(whole).read_bytes()


# --- resume ---------------------------------------------------------------------------------------------------------

def test_a_finished_log_is_left_as_it_is(log, weights):
    """Byte for byte, its record and its scores too, with a message."""
    before = contents(log.parent)
    result = certify(*arguments(weights, log, "--save_scores"))
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [f"{log}: complete; nothing to do"]
    assert contents(log.parent) == before


@pytest.mark.parametrize("line, offset", [(1, 0), (1, 1), (2, -1), (12, 0), (13, -1)])
def test_any_torn_last_line(line, offset, log, weights, whole):
    """A crash may leave a log cut at any byte: what is torn is cut off and done again, its saved scores, too."""
    data = log.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    at = [0, *ends][line] + offset
    log.write_bytes(data[:at])
    result = certify(*arguments(weights, log, "--save_scores"))
    assert result.returncode == 0, result.stderr
    assert_same_run(log, whole)
    kept = data[:max([end for end in ends if end <= at], default=0)]
    assert log.read_bytes().startswith(kept), "complete rows are kept, their times too"


@pytest.mark.parametrize("size", [0, RECORD_SIZE - 1, 7 * RECORD_SIZE + 3])
def test_any_torn_scores(size, log, weights, whole):
    """The log and its scores go on at the shorter of the two."""
    scores_of(log).write_bytes(scores_of(log).read_bytes()[:size])
    assert certify(*arguments(weights, log, "--save_scores")).returncode == 0
    assert_same_run(log, whole)


@pytest.mark.parametrize("lengths", [(3, 9), (12, 0)])
def test_two_logs_of_one_pass(lengths, weights, tmp_path):
    """Both resume at the shorter, and the rows that the longer has already stay as they are."""
    uninterrupted, out = tmp_path / "whole-{confidence_measure}", tmp_path / "log-{confidence_measure}"
    assert certify(*arguments(weights, uninterrupted, *BOTH)).returncode == 0
    assert certify(*arguments(weights, out, *BOTH)).returncode == 0
    kept = {}
    for measure, rows in zip(BOTH[1:], lengths, strict=True):
        path = tmp_path / f"log-{measure}"
        kept[measure] = b"".join(path.read_bytes().splitlines(keepends=True)[:1 + rows])
        path.write_bytes(kept[measure])
    result = certify(*arguments(weights, out, *BOTH))
    assert result.returncode == 0 and f"/{12 - min(lengths)} " in result.stderr
    for measure in BOTH[1:]:
        assert without_times(tmp_path / f"log-{measure}") == without_times(tmp_path / f"whole-{measure}")
        assert (tmp_path / f"log-{measure}").read_bytes().startswith(kept[measure])
    assert without_times(tmp_path / "log-margin") != without_times(tmp_path / "log-pred_score")


# --- what is not gone on with ---------------------------------------------------------------------------------------

def damaged(path, data=b"", order=None):
    """Append to a file, or rearrange its saved scores."""
    old = path.read_bytes()
    path.write_bytes(old + data if order is None else np.frombuffer(old, SCORES)[order].tobytes())


@pytest.mark.parametrize("change, words", [
    (lambda log: record_of(log).unlink(), ["record"]),  # a published log, say
    (lambda log: scores_of(log).unlink(), [".scores"]),  # those of images that are done cannot come again
    (lambda log: damaged(scores_of(log), order=[1, 0, *range(2, 12)]), [".scores"]),
    (lambda log: damaged(scores_of(log), order=[*range(10), 11, 10]), [".scores"]),
    (lambda log: damaged(log, b"0\t3\n"), []), (lambda log: damaged(record_of(log), b"{"), []),
    (lambda log: damaged(scores_of(log), b"\xff" * RECORD_SIZE), [])],
    ids=["no record", "no scores", "first scores", "last scores", "a bad row", "a bad record", "bad scores"])
def test_files_that_are_not_one_run(change, words, log, weights):
    """Whether images are left to do or not: refused with the file's name, and nothing is cut off or added."""
    change(log)
    before = contents(log.parent)
    for stop in (240, 480):
        result = certify(*arguments(weights, log, "--save_scores", stop=stop))
        assert_refused(result, str(log), *words, *(["--overwrite"] if words else []))
        assert contents(log.parent) == before


def test_overwrite_keeps_every_old_run(log, weights, whole):
    """OUTFILE.bak, then OUTFILE.bak1, ..., each with its record and its scores."""
    names = ("", ".json", ".scores")
    for k, backup in enumerate(("log.bak", "log.bak1", "log.bak2")):
        old = {name: (log.parent / ("log" + name)).read_bytes() for name in names}
        result = certify(*arguments(weights, log, "--save_scores", "--overwrite", "--seed", k))
        assert result.returncode == 0 and f"{log}: kept as {log.with_name(backup)}\n" in result.stderr
        assert old == {name: (log.parent / (backup + name)).read_bytes() for name in names}
        assert len(json.loads(record_of(log).read_text())["starts"]) == 1
    assert without_times(log.parent / "log.bak1") != without_times(log.parent / "log.bak2")  # another seed, other rows
    assert_same_run(log.with_name("log.bak1"), whole)


def test_overwrite_where_nothing_is(weights, tmp_path):
    """No empty backup is made of a log that was not there."""
    assert certify(*arguments(weights, tmp_path / "log", "--overwrite", stop=40)).returncode == 0
    assert sorted(contents(tmp_path)) == ["log", "log.json"]


# --- images without finite scores -----------------------------------------------------------------------------------

def images_done(monkeypatch):
    """The list that every index certified from now on is added to."""
    from certconf import core
    seen, real = [], core.Smooth.certify_by
    monkeypatch.setattr(core.Smooth, "certify_by", lambda *args, **kw: seen.append(kw["index"]) or real(*args, **kw))
    return seen


def test_only_images_without_finite_scores_are_tried_again(weights, tmp_path, monkeypatch):
    """They get no row and exit status 1, and a repeat tries these alone, until they have one."""
    network = Blinding(0.55)
    run = arguments(weights, tmp_path / "log", "--save_scores")
    seen = images_done(monkeypatch)
    first = certify(*run, network=network)
    assert first.returncode == 1 and "Traceback" not in first.stderr and seen == list(range(0, 240, 20))
    written = [int(row["idx"]) for row in read_rows(tmp_path / "log")]
    failed = sorted(set(seen) - set(written))
    assert 0 < len(failed) < 12 and failed != list(range(failed[0], 240, 20))
    assert ", ".join(map(str, failed)) in first.stderr.splitlines()[-1]
    before = (tmp_path / "log").read_bytes()

    seen.clear()
    assert certify(*run, network=network).returncode == 1
    assert seen == failed and (tmp_path / "log").read_bytes() == before

    seen.clear()
    network.brightest = 2.0
    last = certify(*run, network=network)
    assert last.returncode == 0 and seen == failed, last.stderr
    assert [int(row["idx"]) for row in read_rows(tmp_path / "log")] == written + failed
    assert certify(*arguments(weights, tmp_path / "whole", "--save_scores"), network=network).returncode == 0
    in_order = sorted(without_times(tmp_path / "log"), key=lambda row: int(row["idx"]))
    assert in_order == without_times(tmp_path / "whole") and len(in_order) == 12
    assert certify(*run, network=network).stderr.endswith("complete; nothing to do\n")
