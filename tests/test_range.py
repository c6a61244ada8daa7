"""recertify.py --range and cert_acc.py --brier: ranges from saved scores, and how a log holds them."""
import json
from dataclasses import replace

import pytest
from certify_runs import call_program, certify, weights_file
from helpers import assert_refused, read_rows, without_time

from certconf.errors import InputError
from certconf.formats.log import LOG, RANGES, Log
from certconf.formats.scores import read_scores
from certconf.statistics.sequential import Plan

OPTIONS = ("--skip", 20, "--N0", 16, "--N", 2000, "--max", 300, "--save_scores")
RADII = (0.0, 0.25)
HEADER = "\t".join(RANGES.header(RADII)) + "\n"
GOOD = "0\t3\t3\t0.9\t0.5\t0.8\t0.4\t0.95\t0.99\t1\t0:00:01.5\n"
ABSTAINED = "20\t3\t-1\t0.0\t0.0\t0.0\t0.0\t1\t1\t0\t0:00:01.5\n"


def recertify(*args):
    return call_program("code/recertify.py", *args)


def cert_acc(*args):
    return call_program("code/cert_acc.py", *args)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Saved scores of both measures, each from one look and staged."""
    folder = tmp_path_factory.mktemp("runs")
    both = ("--confidence_measure", "pred_score", "margin")
    for name, options in (("{confidence_measure}", ()), ("staged_{confidence_measure}", ("--settle", 0.5, 0.0))):
        result = certify("cifar10", weights_file(folder), 0.25, folder / name, *OPTIONS, *both, *options)
        assert result.returncode == 0, result.stderr
    return folder


# --- recertify.py --range ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("log", ["pred_score", "margin", "staged_pred_score", "staged_margin"])
def test_both_sides_are_at_half_of_alpha(runs, log, tmp_path):
    """The lower side is the log at alpha / 2, and the upper side mirrors it; the record holds alpha and its half."""
    half, both = tmp_path / "half", tmp_path / "both"
    assert recertify(runs / f"{log}.scores", half, "--alpha", 0.0005).returncode == 0
    result = recertify(runs / f"{log}.scores", both, "--range")
    assert result.returncode == 0, result.stderr
    rows = without_time(read_rows(both))
    lower = [{name: value for name, value in row.items() if not name.startswith("upper")} for row in rows]
    assert lower == without_time(read_rows(half)) and cert_acc(both, 0.5).stdout == cert_acc(half, 0.5).stdout
    for row in rows:
        radii = [name.removeprefix("upper_cdf_") for name in row if name.startswith("upper_cdf_")]
        bounds = [(float(row[f"exp_cdf_{radius}"]), float(row[f"upper_cdf_{radius}"])) for radius in radii]
        assert len(bounds) == 7 and all(low < high <= 1 for low, high in bounds)
    assert any(float(row["upper_cdf_00"]) < 1 for row in rows)
    settings = json.loads((tmp_path / "both.json").read_text())["settings"]
    assert (settings["alpha"], settings["side_alpha"], settings["post_hoc"]) == (0.001, 0.0005, True)
    half_looks, looks = (json.loads(path.with_name(path.name + ".json").read_text())["settings"]["looks"]
                         for path in (half, runs / log))
    assert settings["looks"] == half_looks and (looks is None) == (not log.startswith("staged"))
    if looks is not None:
        assert [[n, pytest.approx(alpha / 2)] for n, alpha in looks] == half_looks
    assert "nothing to do" in recertify(runs / f"{log}.scores", both, "--range").stderr
    assert_refused(recertify(runs / f"{log}.scores", both), "--range")


@pytest.mark.parametrize("log", ["pred_score", "staged_margin"])
def test_upper_bounds_are_those_of_the_certificate(runs, log, tmp_path):
    """Of each image's own look; without the cutoff, images that abstain have theirs, too."""
    options = ("--range", "--no_abstain", "--radii", 0, 0.5)
    assert recertify(runs / f"{log}.scores", tmp_path / "all", *options).returncode == 0
    saved = read_scores(str(runs / f"{log}.scores"))
    rows = read_rows(tmp_path / "all")
    plan = Plan(replace(saved.spec, alpha=0.0005), saved.plan.settle, saved.plan.schedule_at(0.0005))
    for row, (index, _, certificate) in zip(rows, saved.certificates(plan), strict=True):
        assert int(row["idx"]) == index and int(row["predict"]) == certificate.chosen
        for name, radius in (("00", 0.0), ("50", 0.5)):
            assert float(row[f"upper_cdf_{name}"]) == pytest.approx(certificate.upper_bound(radius), abs=2e-8)
            assert float(row[f"upper_cdf_{name}"]) >= certificate.upper_bound(radius)


def test_range_with_dkw(runs, tmp_path):
    """The paper's band has its mirror image, too, and is wider."""
    for bound in ("dkw", "clopper_pearson"):
        result = recertify(runs / "pred_score.scores", tmp_path / bound, "--range", "--no_abstain", "--bound", bound)
        assert result.returncode == 0
    for wide, narrow in zip(read_rows(tmp_path / "dkw"), read_rows(tmp_path / "clopper_pearson"), strict=True):
        assert float(wide["upper_cdf_00"]) >= float(narrow["upper_cdf_00"])


def test_refusals(runs, tmp_path):
    """Half of an alpha above 1 is below it, and still no error probability."""
    for alpha in (1.5, 1.0, "nan"):
        assert_refused(recertify(runs / "pred_score.scores", tmp_path / "out", "--range", "--alpha", alpha), "--alpha")
    assert not list(tmp_path.iterdir())


# --- the format -------------------------------------------------------------------------------------------------------

def parse(text):
    return Log.parse("some/log", text.encode(), (0.0, 1.0))


def test_a_log_of_ranges_is_read():
    """As any log, with upper bounds; three radii of two kinds are not mistaken for two of three."""
    log = parse(HEADER + GOOD + ABSTAINED)
    assert log.schema is RANGES and log.radii == RADII
    assert log.rows[0].exp_cdf == (0.9, 0.5) and log.rows[0].exp == (0.8, 0.4)
    assert log.rows[0].upper_cdf == (0.95, 0.99) and log.rows[1].upper_cdf == (1.0, 1.0)
    assert log.certified_accuracy(0.5).tolist() == [0.5, 0.0]
    assert LOG.radii_of(LOG.header(RADII)) == RANGES.radii_of(RANGES.header(RADII)) == RADII
    assert parse("\t".join(LOG.header((0.0, 0.5, 1.0))) + "\n").schema is LOG


def test_bounds_are_rounded_outwards():
    line = RANGES.line(0, 3, 3, 1.0, (1 / 3,), (0.25,), (2 / 3,))
    assert line.split("\t")[3:6] == ["0.33333333", "0.25", "0.66666667"]


@pytest.mark.parametrize("old, new, reason", [
    ("0.99", "1.01", "range"), ("0.99", "nan", "finite"), ("\t1\t1\t0\t", "\t1\t0.9\t0\t", "abstention"),
    ("upper_cdf_25", "upper_cdf_50", "header")])
def test_damaged_ranges(old, new, reason):
    assert (HEADER + GOOD + ABSTAINED).count(old) == 1
    with pytest.raises(InputError, match=reason):
        parse((HEADER + GOOD + ABSTAINED).replace(old, new))


# --- the Brier score --------------------------------------------------------------------------------------------------

def write_log(path, text, **settings):
    path.write_text(text)
    path.with_name(path.name + ".json").write_text(json.dumps({"settings": settings, "starts": [{}]}))
    return path


def test_brier_by_hand(tmp_path):
    """Right: (1 - lower)^2. Wrong: upper^2. An abstention and an image without a row: 1. Printed numbers round up."""
    wrong = GOOD.replace("0\t3\t3", "40\t4\t3").replace("\t1\t0:", "\t0\t0:")
    log = write_log(tmp_path / "log", HEADER + GOOD + wrong + ABSTAINED, confidence_measure="pred_score")
    result = cert_acc("--brier", log, "--format", "csv")
    assert (result.returncode, result.stderr) == (0, "")
    header, cells = (line.split(",") for line in result.stdout.splitlines())
    assert header == ["log", "counted as 1", "R = 0.00", "R = 0.25"] and cells[1] == "1 of 3"
    exact = [(0.1 ** 2 + 0.95 ** 2 + 1) / 3, (0.5 ** 2 + 0.99 ** 2 + 1) / 3]
    assert all(value <= float(cell) < value + 1e-4 for value, cell in zip(exact, cells[2:], strict=True))
    record = json.loads((tmp_path / "log.json").read_text()) | {"non_finite": [60]}
    (tmp_path / "log.json").write_text(json.dumps(record))
    cells = cert_acc("--brier", log, "--format", "csv").stdout.splitlines()[1].split(",")
    assert cells[1] == "2 of 4" and float(cells[2]) == pytest.approx((3 * exact[0] + 1) / 4, abs=1e-4)


def test_brier_of_a_run(runs, tmp_path):
    """It grows with the radius, up to 1 at most; with the bounds of all images it is lower."""
    found = []
    for options in ((), ("--no_abstain",)):
        name = tmp_path / f"log{len(options)}"
        assert recertify(runs / "pred_score.scores", name, "--range", *options).returncode == 0
        lines = cert_acc("--brier", name, "--format", "csv").stdout.splitlines()
        found.append([float(cell) for cell in lines[1].split(",")[2:]])
    assert found[0] == sorted(found[0]) and found[1] == sorted(found[1]) and found[0][-1] <= 1
    assert found[1][0] < found[0][0]


def test_brier_refusals(runs, tmp_path):
    """A log of lower bounds alone, one of margin, and options that belong to certified accuracy."""
    assert_refused(cert_acc("--brier", runs / "pred_score"), "pred_score", "--range")
    assert recertify(runs / "margin.scores", tmp_path / "margin", "--range").returncode == 0
    assert_refused(cert_acc("--brier", tmp_path / "margin"), "pred_score")
    assert_refused(cert_acc("--brier", runs / "pred_score", "--confidence", 0.9), "--brier")
    for arguments in ((runs / "pred_score",), (runs / "pred_score", "half")):
        result = cert_acc(*arguments)
        assert result.returncode == 2 and "SCORE" in result.stderr
