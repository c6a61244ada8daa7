"""code/analyze.py: its table, the curves of each kind of file, pictures, and what is refused."""
import csv
import json
import sys

import matplotlib
import numpy as np
import pandas
import pytest
from helpers import DATA, ROOT, read_rows

import analyze
from certconf.errors import InputError
from certconf.formats.radii import RADII as RADIUS_FILE
from certconf.formats.scores import read_scores
from certconf.report.curves import CDF, MEAN, read_sources

MARGIN = DATA / "published_cifar10_margin_noise_0.25"
SCORES = str(ROOT / "log_files" / "cifar10_resnet20" / "pred_score" / "noise_0.25.scores")
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
PUBLISHED = ["0.7540", "0.5860", "0.3560", "0.0000", "0.0000", "0.0000", "0.0000"]  # of MARGIN above 0, CDF bound
HEADER = "\t".join(RADIUS_FILE.header()) + "\n"


def call(monkeypatch, *args):
    """Run analyze's main in this process."""
    monkeypatch.setattr(sys, "argv", ["analyze.py", *map(str, args)])
    analyze.main()


def sources(*paths, score=()):
    """What analyze reads of these files."""
    return read_sources(list(map(str, paths)), list(score))


def draw(*paths, score):
    """The figure of these files."""
    return analyze.draw({source.path: source for source in sources(*paths, score=score)}, score)


def write_record(path, **settings):
    """A record beside a file."""
    path.with_name(path.name + ".json").write_text(json.dumps({"settings": settings, "starts": [{}]}))


def write_radii(path, count=40, seed=0, **settings):
    """A radius file of `count` images, and its record where there are settings."""
    random = np.random.default_rng(seed)
    rows = [RADIUS_FILE.line(20 * i, label, label, 1.5, radius) for i, (label, radius) in
            enumerate(zip(random.integers(10, size=count), random.exponential(0.5, count), strict=True))]
    rows[3:5] = RADIUS_FILE.line(60, 4, 5, 1.5, 0.9), RADIUS_FILE.line(80, 4, -1, 1.5, 0.0)
    path.write_text(HEADER + "".join(rows))
    if settings:
        write_record(path, **settings)
    return path


def cells(capsys):
    """The table that was printed as csv: the header and the rows."""
    return list(csv.reader(capsys.readouterr().out.splitlines()))


def accuracy(path, score, kind):
    """Certified accuracy at each radius, from the text of a log."""
    rows = read_rows(path)
    return [sum(row["correct"] == "1" and float(row[f"{kind}_{round(100 * radius):02d}"]) > score for row in rows)
            / len(rows) for radius in RADII]


# --- tables ---------------------------------------------------------------------------------------------------------

def test_table(monkeypatch, capsys):
    """The certified accuracy of both bounds at both scores; a label stands for the file, a title above the table."""
    for options, label, above in (((), str(MARGIN), []), (("--labels", "a, b", "--title", "T"), "a, b", [["# T"]])):
        call(monkeypatch, MARGIN, "--score", 0, 0.3, "--table", "csv", *options)
        *title, header, first, second, third, fourth = cells(capsys)
        assert title == above and header == ["log", "score", "bound", *(f"R = {radius:.2f}" for radius in RADII)]
        expected = [[label, str(score), name, *(f"{value:.4f}" for value in accuracy(MARGIN, score, kind))]
                    for score in (0.0, 0.3) for kind, name in (("exp_cdf", "CDF bound"), ("exp", "without the CDF"))]
        assert [first, second, third, fourth] == expected and first[3:] == PUBLISHED


def test_table_of_radii(tmp_path, monkeypatch, capsys):
    """Correct with a radius above R; a log beside it decides which R."""
    path = write_radii(tmp_path / "radii", score=0.5, bound="naive")
    values = pandas.read_csv(path, sep="\t")
    expected = [((values.correct == 1) & (values.radius > radius)).mean() for radius in RADII]
    for extra in ([], [MARGIN, "--score", "0.5"]):
        call(monkeypatch, path, *extra, "--table", "csv")
        row = cells(capsys)[1]
        assert row[1:] == ["0.5", "without the CDF", *(f"{value:.4f}" for value in expected)]


def test_torn_line_is_told(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    log.write_bytes(MARGIN.read_bytes()[:-5])
    call(monkeypatch, log, "--score", 0, "--table", "csv")
    assert "torn" in capsys.readouterr().err


# --- pictures -------------------------------------------------------------------------------------------------------

def test_curves(tmp_path):
    """A log: one colour, solid with the CDF and dashed without. A radius file: steps at its radii, exactly."""
    radii = write_radii(tmp_path / "radii", score=0.0)
    figure = draw(MARGIN, radii, score=[0.0])
    solid, marks, dashed, _, steps = figure.axes[0].get_lines()
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert solid.get_color() == dashed.get_color() != steps.get_color()
    assert solid.get_xdata().tolist() == dashed.get_xdata().tolist() == RADII
    assert solid.get_ydata() == pytest.approx(accuracy(MARGIN, 0, "exp_cdf"))
    assert dashed.get_ydata() == pytest.approx(accuracy(MARGIN, 0, "exp"))
    assert solid.get_drawstyle() == dashed.get_drawstyle() == "steps-pre"  # at R - 0.01 the bound at R, not more
    assert (marks.get_linestyle(), marks.get_marker()) == ("None", "o") and marks.get_xdata().tolist() == RADII
    values = pandas.read_csv(radii, sep="\t")
    certified = values.radius[values.correct == 1].to_numpy()
    assert steps.get_xdata() == pytest.approx([0, *sorted(certified)]) and steps.get_drawstyle() == "steps-post"
    assert steps.get_ydata() == pytest.approx([(certified > x).sum() / len(values) for x in steps.get_xdata()])


def test_a_log_that_begins_above_0(tmp_path):
    """Its bound at the first radius also holds at 0."""
    log = tmp_path / "log"
    log.write_text("idx\tlabel\tpredict\texp_cdf_50\texp_50\tcorrect\ttime\n0\t3\t3\t0.7\t0.6\t1\t0:00:01\n")
    for line in draw(log, score=[0.5]).axes[0].get_lines()[::2]:
        assert line.get_xdata() == pytest.approx([0.0, 0.5]) and line.get_ydata() == pytest.approx([1.0, 1.0])


def test_saved_scores(tmp_path, monkeypatch, capsys):
    """Exact curves of both bounds: the bound of each image at each radius, above and at the score, decides."""
    saved = read_scores(SCORES)
    images = [(certificate, certificate.chosen == label) for _, label, certificate in saved.certificates(saved.plan)]
    radii = np.array([0.0, 0.1, 0.333, 0.5, 0.71])
    curves = sources(SCORES, score=[0.3])[0].curves[0.3]
    for cdf, bound in ((CDF, "lower_bound"), (MEAN, "naive_lower_bound")):
        certified = [np.mean([right and getattr(found, bound)(radius) > 0.3 for found, right in images])
                     for radius in radii]
        assert [curves[cdf].at(radius) for radius in radii] == pytest.approx(certified, abs=1e-12)
        assert certified[0] > certified[2] > certified[-1]
    solid, dashed = draw(SCORES, score=[0.3]).axes[0].get_lines()
    assert solid.get_drawstyle() == dashed.get_drawstyle() == "steps-post" and len(solid.get_xdata()) > 100
    call(monkeypatch, SCORES, "--score", 0.3, "--table", "csv")
    _, row, _ = cells(capsys)
    assert row[3:] == [f"{curves[CDF].at(radius):.4f}" for radius in RADII]


@pytest.mark.parametrize("scores", [[0.0], [0.0, 0.3, 0.6]], ids=len)
def test_nothing_is_covered_or_cut_off(scores, tmp_path):
    """Titles, labels and the legend lie inside the figure, the legend outside the axes, the curves inside them."""
    long_name = tmp_path / ("x" * 120)
    long_name.write_bytes(MARGIN.read_bytes())
    figure = draw(MARGIN, long_name, write_radii(tmp_path / "_$r$", seed=1, score=0.0) if len(scores) == 1 else MARGIN,
                  score=scores)
    figure.draw_without_rendering()
    legend, = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0
    for axes in figure.axes:
        tight = axes.get_tightbbox()
        assert box.y1 <= tight.y0 and figure.bbox.x0 <= tight.x0 and tight.x1 <= figure.bbox.x1
        assert axes.get_ylim()[0] == 0 and max(max(line.get_ydata()) for line in axes.get_lines()) <= axes.get_ylim()[1]
    assert figure.axes[0].get_xlabel() == "radius (L2 distance, pixels in [0, 1])"
    assert legend.get_texts()[0].get_text().replace("\n", "") == str(MARGIN)


@pytest.mark.parametrize("kind, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_picture_is_the_same_each_time(kind, start, tmp_path, monkeypatch):
    """Byte for byte, also where the user's matplotlib is set otherwise; folders are made."""
    pictures = [tmp_path / folder / f"plot.{kind}" for folder in "ab"]
    for size, picture in zip((5, 20), pictures, strict=True):
        matplotlib.rcParams["font.size"] = size
        call(monkeypatch, MARGIN, "--score", 0, "--out", picture)
    first, second = (picture.read_bytes() for picture in pictures)
    assert first.startswith(start) and first == second


def test_never_overwrites(tmp_path, monkeypatch):
    """A file that is there stays as it was, unless --overwrite is given."""
    picture = tmp_path / "plot.png"
    picture.write_bytes(b"mine")
    with pytest.raises(InputError, match="--overwrite"):
        call(monkeypatch, MARGIN, "--score", 0, "--out", picture)
    assert picture.read_bytes() == b"mine"
    call(monkeypatch, MARGIN, "--score", 0, "--out", picture, "--overwrite")
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args, words", [
    ([MARGIN, "--score", "0"], "--out.*--table"),
    ([SCORES, "--table", "csv"], "give --score"),
    ([SCORES, "--score", "1", "--table", "csv"], "not strictly between 0 and 1"),
    ([MARGIN, "--score", "nan", "--table", "csv"], "--score"),
    ([MARGIN, "--score", "0", "0", "--table", "csv"], "--score"),
    ([MARGIN, "--score", "0", "--out", "plot.jpg"], "plot.jpg"),
    ([*"12345678", "--score", "0", "--out", "plot.png"], "at most 7"),
    ([MARGIN, SCORES, "--score", "0", "--table", "csv", "--labels", "a", "a"], "--labels: .*each name once"),
    (["folder", "--figure", "range", "--table", "csv"], "--figure range needs --out"),
    (["folder", "--figure", "samples", "--out", "plot.png", "--score", "0"], "no --score"),
    (["folder", "--figure", "bounds", "--out", "plot.png", "--labels", "a"], "no --labels"),
    (["no_such_log", "--score", "0", "--table", "csv"], "no_such_log"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")
def test_refuses(args, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        call(monkeypatch, *args)
    assert not list(tmp_path.iterdir())


def test_a_radius_file_has_one_score(tmp_path, monkeypatch):
    """It stands in no panel of another score, and in none of several."""
    path = write_radii(tmp_path / "radii", score=0.5)
    for scores in (["0.6"], ["0.5", "0.6"]):
        with pytest.raises(InputError, match="score of its own"):
            call(monkeypatch, path, "--score", *scores, "--table", "csv")
    call(monkeypatch, path, "--score", "0.5", "--table", "csv")
    with pytest.raises(InputError, match="not recorded"):  # no number is told to be that of a score it may not have
        call(monkeypatch, write_radii(tmp_path / "unrecorded"), "--score", "0.5", "--table", "csv")
