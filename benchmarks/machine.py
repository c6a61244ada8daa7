"""The machine of a benchmark: its description and measured peak, and the operations that a network needs."""
import os
import platform
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import code_path
import torch
from torch import nn
from torch.nn.functional import conv2d

from certconf.runner.settings import program_version
from certconf.sampling.sampler import tf32, torch_type

RESULTS = Path(__file__).parent / "results"
PEAK_SHAPES = ((64, 56), (128, 28), (256, 14))  # channels and side of the 3x3 convolutions
PEAK_BATCHES = (8, 16)  # of a CPU; a GPU needs that of the network
PEAK_SECONDS = 0.1  # for which each of them runs


def describe(device: torch.device) -> str:
    """What a reader must know of the machine and the call, as a list in markdown. No host name."""
    cores = f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} used"
    lines = [f"processor: {processor_name()}, {cores}, {torch.backends.cpu.get_cpu_capability()}"]
    if device.type == "cuda":
        lines += [f"GPU: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"]
    lines += [f"Python {platform.python_version()}, PyTorch {torch.__version__}, this program at {program_version()}",
              f"command: `{shlex.join(['python', 'benchmarks/' + Path(sys.argv[0]).name, *sys.argv[1:]])}`",
              f"date: {datetime.now(UTC).date().isoformat()}"]
    return "".join(f"- {line}\n" for line in lines)


def processor_name() -> str:
    """The model of the CPU."""
    try:
        names = [line.split(":", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0].strip() if names else platform.machine()


def finish(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def convolution_peak(device: torch.device, precision: str = "fp32", batches: tuple[int, ...] = PEAK_BATCHES) -> float:
    """The most FLOP/s that channels_last 3x3 convolutions reach here now, over PEAK_SHAPES and batches."""
    with tf32(precision == "tf32"):
        return max(_convolution_speed(device, torch_type(precision), channels, side, batches)
                   for channels, side in PEAK_SHAPES)


def _convolution_speed(device: torch.device, dtype: torch.dtype, channels: int, side: int,
                       batches: tuple[int, ...]) -> float:
    """The most FLOP/s of one convolution over batches."""
    best, layout = 0.0, {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(**layout)
    work = flops(layer, torch.zeros(channels, side, side, device=device, dtype=dtype))
    for batch in batches:
        images = torch.randn(batch, channels, side, side, device=device).to(**layout)
        layer(images)
        finish(device)
        start, passes = time.perf_counter(), 0
        while time.perf_counter() - start < PEAK_SECONDS:
            for _ in range(10):
                layer(images)
            finish(device)
            passes += 10
        best = max(best, passes * batch * work / (time.perf_counter() - start))
    return best


@torch.inference_mode()
def flops(network: nn.Module, x: torch.Tensor) -> int:
    """Floating-point operations of one sample x [C, H, W] in the convolutions and linear layers of a network.

    Two for each multiply-add, and none for the zeros of the padding.
    """
    counts = []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Linear):
            counts.append(output.numel() * layer.in_features)
        else:
            pixels, kernel = torch.ones(1, 1, *inputs[0].shape[2:]), torch.ones(1, 1, *layer.kernel_size)
            met = conv2d(pixels, kernel, None, layer.stride, layer.padding, layer.dilation)  # pixels at each position
            counts.append(int(met.sum()) * layer.in_channels // layer.groups * layer.out_channels)

    hooks = [layer.register_forward_hook(count) for layer in network.modules()
             if isinstance(layer, (nn.Conv2d, nn.Linear))]
    network(x[None])
    for hook in hooks:
        hook.remove()
    return 2 * sum(counts)
