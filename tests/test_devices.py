"""Devices: what makes a run slow is said, and freed memory is kept."""
import platform

import pytest
import torch
from helpers import CODE, run_program

from certconf.sampling import PRECISIONS, devices
from certconf.sampling.devices import INSTRUCTIONS, fast_on_cpu, slow_choices

CPU = torch.device("cpu")
AVX2, AVX512, ZEN4, SAPPHIRE, ARM, GRAVITON3 = (
    {"avx2": True}, {"avx2": True, "avx512_f": True}, {"avx512_f": True, "avx512_bf16": True},
    {"avx512_bf16": True, "amx_bf16": True, "avx512_fp16": True}, {"neon": True}, {"bf16": True, "fp16_arith": True})


@pytest.mark.parametrize("capabilities, fast", [
    (AVX2, ""), (AVX512, ""), (ZEN4, "bf16"), (SAPPHIRE, "bf16 fp16"), (ARM, ""), (GRAVITON3, "bf16 fp16")])
def test_precisions_of_a_cpu(capabilities, fast, monkeypatch):
    """With faked instruction sets: fp32 (and tf32, which is fp32 there) always, others if there are some."""
    monkeypatch.setattr(devices, "get_capabilities", lambda: capabilities)
    for precision in PRECISIONS:
        lines = slow_choices("cpu", CPU, precision)
        if precision in ("fp32", "tf32", *fast.split()):
            assert fast_on_cpu(precision) and not lines
        else:
            assert len(lines) == 1 and f"no instructions for {precision}" in lines[0]
        assert not slow_choices("cuda", torch.device("cuda"), precision)


def test_capabilities_have_the_names_that_are_asked_for(capabilities_of_this_cpu):
    """PyTorch's own list for this machine, so that a name changed there is noticed here."""
    found = capabilities_of_this_cpu
    if found["architecture"] == "x86_64":
        assert {name for names in INSTRUCTIONS.values() for name in names[:2]} <= found.keys()
    else:
        assert {name for names in INSTRUCTIONS.values() for name in names[2:]} <= found.keys()


@pytest.mark.parametrize("name, built_for, gpu, said", [
    ("auto", "13.0", True, True), ("cpu", "13.0", True, False), ("auto", None, True, False),
    ("auto", "13.0", False, False)])
def test_a_gpu_that_cannot_be_used(name, built_for, gpu, said, monkeypatch):
    """An old driver: `auto` takes the CPU, and says so in one line; not if the CPU was asked for."""
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(devices.os.path, "exists", lambda path: gpu and path == "/dev/nvidia0")
    lines = slow_choices(name, CPU, "fp32")
    assert ["driver" in line and "CPU" in line for line in lines] == [True] * said


FAULTS = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
from certconf.sampling.devices import choose_device
def layers():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # of 16 MiB: four blocks at a time, all freed
        blocks = [torch.ones(2 ** 22) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for choose in (lambda name: None, choose_device):
    choose("cpu")
    layers()
    print(layers())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own rules")
def test_freed_memory_is_kept():
    """Once a device is chosen, blocks that were freed are used again, and no page of them is mapped anew."""
    # glibc's own limits at the start, which it would otherwise raise by itself, or not, as the blocks happen to lie
    env = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    before, after = map(int, run_program("-c", FAULTS, CODE, env=env).stdout.split())
    assert after < 100 and before > 1000
