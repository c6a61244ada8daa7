"""No test depends on the CPU that it runs on: one that meets its instructions for bf16 or fp16 takes `each_cpu`."""
import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def capabilities_of_this_cpu():
    """What PyTorch says of this CPU, which a program that runs in a test may not ask for. None if no test needs it."""
    if "torch" not in sys.modules:  # it takes seconds
        yield None
        return

    from certconf.sampling import devices

    def ask():
        raise AssertionError("this test's outcome may depend on the CPU: let it take the fixture each_cpu")

    found = devices.get_capabilities()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "get_capabilities", ask)
        yield found


@pytest.fixture(autouse=True)
def search_path(monkeypatch):
    """Code of a user's own, once loaded, keeps its folder in front of all others: for one test only."""
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture(params=["AVX2", "bf16 and fp16"])
def each_cpu(request, monkeypatch):
    """The test runs twice: as on a CPU without instructions for 16 bits, and as on one with them (True)."""
    fast = request.param != "AVX2"
    monkeypatch.setattr("certconf.sampling.devices.get_capabilities",
                        lambda: {"avx512_bf16": fast, "avx512_fp16": fast})
    return fast
