"""benchmarks/: the baseline computes what this program computes, the counts are right, and the reports get written.

Speed is shown by the benchmarks and never asserted.
"""
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import log_cost
import looks
import machine
import numpy as np
import plain_loop
import precision
import pytest
import sampling
import torch
from certify_runs import arguments, call_program, certify, weights_file
from helpers import ROOT, assert_refused, fake_checkpoint, random_network, read_rows
from scipy.special import ndtri
from torch import nn

from certconf.errors import InputError
from certconf.inputs.architectures import ARCHITECTURES, DATASET_OF, build_network
from certconf.statistics.bounds import clopper_pearson_eta
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES, SOFT_MEASURES
from certconf.statistics.sequential import Plan, look_sizes

CPU = torch.device("cpu")


def markdown_rows(text, first_cell):
    """The cells of the table whose header starts with `first_cell`, header first."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


# --- the baseline ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [500, 20_000])
def test_plain_bounds_are_the_dkw_bounds(n):
    scores = np.random.default_rng(n).beta(5, 1, n).astype(np.float32)
    spec = CertificateSpec(MEASURES["pred_score"], n, 0.001, 0.25, "dkw", radii=(0.0, 0.5))
    ours = spec.certificate(0, float(scores.mean()), np.sort(scores)[spec.band.ranks - 1]).exp_cdf
    assert ours[0] > 0.5
    np.testing.assert_allclose(plain_loop.plain_bounds(scores, 0.25, 0.001, spec.radii), ours, rtol=0, atol=1e-9)


def test_plain_scores_are_the_softmax():
    """Next to no noise: every score is that of x; the last batch is a part of one."""
    network, x = random_network(), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = plain_loop.plain_scores(network, x, 1e-7, 3, n=7, batch=3)
    assert scores.shape == (7,) and scores.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(scores, float(network(x[None]).softmax(1)[0, 3]), atol=1e-4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_plain_network_is_that_of_the_package(arch):
    """With the same weights, the baseline's own network gives the same logits; its image has 8-bit pixels."""
    plain, x = plain_loop.network_and_image(arch)
    ours = build_network(arch, DATASET_OF[arch]).eval()
    ours[1].load_state_dict(plain[1].state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(x[None]), ours(x[None]), rtol=0, atol=0)
    side = plain_loop.SIDE[DATASET_OF[arch]]
    assert x.shape == (3, side, side) and torch.equal((255 * x).round() / 255, x) and 0 <= x.min() < x.max() <= 1


def test_plain_process():
    """It answers each number of samples with the seconds, ends with its input, and has not loaded the package."""
    code = ("import runpy, sys; sys.argv = ['plain_loop.py', 'cifar_resnet20', 'cpu', '2']; "
            "runpy.run_path('benchmarks/plain_loop.py', run_name='__main__'); "
            "sys.exit(','.join(name for name in sys.modules if name.split('.')[0] == 'certconf'))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input="3\n2\n", capture_output=True, text=True)
    assert [float(line) > 0 for line in result.stdout.splitlines()] == [True, True] and result.stderr.strip() == ""


def test_plain_process_that_fails(capfd):
    """One that ends too early is an error and no measurement; its own message is seen."""
    with sampling.PlainProcess("cifar_resnet7", CPU, 2) as process, pytest.raises(InputError, match="has ended"):
        process.draw(2)
    assert "depth must be 6n + 2" in capfd.readouterr().err


def test_best_batch(monkeypatch):
    """The fastest of those that fit into memory; none is an error."""
    class Fake(sampling.PlainProcess):
        def __init__(self, arch, device, batch):
            self.batch = batch

        def __exit__(self, *_):
            closed.append(self.batch)

        def draw(self, n):
            if self.batch > 3:
                raise torch.OutOfMemoryError

    closed = []
    monkeypatch.setattr(sampling, "PlainProcess", Fake)
    monkeypatch.setattr(sampling.Variant, "measure", lambda variant: {1: 3.0, 2: 1.0, 3: 2.0}[variant.batch])
    assert sampling.best_batch("cifar_resnet20", CPU, (1, 2, 3, 4), 1.0) == 2 and closed == [1, 2, 3, 4]
    with pytest.raises(InputError, match="no batch of 4, 5 fits"):
        sampling.best_batch("cifar_resnet20", CPU, (4, 5), 1.0)


# --- the machine ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": (7, 3), "padding": (3, 0), "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
], ids=str)
def test_flops_of_a_convolution(options):
    """With every weight and pixel 1, an output is the number of its multiply-adds on real pixels."""
    layer = nn.Conv2d(4, 6, bias=False, **options)
    nn.init.ones_(layer.weight)
    ones = torch.ones(4, 9, 8)
    assert machine.flops(layer, ones) == 2 * int(layer(ones[None]).sum())


def test_flops_of_a_network():
    """A convolution, a linear layer, and nothing for the rest; without padding, 2 x outputs x kernel x channels."""
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 6, 10))
    assert machine.flops(network, torch.zeros(3, 8, 8)) == 2 * (6 * 6 * 9 * 3 * 5 + 180 * 10)
    assert not network[0]._forward_hooks


def test_peak_and_description(monkeypatch):
    monkeypatch.setattr(machine, "PEAK_SHAPES", ((8, 6),))
    monkeypatch.setattr(machine, "PEAK_SECONDS", 0.01)
    assert 0 < machine.convolution_peak(CPU) < math.inf
    assert 0 < machine.convolution_peak(CPU, "bf16", (2,)) < math.inf
    monkeypatch.setattr(sys, "argv", ["/somewhere/sampling.py", "--out", "a file"])
    text = machine.describe(CPU)
    assert torch.backends.cpu.get_cpu_capability() in text  # the instruction set, which the times hang on
    assert torch.__version__ in text and machine.processor_name() in text
    assert "command: `python benchmarks/sampling.py --out 'a file'`" in text


# --- sampling.py ----------------------------------------------------------------------------------------------------

def test_sampling_report(monkeypatch, tmp_path, capsys):
    """All variants of one network at tiny sizes (nothing is compiled), printed and written; nothing is overwritten."""
    eager = sampling.sampler_variant
    monkeypatch.setattr(sampling, "sampler_variant", lambda network, x, device, precision, compile, *rest: eager(
        network, x, device, precision, False, *rest))
    monkeypatch.setattr(sampling, "PLAIN_BATCH", {"cpu": {"cifar10": 4}})
    monkeypatch.setattr(sampling, "TRIED_BATCHES", {"cpu": {"cifar10": (2, 3)}})
    monkeypatch.setattr(sampling, "N", 300)
    monkeypatch.setattr(machine, "PEAK_SECONDS", 0.001)
    out = tmp_path / "results" / "table.md"
    monkeypatch.setattr(sys, "argv", ["sampling.py", "--networks", "cifar_resnet20", "--precision", "fp32", "bf16",
                                      "--repeat", "2", "--seconds", "0.001", "--device", "cpu", "--out", str(out)])
    sampling.main()
    text = out.read_text()
    assert text == capsys.readouterr().out
    header, *rows = markdown_rows(text, "network")
    assert [row[1] for row in rows] == ["plain loop", "plain loop, best batch", "fp32", "fp32", "bf16", "bf16",
                                        "fp32, float noise"]
    assert rows[0][2] == "4" and rows[1][2] in "23" and rows[2][2] == "64"
    assert rows[0][5] == rows[1][6] == "1.00"
    assert all(len(row) == len(header) and float(row[3]) > 0 and row[7].endswith("%") for row in rows)
    for row in rows:  # how many times as fast as each plain loop: the ratios of the times, which are rounded
        assert [float(row[5]), float(row[6])] == pytest.approx(
            [float(plain[3]) / float(row[3]) for plain in rows[:2]], rel=0.02, abs=0.01)
    assert len(markdown_rows(text, "bounds of one image")) == 4
    command = sys.argv
    for options, word in (([], "--overwrite"), (["--repeat", "0", "--out", "new"], "must be"),
                          (["--seconds", "nan", "--out", "new"], "must be")):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(InputError, match=word):
            sampling.main()
    assert out.read_text() == text


# --- precision.py ---------------------------------------------------------------------------------------------------

def test_differences_by_hand():
    """Two images of two samples: no difference, and a top score that falls by 0.2 so that the other class wins."""
    exact = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    other = torch.tensor([[0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)
    found = [precision.differences(scores, exact) for scores in (exact, other)]
    assert precision.cells(found) == ["0.3", "0.1", "-0.1", "-0.2", "1 of 2"]


def test_precision_report(monkeypatch, tmp_path, capsys):
    checkpoint, out = fake_checkpoint(tmp_path / "checkpoint.pth.tar"), tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["precision.py", "cifar10", str(checkpoint), "0.25", "--skip", "5000", "--N", "40",
                                      "--precision", "bf16", "--device", "cpu", "--out", str(out)])
    precision.main()
    text = out.read_text()
    assert text == capsys.readouterr().out
    row = dict(zip(*markdown_rows(text, "precision"), strict=True))
    assert row["precision"] == "bf16" and 0 < float(row["mean difference"]) <= float(row["largest difference"]) < 0.2


# --- log_cost.py ------------------------------------------------------------------------------------------------------

def test_cost_of_logs(tmp_path):
    """Samples and hours by hand; images that --skip leaves out do not count; two passes have no common cost."""
    logs = [tmp_path / name / "noise_0.25" for name in SOFT_MEASURES]
    result = certify(*arguments(weights_file(tmp_path), tmp_path / "{confidence_measure}/noise_0.25", "--N", 4000,
                                "--confidence_measure", *SOFT_MEASURES, "--settle", 0.5, 0, "--save_scores", stop=800))
    assert result.returncode == 0, result.stderr
    dtype = np.dtype([tuple(field) for field in json.loads(Path(f"{logs[0]}.json").read_text())["scores_dtype"]])
    n = [np.fromfile(f"{log}.scores", dtype)["n"][::2].tolist() for log in logs]
    both = [max(pair) for pair in zip(*n, strict=True)]
    assert len(both) == 20 and len(set(both)) > 1
    seconds = sum(float(row["time"].split(":")[2]) for row in read_rows(logs[0])[::2])  # less than a minute each
    row = log_cost.costs(tmp_path, "noise_0.25", skip=40)
    assert [row["images"], row["N"], row["hours"]] == ["20", "4,000", f"{seconds / 3600:.2f}"]
    for name, values in zip((*SOFT_MEASURES, "one pass"), (*n, both), strict=True):
        assert row[name] == f"{np.mean(values):,.0f} ± {statistics.stdev(values) / 20 ** 0.5:,.0f}"
    assert log_cost.seconds_of(logs[0], skip=40) == pytest.approx(seconds)
    assert log_cost.costs(tmp_path, "noise_0.25", skip=1000)["one pass"] == f"{both[0]:,}"
    lines = logs[1].read_text().splitlines(keepends=True)
    logs[1].write_text("".join([*lines[:-1], lines[-1].replace(":00:", ":01:")]))
    with pytest.raises(InputError, match="not of one pass"):
        log_cost.costs(tmp_path, "noise_0.25", skip=1)


def test_cost_of_nothing(tmp_path):
    """A folder without saved scores is refused in one line."""
    assert_refused(call_program("benchmarks/log_cost.py", tmp_path), "no MEASURE/noise_SIGMA.scores")
    assert_refused(call_program("benchmarks/log_cost.py", tmp_path, "--skip", 0), "--skip")


# --- looks.py ---------------------------------------------------------------------------------------------------------

def certificate_of_equal_scores(plan, score):
    """What the last look says if all scores are equal."""
    spec = plan.looks[-1].spec
    return spec.certificate(3, score, np.full(len(spec.band.ranks), np.float32(score)))


def test_hindsight_by_hand():
    """All scores are 1: R is certified by n samples if sigma Phi^-1((1.1 eta)^(1/n)) > R, eta that of all of alpha."""
    sizes = look_sizes(2000)
    reach = [0.25 * ndtri((1.1 * clopper_pearson_eta(n, 0.001)) ** (1 / n)) for n in sizes]
    assert sizes[0] == 500 and reach == sorted(reach)
    for place in (0, 3, len(sizes) - 2):
        spec = CertificateSpec(MEASURES["pred_score"], 2000, 0.001, 0.25, radii=(0.0, reach[place] * 0.999))
        plan = Plan(spec, 0.5)
        assert looks.hindsight(plan, certificate_of_equal_scores(plan, 1.0)) == sizes[place]
        assert looks.hindsight(plan, certificate_of_equal_scores(plan, 0.3)) == 500  # never certified
    spec = CertificateSpec(MEASURES["pred_score"], 2000, 0.001, 0.25, radii=(reach[-2] * 1.001,))
    assert looks.hindsight(Plan(spec, 0.5), certificate_of_equal_scores(Plan(spec, 0.5), 1.0)) == 2000


def test_shares_of_a_run(tmp_path):
    """n / N is the mean of the saved n, and 1 without --settle; hindsight takes less. --skip 0 is refused."""
    result = certify(*arguments(weights_file(tmp_path), tmp_path / "staged", "--N", 2000, "--save_scores",
                                "--settle", 0.5, stop=400))
    assert result.returncode == 0, result.stderr
    dtype = np.dtype([tuple(field) for field in json.loads((tmp_path / "staged.json").read_text())["scores_dtype"]])
    n = np.fromfile(tmp_path / "staged.scores", dtype)["n"]
    certified = np.array([[float(row[name]) > 0.5 for name in row if name.startswith("exp_cdf")]
                          for row in read_rows(tmp_path / "staged")])
    for skip in (20, 40):
        row = looks.shares(str(tmp_path / "staged.scores"), skip)
        assert [row["images"], row["N"], row["looks"]] == [str(400 // skip), "2,000", "7"]
        assert row["n / N"] == f"{n[::skip // 20].mean() / 2000:.3f}"
        assert row["certificates"] == str(certified[::skip // 20].sum())
        assert 500 / 2000 <= float(row["hindsight"]) < float(row["n / N"])
    unstaged = looks.shares(str(ROOT / "log_files" / "cifar10_resnet20" / "margin" / "noise_0.25.scores"), 1000)
    assert (unstaged["looks"], unstaged["n / N"]) == ("1", "1.000") and 0.05 <= float(unstaged["hindsight"]) < 1
    assert_refused(call_program("benchmarks/looks.py", tmp_path / "staged.scores", "--skip", 0), "--skip")
    named = call_program("benchmarks/looks.py", tmp_path / "staged.scores", "--labels", "one run", "--title", "Looks",
                         "--format", "markdown").stdout
    assert named.startswith("Looks\n") and markdown_rows(named, "scores")[1][0] == "one run"
    assert_refused(call_program("benchmarks/looks.py", tmp_path / "staged.scores", "--labels", "a", "b"), "--labels")
