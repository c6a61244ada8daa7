"""code/train.py on a few images: its files, and how it resumes."""
import io
import math
import signal
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest
import torch
from certify_runs import contents
from helpers import assert_refused, fake_checkpoint, random_network

import train
from certconf import training
from certconf.consistency import consistency_loss
from certconf.errors import run_cli
from certconf.files import file_sha256
from certconf.inputs import architectures, datasets
from certconf.inputs.architectures import build_network, initialise, load_checkpoint
from certconf.inputs.cifar_resnet import CifarResNet
from certconf.runner.output import AppendFile

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
    # one block per stage in place of three, two in place of eighteen
    monkeypatch.setitem(architectures.ARCHITECTURES, "cifar_resnet20", lambda classes: CifarResNet(8, classes))
    monkeypatch.setitem(architectures.ARCHITECTURES, "cifar_resnet110", lambda classes: CifarResNet(14, classes))
    with torch.random.fork_rng(devices=[]):
        yield


def start(out, *options, dataset="cifar10", arch="cifar_resnet20"):
    """train.py in this process: as main() runs under errors.run_cli. options come last, so that they win."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["train.py", dataset, arch, str(out), "--epochs", "2", "--batch", "8", "--lr", "0.01", "--noise_sd",
                "0.25", "--device", "cpu", *map(str, options)]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            status = run_cli(train.main)
    finally:
        sys.argv = argv
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return CompletedProcess(options, status, stdout.getvalue(), stderr.getvalue())


def interrupted(monkeypatch, out, *options):
    """Two epochs, of which the second is never saved."""
    saved, original = [], training.save_state

    def save(path, *state):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        original(path, *state)

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", save)
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
        assert 0 <= float(time) < 600 and 0 < float(loss) < 20 and 0 < float(test_loss) < 20
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
        noise_sd, amp, print_freq, consistency = noise, False, 10, 0.0

    images = torch.full((40, 3, 32, 32), 0.25)
    training.run_epoch(Spy(), [(images, torch.zeros(40, dtype=torch.int64))], Args, torch.device("cpu"))
    difference = seen[0] - images
    assert difference.std().item() == pytest.approx(noise, abs=4 * noise / math.sqrt(2 * images.numel()))
    assert abs(difference.mean().item()) <= 4 * noise / math.sqrt(images.numel())


def test_average(tmp_path):
    """Of one weight and one BatchNorm, against the recursion by hand: decay * average + (1 - decay) * new."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False), torch.nn.BatchNorm2d(1))
    average = training.averaged(network, 0.75)
    expected = None
    for step in range(4):
        with torch.no_grad():
            network[0].weight.fill_(step)
            network[1].running_mean.fill_(10 * step)
        average.update_parameters(network)
        expected = float(step) if expected is None else 0.75 * expected + 0.25 * step
    assert torch.allclose(average.module[0].weight, torch.tensor(expected))
    assert torch.allclose(average.module[1].running_mean, torch.tensor(10 * expected))


def test_a_training_with_an_average(tmp_path, monkeypatch):
    """The checkpoint's network is the average, which is tested, and --resume goes on with both, to the same bits."""
    assert start(tmp_path / "plain").returncode == 0
    assert start(tmp_path / "whole", "--ema", 0.5).returncode == 0
    interrupted(monkeypatch, tmp_path / "parts", "--ema", 0.5)
    assert start(tmp_path / "parts", "--ema", 0.5, "--resume").returncode == 0
    plain, whole, parts = (torch.load(tmp_path / name / "checkpoint.pth.tar", weights_only=True)
                           for name in ("plain", "whole", "parts"))
    for key, value in plain["state_dict"].items():
        assert torch.equal(whole["trained_state_dict"][key], value)  # the average changes nothing of the training
        assert torch.equal(parts["state_dict"][key], whole["state_dict"][key])
    assert not torch.equal(whole["state_dict"]["1.fc.weight"], plain["state_dict"]["1.fc.weight"])
    assert log_rows(tmp_path / "plain")[-1][4] == log_rows(tmp_path / "whole")[-1][4]
    assert_refused(start(tmp_path / "plain", "--ema", 0.5, "--resume"), "was trained with ema 0.0, not 0.5")
    assert start(tmp_path / "small", "--ema", 0.5, "--epochs", 1, "--drop_optimizer").returncode == 0
    assert "trained_state_dict" not in torch.load(tmp_path / "small" / "checkpoint.pth.tar", weights_only=True)
    torch.save({**whole, "state_dict": {}}, tmp_path / "whole" / "checkpoint.pth.tar")  # the average is lost
    assert_refused(start(tmp_path / "whole", "--ema", 0.5, "--resume"), "no weights under 'state_dict'")


def test_existing_log_stays(tmp_path):
    """A log with rows is no place for a new training, even without its checkpoint; a header alone is."""
    log = "\t".join(HEADER) + "\n"
    (tmp_path / "log.txt").write_text(log + "0\t1.0\n")
    assert_refused(start(tmp_path), "log.txt exists")
    assert (tmp_path / "log.txt").read_text() == log + "0\t1.0\n" and not (tmp_path / "checkpoint.pth.tar").exists()
    (tmp_path / "log.txt").write_bytes(b"\xff notes\n")
    assert_refused(start(tmp_path), "log.txt exists")
    (tmp_path / "log.txt").write_text(log)
    assert start(tmp_path, "--epochs", 1).returncode == 0 and len(log_rows(tmp_path)) == 1


def test_one_training_writes_to_a_folder(tmp_path):
    """Another that begins before the first checkpoint is refused, and leaves the log as it is."""
    log = AppendFile(str(tmp_path / "log.txt"))
    train.begin_log(log, 0)
    with closing(log):
        assert_refused(start(tmp_path, "--epochs", 1), "log.txt: another run is writing it")
    assert log_rows(tmp_path) == [] and not (tmp_path / "checkpoint.pth.tar").exists()
    assert start(tmp_path, "--epochs", 1).returncode == 0 and len(log_rows(tmp_path)) == 1


@pytest.mark.parametrize("text, kept", [(b"h\n0\n1\n2\n", b"h\n0\n1\n"), (b"h\n0\n1\xff\n", b"h\n0\n1\xff\n"),
                                        (b"h\n0\n1", b"h\n0\n1\n"), (b"h\r\n0\r\n", b"h\r\n0\r\n"),
                                        (b"h\n", b"h\n"), (b"", "\t".join(HEADER).encode() + b"\n")])
def test_log_of_a_resumed_training(text, kept, tmp_path):
    """The rows of the two epochs done stay, and one that is ahead of the checkpoint goes."""
    (tmp_path / "log.txt").write_bytes(text)
    with closing(AppendFile(str(tmp_path / "log.txt"))) as log:
        train.begin_log(log, 2)
    assert (tmp_path / "log.txt").read_bytes() == kept


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


def test_files_that_are_there_stay(tmp_path):
    """--resume after the last epoch trains no more; with other settings it is refused; so is a start over."""
    start(tmp_path, "--epochs", 2)
    before = contents(tmp_path)
    assert start(tmp_path, "--resume").returncode == 0
    assert_refused(start(tmp_path), "--resume")
    for options in (("--lr", 0.02), ("--noise_sd", 0.5), ("--epochs", 3), ("--amp",), ("--weight-decay", 0),
                    ("--consistency", 1), ("--hold_out", 2)):
        name = options[0].strip("-").replace("-", "_")
        assert_refused(start(tmp_path, "--resume", *options), "was trained with", name)
    assert contents(tmp_path) == before


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


@pytest.mark.parametrize("options", [
    ("--epochs", "0"), ("--epochs", "65537"), ("--batch", "0"), ("--lr", "nan"), ("--lr", "inf"), ("--noise_sd", "-1"),
    ("--momentum", "nan"), ("--print-freq", "0"), ("--device", "tpu"), ("--consistency", "-1"), ("--noise_draws", "1"),
    ("--entropy", "inf"), ("--hold_out", "1"), ("--seed", "32768"), ("--gpu", "0,1"), ("--init", "no_such_file"),
    ("--checkpoint_key", "ema"), ("--ema", "1"), ("--ema", "nan"), ("--weight-decay", "-1")], ids=" ".join)
def test_bad_arguments(tmp_path, options):
    """One line, and nothing written."""
    named = options[1] if options[0] in ("--init", "--device") else options[0]
    assert_refused(start(tmp_path / "out", *options), named)
    assert not (tmp_path / "out").exists()


def test_places_and_networks_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(start(tmp_path / "file" / "out"), "cannot be written")
    assert_refused(start(tmp_path / "out", arch="resnet50"), "resnet50")
    assert not (tmp_path / "out").exists()


# --- consistency ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("draws", [2, 3])
def test_consistency_loss_is_the_formula(draws):
    """L = mean_i CE(f_i, y) + lambda mean_i KL(p || p_i) + eta H(p), written out in float64 for each image."""
    logits = torch.randn(draws, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    labels, strength, entropy = [0, 3, 1, 2, 2], 7.0, 0.5
    expected = 0.0
    for image, label in enumerate(labels):
        exponents = [[math.exp(value) for value in logits[draw, image].tolist()] for draw in range(draws)]
        each = [[value / sum(row) for value in row] for row in exponents]
        mean = [sum(row[k] for row in each) / draws for k in range(4)]
        expected += sum(-math.log(row[label]) for row in each) / draws
        expected += strength * sum(m * math.log(m / p) for row in each for m, p in zip(mean, row, strict=True)) / draws
        expected -= entropy * sum(m * math.log(m) for m in mean)
    found = consistency_loss(logits, torch.tensor(labels), strength, entropy)
    assert float(found) == pytest.approx(expected / len(labels), rel=1e-12)


def test_gradients_of_the_consistency_loss():
    """Through every term and through the mean, as finite differences say; finite for logits that underflow."""
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.tensor([1, 0, 3])
    assert torch.autograd.gradcheck(lambda values: consistency_loss(values, labels, 5.0, 0.5), logits)
    extreme = torch.tensor([[[300.0, -300.0]], [[-300.0, 300.0]]], requires_grad=True)
    loss = consistency_loss(extreme, torch.tensor([0]), 10.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(extreme.grad).all()


def test_consistency_training(tmp_path, monkeypatch):
    """In training, a pass holds each image under all its noise draws."""
    sizes = []
    original = CifarResNet.forward
    monkeypatch.setattr(CifarResNet, "forward", lambda self, x: (sizes.append((self.training, len(x))),
                                                                 original(self, x))[1])
    assert start(tmp_path, "--consistency", 3, "--noise_draws", 3).returncode == 0
    assert set(sizes) == {(True, 24), (False, 8), (False, 2)}


def test_a_cpu_without_bf16(each_cpu, tmp_path):
    """autocast emulates bfloat16 there, several times as slow as float32: one line, once nothing is left to refuse."""
    assert_refused(start(tmp_path / "out", "--amp", "--init", "no_such_file"), "no_such_file")
    result = start(tmp_path / "out", "--epochs", 1, "--amp")
    assert (result.returncode, len(result.stderr.splitlines())) == (0, not each_cpu)
    assert each_cpu or "no instructions for bf16" in result.stderr
    assert_refused(start(tmp_path / "out", "--amp", "--resume", "--epochs", 3), "was trained with epochs")


# --- warm starts ------------------------------------------------------------------------------------------------------

def test_a_deeper_network_starts_as_the_shallower_one(tmp_path):
    """It computes the same function to 1e-5, and its added blocks can learn: a step changes what they compute."""
    path = fake_checkpoint(tmp_path / "shallow.pth.tar")
    shallow, deep = random_network(), build_network("cifar_resnet110", "cifar10")
    assert initialise(str(path), deep) == (file_sha256(str(path)), [])
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deep.eval()(x), shallow(x), rtol=0, atol=1e-5)
    deep(x)[:, 0].sum().backward()
    added = [parameter.grad for name, parameter in deep.named_parameters() if name.endswith("layer1.1.bn2.weight")]
    assert len(added) == 1 and added[0].abs().max() > 0


@pytest.mark.parametrize("old, new, change, word", [
    ("cifar_resnet20", "cifar_resnet110", lambda state: state.pop("1.fc.bias") is None, "does not fit"),
    ("cifar_resnet20", "cifar_resnet110", lambda state: state.pop("1.layer1.0.bn2.weight") is None, "does not fit"),
    ("cifar_resnet20", "cifar_resnet110", lambda state: state.update({"1.fc.weight": torch.zeros(5, 64)}),
     "does not fit"),
    ("cifar_resnet110", "cifar_resnet20", None, "not of this network")], ids=["key", "block", "head", "deeper"])
def test_starts_that_do_not_fit(tmp_path, old, new, change, word):
    """A block that is there in part, another head, no place for its blocks: the file is named, and nothing written."""
    path = fake_checkpoint(tmp_path / "start.pth.tar", old, change=change)
    assert_refused(start(tmp_path / "out", "--init", path, arch=new), "start.pth.tar", word)
    assert not (tmp_path / "out").exists()


def test_init_is_recorded_and_cannot_change(tmp_path, monkeypatch):
    """The SHA-256 of the start stands in the config; the file may move, another one is refused on resuming."""
    first, second = (fake_checkpoint(tmp_path / f"{seed}.pth.tar", seed=seed) for seed in (1, 2))
    path = interrupted(monkeypatch, tmp_path / "out", "--init", first)
    assert torch.load(path, weights_only=True)["config"]["init_sha256"] == file_sha256(str(first))
    assert_refused(start(tmp_path / "out", "--resume", "--init", second), "init_sha256")
    assert_refused(start(tmp_path / "out", "--resume"), "init_sha256")
    moved = first.rename(tmp_path / "moved")
    assert start(tmp_path / "out", "--resume", "--init", moved).returncode == 0


def test_init_says_what_it_did(tmp_path):
    """A checkpoint of another form, with two networks in it: one is picked, and the config holds which."""
    state = {f"module.{key}": value for key, value in random_network().state_dict().items()}
    torch.save({"model": state, "ema": state}, tmp_path / "start.pth")
    assert_refused(start(tmp_path / "out", "--init", tmp_path / "start.pth"), "'model', 'ema'", "--checkpoint_key")
    result = start(tmp_path / "out", "--init", tmp_path / "start.pth", "--checkpoint_key", "ema", "--epochs", 1)
    assert result.returncode == 0 and "under 'ema'" in result.stderr and "'module.1.'" in result.stderr
    assert torch.load(tmp_path / "out" / "checkpoint.pth.tar")["config"]["checkpoint_key"] == "ema"


# --- held-out images and smaller checkpoints --------------------------------------------------------------------------

def test_held_out_images_are_not_trained_on(tmp_path, monkeypatch):
    """Images 0, 5, 10, ... are black here and no other is: the network never sees a black one."""
    images = torch.full((24, 3, 32, 32), 255, dtype=torch.uint8)
    images[::5] = 0
    monkeypatch.setattr(datasets, "cifar10_tensors", lambda train: (images, torch.zeros(24, dtype=torch.int64)))
    seen, original = [], CifarResNet.forward

    def forward(self, x):
        if self.training:
            seen.extend(x.amax((1, 2, 3)).tolist())
        return original(self, x)

    monkeypatch.setattr(CifarResNet, "forward", forward)
    assert start(tmp_path, "--noise_sd", 0, "--hold_out", 5, "--epochs", 1).returncode == 0
    assert len(seen) == 19 and min(seen) > 0


def test_checkpoint_without_optimizer(tmp_path, monkeypatch):
    """--drop_optimizer: an unfinished checkpoint still resumes, the finished one holds no state and is left alone."""
    path = interrupted(monkeypatch, tmp_path, "--drop_optimizer")
    assert {"optimizer", "scheduler"} <= torch.load(path, weights_only=True).keys()
    assert start(tmp_path, "--drop_optimizer", "--resume").returncode == 0
    assert torch.load(path, weights_only=True).keys() == {"epoch", "arch", "state_dict", "config"}
    before = path.read_bytes()
    assert start(tmp_path, "--drop_optimizer", "--resume").returncode == 0
    assert path.read_bytes() == before
    assert load_checkpoint(str(path), "cifar10")[1]["epoch"] == 2
