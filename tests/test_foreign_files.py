"""Files that are there already, that are no files or another run's: none is written over or taken for one's own."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pandas
import pytest
from certify_runs import Blinding, arguments, call_program, certify, contents, weights_file
from helpers import DEMO_CHECKPOINT, ROOT, assert_refused, read_rows

from certconf.errors import run_cli

RECERTIFY, RADIUS = "code/recertify.py", "code/radius.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights):
    out = tmp_path_factory.mktemp("finished") / "log"
    assert certify(*arguments(weights, out, "--save_scores")).returncode == 0
    return out


@pytest.fixture
def log(finished, tmp_path):
    """A copy of a finished run with saved scores."""
    return shutil.copytree(finished.parent, tmp_path / "run") / "log"


def beside(log, end):
    return log.with_name(log.name + end)


# --- scores of another run ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("left", [[".scores"], [".scores", ".json"]], ids=str)
def test_scores_without_their_log_are_kept(left, log, weights):
    """A run into the same name would begin by emptying them."""
    for end in {"", ".json", ".scores"} - set(left):
        beside(log, end).unlink()
    before = contents(log.parent)
    assert_refused(certify(*arguments(weights, log, "--save_scores")), f"{log}.scores", "--overwrite")
    assert contents(log.parent) == before
    assert certify(*arguments(weights, log, "--save_scores", "--overwrite")).returncode == 0
    assert beside(log, ".bak.scores").read_bytes() == before["log.scores"]


def test_scores_are_not_read_under_another_runs_record(log, weights):
    """Scores of sigma 0.25 read as those of sigma 1 would have radii 4 times too large."""
    log.unlink()
    beside(log, ".json").unlink()
    assert certify("cifar10", weights, 1.0, *arguments(weights, log)[3:]).returncode == 0
    assert_refused(call_program(RADIUS, f"{log}.scores", f"{log}.radii", "--score", "0.5"), "saved none")


def other_ranks(record):
    record["scores_dtype"][-1][-1] += 1


@pytest.mark.parametrize("change, word", [
    (lambda record: record["settings"].update(program="recertify"), "saved none"),
    (lambda record: record["settings"].update(save_scores=False), "saved none"), (other_ranks, "scores_dtype")])
def test_only_the_sampling_runs_own_record_will_do(change, word, log):
    """A re-certification's record does not tell which alpha the samples were drawn for."""
    record = json.loads(beside(log, ".json").read_text())
    change(record)
    beside(log, ".json").write_text(json.dumps(record))
    assert_refused(call_program(RECERTIFY, log, f"{log}_again"), "not a record of saved scores", word)


@pytest.mark.parametrize("end", ["", ".scores", ".json"])
@pytest.mark.parametrize("program", [[RECERTIFY], [RADIUS, "--score", "0.5"]])
def test_the_runs_own_files_are_no_output(program, end, log):
    """--overwrite would set the scores aside with it, while they are read."""
    before = contents(log.parent)
    code, *options = program
    outfile = f"{log.parent}/../run/log{end}"
    assert_refused(call_program(code, f"{log}.scores", outfile, *options, "--overwrite"), "another name")
    assert contents(log.parent) == before


def test_a_torn_last_record_is_told(log):
    path = beside(log, ".scores")
    path.write_bytes(path.read_bytes()[:-5])
    result = call_program(RECERTIFY, path, f"{log}_again")
    assert result.returncode == 0 and f"{path}: its last record is torn" in result.stderr
    assert len(read_rows(f"{log}_again")) == 11


def test_scores_that_differ_a_little_have_files_of_their_own(log):
    """0.50000001 is not 0.5."""
    result = call_program(RADIUS, log, f"{log}_{{score}}", "--score", "0.5", "0.50000001")
    assert result.returncode == 0, result.stderr
    assert "score 0.5:" in result.stdout and "score 0.50000001:" in result.stdout
    assert os.path.exists(f"{log}_0.5") and os.path.exists(f"{log}_0.50000001")


# --- images without a row -------------------------------------------------------------------------------------------

def test_images_found_non_finite_later(weights, tmp_path):
    """A finished re-certification learns of them, though the saved scores are the same."""
    log = tmp_path / "log"
    for brightest, stop, status in ((2.0, 60, 0), (-9.0, 120, 1)):
        run = arguments(weights, log, "--save_scores", stop=stop)
        assert certify(*run, network=Blinding(brightest)).returncode == status
        assert call_program(RECERTIFY, log, f"{log}_again").returncode == 0
        assert call_program(RADIUS, log, f"{log}_radii", "--score", "0.3").returncode == 0
    for path in (log, f"{log}_again"):
        assert "3 images with non-finite" in call_program("cert_acc.py", path, "0.5").stderr
    assert "3 images with non-finite" in call_program("code/analyze.py", f"{log}_radii", "--table", "csv").stderr


def test_images_with_non_finite_scores_are_counted(weights, tmp_path):
    """The record lists them, cert_acc.py and radius.py count them, and a re-certification's log hands them on."""
    log = tmp_path / "log"
    run = arguments(weights, log, "--save_scores")
    assert certify(*run, network=Blinding(0.55)).returncode == 1
    rows = read_rows(log)
    missing = sorted(set(range(0, 240, 20)) - {int(row["idx"]) for row in rows})
    assert json.loads(beside(log, ".json").read_text())["non_finite"] == missing != []
    assert call_program(RECERTIFY, log, f"{log}_again").returncode == 0
    certified = sum(row["correct"] == "1" and float(row["exp_cdf_00"]) > 0.5 for row in rows)
    for path in (log, f"{log}_again"):
        result = call_program("cert_acc.py", path, "0.5")
        assert f"radius 0.00 = {certified / 12:f}" in result.stdout and f"{len(missing)} images" in result.stderr
    result = call_program(RADIUS, log, f"{log}_radii", "--score", "0.5")
    radii = pandas.read_csv(f"{log}_radii", sep="\t")
    assert float(result.stdout.split()[-1]) == pytest.approx((radii.radius * radii.correct).sum() / 12, rel=1e-7)
    result = call_program("code/analyze.py", f"{log}_radii", "--table", "csv")
    assert f"{(radii.correct * (radii.radius > 0)).sum() / 12:.4f}" in result.stdout

    assert certify(*run, network=Blinding(2.0)).returncode == 0
    result = call_program("cert_acc.py", log, "0.5")
    assert result.stderr == "" and json.loads(beside(log, ".json").read_text())["non_finite"] == missing


# --- files that are none, and other refusals -------------------------------------------------------------------------

def test_special_files(log, tmp_path):
    """A pipe or a device cannot be resumed, and gets no record."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "log.json")
    for out in ("/dev/null", tmp_path / "pipe", tmp_path / "log"):
        assert_refused(call_program(RECERTIFY, log, out), "not a regular file")
    assert not os.path.exists("/dev/null.json") and not (tmp_path / "pipe.json").exists()


def test_stdout_that_cannot_be_written(log):
    """A full disk is one line; a reader that has gone (head) is none; a daemon, which has closed it, needs none."""
    command = [sys.executable, "cert_acc.py", str(log), "0.5"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert_refused(result, "No space left")
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")
    command = f"{sys.executable} {RECERTIFY} {log} {log}_again >&-"
    result = subprocess.run(command, cwd=ROOT, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "") and len(read_rows(f"{log}_again")) == 12


def test_a_closed_stderr(tmp_path):
    """A daemon has closed it, too: a run that would show its progress there writes its rows."""
    command = (f"{sys.executable} code/certify.py cifar10 {DEMO_CHECKPOINT} 0.25 {tmp_path / 'log'} --skip 5000 "
               "--N 64 2>&-")
    assert subprocess.run(command, cwd=ROOT, shell=True).returncode == 0
    assert len(read_rows(tmp_path / "log")) == 2


@pytest.mark.parametrize("debug, shown", [("1", True), ("0", False)])
def test_an_unexpected_error_can_be_looked_into(debug, shown, monkeypatch, capsys):
    """CERTIFY_DEBUG=1 shows where an OSError came from, before the one line and exit status 2 that come anyway."""
    def failing_main():
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setenv("CERTIFY_DEBUG", debug)
    monkeypatch.setattr(signal, "signal", lambda signum, handler: None)
    monkeypatch.setattr(sys, "stdout", None)  # as under a daemon: an OSError's stdout is given up
    assert run_cli(failing_main) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: [Errno 5] Input/output error"
    assert ("in failing_main" in "".join(lines)) == shown and (len(lines) == 1) != shown


@pytest.mark.parametrize("word, command", [
    ("alpha", ["code/predict.py", "cifar10", DEMO_CHECKPOINT, "0.25", "OUT", "--skip", "20", "--alpha", "1e-150"]),
    ("--N,", ["code/predict.py", "cifar10", DEMO_CHECKPOINT, "0.25", "OUT", "--skip", "20", "--N", "20000000"]),
    ("no such record", ["code/analyze.py", ROOT / "none", "--figure", "samples", "--out", "OUT.png"])])
def test_refusals(word, command, tmp_path):
    """One line, exit status 2, and no file."""
    assert_refused(call_program(*(str(part).replace("OUT", f"{tmp_path}/out") for part in command)), word)
    assert not list(tmp_path.iterdir())
