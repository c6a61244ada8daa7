"""What several test files share: paths, running programs as a user does, and checkpoints made on the spot."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ROOT / "code"
DATA = Path(__file__).parent / "data"
DEMO_CHECKPOINT = ROOT / "models" / "cifar10" / "resnet20" / "noise_0.25" / "checkpoint.pth.tar"
PUBLISHED_LOG = DATA / "published_cifar10_pred_score_noise_0.50"
CERTIFY = "code/certify.py"
PROGRAMS = ["analyze", "attack", "cert_acc", "certify", "explore", "predict", "radius", "recertify", "train",
            "visualize"]


def run_program(*args, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python *args` in the repository's root; env is added to this process's environment (None: unset there)."""
    changed = {**os.environ, **(env or {})}
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
                          env={name: str(value) for name, value in changed.items() if value is not None})


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """A refusal: exit status 2 and one line on stderr, `error: ...` with each of `words` in it, and no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0]


def random_network(arch="cifar_resnet20", dataset="cifar10", seed=0):
    """An untrained network in eval mode, whose BatchNorms are not the identity; the caller's random state stays."""
    import torch

    from certconf.inputs.architectures import build_network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(arch, dataset).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.8, 1.2)
                torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


def fake_checkpoint(path, arch="cifar_resnet20", dataset="cifar10", seed=0, change=None, zip_format=True, **entries):
    """Save a random network to `path` as train.py does and return `path`.

    change(state_dict) may edit the state or return another one; entries are added to the dictionary or replace its own.
    """
    import torch
    state = dict(random_network(arch, dataset, seed).state_dict())
    if change is not None:
        state = change(state) or state
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"arch": arch, "state_dict": state, **entries}, path, _use_new_zipfile_serialization=zip_format)
    return Path(path)


def fill_class_folders(part) -> None:
    """Add empty class folders, later in the alphabet than any of ImageNet's, to make them 1,000."""
    for number in range(1000 - len(list(Path(part).iterdir()))):
        (Path(part) / f"z{number:03d}").mkdir()


def read_rows(path) -> list[dict[str, str]]:
    """The rows of a log as dictionaries of strings, in file order (a plain reader, not the program's own)."""
    header, *lines = Path(path).read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def without_time(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of read_rows without the one column that differs from run to run."""
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]
