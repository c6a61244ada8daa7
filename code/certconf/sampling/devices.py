"""Devices: their names, what makes a run slow on one, and the memory of a CPU."""
import ctypes
import os
from functools import cache

import torch
from torch.cpu import get_capabilities

from certconf.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MOST = 2 ** 30  # bytes that a block may have, or the free end of the heap, to be kept

# what torch.cpu.get_capabilities calls a CPU's instructions for a precision, on x86 and ARM
INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith")}


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next tensors. Other C libraries are left as they are.

    By default it returns large blocks to the kernel, which maps and clears every page again for the next layer's
    output: that took about a fifth of the time of a pass (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_MMAP_THRESHOLD, MOST) or mallopt(M_MMAP_THRESHOLD, 2 ** 25)  # the most that some versions take


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA, then CPU), `cpu`, `cuda` or `cuda:K`. Raises InputError if it is not available.

    If it is the CPU, this process keeps the memory that it frees from now on.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type == "cpu":
            keep_freed_memory()
            return torch.device("cpu")  # cpu:0, too
        if device.type == "cuda":
            torch.empty(0, device=device)
            return device
    except (RuntimeError, AssertionError):  # PyTorch's words for "no such device" run over several lines
        pass
    raise InputError(f"device {name!r} is not available")


def fast_on_cpu(precision: str) -> bool:
    """Whether this CPU has instructions for a precision: it emulates the others, several times as slow as fp32."""
    if precision not in INSTRUCTIONS:
        return True
    capabilities = get_capabilities()
    return any(capabilities.get(name) for name in INSTRUCTIONS[precision])


def slow_choices(name: str, device: torch.device, precision: str) -> list[str]:
    """One line for each reason why a run on `device`, chosen by `name`, is slower than its user may expect."""
    lines = []
    if name == "auto" and device.type == "cpu" and torch.version.cuda and os.path.exists("/dev/nvidia0"):
        lines.append(f"there is a GPU, but PyTorch (for CUDA {torch.version.cuda}) cannot use it: its driver may be "
                     "too old. This run uses the CPU")
    if device.type == "cpu" and not fast_on_cpu(precision):
        lines.append(f"this CPU has no instructions for {precision}: fp32 is several times as fast here")
    return lines
