"""sampling/sampler.py: the noise, sample by sample, and what becomes of the base classifier."""
import copy
import math
import random
from contextlib import nullcontext

import pytest
import torch
from certify_runs import Forked
from helpers import DEMO_CHECKPOINT, random_network
from scipy.stats import kstest
from torch import nn

from certconf.errors import InputError
from certconf.inputs.architectures import load_checkpoint
from certconf.sampling import sampler
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import BLOCK, ESTIMATION, SELECTION, stream_seed

CPU, SIGMA, KEY = torch.device("cpu"), 0.25, (7, 40, ESTIMATION)
IMAGE = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(3)) / 255


class Spy(nn.Module):
    """Keeps every batch it is given; its `if` depends on the data, which torch.fx cannot trace."""

    received = []

    def forward(self, x):
        if x.numel() >= 0:
            Spy.received.append(x.clone())
        return x.flatten(1)[:, :10] if bool((x.sum() <= math.inf).item()) else x


def image(pixels, seed=1):
    """A random 8-bit image [3, pixels, pixels]."""
    return torch.randint(256, (3, pixels, pixels), generator=torch.Generator().manual_seed(seed)) / 255


def make_sampler(network, precision="fp32", sigma=SIGMA, noise="integer"):
    return Sampler(network, make_noise(noise, sigma, CPU), CPU, precision, False)


def softmax(network, x=IMAGE, count=100, batch=1000, key=KEY, precision="fp32"):
    """The softmax of all samples, [count, classes]."""
    return torch.cat([part.clone() for part in make_sampler(network, precision).softmax(x, count, batch, key)])


def noisy_images(x=IMAGE, count=100, batch=1000, key=KEY, precision="fp32", sigma=SIGMA, noise="integer"):
    """What a base classifier is given: the first `count` noisy images."""
    Spy.received = []
    for _ in make_sampler(Spy(), precision, sigma, noise).softmax(x, count, batch, key):
        pass
    return torch.cat(Spy.received)[:count]


# --- streams ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("batch", [1000, 63, 32, 7, 1])
@pytest.mark.parametrize("noise", ["integer", "float"])
def test_same_samples_for_every_batch(noise, batch):
    """Sample k is that of the stream written out: blocks of 32 samples of (H, W, C), one after the other."""
    x = IMAGE[:, :5, :7]  # 105 numbers: PyTorch draws multiples of 16 alike in one call and in several
    generator = torch.Generator().manual_seed(stream_seed(*KEY))
    law, blocks = make_noise(noise, SIGMA, CPU), torch.empty(5, BLOCK, 5, 7, 3)
    for block in blocks:
        law.fill(block, law.start(x.permute(1, 2, 0)), generator)
    expected = blocks.flatten(0, 1).permute(0, 3, 1, 2)
    assert torch.equal(noisy_images(x, count=150, batch=batch, noise=noise), expected[:150])


@pytest.mark.parametrize("other", [(8, 40, ESTIMATION), (7, 41, ESTIMATION), (7, 40, SELECTION)])
def test_streams_differ(other):
    """Another seed, index or stream: no noise in common, and no correlation (5 standard errors)."""
    one, two = ((noisy_images(key=key) - IMAGE) / SIGMA for key in (KEY, other))
    assert not torch.isclose(one, two).all(1).all(1).all(1).any()
    assert abs((one * two).mean()) < 5 / math.sqrt(one.numel())


# --- noise ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("noise", ["integer", "float"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_noise_is_float32_at_every_precision(noise, precision):
    """The noisy image is made in float32 and cast afterwards: the cast belongs to the base classifier."""
    full, low = noisy_images(noise=noise), noisy_images(precision=precision, noise=noise)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert full.dtype == torch.float32 and low.dtype == dtype
    assert torch.equal(low, full.to(dtype)) and (full != low.float()).float().mean() > 0.9


@pytest.mark.parametrize("noise", ["integer", "float"])
def test_double_images_are_cast_first(noise):
    """An image of another dtype becomes float32, and then gets the same noise: pixels are rounded once."""
    double = IMAGE.double() * (1 + 1e-12)
    assert torch.equal(double.float(), IMAGE)
    assert torch.equal(noisy_images(x=double, noise=noise), noisy_images(noise=noise))


@pytest.mark.parametrize("noise", ["integer", "float"])
def test_moments_of_the_noise(noise):
    """N(0, sigma^2): mean and variance (Sheppard's correction: rounding adds 1/12 of a step's square), no correlation.

    With M values the mean has standard error 1 / sqrt(M), the variance sqrt(2 / M), a correlation 1 / sqrt(M).
    """
    noise_of = (noisy_images(count=2000, sigma=0.5, noise=noise) - IMAGE).double() / 0.5
    error = 1 / math.sqrt(noise_of.numel())
    added = 1 / 12 / (255 * 0.5) ** 2 if noise == "integer" else 0
    assert abs(noise_of.mean()) < 4 * error
    assert abs(noise_of.square().mean() - 1 - added) < 4 * math.sqrt(2) * error
    for one, two in ((noise_of[1:], noise_of[:-1]), (noise_of[:, 1:], noise_of[:, :-1]),
                     (noise_of[..., 1:], noise_of[..., :-1])):
        assert abs((one * two).mean()) < 5 * error
    if noise == "float":
        assert kstest(noise_of.flatten()[::4].numpy(), "norm").pvalue > 1e-4


# --- base classifiers -------------------------------------------------------------------------------------------------

def plain_softmax(network, x, count=20):
    """Eager float32 forward passes of the untouched network, on the noise of KEY."""
    with torch.inference_mode():
        return network(noisy_images(x, count)).softmax(1)


@pytest.mark.parametrize("network, pixels, count", [
    (lambda: load_checkpoint(str(DEMO_CHECKPOINT), "cifar10")[0], 32, 20),
    (lambda: random_network("cifar_resnet110"), 32, 8), (lambda: random_network("resnet50", "imagenet"), 64, 4)],
    ids=["trained resnet20", "resnet110", "resnet50"])
def test_folded_network_is_the_network(network, pixels, count):
    """BatchNorm is gone, and the softmax the same to 1e-4, although normalisation comes before the zero padding."""
    network, x = network(), image(pixels)
    ours = make_sampler(network)
    scores = next(ours.softmax(x, count, count, KEY)).clone()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ours._network.modules())
    torch.testing.assert_close(scores, plain_softmax(network, x, count)[:len(scores)], rtol=0, atol=1e-4)


class Untraceable(nn.Module):
    """A branch that depends on the data, and a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        features = self.norm(self.conv(x)).mean((2, 3))
        return features if x.mean() > 0.5 else -features


class SharedConvolution(nn.Module):
    """One convolution used twice, before two BatchNorms: into neither can it be folded alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        nn.init.uniform_(self.first.weight, 2, 3)
        nn.init.uniform_(self.second.bias, 2, 3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x)))).mean((2, 3))


@pytest.mark.parametrize("kind", [Untraceable, SharedConvolution])
def test_other_modules_work_as_they_are(kind):
    """Any torch module is a valid base classifier, whatever torch.fx makes of it."""
    network = kind().eval()
    for batch in (64, 1):
        ours = softmax(network, count=20, batch=batch)
        expected = plain_softmax(network, IMAGE) if batch == 64 else torch.cat(
            [network(image[None]).detach().softmax(1) for image in noisy_images(count=20)])
        torch.testing.assert_close(ours, expected[:20], rtol=0, atol=1e-5)


class Randomised(nn.Module):
    """Logits times what a Python function draws: torch.fx would keep the draw of its one trace for ever."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x.flatten(1)[:, :2] * 0 + self.draw() * torch.tensor([0.0, 1.0])


def coin():
    """0.0 or 4.0, each half of the time."""
    return 4.0 * random.randint(0, 1)


@pytest.mark.parametrize("draw, seed", [(random.random, 0), (lambda: torch.rand(()), 0)]
                         + [(coin, seed) for seed in range(2)])
def test_randomness_is_not_baked_in(draw, seed):
    """A base classifier that draws afresh at each pass: 64 passes of one sample do not all give the same."""
    random.seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores = softmax(Randomised(draw), count=64, batch=1)[:, 1]
    assert len(scores.unique()) > 1  # the coin alone gives this by chance with probability 2^-63


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_callers_module_is_unchanged(precision):
    """Its weights, their type and layout, its mode and its gradients' flags; it was in training mode here."""
    network = random_network().train()
    before = copy.deepcopy(network.state_dict())
    strides = [parameter.stride() for parameter in network.parameters()]
    softmax(network, image(32), count=10, batch=8, precision=precision)
    assert all(module.training for module in network.modules())
    assert network.state_dict().keys() == before.keys()
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])
    assert strides == [parameter.stride() for parameter in network.parameters()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_modules_of_another_type(dtype):
    """A base classifier with weights in another precision runs in the precision asked for."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).to(dtype)
    expected = plain_softmax(copy.deepcopy(network).float(), IMAGE)
    torch.testing.assert_close(softmax(network, count=20), expected, rtol=0, atol=1e-5)


class Logits(nn.Module):
    """The same logits for every image: 0 and 3."""

    def forward(self, x):
        return x.flatten(1)[:, :2] * 0 + torch.tensor([0.0, 3.0], dtype=x.dtype)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_softmax_in_float32(precision):
    """0 and 3 are exact in every precision: 1 / (1 + e^3) to 1e-7, which bf16 would miss by 1e-4."""
    scores = softmax(Logits(), precision=precision)
    assert scores.dtype == torch.float32
    assert scores[:, 0].tolist() == pytest.approx([1 / (1 + math.exp(3))] * 100, abs=1e-7)


class PixelSum(nn.Module):
    """Logits that depend on an image's last bits, through a convolution, a BatchNorm and a linear layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("network", [PixelSum, random_network], ids=["small", "resnet20"])
def test_a_score_is_a_function_of_its_image(network):
    """The assumption of noise.py, bit for bit: a batch in another order, and beside other images, gives the same rows.

    The bundled architectures fulfil it at the one size of a run's passes, 64 on a CPU.
    """
    sampler, x = make_sampler(network().eval()), image(32 if network is random_network else 8)
    next(sampler.softmax(x, 64, 64, KEY))  # prepares the network
    batch = next(sampler._noisy_batches(x, 64, 1)).clone(memory_format=torch.channels_last)
    scores, order = sampler._forward(batch), torch.randperm(64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sampler._forward(batch[order]), scores[order])
    others = batch.clone(memory_format=torch.channels_last)
    others[1:] = others[1:].flip(0) * 3
    assert torch.equal(sampler._forward(others)[0], scores[0])
    assert torch.equal(sampler._forward(batch), scores)


# --- compilation and precision ----------------------------------------------------------------------------------------

class Lowered(Exception):
    """Ends a compilation before its machine code is made, which takes many seconds."""


@pytest.mark.parametrize("to_its_end", [False, pytest.param(True, marks=pytest.mark.long)])
def test_frozen_graph(to_its_end, monkeypatch):
    """A compiled network has its weights as constants: images are the graph's one input, at every size."""
    from torch._inductor.exc import InductorError
    from torch._inductor.graph import GraphLowering
    inputs, original = [], GraphLowering.run

    def spy(self, *args):
        inputs.append(len(self.module.graph.find_nodes(op="placeholder")))
        if not to_its_end:
            raise Lowered
        return original(self, *args)

    monkeypatch.setattr(GraphLowering, "run", spy)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    compiled = Sampler(network, make_noise("integer", SIGMA, CPU), CPU, "fp32", True)
    no_cache = torch.compiler.config.patch(force_disable_caches=True)  # or nothing is compiled the second time
    for batch in (32, 8):
        with no_cache, nullcontext() if to_its_end else pytest.raises(InductorError, match="Lowered"):
            scores = next(compiled.softmax(IMAGE, 8, batch, KEY))
            torch.testing.assert_close(scores, softmax(network, count=8), rtol=0, atol=1e-5)
    assert inputs == [1, 1]


class PrecisionSpy(nn.Module):
    """Keeps, at each forward pass, what convolutions and matrix products do with float32."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), []

    def __deepcopy__(self, memo):
        return self  # so that the copies' passes are seen

    def forward(self, x):
        backends = torch.backends
        self.seen.append({backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision,
                          backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32})
        return self.norm(self.conv(x)).mean((2, 3))


def test_folding_is_checked_in_float32():
    """TF32's rounding would refuse it for some first images, so that ranks and resumed runs had different networks."""
    network = PrecisionSpy().eval()
    next(make_sampler(network, "tf32").softmax(IMAGE, 8, 8, KEY))
    *preparing, sampling = network.seen
    assert preparing and all(seen == {"ieee", False} for seen in preparing) and sampling == {"tf32", True}
    network = PrecisionSpy().eval()
    next(make_sampler(network, "fp32").softmax(IMAGE, 8, 8, KEY))
    assert all(seen == {"ieee", False} for seen in network.seen)


PRECISION_SETTINGS = """
import torch
from torch import backends
from certconf.sampling.sampler import tf32

def settings():
    found = [setting.fp32_precision for setting in (backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv,
             backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)]
    for read in (lambda: backends.cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:  # the two interfaces disagree: nothing that could be restored
            found.append(None)
    return found

{setting}
before = settings()
for allowed, name in ((False, "ieee"), (True, "tf32")):
    with tf32(allowed):
        assert {{backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision}} == {{name}}
        assert backends.cudnn.allow_tf32 == backends.cuda.matmul.allow_tf32 == allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
        assert backends.mkldnn.matmul.fp32_precision == backends.mkldnn.conv.fp32_precision == "ieee"
    assert all(old in (new, None) for old, new in zip(before, settings(), strict=True)), (before, settings())
backends.fp32_precision = "none"
assert {inherits} == (backends.cuda.matmul.fp32_precision == "none")
"""


@pytest.mark.parametrize("setting, inherits", [
    ("", True), ("backends.fp32_precision = 'tf32'", True), ("backends.cuda.matmul.fp32_precision = 'tf32'", False),
    ("backends.cudnn.fp32_precision = 'ieee'", False), ("torch.set_float32_matmul_precision('medium')", False),
    ("backends.cudnn.allow_tf32 = False", True)])
def test_both_interfaces_to_tf32(setting, inherits, tmp_path):
    """Whatever the caller has set through whichever interface: tf32() sets both, and leaves them as they were.

    inherits: whether cuBLAS still follows torch.backends.fp32_precision afterwards. In a process of its own.
    """
    (tmp_path / "settings.py").write_text(PRECISION_SETTINGS.format(setting=setting, inherits=inherits))
    status, _, lines = Forked(tmp_path, tmp_path / "settings.py").outcome()
    assert status == 0, lines


# --- sizes and devices ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("device, pixels, batch, count, expected", [
    ("cpu", 32, 1000, 10000, 64), ("cpu", 32, 63, 10000, 32), ("cpu", 32, 31, 10000, 16), ("cpu", 32, 1, 10000, 1),
    ("cpu", 224, 1000, 10000, 16), ("cpu", 224, 5, 10000, 4), ("cpu", 32, 1000, 10, 32), ("cuda", 32, 1000, 10000, 992),
    ("cuda", 224, 31, 10000, 16), ("cuda", 32, 1000, 100, 128), ("cuda", 32, 100, 100, 96), ("cuda", 32, 7, 1, 4)])
def test_forward_size(device, pixels, batch, count, expected):
    """At most --batch, and whole blocks of 32 or an even part of one; on a CPU at most 64 small images or 16 large.

    100 samples of a selection cost 128 on a GPU, not the 992 of a whole pass.
    """
    assert sampler.forward_size(device, pixels, pixels, batch, count) == expected


@pytest.mark.parametrize("batch", [1000, 96, 7])
def test_passes_of_a_selection(batch, monkeypatch):
    """With a GPU's sizes: for 100 samples few more are drawn, and the samples are the same."""
    expected, original = noisy_images(count=100), sampler.forward_size
    monkeypatch.setattr(sampler, "forward_size", lambda device_type, *sizes: original("cuda", *sizes))
    assert torch.equal(noisy_images(count=100, batch=batch), expected)
    assert sum(map(len, Spy.received)) == {1000: 128, 96: 192, 7: 100}[batch]


def test_retry_after_out_of_memory(capsys):
    """The batch is halved, with a line each time, until the work fits; later work starts there; at 1 the error stands,

    as any other error does. cuDNN says of a workspace that does not fit only that it found no engine.
    """
    tried, ours = [], make_sampler(nn.Flatten())

    def work(batch):
        tried.append(batch)
        if batch > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if batch > 25:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return f"done with {batch}"

    assert ours.retry_on_out_of_memory(work, 100) == "done with 25"
    assert tried == [100, 50, 25]
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["50", "25"]
    assert ours.retry_on_out_of_memory(work, 100) == "done with 25"
    assert ours.retry_on_out_of_memory(work, 8) == "done with 8"
    assert tried == [100, 50, 25, 25, 8] and not capsys.readouterr().err

    def failing(error):
        def work(batch):
            tried.append(batch)
            raise error
        return work

    for error, batches in ((RuntimeError("not about memory"), [4]), (torch.OutOfMemoryError(), [4, 2, 1])):
        tried.clear()
        with pytest.raises(type(error)):
            ours.retry_on_out_of_memory(failing(error), 4)
        assert tried == batches


def test_a_compiled_network_is_dropped_after_out_of_memory(monkeypatch):
    """Its graphs hold memory for the larger batch. Nothing is compiled here: the calls are recorded."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: calls.append(options) or network)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    ours = Sampler(network, make_noise("integer", SIGMA, CPU), CPU, "fp32", True)

    def work(batch):
        scores = next(ours.softmax(IMAGE, 64, batch, KEY))
        if batch > 32:
            raise torch.OutOfMemoryError
        return scores

    assert len(ours.retry_on_out_of_memory(work, 64)) == 32
    assert [call if call == "reset" else call["dynamic"] for call in calls] == [False, "reset", False]


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", ""])
def test_devices_that_are_not_there(name):
    """One line, whatever PyTorch says; and the CPU is always there."""
    with pytest.raises(InputError, match="is not available"):
        choose_device(name)
    assert choose_device("cpu") == choose_device("cpu:0") == CPU
