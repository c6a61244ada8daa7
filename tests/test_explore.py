"""explore.py: the numbers in its page against cert_acc.py's and radius.py's, what it refuses, and the page's safety."""
import base64
import io
import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from certify_runs import arguments, call_program, certify, weights_file
from helpers import ROOT, assert_refused
from PIL import Image

import explore
from certconf.formats.log import Log
from certconf.formats.radii import Radii
from certconf.formats.scores import read_scores
from certconf.report.page import render
from certconf.report.page_data import BANDS, certified_places, curve_rows, make_grid, on_grid
from certconf.report.pictures import picture_urls

EXPLORE = "code/explore.py"
SHIPPED = str(ROOT / "log_files/cifar10_resnet20/pred_score/noise_0.25")
STAGED = str(ROOT / "log_files/cifar10_resnet20_staged/pred_score/noise_0.25")
HOSTILE = "</script><img src=x onerror=alert(1)> & \"it's\" | `"


def short_run(top, dataset, name):
    """A run of the tiny network on 12 images, with both measures."""
    options = ("--confidence_measure", "pred_score", "margin", "--N", 500, "--save_scores")
    _, *rest = arguments(weights_file(top), top / f"{name}_{{confidence_measure}}", *options)
    result = certify(dataset, *rest)
    assert result.returncode == 0, result.stderr


def own_file(top):
    """A data set of the user's own, whose classes have the name HOSTILE."""
    text, path = (ROOT / "examples/own_data.py").read_text(), top / "own.py"
    for old, new in (("Path(__file__).parents[1]", f"Path({str(ROOT)!r})"),
                     ("    def __len__", f"    classes = [{HOSTILE!r}] * 10\n\n    def __len__")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Short runs, on CIFAR-10 and on images of a file of the user's own."""
    top = tmp_path_factory.mktemp("runs")
    short_run(top, "cifar10", "run")
    short_run(top, f"{own_file(top)}:images", "own")
    return top


class Drawn:
    """What is drawn without Altair: nothing, but with all the data; for the page itself see the tests in a browser."""

    views = SimpleNamespace(layouts=lambda choices: {"wide": {"logs": choices.logs}}, library=lambda: "'</script>'")


def make(*args, views=Drawn.views):
    """Run explore.py in this process; views: what stands in for the module that needs Altair (None: not installed)."""
    with pytest.MonkeyPatch.context() as patch:
        if views is None:
            patch.delitem(sys.modules, "certconf.report.views", raising=False)
            patch.setitem(sys.modules, "altair", None)
        else:
            patch.setitem(sys.modules, "certconf.report.views", views)
        return call_program(EXPLORE, *args)


def data_of(page) -> dict:
    """The datasets inside a page."""
    text = page.read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# --- the numbers ----------------------------------------------------------------------------------------------------

def counts(saved, spec):
    """{(radius, score): the number of certified images} as the page has it."""
    grid = make_grid([saved.plan])
    places = certified_places(explore.rounded_bounds(saved, on_grid(spec, grid)), grid)
    rows = curve_rows(places, saved.records["chosen"] == saved.records["label"], grid)
    return grid, {(row["R"], score): count for row in rows
                  for score, count in zip(grid.scores, row["count"], strict=True)}


@pytest.mark.parametrize("band, ending", [("clopper_pearson", ""), ("dkw", "_dkw")])
def test_curves_are_those_of_cert_acc(band, ending):
    """At all scores from the cutoff on, at the radii of the shipped logs' columns, also for the paper's band."""
    saved, (log, _) = read_scores(SHIPPED), Log.read(SHIPPED + ending)
    grid, found = counts(saved, explore.bands_of(saved)[BANDS[band]])
    compared = [radius for radius in log.radii if radius in grid.radii]
    assert compared == [0, 0.25, 0.5, 0.75, 1, 1.25]
    for score in (0.5, 0.57, 0.7, 0.9, 0.99):
        expected = log.certified(score).sum(0)[:len(compared)].tolist()
        assert [found[radius, score] for radius in compared] == expected, score
    assert found[0.25, 0.5] > 100


def test_curves_of_a_staged_run():
    saved, (log, _) = read_scores(STAGED), Log.read(STAGED)
    grid, found = counts(saved, saved.spec)
    assert [found[radius, 0.5] for radius in log.radii] == log.certified(0.5).sum(0).tolist()
    rows, _ = curves_and_images(saved, grid, images=False)
    own = [row for row in rows if row["band"] == BANDS["clopper_pearson"]]
    assert {row["R"] for row in own if row["settled"]} == set(log.radii) and own[0]["settle"] == 0.5
    assert not any(row["settled"] for row in rows if row["band"] != BANDS["clopper_pearson"])


def curves_and_images(saved, grid, images=True):
    """run_rows of one run; without its images, whose upper bounds take long."""
    with pytest.MonkeyPatch.context() as patch:
        if not images:
            patch.setattr(explore, "image_row", lambda *args: {})
        return explore.run_rows(0, "log", saved, grid, ())


@pytest.mark.parametrize("measure, scores", [("pred_score", (0.2, 0.5, 0.8)), ("margin", (-0.4, 0.0, 0.3))])
def test_curves_are_those_of_radius_files(folder, tmp_path, measure, scores):
    """At all radii of the grid, also at scores below the cutoff, where images that abstain are certified."""
    log = f"{folder}/run_{measure}"
    saved = read_scores(log)
    result = call_program("code/radius.py", f"{log}.scores", tmp_path / "{score}", "--score", *scores)
    assert result.returncode == 0, result.stderr
    grid, found = counts(saved, saved.spec)
    for score in scores:
        radii, _ = Radii.read(str(tmp_path / f"{score:g}"))
        expected = [sum(certified > radius for certified in radii.of_correct) for radius in grid.radii]
        assert [found[radius, score] for radius in grid.radii] == expected
        assert expected[0] > 0


def test_images(folder):
    """Each image's label, outcome, certified radius and bounds, against its certificate and its row of the log."""
    saved, (log, _) = read_scores(f"{folder}/run_pred_score"), Log.read(f"{folder}/run_pred_score")
    grid = make_grid([saved.plan])
    _, images = curves_and_images(saved, grid)
    assert {image["abstains"] for image in images} == {False, True}
    for image, row, (_, _, found) in zip(images, log.rows, saved.certificates(saved.plan), strict=True):
        assert image["index"] == row.index and image["label"] == f"class {row.label}"
        assert image["abstains"] == (row.predict == -1) and image["right"] == (found.chosen == row.label)
        assert image["predicted"] == f"class {found.chosen}" + ", but it abstains" * image["abstains"]
        for score in (0.2, 0.5, 0.8):
            place, radius = image["radius"][grid.scores.index(score)], found.radius(score)
            assert grid.radii[place] <= radius < grid.radii[place + 1] if place >= 0 else radius == 0
        lower = np.array([found.lower_bound(radius) for radius in grid.radii])
        upper = np.array([found.upper_bound(radius) for radius in grid.radii])[::4]
        below, above = 1000 * lower - image["lower"], image["upper"] - 1000 * upper
        assert (below >= 0).all() and (above >= 0).all() and max(*below, *above) < 1.1
        # the share of scores that are at least s, at the order statistics that are kept
        drawn = dict(zip(image["scores"], image["share"], strict=True))
        assert drawn[0] == 1000 or image["scores"][1] == 0
        order, ranks = found.order_statistics, found.spec.band.ranks
        for s, share in drawn.items():
            at_least = (500 + 1 - ranks[np.searchsorted(order, s / 1000)]) / 500 if s / 1000 <= order[-1] else 0
            assert share / 1000 == pytest.approx(at_least, abs=0.03)


def test_grid():
    """A step of 1, 2.5 or 5 times a power of 10, and radii to beyond the last that any score has a certificate at."""
    saved = read_scores(SHIPPED)
    grid = make_grid([saved.plan])
    assert str(grid.step) == "1/100" and grid.radii[25] == 0.25 and grid.radii[57] == 0.57
    best = max((found for _, _, found in saved.certificates(saved.plan)), key=lambda found: found.radius(0.01))
    assert 1 < best.radius(0.01) < grid.radii[-1]
    assert grid.scores[0] == 0.01 and grid.scores[-1] == 0.99 and len(grid.scores) == 99
    margin = make_grid([read_scores(SHIPPED.replace("pred_score", "margin")).plan])
    assert margin.scores[0] == -0.99 and len(margin.scores) == 199


def test_certified_means_strictly_above():
    grid = make_grid([read_scores(SHIPPED).plan])
    lower = np.zeros((2, len(grid.radii)))
    lower[0, :3] = 0.7, 0.57, 0.5
    places = certified_places(lower, grid)
    assert [places[0, grid.scores.index(score)] for score in (0.49, 0.5, 0.56, 0.57, 0.69, 0.7)] == [2, 1, 1, 0, 0, -1]
    rows = curve_rows(places, np.array([False, True]), grid)
    assert (places[1] == -1).all() and not any(sum(row["count"]) for row in rows)  # a wrong class is never certified
    assert sum(curve_rows(places, np.array([True, False]), grid)[1]["count"]) == 56


# --- the page -------------------------------------------------------------------------------------------------------

def test_page(folder, tmp_path):
    page = tmp_path / "page.html"
    result = make(f"{folder}/run_pred_score.scores", page)
    assert (result.returncode, result.stderr) == (0, "")
    found = data_of(page)
    images, pictures = found["datasets"]["images"], found["datasets"]["pictures"]
    assert [image["index"] for image in images] == [picture["index"] for picture in pictures] == list(range(0, 240, 20))
    assert images[0]["label"] == "cat" and images[2]["label"] == "deer"
    with np.load(ROOT / "code/certconf/inputs/data/cifar10_test_every_20th.npz") as archive:
        shown = np.array(opened(pictures[2]["picture"]))
        assert (shown == archive["images"][2].transpose(1, 2, 0)).all()
    noise = np.array(opened(pictures[2]["noisy"])) / 255 - shown / 255
    assert 0.1 < noise.std() < 0.25  # of 0.25, since pixels outside [0, 1] are cut off
    text = page.read_text()
    assert "pred_score" in text and "checkpoint_sha256" in text and "://" not in text
    assert_refused(make(f"{folder}/run_pred_score.scores", page), "page.html exists: --overwrite")
    assert page.read_text() == text
    assert make(f"{folder}/run_pred_score", page, "--overwrite").returncode == 0


def opened(url):
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def test_own_images(folder, tmp_path):
    """They are shown only if their file is named, and is the one of the run; the page says why they are not."""
    log, page, own = f"{folder}/own_pred_score.scores", tmp_path / "page.html", folder / "own.py"
    other = tmp_path / "own.py"
    other.write_text(own.read_text() + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for options, why in (((), "--dataset names it"), (("--dataset", f"{other}:images"), "is not the file"),
                         (("--dataset", "cifar10"), "no FILE.py:NAME"),
                         (("--dataset", f"{own}:nothing"), "no function, class or object nothing")):
        result = make(log, page, "--overwrite", *options)
        assert result.returncode == 0 and why in result.stderr and why in page.read_text()
        found = data_of(page)["datasets"]
        assert not found["pictures"] and len(found["images"]) == 12 and found["images"][0]["label"] == "class 3"
    assert not (tmp_path / "ran").exists()
    result = make(log, page, "--overwrite", "--dataset", f"{own}:images")
    assert (result.returncode, result.stderr) == (0, "")
    found = data_of(page)["datasets"]
    assert len(found["pictures"]) == 12 and found["images"][0]["label"] == HOSTILE


def test_names_stay_text():
    page = render(HOSTILE, [HOSTILE], {HOSTILE: {"dataset": HOSTILE}}, {}, {"images": [HOSTILE]}, "'</script>'")
    assert "<img" not in page and page.count("</script>") == page.count("<script")
    data = re.search(r'id="data">(.*?)</script>', page)[1]
    assert json.loads(data) == {"layouts": {}, "datasets": {"images": [HOSTILE]}}


def test_name_of_any_bytes(folder, tmp_path):
    log = tmp_path / os.fsdecode(b"log\xff")
    for ending in ("", ".json", ".scores"):
        shutil.copy(f"{folder}/run_pred_score{ending}", f"{log}{ending}")
    result = make(f"{log}.scores", tmp_path / "page.html")
    assert (result.returncode, result.stderr) == (0, "")
    assert "log?</title>" in (tmp_path / "page.html").read_text()


def test_notes():
    runs = {"run": read_scores(SHIPPED), "staged": read_scores(STAGED)}
    notes = "\n".join(explore.notes_of(runs, None))
    assert "staged: sampled in stages, only until it was settled for score 0.5 at the radii 0, 0.25, 0.5" in notes
    assert "run: sampled in stages" not in notes and "not of the same images" in notes and "No pictures" not in notes
    assert "run: the paper's band is a statement of its own" in notes


def test_pictures_of_other_sizes():
    """A grey image stays grey, a large one is shrunk and its noisy copy cut out, and one of 4 channels has none."""
    grey = picture_urls(np.full((1, 5, 7), 0.5), 0.1, 0)
    assert opened(grey["picture"]).mode == "L" and opened(grey["picture"]).size == (7, 5)
    large = picture_urls(np.full((3, 200, 300), 0.5, np.float32), 0.1, 0)
    assert opened(large["picture"]).size == (64, 43) and opened(large["noisy"]).size == (64, 64)
    assert np.std(opened(large["noisy"])) > 15 > 3 > np.std(opened(large["picture"]))
    assert picture_urls(np.zeros((4, 8, 8)), 0.1, 0) == {}


def test_refusals(folder, tmp_path):
    pred, margin, own = (f"{folder}/{name}.scores" for name in ("run_pred_score", "run_margin", "own_pred_score"))
    page = tmp_path / "page.html"
    for args, words in (((pred, margin), "a page's name ends in .html"), ((pred, pred, page), "each log once"),
                        ((pred, margin, page), "different ranges"), ((pred, own, page), "not of the same data set"),
                        ((tmp_path / "none.scores", page), "no such record")):
        assert_refused(make(*args), words)
    assert_refused(make(pred, page, views=None), "altair is not installed: pip install -r requirements-explore.txt")
    assert not page.exists()
