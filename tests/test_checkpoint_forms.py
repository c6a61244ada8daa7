"""Checkpoints as people have them: what fits is loaded, and said; what does not is refused with what to do."""
import argparse
import collections
import datetime
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from certify_runs import OPTIONS, call_program, certify
from helpers import CERTIFY, assert_refused, random_network, read_rows, without_time

from certconf.errors import InputError
from certconf.inputs.architectures import Normalize, load_checkpoint
from certconf.inputs.catalogue import INFO
from certconf.inputs.checkpoints import LIGHTNING

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ARCH = "cifar_resnet20"
NETWORK = random_network()
STATE = NETWORK.state_dict()
BARE = NETWORK[1].state_dict()


def under(prefix, state=None):
    return {prefix + key: value for key, value in (STATE if state is None else state).items()}


def load(folder, content, arch=ARCH, key=None, dataset="cifar10"):
    """The network in a file with this content, and the remarks, without the path that each begins with."""
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    network, checkpoint = load_checkpoint(str(path), dataset, arch, key)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in checkpoint["remarks"])
    return network, [line.removeprefix(f"{path}: ") for line in checkpoint["remarks"]]


def refusal(folder, content, arch=ARCH, key=None, dataset="cifar10"):
    with pytest.raises(InputError) as error:
        load(folder, content, arch, key, dataset)
    message = str(error.value)
    assert message.startswith(f"{folder / 'checkpoint.pth'}: ") and "\n" not in message
    return message


def assert_same(network, expected=NETWORK):
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(IMAGES), expected(IMAGES))


# --- keys -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.net."])
def test_keys_behind_a_prefix(prefix, tmp_path):
    """Of the network with its normalisation in front, and of the network alone, which gets the data set's.

    Or the inner network alone was compiled, or parallel.
    """
    network, remarks = load(tmp_path, under(prefix))
    assert_same(network)
    assert remarks == [f"took the prefix '{prefix}1.' off the keys of its weights"]
    network, (taken, normalised) = load(tmp_path, under(prefix, BARE))
    assert_same(network)
    assert f"'{prefix}'" in taken and "normalised by mean (0.4914, 0.4822, 0.4465)" in normalised
    assert "deviation (0.2023, 0.1994, 0.201)" in normalised
    network, (remark,) = load(tmp_path, under(f"1.{prefix}", BARE))
    assert_same(network)
    assert f"'1.{prefix}'" in remark


def test_an_averaged_network(tmp_path):
    """The count beside its weights is none of them."""
    average = torch.optim.swa_utils.AveragedModel(NETWORK)
    assert "n_averaged" in average.state_dict()
    network, (remark,) = load(tmp_path, {"arch": ARCH, "state_dict": average.state_dict()}, None)
    assert_same(network)
    assert "'module.1.'" in remark


def test_two_prefixes_do_not_mix(tmp_path):
    """A key of another prefix is no key of this network, even if it would fill a gap."""
    state = under("module.")
    state["1.fc.bias"] = state.pop("module.1.fc.bias")
    assert "1 keys missing (module.1.fc.bias)" in refusal(tmp_path, state)
    assert "(1.fc.bias)" in refusal(tmp_path, {**under("module."), "1.fc.bias": STATE["1.fc.bias"]})


# --- architectures ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, what", [
    (STATE, "names no architecture"), ({"state_dict": STATE}, "names no architecture"),
    ({"arch": "resnet20", "state_dict": STATE}, "unknown architecture 'resnet20'"),
    ({"arch": None, "net": BARE}, "names no architecture")])
def test_a_way_out(content, what, tmp_path):
    """The refusal names the architecture that fits; with it the file loads."""
    assert refusal(tmp_path, content, None).endswith(f"{what}, but its weights fit --arch cifar_resnet20")
    assert_same(load(tmp_path, content)[0])


def test_no_architecture_of_ours(tmp_path):
    message = refusal(tmp_path, {"state_dict": {"weight": torch.ones(2)}}, None)
    assert message.endswith("choose one by --arch: resnet50, cifar_resnet20, cifar_resnet110, torchvision:NAME, "
                            "timm:NAME")
    assert "does not fit cifar_resnet110" in refusal(tmp_path, STATE, "cifar_resnet110")
    assert "for imagenet, not for cifar10" in str(pytest.raises(InputError, load, tmp_path, STATE, "resnet50").value)
    assert "unknown architecture 'none'" in str(pytest.raises(InputError, load, tmp_path, STATE, "none").value)


# --- weights under another key ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["model", "ema"])
def test_weights_under_another_key(name, tmp_path):
    """Beside an optimizer's state, and numbers."""
    optimizer = torch.optim.Adam(NETWORK.parameters()).state_dict()
    network, (remark,) = load(tmp_path, {name: STATE, "optimizer": optimizer, "acc": 74.9, "best": torch.tensor(3.0)})
    assert_same(network)
    assert remark == f"its weights are those under '{name}'"
    assert_same(load(tmp_path, {"checkpoint": {name: STATE}})[0])


def test_several_fit(tmp_path):
    """The user picks one. What train.py --resume needs beside an average is none to pick, nor are other shapes."""
    other = random_network(seed=1)
    content = {"state_dict": STATE, "state_dict_ema": other.state_dict(), "epoch": 3}
    message = refusal(tmp_path, content)
    assert "'state_dict', 'state_dict_ema'" in message and "--checkpoint_key" in message
    assert_same(load(tmp_path, content, key="state_dict")[0])
    assert_same(load(tmp_path, content, key="state_dict_ema")[0], other)
    assert "no weights under 'epoch' in it, but under 'state_dict', 'state_dict_ema'" in refusal(
        tmp_path, content, key="epoch")
    network, remarks = load(tmp_path, {"state_dict": STATE, "trained_state_dict": other.state_dict()})
    assert_same(network)
    assert not remarks
    another_head = {**STATE, "1.fc.weight": torch.ones(100, 64), "1.fc.bias": torch.ones(100)}
    assert_same(load(tmp_path, {"coarse": STATE, "fine": another_head})[0])


# --- other things beside the weights ----------------------------------------------------------------------------------

BESIDE = {
    "NumPy's numbers": {"acc": np.float64(74.9), "epoch": np.int64(3), "curve": np.arange(3.0)},
    "a namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("x"), started=datetime.datetime(2026, 1, 1)),
    "a dictionary with a default": collections.defaultdict(list, a=[1]),
}


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_things_beside_the_weights(beside, zip_format, tmp_path):
    """They are data, and stand aside."""
    torch.save({"arch": ARCH, "state_dict": STATE, "args": beside}, tmp_path / "c",
               _use_new_zipfile_serialization=zip_format)
    network, checkpoint = load_checkpoint(str(tmp_path / "c"), "cifar10")
    assert_same(network)
    assert not checkpoint["remarks"]


@pytest.mark.parametrize("module, name, base", [
    *((module, "AttributeDict", dict) for module in LIGHTNING), ("numpy.core.multiarray", "scalar", object),
    ("pathlib._local", "PosixPath", object)])
def test_classes_of_packages_that_are_not_here(module, name, base, tmp_path, monkeypatch):
    """Lightning's, older NumPy's and newer Python's: by name alone, and nothing of them is run."""
    def forbidden(*args):
        raise AssertionError("it is run")
    kind = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for path in (".".join(parts[:k + 1]) for k in range(len(parts))):
        if path not in sys.modules or path == module:
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    setattr(sys.modules[module], name, kind)
    torch.save({"arch": ARCH, "state_dict": STATE, "beside": kind()}, tmp_path / "c")
    kind.__init__ = kind.__setstate__ = forbidden
    assert_same(load_checkpoint(str(tmp_path / "c"), "cifar10")[0])


class Config:
    """A class of somebody's own."""


class Own(torch.nn.Module):
    """A network of somebody's own."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)


@pytest.mark.parametrize("zip_format", [True, False])
def test_any_other_class_is_named(zip_format, tmp_path):
    """With the command that saves the weights alone, which does so."""
    path = tmp_path / "c.pth"
    torch.save({"arch": ARCH, "state_dict": STATE, "cfg": Config()}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(InputError) as error:
        load_checkpoint(str(path), "cifar10")
    message = str(error.value)
    assert f"an object of {__name__}.Config" in message and "torch.save(torch.load(" in message
    saved = tmp_path / "weights.pth"
    code = message.split("python -c '")[1].rstrip("'").replace('"weights.pth"', f'"{saved}"')
    exec(code)
    assert_same(load_checkpoint(str(saved), "cifar10", ARCH)[0])


@pytest.mark.parametrize("network, name", [(torchvision.models.resnet18(num_classes=2), "ResNet"), (Own(), "Own")])
def test_a_whole_module(network, name, tmp_path):
    """The pickled network itself; its state_dict is what can be read."""
    message = refusal(tmp_path, network)
    assert "a whole pickled module" in message and f".{name})" in message and ".state_dict()" in message


# --- precisions -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype, tmp_path):
    """All become float32. float64 is rounded, and that is said; the counts of BatchNorm may be floats, too."""
    state = {key: value.to(dtype) for key, value in STATE.items()}
    assert not load(tmp_path, state)[1]
    if dtype == torch.float64:
        state = {key: value + 1e-12 if key.endswith("fc.weight") else value for key, value in state.items()}
        assert load(tmp_path, state)[1] == [f"1 of its {len(state)} tensors are float64, and were rounded to float32"]
    network, _ = load(tmp_path, state)
    for key, value in network.state_dict().items():
        assert value.dtype == STATE[key].dtype and torch.equal(value, STATE[key].to(dtype).to(value.dtype))


# --- files of other kinds ---------------------------------------------------------------------------------------------

def test_safetensors(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(BARE, path)
    assert_same(load_checkpoint(str(path), "cifar10", ARCH)[0])
    with pytest.raises(InputError, match="fit --arch cifar_resnet20"):
        load_checkpoint(str(path), "cifar10")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="not a readable file of safetensors"):
        load_checkpoint(str(path), "cifar10", ARCH)
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as where it is not installed
    with pytest.raises(InputError, match="pip install safetensors"):
        load_checkpoint(str(path), "cifar10", ARCH)


def torchscript(path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)


def exported(path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), path)


OTHERS = {
    "TorchScript": (torchscript, ["TorchScript", "torch.jit.load", "FILE.py:NAME"]),
    "torch.export": (exported, ["torch.export.load", "FILE.py:NAME"]),
    "ONNX": (b"\x08\x07\x12\x07pytorch", ["ONNX", "onnx2torch"]),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", ["git lfs pull"]),
    "HTML": (b"\n<!DOCTYPE html><html><title>Virus scan warning</title></html>", ["a web page", "browser"]),
    "gzip": (b"\x1f\x8b\x08\0", ["gzip", "unpack"]),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("content, words", OTHERS.values(), ids=OTHERS)
def test_files_of_other_kinds(content, words, tmp_path):
    """Each is named for what it is, and what to do instead."""
    path = tmp_path / "file.pt2"
    path.write_bytes(content) if isinstance(content, bytes) else content(os.fspath(path))
    with pytest.raises(InputError) as error:
        load_checkpoint(str(path), "cifar10", ARCH)
    for word in words:
        assert word in str(error.value)


# --- torchvision and timm ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def resnet18():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=10).eval()


def test_torchvision_forms(resnet18, tmp_path):
    """As saved by compiled and parallel networks, or with other entries; the data set's normalisation."""
    expected = torch.nn.Sequential(Normalize(INFO["cifar10"].mean, INFO["cifar10"].std), resnet18)
    state = resnet18.state_dict()
    for content in (state, under("_orig_mod.", state), {"epoch": 3, "state_dict": under("module.", state)}):
        assert_same(load(tmp_path, content, "torchvision:resnet18")[0], expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])  # whose last layers are fc and head.fc
def test_timm(name, tmp_path):
    """Its own normalisation (not ImageNet's), and as many classes as the weights have."""
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(name, num_classes=7).eval()
    for dataset in ("cifar10", "imagenet", "own.py:images"):
        network, (taken, normalised) = load(tmp_path, under("module.", net.state_dict()), f"timm:{name}", None, dataset)
        assert "'module.'" in taken and "mean (0.5, 0.5, 0.5)" in normalised
        assert_same(network, torch.nn.Sequential(Normalize((0.5,) * 3, (0.5,) * 3), net))


def test_timm_refusals(resnet18, tmp_path, monkeypatch):
    for arch, word in (("timm:none", "no network of this name"), ("timm:resnet34", "does not fit"),
                       ("timm:resnet18.no_such_tag", "Error")):
        assert word in str(pytest.raises(InputError, load, tmp_path, resnet18.state_dict(), arch).value)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        load(tmp_path, resnet18.state_dict(), "timm:resnet18")


# --- programs ---------------------------------------------------------------------------------------------------------

def test_a_run(tmp_path):
    """The remarks stand on stderr, not before a refusal, and the log is that of the plain checkpoint."""
    torch.save({"arch": ARCH, "state_dict": STATE}, tmp_path / "plain")
    torch.save({"model": under("module.", BARE), "ema": STATE}, tmp_path / "other")
    pick = ("--arch", ARCH, "--checkpoint_key", "model")

    def run(name, *options):
        return certify("cifar10", tmp_path / name, 0.25, tmp_path / f"{name}_log", *OPTIONS, "--max", 21, *options,
                       network="real")

    assert_refused(run("other"), "fit --arch cifar_resnet20")
    picked, plain = run("other", *pick), run("plain")
    assert (picked.returncode, plain.returncode) == (0, 0), picked.stderr
    for word in ("under 'model'", "'module.'", "normalised"):
        assert word in picked.stderr and word not in plain.stderr
    one, two = (without_time(read_rows(tmp_path / f"{name}_log")) for name in ("other", "plain"))
    assert one == two
    assert_refused(call_program(CERTIFY, "cifar10", "own.py:f", 0.25, tmp_path / "new", *pick[2:]), "own.py")
