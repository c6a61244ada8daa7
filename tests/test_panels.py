"""analyze.py --figure: its curves against the logs of the same runs, and what it refuses."""
import shutil
from collections import Counter

import numpy as np
import pytest
from certify_runs import arguments, call_program, certify, weights_file
from helpers import assert_refused

from certconf.formats.log import Log
from certconf.formats.scores import read_scores
from certconf.report.panels import draw_bounds, draw_networks, draw_samples
from certconf.statistics.measures import MEASURES, SOFT_MEASURES

ANALYZE = "code/analyze.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of the tiny network on 40 images: every sample taken, and staged. One noise under both names."""
    top = tmp_path_factory.mktemp("runs")
    for name, options in (("whole", ()), ("staged", ("--settle", 0.5, 0))):
        result = certify(*arguments(weights_file(top), top / name / "{confidence_measure}/noise_0.25", "--N", 2000,
                                    "--confidence_measure", *SOFT_MEASURES, "--save_scores", *options, stop=800))
        assert result.returncode == 0, result.stderr
        for measure in SOFT_MEASURES:
            for ending in ("", ".json", ".scores"):
                log = top / name / measure / "noise_0.25"
                shutil.copy(f"{log}{ending}", log.with_name(f"noise_0.50{ending}"))
    return top


def logs_of(folder):
    """The logs of the panels, in their order."""
    return [Log.read(str(folder / measure / "noise_0.25"))[0] for measure in SOFT_MEASURES for _ in range(2)]


def value_at(line, x: float) -> float:
    """The height of a curve of steps; beyond its end, 0 is where it ended."""
    return line.get_ydata()[np.searchsorted(line.get_xdata(), x, side="right") - 1]


def test_networks(folders):
    """At the radii of the logs' columns the curves are their certified accuracy; a staged run has no other radii."""
    names = ("whole", "staged")
    figure = draw_networks({str(folders / "whole"): "All samples", str(folders / "staged"): str(folders / "staged")})
    logs = zip(*(logs_of(folders / name) for name in names), strict=True)
    for axes, measure, pair in zip(figure.axes, np.repeat(SOFT_MEASURES, 2), logs, strict=True):
        curve, ceiling, line, points, _, _, published = axes.get_lines()
        accuracies = [log.certified_accuracy(MEASURES[measure].cutoff) for log in pair]
        assert [value_at(curve, radius) for radius in pair[0].radii] == pytest.approx(accuracies[0].tolist())
        assert accuracies[0][0] > accuracies[0][-1] and curve.get_xdata()[-1] <= ceiling.get_xdata()[0]
        assert line.get_linestyle() == points.get_linestyle() == "None"
        assert tuple(points.get_xdata()) == pair[1].radii
        assert points.get_ydata() == pytest.approx(accuracies[1])
        assert axes.get_xlim()[1] > ceiling.get_xdata()[0]
    assert published.get_ydata()[:2] == pytest.approx([0.656, 0.536])  # margin, noise 0.50: Kumar et al.'s logs
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[0] == "All samples" and str(folders / "staged") in shown[1].replace("\n", "")


def test_networks_from_logs_alone(folders, tmp_path):
    """Without saved scores, a run of any kind is known at the radii of its log; it has no ceiling."""
    shutil.copytree(folders / "whole", tmp_path / "whole", ignore=shutil.ignore_patterns("*.scores"))
    figure = draw_networks({str(tmp_path / "whole"): "logs"})
    for axes, measure, log in zip(figure.axes, np.repeat(SOFT_MEASURES, 2), logs_of(folders / "whole"), strict=True):
        line, points, *published = axes.get_lines()
        assert line.get_linestyle() == "None" and len(published) == 2
        assert tuple(points.get_xdata()) == log.radii
        assert points.get_ydata() == pytest.approx(log.certified_accuracy(MEASURES[measure].cutoff))


def test_label_of_a_folder_with_a_slash_at_its_end(folders, tmp_path):
    out = tmp_path / "networks.svg"
    result = call_program(ANALYZE, f"{folders / 'whole'}/", "--figure", "networks", "--labels", "All samples",
                          "--out", out)
    assert result.returncode == 0, result.stderr
    assert "All samples" in out.read_text()


def test_bounds(folders):
    """The solid curve is the log's; DKW and the means certify no image further."""
    figure = draw_bounds(folders / "whole")
    for axes, log, measure in zip(figure.axes, logs_of(folders / "whole"), np.repeat(SOFT_MEASURES, 2), strict=True):
        band, *curves = axes.get_lines()
        accuracy = log.certified_accuracy(MEASURES[measure].cutoff)
        assert [value_at(band, radius) for radius in log.radii] == pytest.approx(accuracy.tolist())
        assert len(curves) == 3
        for curve in curves:
            assert curve.get_xdata()[-1] < band.get_xdata()[-1]


def test_samples(folders):
    """The curves count the rows of the log by the samples that the image took, which the saved scores hold."""
    figure = draw_samples(folders / "staged")
    for axes, log, measure in zip(figure.axes, logs_of(folders / "staged"), np.repeat(SOFT_MEASURES, 2), strict=True):
        saved = read_scores(str(folders / "staged" / measure / "noise_0.25"))
        taken = dict(zip(saved.records["idx"].tolist(), saved.records["n"].tolist(), strict=True))
        certified = log.certified(MEASURES[measure].cutoff)
        for line, column in zip(axes.get_lines(), (1, 2, 3), strict=True):  # R = 0.25, 0.50, 0.75
            counts = Counter(taken[row.index] for row, yes in zip(log.rows, certified[:, column], strict=True) if yes)
            expected = np.cumsum([counts[size] for size in line.get_xdata()]) / len(log.rows)
            assert line.get_ydata() == pytest.approx(expected)
        assert len(set(taken.values())) > 1 and axes.get_lines()[0].get_ydata()[-1] > 0


@pytest.mark.parametrize("word, figure, name, out", [
    ("--settle", "samples", "whole", "f.png"), ("--settle", "bounds", "staged", "f.png"),
    (".attacks", "range", "whole", "f.png"), ("none", "networks", "none", "f.png"),
    ("none", "bounds", "none", "f.png")])
def test_refusals(word, figure, name, out, folders, tmp_path):
    """One line, exit status 2, and no picture."""
    assert_refused(call_program(ANALYZE, folders / name, "--figure", figure, "--out", tmp_path / out), word)
    assert not list(tmp_path.iterdir())


def test_pictures(folders, tmp_path):
    """A picture is drawn, with its title and its labels."""
    command = [ANALYZE, folders / "whole", folders / "staged", "--figure", "networks", "--out", tmp_path / "f.svg",
               "--title", "A title", "--labels", "one", "two"]
    result = call_program(*command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    picture = (tmp_path / "f.svg").read_bytes()
    assert picture.count(b"<path") > 20 and picture.count(b"<!-- A title -->") == picture.count(b"<!-- two -->") == 1
