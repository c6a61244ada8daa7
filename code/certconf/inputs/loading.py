"""What a run is about: a network and the images it is run on, named on a command line or given as Python objects."""
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from certconf.errors import InputError
from certconf.files import file_sha256
from certconf.inputs.architectures import count_classes, load_checkpoint, load_user_network
from certconf.inputs.datasets import ImageSet, open_images
from certconf.inputs.user_code import file_of, is_user_code
from certconf.sampling.streams import INDICES


@dataclass(frozen=True)
class Inputs:
    """A network of num_classes logits, an ImageSet, and the indices requested of it.

    settings: what a record says of them; trained_noise: that of the network's training, by its checkpoint, or None;
    remarks: lines that say what was done to load them.
    Raises InputError for an index that has no random numbers of its own.
    """

    network: nn.Module
    num_classes: int
    images: ImageSet
    indices: Sequence[int]
    settings: dict
    trained_noise: float | None = None
    remarks: Sequence[str] = ()

    def __post_init__(self):
        if self.indices and self.indices[-1] >= INDICES:
            raise InputError(f"--max: images {INDICES} and above have no random numbers of their own")


def load_inputs(args) -> Inputs:
    """What dataset, split, skip and max, and base_classifier and arch name. Raises InputError.

    Every process computes the hashes, so that they can be compared.
    """
    network, checkpoint = _load_network(args)
    images, indices = open_images(args.dataset, args.split, args.skip, args.max)
    settings = {"arch": checkpoint["arch"], "checkpoint_sha256": file_sha256(file_of(args.base_classifier)),
                "weights_sha256": weights_sha256(network)}
    if is_user_code(args.dataset):
        settings |= {"dataset_file_sha256": file_sha256(file_of(args.dataset)), "images_sha256": images.fingerprint()}
    config = checkpoint.get("config")
    trained = config.get("noise_sd") if isinstance(config, dict) else None
    return Inputs(network, count_classes(args.base_classifier, network, images.load(0)[0]), images, indices, settings,
                  trained if isinstance(trained, float) else None,
                  [*checkpoint.get("remarks", ()), *images.remarks])


def _load_network(args) -> tuple[nn.Module, dict]:
    """The network, and what is known of it: `arch`, and all else that its checkpoint holds. Raises InputError."""
    name = args.base_classifier
    if is_user_code(name):
        for option in ("arch", "checkpoint_key"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option} belongs to a file of weights, not to FILE.py:NAME")
        return load_user_network(name), {"arch": name}
    return load_checkpoint(name, args.dataset, args.arch, args.checkpoint_key)


def weights_sha256(network: nn.Module) -> str:
    """The SHA-256 of a state_dict: names, shapes, types and bytes of its tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not isinstance(value, torch.Tensor):  # what get_extra_state returns
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def modules_sha256(network: nn.Module) -> str:
    """The SHA-256 of what a state_dict lacks: the modules as they are printed, and every buffer's name and values.

    Attributes that are not printed, and the code of the modules, are not in it.
    """
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # an address differs from process to process
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(network.named_buffers()):
        digest.update(f"{name} {value.dtype} {value.tolist()}\n".encode())
    return digest.hexdigest()
