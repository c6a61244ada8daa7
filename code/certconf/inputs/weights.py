"""Which tensors of a checkpoint are a network's weights, whatever the names they were saved under.

The weights may lie under any entry of the checkpoint, and their keys behind a prefix (`module.` of DataParallel,
`_orig_mod.` of torch.compile, `model.` of Lightning, `1.` of a Sequential with its normalisation in front, or several
of these). They fit if, with that one prefix off, the keys are exactly those of the network.
"""
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

import torch

from certconf.errors import InputError

AVERAGED = "n_averaged"  # the count of an AveragedModel, whose weights it stands beside
TRAINED = "trained_state_dict"  # by train.py: what a training goes on from where the network is its average
COUNT = "num_batches_tracked"  # of a BatchNorm, a float after .half() of all tensors; it has no part in eval mode
NO_WEIGHTS = "not a checkpoint with the weights of a network: no dictionary of tensors"
DEPTH = 3  # of dictionaries in which weights are looked for
DOTS = 16  # names that a prefix may consist of


@dataclass(frozen=True)
class Weights:
    """A dictionary of tensors in a checkpoint, under the entry `name`.

    prefix: what is taken off the keys of `state`; others: its keys without the prefix, so that two are not mixed.
    """

    name: str
    prefix: str
    state: dict
    others: list[str]

    def fits(self, expected: dict, optional: Set[str] = frozenset()) -> bool:
        """Whether the keys are those of a network's state_dict; the optional ones may be missing."""
        return not self.others and expected.keys() - optional <= self.state.keys() <= expected.keys()

    def has_shapes(self, expected: dict) -> bool:
        """Whether all shapes are those of the network, too."""
        return all(getattr(value, "shape", None) == expected[key].shape for key, value in self.state.items())

    def remarks(self, path: str) -> list[str]:
        """What was done to find them, but for what a checkpoint of train.py needs."""
        lines = [f"{path}: its weights are those under {self.name!r}"] if self.name not in ("", "state_dict") else []
        if self.prefix not in ("", "1."):
            lines.append(f"{path}: took the prefix {self.prefix!r} off the keys of its weights")
        return lines


def find_weights(path: str, content, arch: str, expected: dict, key: str | None = None,
                 optional: Set[str] = frozenset()) -> Weights:
    """The one dictionary of a checkpoint whose keys fit a network's state_dict, or the one under `key`.

    If none fits, the one that has most of its keys: check_state says what is wrong. Raises InputError if there is no
    dictionary of tensors, or none under `key`, or if several fit.
    """
    found = readings(content, expected)
    if key is not None:
        found = [weights for weights in found if weights.name == key]
    elif any(weights.name == "state_dict" for weights in found):
        found = [weights for weights in found if weights.name != TRAINED]
    if not found and key is None:
        raise InputError(f"{path}: {NO_WEIGHTS} in it")
    if not found:
        names = ", ".join(repr(name) for name in _dictionaries(content) if name)
        raise InputError(f"{path}: no weights under {key!r} in it" + (f", but under {names}" if names else ""))
    fitting = [weights for weights in found if weights.fits(expected, optional)]
    if len(fitting) > 1:
        fitting = [weights for weights in fitting if weights.has_shapes(expected)] or fitting
    if len(fitting) > 1:
        names = ", ".join(repr(weights.name) for weights in fitting)
        raise InputError(f"{path}: the weights under {names} all fit {arch}: pick one with --checkpoint_key")
    return fitting[0] if fitting else max(found, key=lambda weights: len(expected.keys() & weights.state.keys()))


def readings(content, expected: dict) -> list[Weights]:
    """Every dictionary of tensors in a checkpoint, with its keys behind the prefix after which most are expected."""
    return [_without_prefix(name, state, expected) for name, state in _dictionaries(content).items()]


def check_state(path: str, arch: str, weights: Weights, expected: dict) -> tuple[dict, list[str]]:
    """Weights that fit a network's state_dict exactly, in its types, and a remark if numbers were rounded.

    Raises InputError if a tensor is missing, is none of the network's, or has another shape or kind, NaN or infinity.
    """
    state = weights.state
    missing, extra = ([weights.prefix + key for key in sorted(keys)] for keys in (
        expected.keys() - state.keys(), state.keys() - expected.keys()))
    for keys, what, advice in ((missing, "missing", ""), (extra + weights.others, "not of this network",
                                                          "; save the weights without what is not of it")):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise InputError(f"{path}: does not fit {arch}: {len(keys)} keys {what} ({shown}){advice}")
    converted = {key: _converted(path, arch, weights.prefix + key, value, expected[key])
                 for key, value in state.items()}
    rounded = [value.dtype for key, value in state.items() if not torch.equal(value.double(), converted[key].double())]
    kinds = ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in rounded}))
    return converted, [f"{path}: {len(rounded)} of its {len(state)} tensors are {kinds}, and were rounded to float32"
                       ] if rounded else []


def _converted(path: str, arch: str, key: str, value, expected: torch.Tensor) -> torch.Tensor:
    """A tensor in the type that the network has it in. Raises InputError."""
    if not isinstance(value, torch.Tensor) or value.shape != expected.shape:
        shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"{path}: does not fit {arch}: {key} is {shape}, not {list(expected.shape)}")
    same_kind = value.is_floating_point() == expected.is_floating_point() or key.endswith(COUNT)
    if not same_kind or value.is_complex() or value.is_meta or value.layout != torch.strided:
        raise InputError(f"{path}: does not fit {arch}: {key} is of type {value.dtype}, {value.layout}")
    converted = value.to(expected.dtype)
    if not torch.isfinite(value.double()).all() or not torch.isfinite(converted.double()).all():
        raise InputError(f"{path}: {key} holds NaN or infinite numbers")
    return converted


def _dictionaries(content, name: str = "", depth: int = DEPTH) -> dict[str, dict]:
    """Every dictionary with names for keys, and a tensor in it, by its place: `model`, or `ema.state_dict`."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return {}
    found = {name: content} if any(isinstance(value, torch.Tensor) for value in content.values()) else {}
    if depth:
        for key, value in content.items():
            found |= _dictionaries(value, f"{name}.{key}" if name else key, depth - 1)
    return found


def _without_prefix(name: str, state: dict, expected: dict) -> Weights:
    """A dictionary with the prefix off its keys after which most of them are the network's."""
    state = {key: value for key, value in state.items() if key.rpartition(".")[2] != AVERAGED}
    votes = Counter()
    for key in state:
        parts = key.split(".", DOTS)
        votes.update(key[:len(key) - len(rest)] for rest in (".".join(parts[k:]) for k in range(len(parts)))
                     if rest in expected)
    prefix = max(votes, key=votes.get, default="")
    return Weights(name, prefix, {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)},
                   [key for key in state if not key.startswith(prefix)])
