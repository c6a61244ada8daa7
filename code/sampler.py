"""Noisy forward passes: softmax of a base classifier at an image under noise, sample by sample the same in every run.

Sample k of (seed, index, stage) is the same for every forward size, --batch and number of processes.
"""
import copy
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from errors import InputError
from noise import BLOCK, FloatNoise, IntegerNoise, stream_seed

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BadNetwork(ValueError):
    """The base classifier is none that can be certified; the message is one line that says why."""


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA, then CPU), `cpu`, `cuda` or `cuda:K`. Raises InputError if it is not available."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type in ("cpu", "cuda"):
            torch.empty(0, device=device)
            return device
    except (RuntimeError, AssertionError):  # PyTorch's words for "no such device" run over several lines
        pass
    raise InputError(f"device {name!r} is not available")


def forward_size(device_type: str, height: int, width: int, batch: int) -> int:
    """Samples of one forward pass, at most `batch`: a multiple of BLOCK or a divisor of it.

    On a CPU, passes that stay in the caches are fastest, whatever --batch says: 64 small images or 8 large ones.
    """
    size = min(batch, 64 if height * width <= 64 * 64 else 8) if device_type == "cpu" else batch
    return size // BLOCK * BLOCK if size >= BLOCK else 2 ** (size.bit_length() - 1)


class Sampler:
    """Draws softmax outputs of a base classifier (a torch module from [B, C, H, W] in [0, 1] to logits [B, classes]).

    The caller's module is copied, never changed. The copy runs in eval mode and channels_last, with BatchNorm folded
    into the convolutions if torch.fx can trace it, in the given precision, compiled if asked for. A sample must be one
    fixed function of its noisy image: the passes of an image have one size, and no module state changes between them.
    """

    def __init__(self, base_classifier: nn.Module, noise: IntegerNoise | FloatNoise, device: torch.device,
                 precision: str, compile: bool):
        self.noise, self.device, self.dtype = noise, device, PRECISIONS[precision]
        self.tf32, self.compile = precision == "tf32", compile
        self._copy = copy.deepcopy(base_classifier).eval()
        if any(module.training or isinstance(module, _BatchNorm) and module.running_mean is None
               for module in self._copy.modules()):
            raise BadNetwork("a module in training mode, or a BatchNorm without running statistics: the samples of one "
                             "pass would not be independent")
        self._network = None  # made of it at the first image, whose shape the folding is checked on

    def softmax(self, x: torch.Tensor, count: int, batch: int, key: tuple[int, int, int]) -> Iterator[torch.Tensor]:
        """Yield float32 softmax tensors [b, classes] of `count` noisy copies of x [C, H, W], in stream order.

        key: (seed, index, stage). A yielded tensor is valid until the next one.
        """
        x = x.to(self.device, torch.float32)
        size = forward_size(self.device.type, *x.shape[1:], batch)
        if self._network is None:
            self._network = self._prepare(x)
        batches = self._noisy_batches(x, size, stream_seed(*key))
        for done in range(0, count, size):  # the last pass is a full one too: one shape, no recompilation
            yield self._forward(next(batches))[:count - done]

    @torch.inference_mode()
    def _forward(self, noisy: torch.Tensor) -> torch.Tensor:
        """Softmax in float32. Only here is noise cast to a lower precision: the cast belongs to the base classifier."""
        with _tf32(self.tf32):
            logits = self._network(noisy.to(self.dtype))
            if logits.ndim != 2 or len(logits) != len(noisy):
                raise BadNetwork(f"the base classifier gave {list(logits.shape)} for {len(noisy)} images: one row each")
            return torch.softmax(logits.float(), dim=1)

    def _noisy_batches(self, x: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
        """Noisy copies of x without end, float32 [size, C, H, W] in channels_last, in one reused buffer."""
        generator = torch.Generator(self.device).manual_seed(seed)
        start = self.noise.start(x.permute(1, 2, 0).contiguous())
        buffer = torch.empty(max(size, BLOCK), *start.shape, dtype=torch.float32, device=self.device)
        while True:
            for block in buffer.split(BLOCK):
                self.noise.fill(block, start, generator)
            for part in buffer.split(size):
                yield part.permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _prepare(self, x: torch.Tensor) -> nn.Module:
        network = self._copy.to(self.device, torch.float32)
        network = _fold_batchnorm(network, x).to(self.dtype, memory_format=torch.channels_last)
        if not self.compile:
            return network
        cudagraphs = {"triton.cudagraphs": True} if self.device.type == "cuda" else {}
        return torch.compile(network, options={"freezing": True, **cudagraphs})


def _fold_batchnorm(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """`network` with BatchNorm folded into its convolutions, or as it is if torch.fx cannot trace it.

    The trace only finds each BatchNorm that a convolution alone feeds: what runs is the module's own code, so that
    nothing in it (a random draw, say) is frozen to its value in the trace.
    """
    try:
        graph = symbolic_trace(copy.deepcopy(network)).graph
    except Exception:  # torch.fx raises almost any type for a module whose Python it cannot follow
        return network
    folded = copy.deepcopy(network)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    # how often a module is used: called, or one of its parameters read
    uses = Counter(node.target if node.op == "call_module" else node.target.rpartition(".")[0]
                   for node in graph.nodes if node.op in ("call_module", "get_attr"))
    for node in calls:
        before = node.args[0] if node.args else None
        if before not in calls or len(before.users) > 1 or uses[node.target] * uses[before.target] > 1:
            continue
        convolution, norm = folded.get_submodule(before.target), folded.get_submodule(node.target)
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            folded.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            folded.set_submodule(node.target, nn.Identity())
    probe = x + 0.1 * torch.randn(4, *x.shape, dtype=x.dtype, device=x.device,
                                  generator=torch.Generator(x.device).manual_seed(0))
    try:
        return folded if torch.allclose(folded(probe), network(probe), rtol=1e-3, atol=1e-3) else network
    except Exception:  # a module whose code reads what a BatchNorm holds, or whose output is no tensor
        return network


@contextmanager
def _tf32(allowed: bool):
    """TF32 in cuDNN and cuBLAS on or off for a while: fp32 means fp32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def retry_with_smaller_batch(work, batch: int):
    """work(batch), with the batch halved (and a line on stderr) for as long as it does not fit into GPU memory."""
    while True:
        try:
            return work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        torch.cuda.empty_cache()
        print(f"out of GPU memory: trying a batch of {batch}", file=sys.stderr)
