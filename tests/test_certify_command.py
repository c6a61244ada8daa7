"""code/certify.py and cert_acc.py as commands: the bundled images and network, several processes, ImageNet's path."""
import csv
import json
import re

import numpy as np
import pytest
import torch
from certify_runs import certify, run_ranks
from helpers import (
    CERTIFY,
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


def test_batch_does_not_matter(demo, tmp_path):
    """On a CPU --batch is an upper limit: 40 makes passes of 32 samples instead of 64."""
    assert certify(*command(tmp_path, "--batch", 40), network="real").returncode == 0
    assert_same_rows(rows(tmp_path), rows(demo))


def test_skip_does_not_matter(demo, tmp_path):
    """The noise of an image comes from its index, not its place in the run: every second row, to the last digit."""
    assert certify(*command(tmp_path, "--skip", 40, "--max", 80), network="real").returncode == 0
    assert rows(tmp_path) == {measure: found[:4:2] for measure, found in rows(demo).items()}


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
    ("auto", 1, 0, True, 8, "auto"), ("auto", 4, 3, True, 8, "cuda:3"), ("cuda", 4, 3, True, 1, "cuda:0"),
    ("auto", 4, 3, False, 0, "auto"), ("cuda:2", 4, 3, True, 8, "cuda:2"), ("cpu", 4, 3, True, 8, "cpu")])
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
