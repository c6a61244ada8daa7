"""draw_results.py: its curves against the logs of the same runs, and what it refuses."""
import shutil
from collections import Counter

import draw_results
import numpy as np
import pytest
from certify_runs import arguments, call_program, certify, weights_file
from helpers import assert_refused

from certconf.formats.log import Log
from certconf.formats.scores import read_scores
from certconf.statistics.measures import MEASURES, SOFT_MEASURES


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
    figure = draw_results.draw("networks", [folders / name for name in names])
    logs = zip(*(logs_of(folders / name) for name in names), strict=True)
    for axes, measure, pair in zip(figure.axes, np.repeat(SOFT_MEASURES, 2), logs, strict=True):
        curve, points, published, ceiling, _ = axes.get_lines()
        accuracies = [log.certified_accuracy(MEASURES[measure].cutoff) for log in pair]
        assert [value_at(curve, radius) for radius in pair[0].radii] == pytest.approx(accuracies[0].tolist())
        assert accuracies[0][0] > accuracies[0][-1] and curve.get_xdata()[-1] <= ceiling.get_xdata()[0]
        assert points.get_linestyle() == "None"
        assert tuple(points.get_xdata()) == pair[1].radii
        assert points.get_ydata() == pytest.approx(accuracies[1])
    assert published.get_ydata()[:2] == pytest.approx([0.656, 0.536])  # margin, noise 0.50: Kumar et al.'s logs


def test_bounds(folders):
    """The solid curve is the log's; DKW and the means certify no image further."""
    figure = draw_results.draw("bounds", [folders / "whole"])
    for axes, log, measure in zip(figure.axes, logs_of(folders / "whole"), np.repeat(SOFT_MEASURES, 2), strict=True):
        curves = {line.get_label(): line for line in axes.get_lines()}
        band = curves.pop("Clopper-Pearson band")
        accuracy = log.certified_accuracy(MEASURES[measure].cutoff)
        assert [value_at(band, radius) for radius in log.radii] == pytest.approx(accuracy.tolist())
        assert len(curves) == 3
        for curve in curves.values():
            assert curve.get_xdata()[-1] < band.get_xdata()[-1]


def test_samples(folders):
    """The curves count the rows of the log by the samples that the image took, which the saved scores hold."""
    figure = draw_results.draw("samples", [folders / "staged"])
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
    (".attacks", "range", "whole", "f.png"), ("none", "bounds", "none", "f.png"), (".png", "bounds", "whole", "f.txt")])
def test_refusals(word, figure, name, out, folders, tmp_path):
    """One line, exit status 2, and no picture."""
    assert_refused(call_program("code/draw_results.py", figure, folders / name, tmp_path / out), word)
    assert not list(tmp_path.iterdir())


def test_number_of_folders(folders, tmp_path):
    result = call_program("code/draw_results.py", "bounds", folders / "whole", folders / "staged", tmp_path / "f.png")
    assert result.returncode == 2 and "takes one FOLDER" in result.stderr
    result = call_program("code/draw_results.py", "networks", *[folders / "whole"] * 8, tmp_path / "f.png")
    assert result.returncode == 2 and "at most 7" in result.stderr


def test_pictures(folders, tmp_path):
    """A picture is drawn, and one that is there is not replaced."""
    command = ["code/draw_results.py", "networks", folders / "whole", folders / "staged", tmp_path / "f.svg"]
    result = call_program(*command)
    assert result.returncode == 0, result.stderr
    picture = (tmp_path / "f.svg").read_bytes()
    assert picture.count(b"<path") > 20
    assert_refused(call_program(*command), "f.svg")
    assert (tmp_path / "f.svg").read_bytes() == picture
