"""What a base classifier is asked before it is sampled: is it one fixed function of an image?

A certificate is about the expected score of one function, from independent samples. So a row of logits may depend on
its own image alone: neither on what was computed before, nor on the other images of the batch. A network whose draws
are random on purpose is one fixed random function of an image if they are each image's own.
"""
from collections.abc import Callable, Mapping

import torch

from certconf.errors import BadNetwork

# By how much a logit may change, as a share of the largest (each less the mean of its row): about ten roundings of the
# type, in fp32 a thousand, since other places in a batch may meet other instructions. docs/own_network.md has measured
# changes: 0 to 3e-7. A network that depends on its batch or its calls changes by far more.
ROUNDING = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 0.04}
# by how much a compiled network's softmax may differ from the eager one's in the same precision
COMPILED = {"fp32": 0.01, "tf32": 0.01, "fp16": 0.05, "bf16": 0.05}


def logits_of(output, count: int) -> torch.Tensor:
    """The logits [count, classes] in what a network gives for `count` images: itself, or its `logits` (Hugging Face).

    Raises BadNetwork for anything else.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, tuple | list):
        raise BadNetwork(f"gives a {type(found).__name__} of {len(found)}, not logits: wrap it in a torch.nn.Module "
                         "whose forward is `return self.network(x)[0]`, if its logits come first")
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != count:
        shape = list(found.shape) if isinstance(found, torch.Tensor) else type(output).__name__
        raise BadNetwork(f"gives {shape} for {count} images, not logits [{count}, classes]: one row each")
    return found


def changes(run: Callable[[torch.Tensor], torch.Tensor], noisy: torch.Tensor, random: bool) -> tuple[float, float]:
    """How much `run`, from images to logits, changes the rows of the same images [B, C, H, W].

    First at a second call, then in another place among other companions, whose pixels are all at least 0.5 away: as a
    share of the largest logit, each less the mean of its row. random: the places stay, and all calls begin at one state
    of PyTorch's generators, so that each place has the same draws.
    """
    first, again = (_seeded(run, noisy, seed=0 if random else call) for call in range(2))
    kept = (len(noisy) + 1) // 2
    mixed = noisy.clone()
    mixed[:kept] = noisy[:kept] if random else noisy[:kept].flip(0)
    mixed[kept:] = (noisy[kept:] < 0.5).float()
    rows = _seeded(run, mixed, seed=0)[:kept]
    return _change(first, again), _change(first[:kept], rows if random else rows.flip(0))


def check_network(run: Callable[[torch.Tensor], torch.Tensor], noisy: torch.Tensor, precision: str,
                  random: bool) -> list[str]:
    """Raise BadNetwork if a network changes its rows by more than rounding; arguments: see `changes`.

    random: it may draw at random, for each image alone. Returns a line if its draws do not come from PyTorch's
    generators alone, so that companions and draws cannot be told apart.
    """
    between_calls, with_companions = changes(run, noisy, random)
    if random and between_calls > ROUNDING[precision]:
        return ["its random draws do not come from PyTorch's generators alone: whether a row of logits depends on the "
                "other images of its batch was not checked"]
    if between_calls > ROUNDING[precision]:
        raise BadNetwork(f"its logits for the same images change between calls, by {between_calls:.2g} of the largest: "
                         "a certificate is about one fixed function of an image; if it is random on purpose, with "
                         "draws that are each image's own, --random_network says so")
    if with_companions > ROUNDING[precision]:
        raise BadNetwork(f"its logits for an image change with its companions in the batch, by {with_companions:.2g} "
                         "of the largest: the samples would not be independent")
    return []


def check_compiled(compiled: torch.Tensor, eager: torch.Tensor, precision: str) -> list[str]:
    """A line if the softmax of a compiled network's logits differs from the eager one's by more than rounding."""
    difference = float((compiled.float().softmax(1) - eager.float().softmax(1)).abs().nan_to_num(0.0).max())
    if difference <= COMPILED[precision]:
        return []
    return [f"the compiled network's softmax differs from the eager one's by up to {difference:.2g} at the first noisy "
            "images: the certificates are about the compiled network; without --compile, about the other"]


def _seeded(run: Callable, images: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return run(images).clone()  # a CUDA graph writes the next result in its place


def _change(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest change of a logit, less the mean of its row, as a share of the largest; infinite if a NaN appears."""
    before, after = (logits.double() - logits.double().mean(1, keepdim=True) for logits in (before, after))
    finite = torch.isfinite(before)
    if not torch.equal(finite, torch.isfinite(after)):
        return float("inf")
    if not finite.any():
        return 0.0
    change, largest = (before - after)[finite].abs().max(), before[finite].abs().max()
    return float(change / largest) if change > 0 else 0.0
