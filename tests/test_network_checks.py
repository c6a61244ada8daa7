"""What a run finds out before it samples: networks that are no fixed function, wrong compiled code, an N too small."""
import json
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from certify_runs import Blinding, arguments, certify, tiny_network, weights_file
from helpers import DEMO_CHECKPOINT, assert_refused, random_network, read_rows, without_time
from rounding import largest_change

from certconf.core import Smooth
from certconf.errors import BadNetwork
from certconf.inputs.architectures import load_checkpoint
from certconf.inputs.datasets import open_images
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.statistics.certificate import ABSTAIN, CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

X = open_images("cifar10", "test", 20)[0].load(0)[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights"))


class Own(torch.nn.Module):
    """The tiny network with something before or after it."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()


class BatchMean(Own):
    """Subtracts its batch's mean."""

    def forward(self, x):
        return self.inner(x - x.mean(0) + 0.5)


class Scale(Own):
    """Divides by the largest activation of its batch, as an 8-bit quantisation with dynamic ranges may."""

    def forward(self, x):
        logits = self.inner(x)
        return (logits / logits.abs().max() * 16).round() / 16


class Place(Own):
    """The first image of a batch gets other logits."""

    def forward(self, x):
        logits = self.inner(x)
        return torch.cat([logits[:1] * 0.9, logits[1:]])


class Calls(Own):
    """Counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x + 0.01 * self.calls)


class Dropout(Own):
    """Random in eval mode too, as a stochastic denoiser is: each pixel of each image draws for itself."""

    def forward(self, x):
        return self.inner(torch.nn.functional.dropout(x, 0.1, training=True))


class DropoutOfMean(BatchMean):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.1, training=True))


class OwnGenerator(Own):
    """Draws from a generator of its own."""

    def forward(self, x):
        generator = self.__dict__.setdefault("generator", torch.Generator().manual_seed(1))
        return self.inner(x + 0.1 * torch.randn(x.shape, generator=generator))

    def __deepcopy__(self, memo):
        return OwnGenerator().eval()


def check(network, precision="fp32", compile=False, random=False, batch=1000):
    smooth = Smooth(network.eval(), 10, 0.25, device="cpu", precision=precision, compile=compile, random_network=random)
    return smooth.check(X, 1000, batch)


# --- one fixed function -----------------------------------------------------------------------------------------------

REFUSED = {BatchMean: "companions in the batch", Scale: "companions in the batch", Place: "companions in the batch",
           Calls: "between calls", Dropout: "between calls"}


@pytest.mark.parametrize("network, word", REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_no_fixed_function(network, word, weights, tmp_path):
    """Refused in one line that says which, before there is a log."""
    result = certify(*arguments(weights, tmp_path / "new" / "log"), network=network().eval())
    assert_refused(result, str(weights), word)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("network", [BatchMean, Calls])
def test_no_fixed_function_in_another_precision(precision, network):
    with pytest.raises(BadNetwork, match=REFUSED[network]):
        check(network(), precision)


def bundled_network():
    return load_checkpoint(str(DEMO_CHECKPOINT), "cifar10")[0]


@pytest.mark.parametrize("network, precision, compile", [
    (bundled_network, "fp32", False), (bundled_network, "bf16", False),
    (lambda: random_network("cifar_resnet110"), "fp32", False),
    pytest.param(tiny_network, "fp32", True, marks=pytest.mark.long)], ids=["fp32", "bf16", "ResNet-110", "compiled"])
def test_networks_that_pass(network, precision, compile):
    """Fixed functions, for every size of a pass; for a batch of one image, too, which has no companions."""
    for batch in (64,) if compile else (64, 3, 1):
        assert check(network(), precision, compile, batch=batch) == []


def test_the_benchmark_of_rounding():
    """It prints the larger of the two changes."""
    noise = make_noise("integer", 0.25, torch.device("cpu"))
    small, large = (largest_change(Sampler(network().eval(), noise, torch.device("cpu"), "fp32", False), [X])
                    for network in (tiny_network, Place))
    assert small < 1e-5 and 0.01 < large < 0.2


def test_networks_without_finite_logits_pass(weights, tmp_path):
    """NaN is the same NaN again: such an image gets no row, as ever."""
    assert certify(*arguments(weights, tmp_path / "log"), network=Blinding(-9.0)).returncode == 1
    assert check(Blinding(0.5)) == []


def test_nothing_else_changes(weights, tmp_path):
    """The check draws no number of the samples, nor of PyTorch's generator: the rows are those without it."""
    state = torch.get_rng_state()
    assert check(Dropout(), random=True) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert certify(*arguments(weights, tmp_path / "one")).returncode == 0
    with patch.object(Sampler, "check", lambda *args: []):
        assert certify(*arguments(weights, tmp_path / "two")).returncode == 0
    assert without_time(read_rows(tmp_path / "one")) == without_time(read_rows(tmp_path / "two"))


# --- random networks --------------------------------------------------------------------------------------------------

def test_a_random_network(weights, tmp_path):
    """--random_network lets it run, and is recorded: such a log is not resumed without it, nor another with it."""
    command = arguments(weights, tmp_path / "log")
    result = certify(*command, "--random_network", network=Dropout().eval())
    assert result.returncode == 0 and "draws" not in result.stderr, result.stderr
    assert json.loads(Path(f"{tmp_path / 'log'}.json").read_text())["settings"]["random_network"] is True
    longer = arguments(weights, tmp_path / "log", stop=300)
    assert_refused(certify(*longer, network=tiny_network()), "--random_network (true, now null)")
    assert certify(*arguments(weights, tmp_path / "fixed")).returncode == 0
    assert "random_network" not in json.loads(Path(f"{tmp_path / 'fixed'}.json").read_text())["settings"]
    assert_refused(certify(*arguments(weights, tmp_path / "fixed"), "--random_network"), "--random_network (null, now")


def test_companions_of_a_random_network():
    """Compared under one state of PyTorch's generators, which decides all of its draws."""
    with pytest.raises(BadNetwork, match="companions in the batch"):
        check(DropoutOfMean(), random=True)
    line, = check(OwnGenerator(), random=True)
    assert "was not checked" in line


# --- compiled code ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision, factor, reported", [
    ("fp32", 1.001, False), ("fp32", 1.5, True), ("bf16", 1.5, True)])
def test_compiled_code_that_computes_something_else(precision, factor, reported, each_cpu, weights, tmp_path):
    """It is reported with its size, and the rows are the compiled network's."""
    def wrong(self):
        return lambda x: self._network(x) * factor

    command = (*arguments(weights, tmp_path / "log"), "--compile", "--precision", precision)
    with patch.object(Sampler, "_compiled", wrong):
        result = certify(*command)
    assert result.returncode == 0, result.stderr
    assert ("compiled network's softmax differs from the eager one's by up to 0." in result.stderr) == reported
    scaled = tiny_network()
    scaled[2].weight.data *= factor
    scaled[2].bias.data *= factor
    assert certify(*arguments(weights, tmp_path / "scaled"), "--precision", precision, network=scaled).returncode == 0
    one, two = (read_rows(tmp_path / name) for name in ("log", "scaled"))
    assert [row["predict"] for row in one] == [row["predict"] for row in two]


# --- the least N ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("measure, bound, alpha, least", [
    ("top_class", "clopper_pearson", 0.001, 10),  # 0.001^(1/10) = 0.501
    ("top_class", "clopper_pearson", 0.05, 5),  # 0.05^(1/5) = 0.549, 0.05^(1/4) = 0.473
    ("pred_score", "dkw", 0.001, 14), ("margin", "dkw", 0.001, 14)])  # sqrt(ln(1000) / 28) = 0.497
def test_the_least_n_by_hand(measure, bound, alpha, least):
    """1 less an interval's width, or the lower limit of n hits in n trials, reaches a half there."""
    def plan(n):
        return Plan(CertificateSpec(MEASURES[measure], n, alpha, 0.25, bound))

    assert plan(3).least_n() == plan(200).least_n() == least
    assert not plan(least - 1).can_certify() and plan(least).can_certify()


@pytest.mark.parametrize("settle", [None, 0.6])
@pytest.mark.parametrize("measure", ["pred_score", "margin", "top_class"])
def test_no_score_certifies_below_it(measure, settle):
    """A network that is always sure of one class: abstains with one sample less, and is certified with the least N."""
    class Sure(torch.nn.Module):
        def forward(self, x):
            return torch.eye(10)[3].expand(len(x), 10) * 1000

    smooth = Smooth(Sure(), 10, 0.25, measure, device="cpu")
    least = Plan(CertificateSpec(MEASURES[measure], 5, 0.001, 0.25), settle).least_n()
    for n, prediction in ((least - 1, ABSTAIN), (least, 3)):
        assert smooth.certify(X, 5, n, 0.001, 100, index=0, settle=settle).prediction == prediction


def test_n_too_small(weights, tmp_path):
    """Refused before anything is loaded, with the N that is enough; with that it runs."""
    for options, names in (((), "(pred_score)"), (("--settle", 0.6), "(pred_score)"),
                           (("--confidence_measure", "pred_score", "top_class", "--alpha", 1e-4), "(pred_score, top_")):
        out = tmp_path / "new" / "{confidence_measure}"
        result = certify(*arguments(weights, out, *options, "--N", 10), network="real")
        assert_refused(result, "--N 10", "every image abstains", names)
        assert not out.parent.exists()
        least = int(result.stderr.split("--N ")[2].split()[0])
        assert_refused(certify(*arguments(weights, out, *options, "--N", least - 1)), f"--N {least} is")
        result = certify(*arguments(weights, out, *options, "--N", least, "--overwrite", stop=21))
        assert result.returncode == 0, result.stderr
        shutil.rmtree(out.parent)


@pytest.mark.parametrize("options, told", [
    # Phi^-1(0.001^(1/1000)) = 2.464 and Phi^-1(1 - sqrt(ln(1000) / 2000)) = 1.565, at sigma 0.25
    (("--confidence_measure", "top_class"), "bound exceeds 0.5 at radius 0.62 or above (--radii: from 0.75 on)"),
    (("--bound", "dkw"), "no pred_score bound exceeds 0.5 at radius 0.40 or above (--radii: from 0.5 on)"),
    (("--radii", 0.5, "--settle", 0.9), "no pred_score bound exceeds 0.9 at radius 0."),
    (("--bound", "dkw", "--radii", 0, 0.39), "no pred_score bound exceeds 0.5 at radius 0.40 or above\n")])
def test_ceiling(weights, tmp_path, options, told):
    """It is said before the first row, and at which radii of the log nothing can be certified."""
    result = certify(*arguments(weights, tmp_path / "log", *options, "--N", 1000, stop=21))
    assert result.returncode == 0 and told in result.stderr.replace("\r", "\n"), result.stderr
