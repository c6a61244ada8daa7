"""`python -m pytest -m gpu`: is this installation right on a GPU? Without one every test fails; none is skipped."""
import re
import time

import numpy as np
import pytest
import torch
from helpers import CERTIFY, DEMO_CHECKPOINT, random_network, read_rows, run_program, without_time
from torch import nn

from certconf.core import Smooth, order_statistics
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler, tf32
from certconf.sampling.streams import BLOCK, ESTIMATION, SELECTION

pytestmark = pytest.mark.gpu

CPU, SIGMA, BATCH = torch.device("cpu"), 0.25, 256
OPTIONS = ("--skip", 20, "--max", 81, "--N", 512, "--N0", 100, "--batch", BATCH)


@pytest.fixture(autouse=True)
def gpu():
    """The first GPU; every test fails without one."""
    assert torch.cuda.is_available(), "PyTorch finds no GPU"
    return torch.device("cuda:0")


@pytest.fixture
def network():
    return load_checkpoint(str(DEMO_CHECKPOINT), "cifar10")[0]


def images(count):
    """The first of the bundled CIFAR-10 images."""
    opened, indices = open_images("cifar10", "test", 20, 20 * count)
    return [opened.load(index)[0] for index in indices]


def noisy(noise, x, device, batch=BATCH, count=BATCH):
    """What a base classifier is given, [count, C, H, W] on the device."""
    sampler = Sampler(nn.Flatten(), make_noise(noise, SIGMA, device), device, "fp32", False)
    batches, taken = sampler._noisy_batches(x.to(device), batch, 2 ** 31), []
    while sum(map(len, taken)) < count:
        taken.append(next(batches).clone())
    return torch.cat(taken)[:count]


def softmax(network, x, device, precision="fp32", compile=False, count=4 * BATCH, stream=ESTIMATION, sampler=None):
    """The softmax of `count` noisy copies of x, on the CPU."""
    sampler = sampler or Sampler(network, make_noise("integer", SIGMA, device), device, precision, compile)
    return torch.cat([part.cpu() for part in sampler.softmax(x, count, BATCH, (0, 0, stream))])


# --- the same numbers -------------------------------------------------------------------------------------------------

@torch.inference_mode()
def test_same_noisy_images_same_scores(network, gpu):
    """fp32 on the GPU is fp32: within 1e-5 of the CPU's softmax. tf32 is another precision: above that, below 1e-2."""
    x = images(1)[0]
    batch = noisy("integer", x, CPU)
    passes = {name: Sampler(network, make_noise("integer", SIGMA, device), device, name.split()[0], False)
              for name, device in (("fp32 cpu", CPU), ("fp32 gpu", gpu), ("tf32 gpu", gpu))}
    scores = {}
    for name, sampler in passes.items():
        next(sampler.softmax(x, BLOCK, BLOCK, (0, 0, SELECTION)))  # prepares the network
        scores[name] = sampler._forward(batch.to(sampler.device)).cpu()
    assert (scores["fp32 gpu"] - scores["fp32 cpu"]).abs().max() < 1e-5
    assert torch.cuda.get_device_capability(gpu) >= (8, 0), "this GPU has no TF32"
    assert 1e-5 < (scores["tf32 gpu"] - scores["fp32 cpu"]).abs().max() < 1e-2


@torch.inference_mode()
def test_layouts_agree(gpu):
    """A float32 convolution, channels_last against contiguous: the same up to rounding."""
    with tf32(False):
        layer, x = nn.Conv2d(64, 64, 3, padding=1).to(gpu), torch.randn(32, 64, 32, 32, device=gpu)
        plain = layer(x)
        last = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_equals_eager(precision, network, gpu):
    """Four passes each of two images and of their selections, all by CUDA graphs: none is skipped."""
    from torch._dynamo.utils import counters
    torch.compiler.reset()
    counters.clear()
    eager, compiled = (Sampler(network, make_noise("integer", SIGMA, gpu), gpu, precision, compile)
                       for compile in (False, True))
    for x in images(2):
        for stream, count in ((SELECTION, 100), (ESTIMATION, 4 * BATCH)):
            one, two = (softmax(None, x, gpu, count=count, stream=stream, sampler=sampler)
                        for sampler in (eager, compiled))
            assert (one - two).abs().max() < (1e-5 if precision == "fp32" else 0.05)
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_a_kept_softmax_stays(network, gpu):
    """The tensor that a pass yields is not the graph's own buffer: the next pass leaves it as it was."""
    sampler = Sampler(network, make_noise("integer", SIGMA, gpu), gpu, "bf16", True)
    passes = sampler.softmax(images(1)[0], 4 * BATCH, BATCH, (0, 0, ESTIMATION))
    first = next(passes)
    before = first.cpu()
    for _ in passes:
        pass
    assert torch.equal(first.cpu(), before)


@pytest.mark.parametrize("kind", ["integer", "float"])
def test_noise_is_the_same_for_every_batch(kind, gpu):
    x = images(1)[0]
    expected = noisy(kind, x, gpu, 992, 300)
    for batch in (64, 4, 1):  # of --batch 64, 7 and 1
        assert torch.equal(noisy(kind, x, gpu, batch, 300), expected)


@pytest.mark.parametrize("n", [1, 1000, 100_000])
def test_order_statistics(n, gpu):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n))
    ranks = np.unique(np.linspace(1, n, 50).astype(np.int64))
    assert np.array_equal(order_statistics(scores.to(gpu), ranks), order_statistics(scores, ranks))


def test_means_of_cpu_and_gpu(network, gpu):
    """Other generators, so other noise: the mean score of a class agrees within 5 standard errors."""
    for x in images(3):
        one, two = softmax(network, x, CPU, count=1024), softmax(network, x, gpu, count=1024)
        error = (one.var(0) + two.var(0)).div(1024).sqrt()
        assert ((one.mean(0) - two.mean(0)).abs() <= 5 * error + 1e-6).all()


# --- memory and devices -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_out_of_memory_halves_the_batch_once(compile, gpu, capsys):
    """With memory for less than a pass of 4,096: a line on stderr for each halving, and no more at the second image."""
    network, (x, y) = random_network(), images(2)
    torch.compiler.reset()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    # a pass of 4,096 has activations of 4096 * 16 * 32 * 32 * 4 bytes = 268 MB each, several at a time
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 600 * 2 ** 20) / total, gpu)
    try:
        smooth = Smooth(network, 10, SIGMA, device="cuda:0", compile=compile)
        smooth.certify(x, 32, 4096, 0.001, 4096, index=0)
        said = capsys.readouterr().err
        assert said.startswith("out of GPU memory: trying a batch of 2048\n")
        assert smooth.certify(y, 32, 4096, 0.001, 4096, index=1).mean > 0
        assert not capsys.readouterr().err
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
        torch.compiler.reset()
        torch.cuda.empty_cache()


def test_a_gpu_that_does_not_exist():
    from certconf.errors import InputError
    with pytest.raises(InputError, match="not available"):
        choose_device("cuda:99")


CONTEXTS = """
import sys
sys.path[:0] = ["code", "tests"]
import torch
from certify_runs import certify
result = certify(*sys.argv[1:], network="real")
print(result.stderr, file=sys.stderr)
print(result.returncode, *(torch._C._cuda_hasPrimaryContext(gpu) for gpu in range(2)))
"""


def test_second_gpu_without_a_context_on_the_first(tmp_path):
    """--device cuda:1 --compile takes memory on one GPU alone."""
    assert torch.cuda.device_count() > 1, "this test needs two GPUs"
    result = run_program("-c", CONTEXTS, "cifar10", DEMO_CHECKPOINT, SIGMA, tmp_path / "log", *OPTIONS, "--device",
                         "cuda:1", "--compile", timeout=600)
    assert result.returncode == 0 and result.stdout.split() == ["0", "False", "True"], result.stderr


# --- the command ------------------------------------------------------------------------------------------------------

def log(out, *options, launch=()):
    """The rows of certify.py on the bundled images 0 to 80, without their times."""
    result = run_program(*launch, CERTIFY, "cifar10", DEMO_CHECKPOINT, SIGMA, out, *OPTIONS, *options, timeout=900)
    assert result.returncode == 0, result.stderr
    return without_time(read_rows(out))


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--compile")], ids=["default", "fast"])
def test_two_runs_give_equal_rows(options, tmp_path):
    rows = log(tmp_path / "one", *options)
    assert len(rows) == 5 and rows == log(tmp_path / "two", *options)


def test_two_processes(tmp_path):
    """On one GPU or two: the rows of one process, whose bounds have 5 decimals or so, up to float rounding."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--")
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two", launch=launch), strict=True):
        for name in one:
            if re.match("exp_", name):
                assert float(one[name]) == pytest.approx(float(two[name]), abs=2e-5)
            else:
                assert one[name] == two[name]


def test_throughput(network, gpu):
    """One line: samples per second of the bundled ResNet-20, the fast way. Any speed passes."""
    sampler = Sampler(network, make_noise("integer", SIGMA, gpu), gpu, "bf16", True)
    x, count = images(1)[0], 992 * 20
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        drawn = sum(len(part) for part in sampler.softmax(x, count, 1000, (0, 0, ESTIMATION)))
        torch.cuda.synchronize(gpu)
    print(f"\n{torch.cuda.get_device_name(gpu)}: {drawn / (time.perf_counter() - start):,.0f} samples per second "
          "(cifar_resnet20, bf16, compiled, batch 992)")
    assert drawn == count
