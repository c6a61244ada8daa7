"""Re-certification, certified radii and predictions, from one run with saved scores."""
import json

import pandas
import pytest
from certify_runs import arguments, call_program, certify, tiny_checkpoint, weights_file
from helpers import assert_refused

SAMPLING = ("--max", 240, "--N", 300)


def rows_without_time(path):
    """The rows of a log but for their time."""
    return [line.rsplit("\t", 1)[0] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One run of both measures with saved scores, and one with DKW."""
    folder = tmp_path_factory.mktemp("saved")
    for name, *more in (("{confidence_measure}", "--confidence_measure", "pred_score", "margin"),
                        ("dkw", "--bound", "dkw")):
        result = certify(*arguments(weights_file(folder), folder / name, *SAMPLING, "--save_scores", *more))
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("log", ["pred_score", "margin", "dkw"])
def test_recertified_log_equals_the_run(saved, log, tmp_path):
    """With the settings of the run nothing but the time may differ."""
    assert call_program("code/recertify.py", saved / f"{log}.scores", tmp_path / "again").returncode == 0
    assert rows_without_time(tmp_path / "again") == rows_without_time(saved / log)
    assert json.loads((tmp_path / "again.json").read_text())["settings"]["post_hoc"] is False


def test_another_band_or_alpha_is_post_hoc_and_equals_a_direct_run(saved, tmp_path):
    """The DKW run drew the same samples, so the Clopper-Pearson run's scores certified with DKW are its log."""
    result = call_program("code/recertify.py", saved / "pred_score.scores", tmp_path / "dkw", "--bound", "dkw")
    assert result.returncode == 0
    assert rows_without_time(tmp_path / "dkw") == rows_without_time(saved / "dkw")
    assert json.loads((tmp_path / "dkw.json").read_text())["settings"]["post_hoc"] is True


def test_what_is_post_hoc(saved, tmp_path):
    """Weights that a band does not have change nothing; a range is a statement of its own at every alpha."""
    for log, expected, *options in (
            ("dkw", False, "--weights", "equal"), ("pred_score", True, "--levels", "equal"),
            ("pred_score", False, "--alpha", "0.001"), ("pred_score", True, "--alpha", "0.01"),
            ("pred_score", True, "--range", "--alpha", "0.002")):
        out = tmp_path / "-".join((log, *options))
        assert call_program("code/recertify.py", saved / f"{log}.scores", out, *options).returncode == 0
        assert json.loads(out.with_name(out.name + ".json").read_text())["settings"]["post_hoc"] is expected


def test_no_abstain_writes_rows_below_the_cutoff(saved, tmp_path):
    """Every image then has its class, and bounds that fall with the radius."""
    result = call_program("code/recertify.py", saved / "margin.scores", tmp_path / "all", "--no_abstain",
                         "--radii", "0", "0.1")
    assert result.returncode == 0
    log = pandas.read_csv(tmp_path / "all", sep="\t")
    assert (log.predict >= 0).all() and (log.exp_cdf_10 <= log.exp_cdf_00).all()
    assert (pandas.read_csv(saved / "margin", sep="\t").predict == -1).any(), "no abstention: the test shows nothing"


def test_radius_file_is_cohens_format_and_agrees_with_the_log(saved, tmp_path):
    """radius > R where the log's bound at R is above the score, as the bound falls with the radius."""
    result = call_program("code/radius.py", saved / "pred_score.scores", tmp_path / "r{score}", "--score", "0.5", "0.3")
    assert result.returncode == 0
    log, radii = (pandas.read_csv(path, sep="\t") for path in (saved / "pred_score", tmp_path / "r0.5"))
    assert list(radii.columns) == ["idx", "label", "predict", "radius", "correct", "time"]
    for column, radius in (("exp_cdf_00", 0.0), ("exp_cdf_25", 0.25), ("exp_cdf_50", 0.5)):
        assert ((log[column] > 0.5) == (radii.radius > radius)).all()
    assert (radii.correct == (radii.predict == radii.label)).all()
    average = (radii.radius * radii.correct).mean()
    printed = float(result.stdout.splitlines()[0].split()[-1])
    assert printed == pytest.approx(average, rel=1e-7) and "at score 0.5: " in result.stdout
    wider = pandas.read_csv(tmp_path / "r0.3", sep="\t")
    assert (wider.radius >= radii.radius).all() and (wider.radius > radii.radius).any()


def test_predict(tmp_path):
    """The limits enclose the mean of the class; a repeat changes nothing."""
    command = ("code/predict.py", *arguments(weights_file(tmp_path), tmp_path / "p", *SAMPLING))
    assert call_program(*command, patches=tiny_checkpoint()).returncode == 0
    table = pandas.read_csv(tmp_path / "p", sep="\t")
    assert list(table.columns) == ["idx", "label", "predict", "lower", "upper", "correct", "time"]
    assert ((table.lower >= 0) & (table.lower < table.upper) & (table.upper <= 1)).all()
    assert (table.predict >= 0).any() and (table.correct == (table.predict == table.label)).all()
    before = (tmp_path / "p").read_bytes()
    assert "nothing to do" in call_program(*command, patches=tiny_checkpoint()).stderr
    assert (tmp_path / "p").read_bytes() == before


@pytest.mark.parametrize("program, arguments", [
    ("recertify", ["--alpha", "1.5"]), ("recertify", ["--bound", "dkw", "--alpha", "0.9"]),
    ("recertify", ["--radii", "0.001"]), ("radius", ["--score", "1"]), ("radius", ["--score", "0.5", "0.6"])])
def test_refusals(saved, program, arguments, tmp_path):
    """One line, exit status 2, and nothing written."""
    assert_refused(call_program(f"code/{program}.py", saved / "pred_score.scores", tmp_path / "out", *arguments))
    assert not list(tmp_path.iterdir())
