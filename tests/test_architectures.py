"""inputs/architectures.py: networks by name, and checkpoints, which are untrusted files."""
import hashlib
import io
import os
import random
from collections import OrderedDict
from unittest.mock import patch

import pytest
import torch
from helpers import fake_checkpoint, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from certconf.errors import InputError
from certconf.files import file_sha256
from certconf.inputs.architectures import Normalize, build_network, load_checkpoint
from certconf.inputs.checkpoints import read_file

EXAMPLES, MANY = 200, 30_000
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def assert_refuses(path, *words):
    """InputError in one line that names the file, has the words, and leaves the file as it is."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError) as error:
        load_checkpoint(str(path), "cifar10")
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path))
    for word in words:
        assert word in message
    assert before is None or path.read_bytes() == before


# --- networks ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arch, dataset, layers, parameters", [
    ("cifar_resnet20", "cifar10", 20, 272_474), ("cifar_resnet110", "cifar10", 110, 1_730_714),
    ("resnet50", "imagenet", 50, 25_557_032)])
def test_architectures(arch, dataset, layers, parameters):
    """Depth by name, without the projections' 1x1 convolutions; parameters as in He et al. (0.27 M, 1.7 M), and

    2,752 more for two projections with BatchNorm (16 * 32 + 64, 32 * 64 + 128); resnet50 as torchvision documents it.
    """
    network = build_network(arch, dataset)
    weighted = [name for name, module in network.named_modules()
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and "downsample" not in name]
    assert len(weighted) == layers
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_normalisation_by_hand():
    """(x - mean) / std for each channel; nothing of it is in the state."""
    layer = Normalize((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    assert layer(torch.ones(1, 3, 1, 1)).flatten().tolist() == [1.0, 3.0, 1.0]
    assert not layer.state_dict()


@pytest.mark.parametrize("arch, dataset, word", [
    ("resnet18", "imagenet", "unknown architecture"), ("resnet50", "cifar10", "for imagenet"),
    ("cifar_resnet20", "imagenet", "for cifar10")])
def test_wrong_pairs(arch, dataset, word):
    """An architecture belongs to one data set."""
    with pytest.raises(InputError, match=word):
        build_network(arch, dataset)


# --- checkpoints that load --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("zip_format", [True, False])
def test_both_serialisations(tmp_path, zip_format):
    """Zip or old: the network that was saved, in eval mode."""
    path = fake_checkpoint(tmp_path / "c", zip_format=zip_format, epoch=90, optimizer={"state": {}})
    network, checkpoint = load_checkpoint(str(path), "cifar10")
    assert not any(module.training for module in network.modules())
    assert checkpoint["epoch"] == 90 and checkpoint["arch"] == "cifar_resnet20"
    with torch.no_grad():
        assert torch.equal(network(IMAGES), random_network()(IMAGES))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("arch, dataset, prefix", [("cifar_resnet110", "cifar10", "1."),
                                                   ("resnet50", "imagenet", "1.module.")])
def test_published_forms(tmp_path, arch, dataset, prefix):
    """What the training programs of Cohen et al. and of Salman et al. (SmoothAdv) save: these four entries, in the

    serialisation of their time; the keys with `module` if the network is under DataParallel, as for ImageNet.
    """
    def rename(state):
        return OrderedDict((prefix + key.removeprefix("1."), value) for key, value in state.items())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9, weight_decay=1e-4)
    path = fake_checkpoint(tmp_path / "checkpoint.pth.tar", arch, dataset, change=rename, zip_format=False, epoch=90,
                           optimizer=optimizer.state_dict())
    network, checkpoint = load_checkpoint(str(path), dataset)
    assert checkpoint.keys() - {"remarks"} == {"epoch", "arch", "state_dict", "optimizer"}
    assert checkpoint["arch"] == arch
    expected = random_network(arch, dataset).state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


# --- checkpoints that do not ------------------------------------------------------------------------------------------

def test_no_such_file(tmp_path):
    """Missing, or a folder, or a missing folder."""
    assert_refuses(tmp_path / "none", "no such checkpoint")
    assert_refuses(tmp_path / "none" / "none", "no such checkpoint")
    assert_refuses(tmp_path)


def test_other_architecture_or_data_set(tmp_path):
    """Said by `arch`, and seen from the keys where `arch` is wrong."""
    path = fake_checkpoint(tmp_path / "a")
    with pytest.raises(InputError, match="cifar_resnet20 is a network for cifar10, not for imagenet"):
        load_checkpoint(str(path), "imagenet")
    deep = dict(random_network("cifar_resnet110").state_dict())
    assert_refuses(fake_checkpoint(tmp_path / "b", change=lambda state: deep), "cifar_resnet20", "not of this network")


class Touch:
    """Unpickled by a naive reader, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("zip_format", [True, False])
def test_code_is_not_run(tmp_path, zip_format):
    """A pickle with a call in it, beside a state that fits: refused, and the call not made; a naive reader makes it."""
    mark = tmp_path / "mark"
    path = fake_checkpoint(tmp_path / "c", zip_format=zip_format, extra=Touch(mark))
    assert_refuses(path, "not a checkpoint of tensors")
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def edit(name, value):
    """A change of one entry of the state: value(old) in its place."""
    def change(state):
        state[name] = value(state[name])
    return change


def without(*names):
    return lambda state: {name: value for name, value in state.items() if name not in names}


WEIGHT, COUNT = "1.layer1.0.conv1.weight", "1.bn1.num_batches_tracked"
BAD_STATES = {
    "nan": (edit(WEIGHT, lambda w: w.index_fill(0, torch.tensor(3), torch.nan)), [WEIGHT, "NaN"]),
    "infinite": (edit("1.fc.bias", lambda w: w - torch.inf), ["1.fc.bias", "infinite"]),
    "shape": (edit("1.fc.weight", lambda w: w[:9]), ["1.fc.weight is [9, 64], not [10, 64]"]),
    "not a tensor": (edit("1.fc.bias", lambda w: w.tolist()), ["1.fc.bias is list"]),
    "integers": (edit("1.fc.bias", lambda w: w.long()), ["1.fc.bias", "int64"]),
    "count without a number": (edit(COUNT, lambda w: w * torch.nan), [COUNT, "NaN"]),
    "too large for float32": (edit("1.fc.bias", lambda w: w.double() + 1e300), ["1.fc.bias", "infinite"]),
    "complex": (edit("1.fc.bias", lambda w: w + 1j), ["1.fc.bias"]),
    "sparse": (edit("1.fc.weight", lambda w: w.to_sparse()), ["1.fc.weight", "sparse"]),
    "meta": (edit("1.fc.weight", lambda w: w.to("meta")), ["1.fc.weight"]),
    "missing": (without("1.fc.bias", "1.fc.weight"), ["2 keys missing", "1.fc.bias, 1.fc.weight"]),
    "many missing": (lambda state: {WEIGHT: state[WEIGHT]}, ["keys missing", "1.bn1.bias", ", ..."]),
    "extra": (lambda state: {**state, "1.head": torch.ones(1)}, ["1 keys not of this network", "1.head"]),
    "two prefixes": (lambda state: {**state, "ema." + WEIGHT: state[WEIGHT]}, ["1 keys not of", "ema." + WEIGHT]),
}


@pytest.mark.parametrize("change, words", BAD_STATES.values(), ids=BAD_STATES)
def test_states_that_do_not_fit(tmp_path, change, words):
    """Every tensor has to be there, of the network's shape and kind, and finite; else its name is said."""
    assert_refuses(fake_checkpoint(tmp_path / "c", change=change), *words)


@pytest.mark.parametrize("content", [
    [1, 2], torch.ones(3), {"state_dict": {}}, {"arch": 20, "state_dict": {}}, {"arch": "cifar_resnet20"},
    {"arch": "cifar_resnet20", "state_dict": [1]}, {"arch": "cifar_resnet20", "state_dict": {1: torch.ones(1)}}, None],
    ids=str)
def test_other_contents(tmp_path, content):
    """Any other thing that torch.save writes."""
    torch.save(content, tmp_path / "c")
    assert_refuses(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"PK\3\4", b"\x80\2}q\0."])
def test_other_files(tmp_path, content):
    """Empty, text, the beginning of a zip archive, pickles."""
    (tmp_path / "c").write_bytes(content)
    assert_refuses(tmp_path / "c")


# --- any bytes --------------------------------------------------------------------------------------------------------

def small_file(zip_format):
    """A checkpoint of a few hundred bytes, which can be read but fits no network."""
    buffer = io.BytesIO()
    state = {"1.fc.weight": torch.ones(2, 3), "1.count": torch.tensor(1)}
    torch.save({"arch": "cifar_resnet20", "state_dict": state, "epoch": 3}, buffer,
               _use_new_zipfile_serialization=zip_format)
    return buffer.getvalue()


SMALL = [small_file(True), small_file(False)]
NETWORK = random_network()


def check_any_file(path, data):
    """Whatever is in the file: it is read as a dictionary or refused in one line, never run or changed."""
    path.write_bytes(data)
    # building a network takes longer than all the rest
    with patch("certconf.inputs.architectures.build_network", lambda arch, dataset: NETWORK):
        assert_refuses(path)
    assert path.read_bytes() == data
    try:
        read_file(str(path))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY, marks=pytest.mark.long)])
def test_any_bytes(tmp_path, examples):
    """No string of bytes gets past the reader, with the beginning of a checkpoint or without."""
    @given(st.binary(max_size=400), st.sampled_from([b"", b"PK\3\4", SMALL[0][:300], SMALL[1][:100], b"\x80\2"]))
    @settings(max_examples=examples, deadline=None, derandomize=examples == EXAMPLES)
    def check(data, beginning):
        check_any_file(tmp_path / "c", beginning + data)

    check()


def mutated(data, seed):
    """A file with some bytes replaced, removed, doubled, or its end cut off."""
    chance, data = random.Random(seed), bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at, length = chance.randrange(len(data)), chance.choice([1, 1, 2, 8, 64])
        kind = chance.randrange(4)
        if kind == 0:
            data[at:at + length] = chance.randbytes(length)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2 and len(data) > 2 * length:
            del data[at:at + length]
        else:
            data[at:at] = data[at:at + length]
    return bytes(data[:chance.randrange(len(data))] if chance.random() < 0.1 else data)


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY, marks=pytest.mark.long)])
def test_damaged_files(tmp_path, examples):
    """Damaged checkpoints in both serialisations."""
    for seed in range(examples):
        check_any_file(tmp_path / "c", mutated(SMALL[seed % 2], seed))
