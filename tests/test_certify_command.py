"""code/certify.py and cert_acc.py as commands: the bundled images and network, several processes, ImageNet's path."""
import csv
import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from certify_runs import certify, run_ranks
from helpers import (
    CERTIFY,
    CODE,
    DATA,
    DEMO_CHECKPOINT,
    PUBLISHED_LOG,
    fake_checkpoint,
    fill_class_folders,
    read_rows,
    run_program,
    without_time,
)
from PIL import Image

from certconf.core import Smooth
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.runner.config import SamplingConfig
from certconf.runner.run import Run
from certconf.runner.worker import Worker

HEADER = ("idx label predict exp_cdf_00 exp_cdf_25 exp_cdf_50 exp_cdf_75 exp_cdf_100 exp_cdf_125 exp_cdf_150 "
          "exp_00 exp_25 exp_50 exp_75 exp_100 exp_125 exp_150 correct time")
MEASURES = ("pred_score", "margin")
OPTIONS = ("--skip", 20, "--max", 81, "--N", 128, "--N0", 32, "--device", "cpu", "--confidence_measure", *MEASURES)


def command(out, *options):
    """The arguments of certify.py for the bundled images 0 to 80, with the bundled network, for both measures."""
    return "cifar10", DEMO_CHECKPOINT, 0.25, f"{out}/{{confidence_measure}}", *OPTIONS, *options


def rows(out):
    """The rows of both measures, without the time."""
    return {measure: without_time(read_rows(out / measure)) for measure in MEASURES}


def bounds(row):
    return {name: float(value) for name, value in row.items() if name.startswith("exp_")}


def assert_same_rows(one, two):
    """The same images, classes and bounds up to float rounding, which leaves 5 decimals as they are or nearly so."""
    for measure in MEASURES:
        for a, b in zip(one[measure], two[measure], strict=True):
            assert bounds(a) == pytest.approx(bounds(b), abs=2e-5)
            assert {**a, **bounds(a)} == {**b, **bounds(a)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of both logs, written by the real command."""
    out = tmp_path_factory.mktemp("demo") / "a" / "b"  # folders that are not there yet
    result = run_program(CERTIFY, *command(out))
    assert result.returncode == 0, result.stderr
    assert "5/5" in result.stderr and result.stdout == ""  # tqdm's progress
    return out


def test_log(demo):
    """The header to the letter; rows 0, 20, ..., with the published labels; each field as the format has it."""
    with open(PUBLISHED_LOG, newline="") as file:
        labels = {row["idx"]: row["label"] for row in csv.DictReader(file, delimiter="\t")}
    for measure, cutoff in zip(MEASURES, (0.5, 0.0), strict=True):
        assert (demo / measure).read_text().splitlines()[0] == HEADER.replace(" ", "\t")
        found = read_rows(demo / measure)
        assert [row["idx"] for row in found] == ["0", "20", "40", "60", "80"]
        for row in found:
            assert row["label"] == labels[row["idx"]]
            assert row["correct"] == str(int(row["predict"] == row["label"]))
            assert re.fullmatch(r"0:\d\d:\d\d\.\d{6}", row["time"])
            if row["predict"] == "-1":
                assert set(row.values()) >= {"0.0"} and not any(bounds(row).values())
            else:
                assert 0 <= int(row["predict"]) <= 9 and float(row["exp_cdf_00"]) >= cutoff
        assert any(row["predict"] != "-1" for row in found)
        assert json.loads((demo / f"{measure}.json").read_text())["settings"]["confidence_measure"] == measure


def test_same_command_in_this_process(demo, tmp_path):
    """The same rows to the last digit, and from two commands with one measure each, too."""
    for measure in MEASURES:
        result = certify(*command(tmp_path)[:3], tmp_path / measure, *OPTIONS[:-3], "--confidence_measure", measure,
                         network="real")
        assert result.returncode == 0, result.stderr
    assert rows(tmp_path) == rows(demo)


def test_batch_does_not_matter(demo, tmp_path):
    """On a CPU --batch is an upper limit: 40 makes passes of 32 samples instead of 64."""
    assert certify(*command(tmp_path, "--batch", 40), network="real").returncode == 0
    assert_same_rows(rows(tmp_path), rows(demo))


def test_skip_does_not_matter(demo, tmp_path):
    """The noise of an image comes from its index, not its place in the run: every second row, to the last digit."""
    assert certify(*command(tmp_path, "--skip", 40, "--max", 80), network="real").returncode == 0
    assert rows(tmp_path) == {measure: found[:4:2] for measure, found in rows(demo).items()}


def test_rounding(tmp_path):
    """What is printed is the certificate's own bound, rounded down to 6 significant digits or more."""
    made, original = [], Smooth.certify_by

    def spy(self, *args, **kwargs):
        made.append(original(self, *args, **kwargs))
        return made[-1]

    assert certify(*command(tmp_path), network="real", patches={"certconf.core.Smooth.certify_by": spy}).returncode == 0
    for number, measure in enumerate(MEASURES):
        found = read_rows(tmp_path / measure)
        assert len(found) == len(made) == 5
        for row, certificate in zip(found, (pair[number] for pair in made), strict=True):
            printed = [row[name] for name in HEADER.split() if name.startswith("exp_")]
            for text, raw in zip(printed, certificate.exp_cdf + certificate.exp, strict=True):
                assert Fraction(text) <= Fraction(raw)
                assert Fraction(raw) - Fraction(text) <= abs(Fraction(raw)) / 10 ** 5
                digits = re.sub(r"[eE].*", "", text).replace(".", "").replace("-", "").lstrip("0")
                assert raw == 0 or len(digits) >= 6 or Fraction(text) == Fraction(raw)


def test_radii(demo, tmp_path):
    """Columns from the radii; at R = 0 the default's bound, and at 0.1 and 0.33 between those around them."""
    assert certify(*command(tmp_path, "--radii", "0", "0.1", "0.33"), network="real").returncode == 0
    for measure in MEASURES:
        header = (tmp_path / measure).read_text().splitlines()[0]
        assert header.split("\t") == ["idx", "label", "predict", "exp_cdf_00", "exp_cdf_10", "exp_cdf_33", "exp_00",
                                      "exp_10", "exp_33", "correct", "time"]
        for row, default in zip(read_rows(tmp_path / measure), read_rows(demo / measure), strict=True):
            one, all_radii = bounds(row), bounds(default)
            assert one["exp_cdf_00"] == pytest.approx(all_radii["exp_cdf_00"], abs=1e-7)
            if row["predict"] != "-1":
                assert one["exp_cdf_00"] > one["exp_cdf_10"] > all_radii["exp_cdf_25"] > one["exp_cdf_33"]
                assert one["exp_cdf_33"] > all_radii["exp_cdf_50"]


def test_bf16(demo, tmp_path, each_cpu):
    """Runs from end to end, says so, and bounds nearly the same: bf16 logits differ by 2^-8 of themselves."""
    result = certify(*command(tmp_path, "--precision", "bf16"), network="real")
    assert result.returncode == 0
    assert "the log is about the network at this precision" in result.stderr
    assert ("this CPU has no instructions for bf16" in result.stderr) != each_cpu
    low, full = rows(tmp_path), rows(demo)
    assert low != full
    for measure in MEASURES:
        for a, b in zip(low[measure], full[measure], strict=True):
            if "-1" not in (a["predict"], b["predict"]):
                assert a["predict"] == b["predict"]
                assert bounds(a) == pytest.approx(bounds(b), abs=0.05)


@pytest.mark.parametrize("name, size, local_rank, available, gpus, expected", [
    ("auto", 1, 0, True, 8, "auto"), ("auto", 4, 3, True, 8, "cuda:3"), ("cuda", 4, 3, True, 8, "cuda:3"),
    ("auto", 4, 3, False, 0, "auto"), ("auto", 4, 3, True, 1, "cuda:0"), ("cuda", 4, 3, True, 1, "cuda:0"),
    ("cuda:2", 4, 3, True, 8, "cuda:2"), ("cpu", 4, 3, True, 8, "cpu"), ("cuda", 4, 3, False, 0, "cuda")])
def test_device_of_a_rank(name, size, local_rank, available, gpus, expected, monkeypatch):
    """A GPU for each process of a machine; cuda:0 if that is all it is shown (SLURM's --gpus-per-task)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert Worker(local_rank, size, local_rank).device_name(name) == expected


@pytest.mark.parametrize("device, current", [("cuda:3", ["cuda:3"]), ("cpu", [])])
def test_the_run_s_gpu_is_the_current_one(device, current, tmp_path, monkeypatch):
    """CUDA graphs synchronise the current GPU, and would make a context on GPU 0."""
    chosen, device = [], torch.device(device)
    monkeypatch.setattr("certconf.sampling.devices.choose_device", lambda name: device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    Run(SamplingConfig(dataset="cifar10", base_classifier=str(DEMO_CHECKPOINT), sigma=0.25, outfile="", skip=20,
                       max=1)).load()
    assert chosen == current


# --- several processes ------------------------------------------------------------------------------------------------

def test_two_processes(demo, tmp_path):
    """One log, in index order, with the rows of one process. (torchrun itself: test_faults.py.)"""
    assert [status for status, *_ in run_ranks(tmp_path, CERTIFY, *command(tmp_path))] == [0, 0]
    assert_same_rows(rows(tmp_path), rows(demo))
    record = json.loads((tmp_path / "margin.json").read_text())
    assert [start["processes"] for start in record["starts"]] == [2]


FAILING_RANK = """
import os, sys, time
sys.path.insert(0, {code!r})
import certify
from certconf.core import Smooth
from certconf.errors import run_cli

calls, original = [0], Smooth.certify_by

def wait(condition):
    while not condition():
        time.sleep(0.05)

def failing(self, *args, **kwargs):
    calls[0] += 1
    if calls[0] == 2 and os.environ["RANK"] == "0":
        wait(lambda: os.path.exists({log!r} + ".second"))  # so that rank 1 gets a second image
    if calls[0] == 2 and os.environ["RANK"] == "1":
        open({log!r} + ".second", "w").close()
        wait(lambda: open({log!r}).read().count("\\n") >= 2)
        raise RuntimeError("this rank cannot go on")
    return original(self, *args, **kwargs)

Smooth.certify_by = failing
sys.exit(run_cli(certify.main))
"""


def test_rank_that_raises(demo, tmp_path):
    """Rank 1 fails at its second image, once a row is there: the run ends with its error, and the rows stay, in order.

    Images are handed out one by one, so rank 1 never certifies the image it failed at: some rows are missing.
    """
    script = tmp_path / "failing.py"
    script.write_text(FAILING_RANK.format(code=str(CODE), log=str(tmp_path / "margin")))
    first, second = run_ranks(tmp_path, script, *command(tmp_path))
    assert first[0] == 1 and "this rank cannot go on" in first[2][-1] and "Traceback" in "".join(second[2])
    for measure in MEASURES:
        found = read_rows(tmp_path / measure)
        assert 1 <= len(found) < 5
        assert [row["idx"] for row in found] == ["0", "20", "40", "60", "80"][:len(found)]
    resumed = certify(*command(tmp_path), network="real")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_rows(rows(tmp_path), rows(demo))


# --- non-finite scores ------------------------------------------------------------------------------------------------

def overflowing_checkpoint(path):
    """A copy of the bundled network whose one logit overflows for one image in some of its samples; that image's index.

    The logit is w times the feature whose largest value over the noise is furthest above that of all other images; w is
    such that float32's limit lies half-way between, on the scale of ratios.
    """
    network, checkpoint = load_checkpoint(str(DEMO_CHECKPOINT), "cifar10")
    features = torch.nn.Sequential(network[0], network[1])
    features[1].fc = torch.nn.Identity()
    images, indices = open_images("cifar10", "test", 20, 81)
    noise = 0.25 * torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        largest = torch.stack([features(images.load(i)[0] + noise).amax(0) for i in indices])
    ordered = largest.sort(0).values
    usable = ordered[-1] * ordered[-2] > 1  # where float32 holds w
    feature = int((usable * ordered[-1] / ordered[-2]).nan_to_num().argmax())
    high, low = ordered[-1, feature].item(), ordered[-2, feature].item()
    state = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
    state["1.fc.weight"].zero_()
    state["1.fc.weight"][3, feature] = torch.finfo(torch.float32).max / math.sqrt(high * low)
    torch.save({**checkpoint, "state_dict": state}, path)
    return str(indices[int(largest[:, feature].argmax())])


def test_non_finite_scores(tmp_path):
    """One image overflows: it is named and gets no row, the others get theirs, and the exit status is 1; each time."""
    bad = overflowing_checkpoint(tmp_path / "checkpoint")
    arguments = ("cifar10", tmp_path / "checkpoint", 0.25, tmp_path / "log", *OPTIONS[:-3])
    for _ in range(2):
        result = certify(*arguments, network="real")
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if "image/s" not in line]
        assert any(line.strip().startswith(f"image {bad}: a score is NaN or infinite") for line in lines)
        assert f"no row for 1 images with non-finite scores: {bad};" in lines[-1]
        assert [row["idx"] for row in read_rows(tmp_path / "log")] == [
            index for index in ("0", "20", "40", "60", "80") if index != bad]


# --- ImageNet ---------------------------------------------------------------------------------------------------------

def test_imagenet(tmp_path, monkeypatch):
    """Two images of two classes and a random ResNet-50 that is sure of class 1, whatever it sees: right for the second.

    Of four scores of 1, the lower limit at alpha = 0.5 is at least 0.125^(1/4) = 0.59 and at most 0.5^(1/4) = 0.84.
    """
    for name in ("n01", "n02"):
        (tmp_path / "val" / name).mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (280, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / name / "image.JPEG")
    fill_class_folders(tmp_path / "val")
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path))

    def sure(state):
        state["1.fc.weight"].mul_(1e-3)
        state["1.fc.bias"][1] = 100.0
    checkpoint = fake_checkpoint(tmp_path / "checkpoint", "resnet50", "imagenet", change=sure)
    result = certify("imagenet", checkpoint, 0.5, tmp_path / "log", "--N", 4, "--N0", 2, "--batch", 2, "--alpha", 0.5,
                     "--device", "cpu", network="real")
    assert result.returncode == 0, result.stderr
    found = read_rows(tmp_path / "log")
    assert [[row[name] for name in ("idx", "label", "predict", "correct")] for row in found] == [
        ["0", "0", "1", "0"], ["1", "1", "1", "1"]]
    assert all(0.59 < float(row["exp_cdf_00"]) < 0.84 for row in found)


# --- cert_acc ---------------------------------------------------------------------------------------------------------

def test_cert_acc_byte_for_byte():
    """What the paper's own cert_acc.py prints of its published log."""
    result = run_program("cert_acc.py", PUBLISHED_LOG, "0.5")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (DATA / f"{PUBLISHED_LOG.name}.accuracy").read_text()
