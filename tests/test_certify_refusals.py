"""code/certify.py refuses what it cannot use: one line on stderr, exit status 2, and no file made or touched."""
import os

import numpy as np
import pytest
import torch
from certify_runs import certify, contents, tiny_checkpoint, tiny_network
from helpers import (
    CERTIFY,
    DEMO_CHECKPOINT,
    PUBLISHED_LOG,
    assert_refused,
    fake_checkpoint,
    fill_class_folders,
    run_program,
)
from PIL import Image


def arguments(out, *options, dataset="cifar10", checkpoint=DEMO_CHECKPOINT, sigma=0.25):
    """A run that would take a second, were it let; options come last, so that they win."""
    return (dataset, checkpoint, sigma, out, "--skip", 20, "--max", 1, "--N", 100, "--device", "cpu", *options)


def assert_all_refused(folder, word, *options, run=certify, **changes):
    """Refused with `word`, where OUTFILE is new (no folder is made), and where an old log is (which stays)."""
    kwargs = {"network": "real"} if run is certify else {}
    log = folder / "logs" / "old"
    log.parent.mkdir()
    log.write_bytes(PUBLISHED_LOG.read_bytes())
    before, entries = contents(folder), set(os.listdir(folder))
    for out in (folder / "new" / "log", log):
        if run is certify or out == log:  # one start of a program is enough
            again = ("--overwrite",) if out == log else ()
            assert_refused(run(*arguments(out, *options, *again, **changes), **kwargs), word)
        assert contents(folder) == before and set(os.listdir(folder)) == entries


def command(*args):
    """certify.py as the user starts it, on a machine where IMAGENET_DIR is not set."""
    return run_program(CERTIFY, *args, env={"IMAGENET_DIR": None})


# --- the command itself -----------------------------------------------------------------------------------------------

def test_real_command(tmp_path):
    """Started as users start it."""
    assert_all_refused(tmp_path, "SIGMA or --noise: integer noise needs 0.001", run=command, sigma="0")


def test_the_checkpoint_is_not_overwritten(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(DEMO_CHECKPOINT.read_bytes())
    before = contents(tmp_path)
    assert_refused(certify(*arguments(checkpoint, "--overwrite", checkpoint=checkpoint)), "BASE_CLASSIFIER itself")
    assert contents(tmp_path) == before


def test_remarks_follow_refusals(each_cpu, tmp_path):
    """Options, checkpoint, network and record are refused in one line, also where bf16 is slow, which is said later."""
    bf16, network = ("--precision", "bf16"), torch.nn.BatchNorm2d(3, track_running_stats=False)
    patches = tiny_checkpoint(torch.nn.Sequential(network, torch.nn.Flatten()))
    for number, (word, options, changes) in enumerate((
            ("--alpha", ("--alpha", 1), {}), ("no such checkpoint", (), {"checkpoint": "none"}),
            ("BatchNorm", (), {"run": lambda *args, **kwargs: certify(*args, network="real", patches=patches)}))):
        (tmp_path / str(number)).mkdir()
        assert_all_refused(tmp_path / str(number), word, *bf16, *options, **changes)
    assert certify(*arguments(tmp_path / "log", *bf16)).returncode == 0
    more = arguments(tmp_path / "log", *bf16, "--max", 40)
    assert_refused(certify(*more, "--seed", 1), "--seed")
    assert_refused(certify(*more, network=tiny_network(seed=1)), "BASE_CLASSIFIER's weights")


# --- options ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sigma", ["nan", "inf", "0.0009"])
def test_sigma(tmp_path, sigma):
    """A standard deviation is above 0, finite, and far above the spacing of float32 pixels."""
    assert_all_refused(tmp_path, "SIGMA", sigma=sigma)


BAD_OPTIONS = [
    ("--alpha", "--alpha", "0"), ("--alpha", "--alpha", "1"), ("--alpha", "--alpha", "nan"), ("--N ", "--N", "0"),
    ("--N0", "--N0", "0"), ("--batch", "--batch", "0"), ("--skip", "--skip", "0"), ("--max", "--max", "-2"),
    ("--max", "--max", "0"), ("radii are", "--radii", "1e8"), ("radii are", "--radii", "0.009999999991"),
    ("--N,", "--N", "20000000"), ("between 0 and 255", "--seed", "256"), ("--seed", "--seed", "-1"),
    ("radius 0.255", "--radii", "0", "0.255"), ("radius nan", "--radii", "nan"),
    ("increasing", "--radii", "0", "0.25", "0.25"), ("alpha <= 0.5", "--bound", "dkw", "--alpha", "0.9"),
    ("OUTFILE must contain {confidence_measure}", "--confidence_measure", "pred_score", "margin"),
    ("each measure once", "--confidence_measure", "margin", "margin"), ("'tpu'", "--device", "tpu")]


@pytest.mark.parametrize("word, options", [(word, options) for word, *options in BAD_OPTIONS],
                         ids=[" ".join(options) for _, *options in BAD_OPTIONS])
def test_options(tmp_path, word, options):
    """Each says which option it is about, before anything is loaded or sampled."""
    assert_all_refused(tmp_path, word, *options)


@pytest.mark.parametrize("options", [
    ("--alpha", "few"), ("--bound", "hoeffding"), ("--N", "1.5"), ("--unknown",)], ids=" ".join)
def test_what_argparse_refuses(tmp_path, options):
    """Usage and the reason, exit status 2, and no file."""
    result = certify(*arguments(tmp_path / "log", *options), network="real")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert options[-1] in result.stderr
    assert not os.listdir(tmp_path)


# --- checkpoints ------------------------------------------------------------------------------------------------------

CHECKPOINTS = {
    "empty": ("not a readable checkpoint", lambda path: path.write_bytes(b"")),
    "unknown arch": ("unknown architecture 'resnet18'", lambda path: rename(path, "resnet18")),
    "nan": ("1.fc.bias holds NaN", lambda path: fake_checkpoint(path, change=not_a_number)),
}


def rename(path, arch):
    checkpoint = torch.load(DEMO_CHECKPOINT, weights_only=True)
    torch.save({**checkpoint, "arch": arch}, path)


def not_a_number(state):
    state["1.fc.bias"] = state["1.fc.bias"] * torch.nan


@pytest.mark.parametrize("word, make", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(tmp_path, word, make):
    """A file that holds no network for this data set (test_architectures.py has many more)."""
    make(tmp_path / "checkpoint")
    assert_all_refused(tmp_path, word, checkpoint=tmp_path / "checkpoint")


# --- data sets --------------------------------------------------------------------------------------------------------

def test_damaged_image(tmp_path, monkeypatch):
    """An image file that is none ends the run with a line that names it; the rows before it stay."""
    for name in ("n01", "n02"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / "val" / name / "a.png")
    (tmp_path / "val" / "n02" / "a.png").write_bytes(b"not a picture")
    fill_class_folders(tmp_path / "val")
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path))
    flat = torch.nn.Sequential(torch.nn.AvgPool2d(112), torch.nn.Flatten(), torch.nn.Linear(12, 1000))
    result = certify("imagenet", DEMO_CHECKPOINT, 0.25, tmp_path / "log", "--N", 12, "--N0", 2, "--device", "cpu",
                     network=flat)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ") and "a.png" in line]
    assert (tmp_path / "log").read_text().count("\n") == 2
