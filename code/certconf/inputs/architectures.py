"""Architectures by name, and checkpoints: dictionaries with `arch` and `state_dict`.

A network is Sequential(Normalize, net), so that noise is added in pixel space [0, 1] and the keys of a state_dict
start with `1.` (or `1.module.` if it was trained under DataParallel). A torchvision network comes as a plain state_dict
(`--arch torchvision:NAME`), any other one from a function of the user's own, FILE.py:NAME.
"""
import pickle
import re
import warnings

import torch
import torchvision
from torch import nn
from torchvision.models import resnet50

from certconf.errors import InputError
from certconf.files import file_sha256
from certconf.inputs.catalogue import DATASET_OF, INFO
from certconf.inputs.cifar_resnet import CifarResNet
from certconf.inputs.user_code import call, is_user_code, reported

ARCHITECTURES = {
    "resnet50": lambda classes: resnet50(weights=None, num_classes=classes),
    "cifar_resnet20": lambda classes: CifarResNet(20, classes),
    "cifar_resnet110": lambda classes: CifarResNet(110, classes),
}
RESIDUAL_BLOCK = re.compile(r"1\.layer\d\.\d+\.")  # how the keys of one begin
TORCHVISION = "torchvision:"  # how --arch names a classifier of torchvision


class Normalize(nn.Module):
    """(x - mean) / std per channel, for pixels [B, C, H, W] in [0, 1]. It adds nothing to a state_dict."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def build_network(arch: str, dataset: str) -> nn.Sequential:
    """An untrained network for a data set, with its normalisation layer. Raises InputError for a wrong pair."""
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown architecture {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    if DATASET_OF[arch] != dataset:
        raise InputError(f"{arch} is a network for {DATASET_OF[arch]}, not for {dataset}")
    info = INFO[dataset]
    return nn.Sequential(Normalize(info.mean, info.std), ARCHITECTURES[arch](info.num_classes))


def load_checkpoint(path: str, dataset: str) -> tuple[nn.Sequential, dict]:
    """The trained network in `path`, in eval mode on the CPU, and the checkpoint's dictionary.

    The file is untrusted: only tensors and plain containers are unpickled, and the state must fit the architecture
    exactly and be finite. Raises InputError otherwise.
    """
    checkpoint = read_checkpoint(path)
    arch = checkpoint["arch"]
    network = build_network(arch, DATASET_OF.get(arch) if is_user_code(dataset) else dataset)
    load_state(path, checkpoint, network)
    return network.eval(), checkpoint


def load_torchvision(path: str, arch: str, dataset: str) -> tuple[nn.Sequential, dict]:
    """The classifier torchvision:NAME for cifar10 or imagenet, with the plain state_dict in `path`, in eval mode.

    It is normalised as the data set is. Returns what load_checkpoint does. Raises InputError.
    """
    name = arch.removeprefix(TORCHVISION)
    if not arch.startswith(TORCHVISION) or name not in torchvision.models.list_models(torchvision.models):
        raise InputError(f"--arch {arch}: not {TORCHVISION}NAME with a classifier of torchvision")
    if dataset not in INFO:
        raise InputError("--arch: DATASET must be cifar10 or imagenet, whose normalisation it uses; for other data "
                         "FILE.py:NAME brings network and normalisation")
    info = INFO[dataset]
    network = torchvision.models.get_model(name, weights=None, num_classes=info.num_classes)
    state = _read_file(path)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: not a state_dict")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    _check_state(path, arch, state, network.state_dict())
    network.load_state_dict(state)
    return nn.Sequential(Normalize(info.mean, info.std), network).eval(), {"arch": arch}


def load_user_network(name: str) -> nn.Module:
    """The module that FILE.py:NAME returns, in eval mode and float32 on the CPU. Raises InputError."""
    network = call(name)
    if not isinstance(network, nn.Module):
        raise InputError(f"{name}: returned {type(network).__name__}, not a torch.nn.Module")
    with reported(name):
        return network.to("cpu", torch.float32).eval()


def count_classes(name: str, network: nn.Module, x: torch.Tensor) -> int:
    """The number of logits that a network (called `name`) gives an image x [C, H, W]. Raises InputError if none."""
    with reported(name), torch.no_grad():
        logits = network(x[None])
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"{name}: gives {shape} for one image, not logits [1, classes] of two classes or more")
    return logits.shape[1]


def load_state(path: str, checkpoint: dict, network: nn.Module) -> None:
    """Load a checkpoint's weights into a network that they must fit exactly. Raises InputError."""
    state = {_plain_key(key): value for key, value in checkpoint["state_dict"].items()}
    _check_state(path, checkpoint["arch"], state, network.state_dict())
    network.load_state_dict(state)


def initialise(path: str, network: nn.Module) -> str:
    """Give a network the weights in `path`, of its architecture or of a shallower CifarResNet; returns their SHA-256.

    Blocks that the checkpoint lacks become the identity: the weight of their last BatchNorm is 0, and what enters them
    comes from a ReLU. So the deeper network computes what the shallower one did. Raises InputError if it does not fit.
    """
    checkpoint = read_checkpoint(path)
    state = {_plain_key(key): value for key, value in checkpoint["state_dict"].items()}
    own = network.state_dict()
    there = {_block(key) for key in state}
    added = {key: value for key, value in own.items() if _block(key) and _block(key) not in there}
    for key, value in added.items():
        if key.endswith(("bn2.weight", "bn2.bias")):
            added[key] = torch.zeros_like(value)
    _check_state(path, checkpoint["arch"], added | state, own)
    network.load_state_dict(added | state)
    return file_sha256(path)


def read_checkpoint(path: str) -> dict:
    """The dictionary in `path`, checked for `arch` and `state_dict` alone. Raises InputError."""
    checkpoint = _read_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("arch"), str):
        raise InputError(f"{path}: not a dictionary with an 'arch'")
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: no 'state_dict' in it")
    return checkpoint


def _read_file(path: str):
    """What torch.save wrote to `path`, of tensors and plain containers. Raises InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the old serialisation, which stays readable
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a checkpoint of tensors and plain containers (its code is never run)") from None
    except Exception as error:  # torch.load's parsers raise almost any type on a damaged file
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None


def _plain_key(key: str) -> str:
    return "1." + key[len("1.module."):] if key.startswith("1.module.") else key


def _block(key: str) -> str | None:
    """The residual block that a key of a state_dict belongs to, or None."""
    match = RESIDUAL_BLOCK.match(key)
    return match and match[0]


def _check_state(path: str, arch: str, state: dict, expected: dict) -> None:
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    for keys, what in ((missing, "missing"), (extra, "not of this network")):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise InputError(f"{path}: does not fit {arch}: {len(keys)} keys {what} ({shown})")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.shape != expected[key].shape:
            shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise InputError(f"{path}: does not fit {arch}: {key} is {shape}, not {list(expected[key].shape)}")
        if (value.is_floating_point() != expected[key].is_floating_point() or value.is_meta
                or value.layout != torch.strided):
            raise InputError(f"{path}: does not fit {arch}: {key} is of type {value.dtype}, {value.layout}")
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise InputError(f"{path}: {key} holds NaN or infinite numbers")
