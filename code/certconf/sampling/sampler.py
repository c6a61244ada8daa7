"""Noisy forward passes: softmax of a base classifier at an image under noise, sample by sample the same in every run.

Sample k of (seed, index, stream) is the same for every forward size, --batch and number of processes.
"""
import copy
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from certconf.errors import BadNetwork
from certconf.sampling import PRECISIONS
from certconf.sampling.checks import check_compiled, check_network, logits_of
from certconf.sampling.noise import FloatNoise, IntegerNoise
from certconf.sampling.streams import BLOCK, stream_seed

CHECK_SEED = 0  # of the noise that a network is checked with; those of samples have their top bit set


def torch_type(precision: str) -> torch.dtype:
    """The type of a network's weights at one of PRECISIONS."""
    return getattr(torch, PRECISIONS[precision])


def forward_size(device_type: str, height: int, width: int, batch: int, count: int) -> int:
    """Samples of each forward pass for `count` samples, at most `batch`: a multiple of BLOCK or a divisor of it.

    On a CPU, passes that stay in the caches are fastest: at most 64 small images or 16 large ones. No pass is larger
    than count, rounded up to whole blocks: on a GPU the few samples of a selection get a size of their own, and with
    torch.compile a graph of their own.
    """
    batch = min(batch, math.ceil(count / BLOCK) * BLOCK)
    size = min(batch, 64 if height * width <= 64 * 64 else 16) if device_type == "cpu" else batch
    return size // BLOCK * BLOCK if size >= BLOCK else 2 ** (size.bit_length() - 1)


class Sampler:
    """Draws softmax outputs of a base classifier (a torch module from [B, C, H, W] in [0, 1] to logits [B, classes]).

    The caller's module is copied, never changed, and the copy, base_classifier, is kept as it is. A copy of that runs
    in eval mode and channels_last, with BatchNorm folded into the convolutions if torch.fx can trace it, in the given
    precision, compiled if asked for. A sample must be one fixed function of its noisy image (random: or a random one,
    with draws of its own), which `check` finds out.
    """

    def __init__(self, base_classifier: nn.Module, noise: IntegerNoise | FloatNoise, device: torch.device,
                 precision: str, compile: bool, random: bool = False):
        self.noise, self.device, self.precision, self.compile, self.random = noise, device, precision, compile, random
        self.dtype, self.tf32 = torch_type(precision), precision == "tf32"
        self.base_classifier = copy.deepcopy(base_classifier)
        if in_eval_mode(self.base_classifier) and any(
                module.training or isinstance(module, _BatchNorm) and module.running_mean is None
                for module in self.base_classifier.modules()):
            raise BadNetwork("a module in training mode, or a BatchNorm without running statistics: the samples of one "
                             "pass would not be independent")
        if compile and isinstance(base_classifier, torch.jit.ScriptModule):
            raise BadNetwork("a TorchScript module, which torch.compile does not take: leave --compile out")
        self._network = self._run = None  # built at the first image, on which the folding is checked
        self._fitting_batch = sys.maxsize

    def check(self, x: torch.Tensor, count: int, batch: int) -> list[str]:
        """Check the network that runs at noisy copies of an image x [C, H, W], of a seed that no sample has.

        count, batch: of `softmax`, whose passes have the same size. Returns lines that the user should read. Raises
        BadNetwork. No sample changes: the states of PyTorch's generators are those of before.
        """
        size = forward_size(self.device.type, *x.shape[1:], batch, count)
        noisy = next(self._noisy_batches(x, size, CHECK_SEED))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self._build(x)
            lines = check_network(lambda images: self._logits(self._run, images), noisy, self.precision, self.random)
            if self.compile and not self.random:  # whose draws are others once it is compiled
                compiled = self._logits(self._run, noisy).clone()
                lines += check_compiled(compiled, self._logits(self._network, noisy), self.precision)
        return lines

    def _build(self, x: torch.Tensor) -> None:
        """Build the network that runs, once, with an image to try the folding on."""
        if self._network is None:
            self._network = self._prepare(x.to(self.device, torch.float32))
            self._run = self._compiled()

    def softmax(self, x: torch.Tensor, count: int, batch: int, key: tuple[int, int, int]) -> Iterator[torch.Tensor]:
        """Yield float32 softmax tensors [b, classes] of `count` noisy copies of x [C, H, W], in stream order.

        key: (seed, index, stream). A yielded tensor is valid until the next one.
        """
        size = forward_size(self.device.type, *x.shape[1:], batch, count)
        self._build(x)
        batches = self._noisy_batches(x, size, stream_seed(*key))
        for done in range(0, count, size):  # the last pass is a full one too: one shape, no recompilation
            yield self._forward(next(batches))[:count - done]

    @torch.inference_mode()
    def _forward(self, noisy: torch.Tensor) -> torch.Tensor:
        """Softmax in float32."""
        return torch.softmax(self._logits(self._run, noisy).float(), dim=1)

    @torch.inference_mode()
    def _logits(self, network: Callable, noisy: torch.Tensor) -> torch.Tensor:
        """Logits. Only here is noise cast to a lower precision: the cast belongs to the base classifier."""
        with tf32(self.tf32), _freezing() if self.compile else nullcontext():
            return logits_of(network(noisy.to(self.dtype)), len(noisy))

    def _noisy_batches(self, x: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
        """Noisy copies of x without end, float32 [size, C, H, W] in channels_last, in one reused buffer."""
        x = x.to(self.device, torch.float32)
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
        network = copy.deepcopy(self.base_classifier).to(self.device, torch.float32)
        with tf32(False):  # whether BatchNorm is folded must not depend on its rounding at the first image
            network = _fold_batchnorm(network, x)
        return network.to(self.dtype, memory_format=torch.channels_last)

    def _compiled(self) -> nn.Module:
        """The network that runs: through torch.compile if asked for."""
        if not self.compile:
            return self._network
        # one graph for each size of a pass; a second size would otherwise be compiled for all sizes at once, slowly
        return torch.compile(self._network, dynamic=False, options={"triton.cudagraphs": self.device.type == "cuda"})

    def retry_on_out_of_memory(self, work: Callable, batch: int):
        """work(batch), with the batch halved (and a line on stderr) until it fits into GPU memory.

        Later calls start with the batch that fitted.
        """
        batch = min(batch, self._fitting_batch)
        while True:
            try:
                return work(batch)
            except RuntimeError as error:
                if batch == 1 or not _out_of_memory(error):
                    raise
            batch = self._fitting_batch = batch // 2
            if self.compile and self._network is not None:
                torch.compiler.reset()  # the graphs of the larger batch hold its memory
                self._run = self._compiled()
            torch.cuda.empty_cache()
            print(f"out of GPU memory: trying a batch of {batch}", file=sys.stderr)


def in_eval_mode(network: nn.Module) -> bool:
    """Put a network into eval mode; False if it has none, as programs of torch.export, whose mode is fixed."""
    try:
        network.eval()
    except NotImplementedError:
        return False
    return True


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
        one, other = (logits_of(each(probe), len(probe)) for each in (folded, network))
        return folded if torch.allclose(one, other, rtol=1e-3, atol=1e-3) else network
    except Exception:  # a module whose code reads what a BatchNorm holds, or whose output is no logits
        return network


def _freezing():
    """A context in which torch.compile makes the weights constants of the graph: it has 1 input, not 1 + weights.

    torch.compile's own option of that name comes too late: Dynamo, which lists the inputs, reads the global one.
    """
    from torch._inductor import config  # takes a second, which programs that compile nothing need not wait
    return config.patch(freezing=True)


@contextmanager
def tf32(allowed: bool):
    """TF32 in cuDNN and cuBLAS on or off for a while: fp32 means fp32, in oneDNN too.

    PyTorch has two interfaces, and refuses to read the old one while they disagree: both are set. The new one alone is
    not enough for torch.compile, which reads the old; the old one's False leaves the choice to torch.backends.
    """
    backends = torch.backends
    on_gpu = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    before = {setting: setting.fp32_precision for setting in (*on_gpu, backends.mkldnn.matmul, backends.mkldnn.conv)}
    cudnn, matmul = _or_none(lambda: backends.cudnn.allow_tf32), _or_none(torch.get_float32_matmul_precision)
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = allowed
    for setting in before:
        setting.fp32_precision = "tf32" if allowed and setting in on_gpu else "ieee"
    try:
        yield
    finally:
        if cudnn is not None:
            backends.cudnn.allow_tf32 = cudnn
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        for setting, precision in before.items():
            setting.fp32_precision = "none"  # inherited from torch.backends
            if setting.fp32_precision != precision:
                setting.fp32_precision = precision


def _or_none(read: Callable[[], object]):
    """What a getter of the old interface gives, or None if the caller has used the new one, so that it raises."""
    try:
        return read()
    except RuntimeError:
        return None


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether GPU memory was the reason. cuDNN without memory for its workspace only says that no engine was found."""
    return isinstance(error, torch.OutOfMemoryError) or "was unable to find an engine" in str(error)
