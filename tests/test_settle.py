"""certify.py --settle: sampling in stages, through the real program, with a network that takes microseconds."""
import json
import math

import numpy as np
import pytest
import torch
from certify_runs import call_program, certify, contents, tiny_network, weights_file
from helpers import assert_refused, read_rows, without_time

from certconf.core import Smooth
from certconf.formats.scores import read_scores
from certconf.statistics.bounds import clopper_pearson_limit, failure_probability, limit_weights
from certconf.statistics.sequential import GROWTH, look_sizes, split_alpha

N = 4000  # looks at 500, 629, 793, 1000, ... 3174 and 4000
LEVELS = split_alpha(0.001, [GROWTH ** k for k in range(10)])
BOTH = ("--confidence_measure", "pred_score", "margin")
STAGED = (*BOTH, "--settle", 0.5, 0.0, "--save_scores")


def arguments(folder, out, *options, stop=240):
    return "cifar10", weights_file(folder), 0.25, out, "--skip", 20, "--N0", 16, "--N", N, "--max", stop, *options


def rows(path):
    return without_time(read_rows(path))


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """One run of both measures, staged, with saved scores; and its stderr."""
    folder = tmp_path_factory.mktemp("staged")
    result = certify(*arguments(folder, folder / "{confidence_measure}", *STAGED))
    assert result.returncode == 0, result.stderr
    return folder, result.stderr


def scores_of(log):
    fields = json.loads(log.with_name(log.name + ".json").read_text())["scores_dtype"]
    return np.fromfile(log.with_name(log.name + ".scores"), np.dtype([tuple(field) for field in fields]))


def test_record_and_last_line(staged):
    """The record holds looks and levels, whose sum is at most alpha; stderr ends with the mean share of N."""
    folder, stderr = staged
    for measure, score in (("pred_score", 0.5), ("margin", 0.0)):
        record = json.loads((folder / f"{measure}.json").read_text())
        assert record["settings"]["settle"] == score
        assert record["settings"]["looks"] == [list(look) for look in zip(look_sizes(N), LEVELS, strict=True)]
        assert "eta" not in record
    drawn = np.maximum(scores_of(folder / "pred_score")["n"], scores_of(folder / "margin")["n"])
    share = float(stderr.splitlines()[-1].split()[1])
    assert share == pytest.approx(drawn.mean() / N, abs=0.0005) and share < 1


def test_saved_scores_hold_their_look(staged):
    """Images stop at several looks, each with the level of its look; the mean lies within the order statistics."""
    folder, _ = staged
    levels = dict(zip(look_sizes(N), LEVELS, strict=True))
    for measure in ("pred_score", "margin"):
        records = scores_of(folder / measure)
        assert len(set(records["n"].tolist())) > 1
        assert [levels[n] for n in records["n"].tolist()] == records["alpha"].tolist()
        assert (np.diff(records["order"], axis=1) >= 0).all()


@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_recertified_log_equals_the_run(staged, measure, tmp_path):
    """From saved scores, with the settings of the run, nothing but the time differs."""
    folder, _ = staged
    assert call_program("code/recertify.py", folder / f"{measure}.scores", tmp_path / "again").returncode == 0
    assert rows(tmp_path / "again") == rows(folder / measure)


def test_rows_do_not_depend_on_how_they_were_made(staged, tmp_path):
    """Another batch, each measure alone, and a run that was interrupted: the same rows and saved scores."""
    folder, _ = staged
    for measure, score in (("pred_score", 0.5), ("margin", 0.0)):
        alone = ("--confidence_measure", measure, "--settle", score, "--save_scores", "--batch", 37)
        for stop in (100, 240):
            assert certify(*arguments(tmp_path, tmp_path / measure, *alone, stop=stop)).returncode == 0
        assert rows(tmp_path / measure) == rows(folder / measure)
        assert np.array_equal(scores_of(tmp_path / measure), scores_of(folder / measure))


def test_rows_are_those_of_smooth(staged):
    """Smooth.certify(settle=...) gives a certificate that knows its n and alpha, and the bounds of the row."""
    folder, _ = staged
    from certconf.inputs.datasets import open_images
    images, _ = open_images("cifar10", "test", 20)
    smooth = Smooth(tiny_network(), 10, 0.25, ("pred_score", "margin"), device="cpu")
    for index in (0, 20, 40):
        found = smooth.certify(images.load(index)[0], 16, N, 0.001, 1000, index=index, settle=(0.5, 0.0))
        for certificate, measure in zip(found, ("pred_score", "margin"), strict=True):
            record = next(record for record in scores_of(folder / measure) if record["idx"] == index)
            assert (certificate.spec.n, certificate.spec.alpha) == (record["n"], record["alpha"])
            assert certificate.mean == record["mean"]


def test_settled_with_dkw(tmp_path):
    """The paper's band has its looks, too."""
    options = ("--bound", "dkw", "--settle", 0.5, "--save_scores")
    assert certify(*arguments(tmp_path, tmp_path / "log", *options)).returncode == 0
    assert call_program("code/recertify.py", tmp_path / "log.scores", tmp_path / "again").returncode == 0
    assert rows(tmp_path / "again") == rows(tmp_path / "log")
    assert len(set(scores_of(tmp_path / "log")["n"].tolist())) > 1


@pytest.mark.parametrize("options, words", [
    ((*BOTH, "--settle", 0.5), "--settle"), (("--settle", 1.0), "range"), (("--settle", "nan"), "range")])
def test_refusals(tmp_path, options, words):
    """One score for each measure, inside its range; nothing is written."""
    assert_refused(certify(*arguments(tmp_path, tmp_path / "out" / "{confidence_measure}", *options)), words)
    assert not (tmp_path / "out").exists()


def test_another_score_does_not_resume(staged):
    """A log is resumed with its own --settle only."""
    folder, _ = staged
    before = contents(folder)
    for options in ((*BOTH, "--save_scores"), (*BOTH, "--settle", 0.5, 0.1, "--save_scores")):
        assert_refused(certify(*arguments(folder, folder / "{confidence_measure}", *options)), "--settle")
    assert contents(folder) == before


def with_looks(folder, target, looks):
    """Copies of a staged log, its record and its scores, with other looks in the record."""
    for name in ("pred_score", "pred_score.scores"):
        (target / name).write_bytes((folder / name).read_bytes())
    record = json.loads((folder / "pred_score.json").read_text())
    record["settings"]["looks"] = looks
    (target / "pred_score.json").write_text(json.dumps(record))


def test_other_looks_do_not_resume(staged, tmp_path):
    """A log with the looks of another version is never continued with today's."""
    folder, _ = staged
    with_looks(folder, tmp_path, [[500, 0.0001], [1000, 0.0002], [2000, 0.0003], [4000, 0.0004]])
    before = contents(tmp_path)
    result = certify(*arguments(folder, tmp_path / "pred_score", "--settle", 0.5, "--save_scores", stop=400))
    assert_refused(result, "pred_score was written with other settings: the looks of --settle")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("looks", [
    None, [], 7, [[4000]], [[500, 0.0005], [4000.0, 0.0005]], [[500, 0.0006], [4000, 0.0005]],
    [[500, 0.0001], [500, 0.0001], [4000, 0.0005]], [[500, 0.0005], [2000, 0.0005]], [[500, -0.5], [4000, 0.0005]],
    [[500, float("nan")], [4000, 0.0005]], [[0, 0.0001], [4000, 0.0005]]])
def test_recorded_looks_that_are_refused(staged, tmp_path, looks):
    """Looks come from a file: sizes that rise to N, and levels whose sum is at most alpha, or one line."""
    with_looks(staged[0], tmp_path, looks)
    assert_refused(call_program("code/recertify.py", tmp_path / "pred_score.scores", tmp_path / "out"),
                   "not a record of saved scores")


def test_recorded_eta_is_not_trusted(staged, tmp_path):
    """Whatever an older record says of the calibration, each look's band fails with probability at most its alpha."""
    folder, _ = staged
    for name in ("pred_score", "pred_score.scores"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    record = json.loads((folder / "pred_score.json").read_text())
    own = [look.spec.band.eta for look in read_scores(str(folder / "pred_score")).plan.looks]
    wrong = [[2 * eta for eta in own], [eta * (1 + 3e-6) for eta in own], [eta / 2 for eta in own], [0.9] * len(own),
             [math.nan] * len(own), own[1:], own[0], "eta", [None] * len(own), {}]
    for record["eta"] in wrong:
        (tmp_path / "pred_score.json").write_text(json.dumps(record))
        spec = read_scores(str(tmp_path / "pred_score")).plan.looks[-1].spec
        ranks, eta = spec.band.ranks, spec.band.eta
        limits = clopper_pearson_limit(N + 1 - ranks, N, eta * limit_weights(ranks))
        assert failure_probability(N, ranks, limits) <= spec.alpha and (spec.band.prob <= limits).all()
        assert eta == pytest.approx(own[-1], rel=3e-6)


def test_readers_say_what_was_settled(staged):
    """One line on stderr says that images stopped early, at the settled score too: its baseline and other radii."""
    folder, _ = staged
    log = folder / "pred_score"
    for command in (("cert_acc.py", log, 0.5), ("code/analyze.py", log, "--score", 0.3, "--table", "markdown"),
                    ("code/radius.py", f"{log}.scores", folder / "radii", "--score", 0.5)):
        result = call_program(*command)
        assert result.returncode == 0 and len(result.stderr.splitlines()) == 1 and "--settle" in result.stderr


def test_a_look_that_is_none_is_refused(staged, tmp_path):
    """Saved scores whose n or alpha no look has."""
    folder, _ = staged
    (tmp_path / "log.json").write_bytes((folder / "margin.json").read_bytes())
    for name, value in (("n", 999), ("alpha", 0.5), ("n", 500)):
        records = scores_of(folder / "margin").copy()
        last = int(np.argmax(records["n"]))
        records[name][last] = value
        records.tofile(tmp_path / "log.scores")
        assert_refused(call_program("code/recertify.py", tmp_path / "log.scores", tmp_path / "out"), "saved scores")


def test_a_score_that_is_no_number_leaves_no_row(tmp_path):
    """NaN among the first look's scores: no row, exit status 1."""
    class Blind(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * torch.nan

    result = certify(*arguments(tmp_path, tmp_path / "log", "--settle", 0.5, stop=40), network=Blind())
    assert result.returncode == 1 and "non-finite" in result.stderr
    assert rows(tmp_path / "log") == []
