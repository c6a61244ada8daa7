"""code/train.py on a few images: its files, and how it goes on."""
import io
import math
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest
import torch
from helpers import assert_refused

import datasets
import train
from architectures import load_checkpoint
from errors import run

HEADER = ["epoch", "time", "lr", "train loss", "train acc", "testloss", "test acc"]
KEYS = {"epoch", "arch", "state_dict", "optimizer"}


@pytest.fixture(autouse=True)
def tiny_cifar10(monkeypatch):
    """24 images for training and 10 for testing; no download, and the random state stays as it was."""
    def tensors(train):
        count, generator = (24, torch.Generator().manual_seed(0)) if train else (10, torch.Generator().manual_seed(1))
        return (torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
                torch.randint(10, (count,), generator=generator))
    monkeypatch.setattr(datasets, "cifar10_tensors", tensors)
    with torch.random.fork_rng(devices=[]):
        yield


def start(out, *options, dataset="cifar10", arch="cifar_resnet20"):
    """train.py in this process: as main() runs under errors.run. options come last, so that they win."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["train.py", dataset, arch, str(out), "--epochs", "2", "--batch", "8", "--lr", "0.01", "--noise_sd",
                "0.25", "--device", "cpu", *map(str, options)]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            status = run(train.main)
    finally:
        sys.argv = argv
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return CompletedProcess(options, status, stdout.getvalue(), stderr.getvalue())


def interrupted(monkeypatch, out, *options):
    """Two epochs, of which the second is never saved."""
    saved, original = [], train.save

    def save(path, **content):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        original(path, **content)

    with monkeypatch.context() as patch:
        patch.setattr(train, "save", save)
        with pytest.raises(KeyboardInterrupt):
            start(out, *options)
    return out / "checkpoint.pth.tar"


def log_rows(out):
    header, *lines = (out / "log.txt").read_text().splitlines()
    assert header.split("\t") == HEADER
    return [line.split("\t") for line in lines]


def test_files_of_a_training(tmp_path):
    """A checkpoint that certify.py loads, and a log with a line an epoch; nothing else."""
    out = tmp_path / "a" / "b"
    result = start(out, "--lr_step_size", 1, "--gamma", 0.5)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pth.tar", "log.txt"]
    network, checkpoint = load_checkpoint(str(out / "checkpoint.pth.tar"), "cifar10")
    assert KEYS <= checkpoint.keys()
    assert checkpoint["epoch"] == 2 and checkpoint["arch"] == "cifar_resnet20"
    assert all(key.startswith("1.") for key in checkpoint["state_dict"])
    assert int(network.state_dict()["1.bn1.num_batches_tracked"]) == 2 * 3  # 24 images, 8 a step, training steps alone
    rows = log_rows(out)
    assert [row[0] for row in rows] == ["0", "1"]
    assert [float(row[2]) for row in rows] == [0.01, 0.005]
    for _, time, _, loss, accuracy, test_loss, test_accuracy in rows:
        assert float(time) > 0 and 0 < float(loss) < 20 and 0 < float(test_loss) < 20
        assert math.isclose(float(accuracy) * 24 % 1, 0, abs_tol=0.01) or float(accuracy) * 24 % 1 > 0.99
        assert math.isclose(float(test_accuracy) * 10 % 1, 0, abs_tol=0.01)


def test_it_learns(tmp_path, monkeypatch):
    """Black images of one class and white ones of another: after 15 steps it knows better than ln(10) and than 1/2."""
    labels = torch.arange(24) % 2
    images = (255 * labels[:, None, None, None]).expand(24, 3, 32, 32).to(torch.uint8)
    monkeypatch.setattr(datasets, "cifar10_tensors", lambda train: (images, labels))
    start(tmp_path, "--epochs", 5, "--lr", 0.05)
    losses, accuracies = ([float(row[column]) for row in log_rows(tmp_path)] for column in (3, 4))
    assert losses[-1] < 1 < losses[0]
    assert accuracies[-1] > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_noise_is_added_in_pixel_space(noise):
    """What the network sees is the image in [0, 1], plus N(0, noise^2), in training and in testing alike."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 10)

    class Args:
        noise_sd, amp, print_freq = noise, False, 10

    images = torch.full((40, 3, 32, 32), 0.25)
    train.run_epoch(Spy(), [(images, torch.zeros(40, dtype=torch.int64))], Args, torch.device("cpu"))
    difference = seen[0] - images
    assert difference.std().item() == pytest.approx(noise, abs=4 * noise / math.sqrt(2 * images.numel()))
    assert abs(difference.mean().item()) <= 4 * noise / math.sqrt(images.numel())


def test_existing_checkpoint_stays(tmp_path):
    """Without --resume it is refused; neither file changes."""
    (tmp_path / "checkpoint.pth.tar").write_bytes(b"a month of work")
    (tmp_path / "log.txt").write_text("log\n")
    assert_refused(start(tmp_path), "--resume")
    assert (tmp_path / "checkpoint.pth.tar").read_bytes() == b"a month of work"
    assert (tmp_path / "log.txt").read_text() == "log\n"


def test_existing_log_stays(tmp_path):
    """A log with rows is no place for a new training, even without its checkpoint; a header alone is."""
    log = "\t".join(HEADER) + "\n"
    (tmp_path / "log.txt").write_text(log + "0\t1.0\n")
    assert_refused(start(tmp_path), "log.txt is there")
    assert (tmp_path / "log.txt").read_text() == log + "0\t1.0\n" and not (tmp_path / "checkpoint.pth.tar").exists()
    (tmp_path / "log.txt").write_bytes(b"\xff notes\n")
    assert_refused(start(tmp_path), "log.txt is there")
    (tmp_path / "log.txt").write_text(log)
    assert start(tmp_path, "--epochs", 1).returncode == 0 and len(log_rows(tmp_path)) == 1


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(start(tmp_path / "file" / "out"), "cannot be written")


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_resumed_training_is_the_whole_one(tmp_path, monkeypatch, schedule):
    """Interrupted after its first epoch, then resumed: the same weights as in one go, to the last bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole, "--schedule", schedule).returncode == 0
    path = interrupted(monkeypatch, parts, "--schedule", schedule)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert start(parts, "--schedule", schedule, "--resume").returncode == 0
    one, two = (torch.load(out / "checkpoint.pth.tar", weights_only=True) for out in (whole, parts))
    assert one["epoch"] == two["epoch"] == 2
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    assert [row[0] for row in log_rows(parts)] == ["0", "1"]
    rows = zip(log_rows(whole), log_rows(parts), strict=True)
    assert all(row[2:] == other[2:] for row, other in rows)


def test_complete_training_is_left_alone(tmp_path):
    """--resume after the last epoch trains no more."""
    start(tmp_path, "--epochs", 1)
    before = (tmp_path / "checkpoint.pth.tar").read_bytes(), log_rows(tmp_path)
    assert start(tmp_path, "--epochs", 1, "--resume").returncode == 0
    assert ((tmp_path / "checkpoint.pth.tar").read_bytes(), log_rows(tmp_path)) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.mark.parametrize("options", [
    ("--lr", "0.02"), ("--noise_sd", "0.5"), ("--epochs", "3"), ("--batch", "4"), ("--amp",), ("--seed", "1"),
    ("--weight-decay", "0")], ids=" ".join)
def test_resume_with_other_settings(finished, options):
    """A run goes on with the settings it was begun with; the files stay."""
    if not (finished / "checkpoint.pth.tar").exists():
        start(finished, "--epochs", 2)
    before = [(finished / name).read_bytes() for name in ("checkpoint.pth.tar", "log.txt")]
    assert_refused(start(finished, "--resume", *options), "was trained with", options[0].strip("-").replace("-", "_"))
    assert [(finished / name).read_bytes() for name in ("checkpoint.pth.tar", "log.txt")] == before


def test_resume_from_what_is_no_training(tmp_path):
    """Nothing there, bytes, or a network without its training state; and a state that was damaged."""
    assert_refused(start(tmp_path / "none", "--resume"), "no checkpoint to resume from")
    assert not (tmp_path / "none").exists()
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(b"bytes")
    assert_refused(start(tmp_path, "--resume"), "checkpoint.pth.tar")
    torch.save({"arch": "cifar_resnet20", "state_dict": {}}, path)
    assert_refused(start(tmp_path, "--resume"), "no training state")
    path.unlink()
    start(tmp_path)
    content = torch.load(path, weights_only=True)
    for part in ("state_dict", "optimizer", "scheduler"):
        torch.save({**content, part: {}}, path)
        assert_refused(start(tmp_path, "--resume"), "checkpoint.pth.tar")


@pytest.mark.parametrize("options, changes", [
    (("--epochs", "0"), {}), (("--batch", "0"), {}), (("--lr", "nan"), {}), (("--noise_sd", "-1"), {}),
    (("--noise_sd", "inf"), {}), (("--momentum", "nan"), {}), (("--print-freq", "0"), {}), (("--device", "tpu"), {}),
    ((), {"arch": "resnet50"})], ids=str)
def test_bad_arguments(tmp_path, options, changes):
    """One line, and nothing written."""
    assert_refused(start(tmp_path / "out", *options, **changes))
    assert not (tmp_path / "out").exists()
