"""Networks: architectures by name, with the weights of a file, and modules of the user's own code.

A network is Sequential(Normalize, net), so that noise is added in pixel space [0, 1]. The net is one of ARCHITECTURES,
torchvision:NAME, timm:NAME, or what the user's own FILE.py:NAME stands for, which brings its normalisation.
"""
import re
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from certconf.errors import BadNetwork, InputError
from certconf.files import file_sha256
from certconf.inputs.catalogue import DATASET_OF, INFO
from certconf.inputs.checkpoints import read_file
from certconf.inputs.cifar_resnet import CifarResNet
from certconf.inputs.user_code import as_input_error, call, is_user_code
from certconf.inputs.weights import NO_WEIGHTS, check_state, find_weights, readings
from certconf.sampling.checks import logits_of
from certconf.sampling.sampler import in_eval_mode


def _resnet50(classes: int) -> nn.Module:
    from torchvision.models import resnet50  # only here: torchvision takes seconds to load
    return resnet50(weights=None, num_classes=classes)


ARCHITECTURES = {
    "resnet50": _resnet50,
    "cifar_resnet20": lambda classes: CifarResNet(20, classes),
    "cifar_resnet110": lambda classes: CifarResNet(110, classes),
}
RESIDUAL_BLOCK = re.compile(r"layer\d\.\d+\.")  # how the keys of one begin
TORCHVISION, TIMM = "torchvision:", "timm:"  # how --arch names a classifier of these packages
CHOICES = ", ".join([*ARCHITECTURES, f"{TORCHVISION}NAME", f"{TIMM}NAME"])


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
        raise InputError(f"unknown architecture {arch!r}: choose from {CHOICES}")
    if DATASET_OF[arch] != dataset:
        raise InputError(f"{arch} is a network for {DATASET_OF[arch]}, not for {dataset}")
    info = INFO[dataset]
    return nn.Sequential(Normalize(info.mean, info.std), ARCHITECTURES[arch](info.num_classes))


def load_checkpoint(path: str, dataset: str, arch: str | None = None,
                    key: str | None = None) -> tuple[nn.Sequential, dict]:
    """The trained network in `path`, in eval mode on the CPU, and the checkpoint's dictionary.

    arch: one of ARCHITECTURES, torchvision:NAME or timm:NAME (default: the checkpoint's own); key: the checkpoint's
    entry that holds the weights (default: the one that fits). The file is untrusted, and read as data. The dictionary
    holds what the checkpoint does, `arch`, and `remarks`: lines that say what was done to make it fit. Raises
    InputError if it does not fit exactly, or if a weight is not finite.
    """
    content = read_file(path)
    arch = arch or _its_arch(path, content, dataset)
    if arch.startswith(TIMM):
        network = _timm_network(path, content, arch, key)
    elif arch.startswith(TORCHVISION):
        network = _torchvision_network(arch, dataset)
    else:
        network = build_network(arch, DATASET_OF.get(arch) if is_user_code(dataset) else dataset)
    remarks = load_state(path, content, network, arch, key)
    held = content if isinstance(content, dict) else {}
    return network.eval(), {**held, "arch": arch, "remarks": remarks}


def load_state(path: str, content, network: nn.Sequential, arch: str, key: str | None = None) -> list[str]:
    """Load the weights in a checkpoint's content into Sequential(Normalize, net), whose net they must fit exactly.

    Returns remarks: lines that say what was done to make them fit. Raises InputError.
    """
    normalize, net = network
    expected = net.state_dict()
    weights = find_weights(path, content, arch, expected, key)
    state, rounded = check_state(path, arch, weights, expected)
    net.load_state_dict(state)
    remarks = weights.remarks(path) + rounded
    if "1" not in weights.prefix.split("."):  # it was not the second module of a Sequential, behind its normalisation
        mean, std = (", ".join(f"{value:.4g}" for value in values.flatten().tolist())
                     for values in (normalize.mean, normalize.std))
        remarks.append(f"{path}: the network alone: its pixels are normalised by mean ({mean}) and standard deviation "
                       f"({std}); if it was trained with others, give it as FILE.py:NAME")
    return remarks


def initialise(path: str, network: nn.Sequential, key: str | None = None) -> tuple[str, list[str]]:
    """Give a network the weights in `path`, of its architecture or of a shallower CifarResNet.

    Blocks that the checkpoint lacks become the identity: the weight of their last BatchNorm is 0, and what enters them
    comes from a ReLU. So the deeper network computes what the shallower one did. Returns the file's SHA-256, and
    remarks as load_state does. Raises InputError if it does not fit.
    """
    net, name = network[1], "the network to be trained"
    expected = net.state_dict()
    block_of = {key: match[0] for key in expected if (match := RESIDUAL_BLOCK.match(key))}
    weights = find_weights(path, read_file(path), name, expected, key, optional=block_of.keys())
    there = {block_of.get(key) for key in weights.state}
    added = {key: torch.zeros_like(expected[key]) if key.endswith(("bn2.weight", "bn2.bias")) else expected[key]
             for key, block in block_of.items() if block not in there}
    state, rounded = check_state(path, name, replace(weights, state=added | weights.state), expected)
    net.load_state_dict(state)
    return file_sha256(path), weights.remarks(path) + rounded


def _its_arch(path: str, content, dataset: str) -> str:
    """The architecture that a checkpoint names. Raises InputError, with the one that fits, if it is none of ours."""
    named = content.get("arch") if isinstance(content, dict) else None
    if isinstance(named, str) and named in ARCHITECTURES:
        return named
    what = f"unknown architecture {named[:40]!r}" if isinstance(named, str) else "names no architecture"
    for arch, build in ARCHITECTURES.items():
        if dataset == DATASET_OF[arch] or is_user_code(dataset):
            with torch.device("meta"):
                expected = build(INFO[DATASET_OF[arch]].num_classes).state_dict()
            if any(weights.fits(expected) and weights.has_shapes(expected) for weights in readings(content, expected)):
                raise InputError(f"{path}: {what}, but its weights fit --arch {arch}")
    if not readings(content, {}):
        raise InputError(f"{path}: {NO_WEIGHTS} in it")
    raise InputError(f"{path}: {what}: choose one by --arch: {CHOICES}")


def _torchvision_network(arch: str, dataset: str) -> nn.Sequential:
    """The untrained classifier torchvision:NAME for cifar10 or imagenet, and the data set's normalisation."""
    from torchvision import models
    name = arch.removeprefix(TORCHVISION)
    if name not in models.list_models(models):
        raise InputError(f"--arch {arch}: not {TORCHVISION}NAME with a classifier of torchvision")
    if dataset not in INFO:
        raise InputError("--arch: DATASET must be cifar10 or imagenet, whose normalisation it uses; for other data "
                         "FILE.py:NAME brings network and normalisation")
    info = INFO[dataset]
    return nn.Sequential(Normalize(info.mean, info.std),
                         models.get_model(name, weights=None, num_classes=info.num_classes))


def _timm_network(path: str, content, arch: str, key: str | None) -> nn.Sequential:
    """The untrained classifier timm:NAME, of as many classes as its weights have, and its own normalisation."""
    try:
        import timm  # only here: it takes seconds, and few need it
    except ImportError:
        raise InputError(f"--arch {arch}: needs the package timm: pip install timm") from None
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):
        raise InputError(f"--arch {arch}: timm has no network of this name")
    try:
        net = timm.create_model(name, pretrained=False)
    except Exception as error:  # of a tag that it does not know, or a package that the network needs
        raise InputError(f"--arch {arch}: {type(error).__name__}: {error}") from None
    config, layer = timm.data.resolve_model_data_config(net), net.pretrained_cfg.get("classifier")
    weight = f"{layer if isinstance(layer, str) else layer[0]}.weight" if layer else None
    found = find_weights(path, content, arch, net.state_dict(), key).state.get(weight)
    if isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) != net.num_classes:
        net.reset_classifier(len(found))
    return nn.Sequential(Normalize(config["mean"], config["std"]), net)


def load_user_network(name: str) -> nn.Module:
    """The module that FILE.py:NAME stands for, in eval mode and float32 on the CPU. Raises InputError.

    A program of torch.export, whose mode is fixed, is taken as it is.
    """
    network = call(name)
    if isinstance(network, torch.export.ExportedProgram):
        network = network.module()
    if not isinstance(network, nn.Module):
        raise InputError(f"{name}: is {type(network).__name__}, not a torch.nn.Module")
    with as_input_error(name):
        network = network.to("cpu", torch.float32)
        in_eval_mode(network)
        return network


def count_classes(name: str, network: nn.Module, x: torch.Tensor) -> int:
    """The number of logits that a network (called `name`) gives an image x [C, H, W].

    Raises InputError if it gives none, or if it takes batches of one size only.
    """
    with as_input_error(name), torch.no_grad():
        try:
            output = network(x[None])
            network(x.expand(3, -1, -1, -1))
        except Exception:
            if size := _only_size(network, x):
                raise InputError(f"{name}: takes batches of {size} image{'s' * (size > 1)} only: export it with a "
                                 "dynamic batch (torch.export.Dim), or trace it without fixed shapes") from None
            raise
    try:
        logits = logits_of(output, 1)
    except BadNetwork as error:
        raise InputError(f"{name}: {error}") from None
    if logits.shape[1] < 2:
        raise InputError(f"{name}: gives {list(logits.shape)} for one image, not logits of two classes or more")
    return logits.shape[1]


def _only_size(network: nn.Module, x: torch.Tensor) -> int | None:
    """The one size of batches that a network takes, of some usual ones; None if it takes none or several.

    Sizes above 3 only for programs, which refuse another one at once.
    """
    fitting, program = [], isinstance(network, torch.fx.GraphModule | torch.jit.ScriptModule)
    for size in (1, 2, 3, *((4, 8, 16, 32, 64, 128, 256) if program else ())):
        with suppress(Exception):
            network(x.expand(size, -1, -1, -1))
            fitting.append(size)
        if len(fitting) > 1:
            return None
    return fitting[0] if fitting else None
