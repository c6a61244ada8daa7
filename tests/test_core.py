"""core.py: Smooth, from an image and a small base classifier to certificates."""
import math

import numpy as np
import pytest
import torch
from helpers import random_network
from torch import nn

from certconf.core import NonFiniteScores, Smooth, order_statistics
from certconf.statistics.bounds import clopper_pearson_ranks
from certconf.statistics.certificate import ABSTAIN, RADII, CertificateSpec
from certconf.statistics.sequential import Plan

SIGMA, ALPHA = 0.25, 0.001


def linear(classes=5, scale=8.0, seed=0):
    """Logits linear in the pixels: soft scores of every size, all classes near each other at a grey image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(48, classes)
    layer.weight.data *= scale
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer)


IMAGE = 0.4 * (linear()[1].weight[2] > 0).float().view(3, 4, 4)  # class 2 by about 5, and the noise's logits have sd 1


class Scripted(nn.Module):
    """Logits of sample number k from a function of k; torch.fx cannot trace it. `seen` counts all samples."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.count = logits, 0

    def forward(self, x):
        if not bool(x.isnan().any()):
            Scripted.seen += len(x)
        self.count += len(x)
        return torch.tensor([self.logits(k) for k in range(self.count - len(x), self.count)])


def scripted(logits):
    Scripted.seen = 0
    return Scripted(logits)


def smooth(network=None, classes=5, measure="pred_score", **options):
    return Smooth(linear(classes) if network is None else network, classes, SIGMA, measure, device="cpu", **options)


def certify(smoothed, n=500, batch=64, n0=50, alpha=ALPHA, x=IMAGE, index=0, **options):
    return smoothed.certify(x, n0, n, alpha, batch, index=index, **options)


def images(count):
    """Images at which the linear classifier is sure, and others at which it is not."""
    generator = torch.Generator().manual_seed(9)
    return [torch.randint(256 // (3 - k % 3), (3, 4, 4), generator=generator) / 255 for k in range(count)]


# --- certify ----------------------------------------------------------------------------------------------------------

def test_scores_and_order_statistics():
    """Scripted scores: softmax of (ln k, 0) is k / (k + 1), so every order statistic and the mean are known."""
    network = scripted(lambda k: [math.log(1 + k % 100), 0.0])
    certificate = certify(smooth(network, 2), n=1000, n0=128, batch=64)
    scores = np.sort([(1 + k % 100) / (2 + k % 100) for k in range(128, 1128)])
    assert certificate.chosen == 0
    assert certificate.mean == pytest.approx(scores.mean(), abs=1e-7)
    assert certificate.order_statistics == pytest.approx(scores[clopper_pearson_ranks(1000) - 1], abs=1e-6)


def test_order_statistics():
    """1-based ranks of the sorted scores, ties included."""
    scores = torch.tensor([0.5, 0.25, 0.75, 0.25])
    assert order_statistics(scores, np.array([1, 2, 3, 4])).tolist() == [0.25, 0.25, 0.5, 0.75]


def test_class_has_the_highest_mean():
    """Not the most frequent one: class 1 wins two passes of three narrowly, class 0 the third by far."""
    network = scripted(lambda k: [6.0, 0.0] if k % 3 == 0 else [0.0, 0.1])
    for measure in ("pred_score", "margin"):
        assert certify(smooth(network, 2, measure), n=64, n0=63, batch=63).chosen == 0


def test_selection_samples_do_not_bound():
    """The scores of the selection are thrown away: they are all 1 here, and the others 0.5 or so."""
    certificate = certify(smooth(scripted(lambda k: [50.0 if k < 64 else 0.01, 0.0]), 2), n0=64)
    assert certificate.chosen == 0
    assert certificate.mean == pytest.approx(1 / (1 + math.exp(-0.01)), abs=1e-6)


class Spy(Scripted):
    """Keeps what it is given."""

    received = []

    def forward(self, x):
        logits = super().forward(x)
        Spy.received.append(x.clone())
        return logits


@pytest.mark.parametrize("method", ["certify", "predict"])
def test_selection_and_estimation_are_independent(method):
    """The samples that choose the class are other ones than those that bound its score: two streams of noise."""
    Spy.received, Scripted.seen = [], 0
    getattr(Smooth(Spy(lambda k: [4.0, 0.0]), 2, SIGMA, device="cpu"), method)(IMAGE, 64, 192, ALPHA, 64, index=0)
    noise = ((torch.cat(Spy.received) - IMAGE) / SIGMA).flatten(1)
    assert noise.shape == (256, 48)
    assert torch.pdist(noise).min() > 1  # distances are sqrt(2) chi_48, about 9.8
    selection, estimation = noise[:64], noise[64:128]
    assert abs((selection * estimation).mean()) < 5 / math.sqrt(64 * 48)


@pytest.mark.parametrize("early", [False, True])
def test_two_measures_equal_two_passes(early):
    """From the same samples: each measure's certificate is that of a pass of its own with the same seed."""
    both = smooth(measure=("pred_score", "margin"))
    for index, x in enumerate(images(4)):
        together = certify(both, x=x, index=index)
        alone = [certify(smooth(measure=name, early_abstain=early), x=x, index=index) for name in
                 ("pred_score", "margin")]
        for one, two in zip(together, alone, strict=True):
            assert tuple(one) == tuple(two)
            assert one.spec.measure == two.spec.measure


def test_batch_size_does_not_matter():
    """The samples are the same, so the certificates are, up to the rounding of a forward pass."""
    expected = certify(smooth(), batch=1000)
    assert expected.prediction != ABSTAIN
    for batch in (64, 40, 7, 1):
        certificate = certify(smooth(), batch=batch)
        assert certificate.prediction == expected.prediction
        assert certificate.exp_cdf == pytest.approx(expected.exp_cdf, abs=1e-6)
        assert certificate.exp == pytest.approx(expected.exp, abs=1e-6)


def test_noise_is_that_of_seed_and_index():
    """The same again from the same (seed, index), whatever came before; other samples for another seed or index."""
    smoothed = smooth()
    first = certify(smoothed)
    assert first.mean not in (certify(smoothed, index=1).mean, certify(smoothed, seed=1).mean)
    assert tuple(certify(smoothed)) == tuple(first)


def test_radii_and_shapes():
    """One bound a radius, falling with it, in the order of the radii asked for, which may come from a generator."""
    prediction, exp_cdf, exp = certify(smooth(), radii=iter((0.0, 0.1, 0.33)))
    assert prediction == 2 and len(exp_cdf) == len(exp) == 3
    assert 1 > exp_cdf[0] > exp_cdf[1] > exp_cdf[2] > 0
    default = certify(smooth())
    assert len(default.exp_cdf) == len(RADII) and default.exp_cdf[0] == pytest.approx(exp_cdf[0], abs=1e-12)


def test_two_classes_and_bf16():
    """The smallest number of classes; with two of them the margin is 2 score - 1. In bf16, 2^-8 coarser logits."""
    score, margin = certify(smooth(classes=2, measure=("pred_score", "margin")))
    assert margin.chosen == score.chosen
    assert margin.mean == pytest.approx(2 * score.mean - 1, abs=1e-6)
    low = certify(smooth(classes=2, precision="bf16"))
    assert low.chosen == score.chosen
    assert low.mean != score.mean and low.mean == pytest.approx(score.mean, abs=0.01)


def test_residual_network():
    """Batches, folding and channels_last change nothing on the real architecture: its mean score by a plain loop."""
    network, x = random_network(), torch.randint(256, (3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255
    certificate = certify(Smooth(network, 10, SIGMA, device="cpu"), x=x, n=192)
    noisy = x + SIGMA * torch.randn(192, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        plain = network(noisy).softmax(1)[:, certificate.chosen]
    assert abs(certificate.mean - plain.mean()) < 5 * plain.std() * math.sqrt(2 / 192)


@pytest.mark.parametrize("n", [100, 3000])
def test_kept_ranks(n):
    """DKW at the ranks that are saved is never above DKW at all ranks: fewer thresholds. Clopper-Pearson has those."""
    def certify_by(x, index, bound, kept_ranks):
        smoothed = smooth()
        spec = CertificateSpec(smoothed.measures[0], n, ALPHA, SIGMA, bound, kept_ranks=kept_ranks)
        return smoothed.certify_by([Plan(spec)], x, 50, 64, index=index)[0]

    for index, x in enumerate(images(3)):
        full, kept = (certify_by(x, index, "dkw", kept_ranks) for kept_ranks in (None, "falling"))
        assert len(kept.order_statistics) <= len(full.order_statistics) == n
        for radius in RADII:
            assert kept.lower_bound(radius) <= full.lower_bound(radius) + 1e-12
        full, kept = (certify_by(x, index, "clopper_pearson", kept_ranks) for kept_ranks in (None, "falling"))
        assert tuple(full) == tuple(kept)


def test_weights():
    """Equal and falling levels give different limits, from the same scores."""
    falling, equal = (certify(smooth(), weights=weights) for weights in ("falling", "equal"))
    assert falling.mean == equal.mean and equal.spec.weights == "equal"
    assert falling.lower_bound(3 * SIGMA) > equal.lower_bound(3 * SIGMA)


def test_batch_is_remembered_after_out_of_memory(capsys):
    """The second image starts with the batch that the first one ended with: one line on stderr, not one an image."""
    class SmallMemory(nn.Module):
        def forward(self, x):
            if len(x) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x.flatten(1)[:, :5]

    smoothed = smooth(SmallMemory())
    for index in range(2):
        certify(smoothed, index=index, batch=32)
        smoothed.predict(IMAGE, 50, 500, ALPHA, 32, index=index)
    assert capsys.readouterr().err == "out of GPU memory: trying a batch of 16\n"


# --- early abstention -------------------------------------------------------------------------------------------------

def test_early_abstention_changes_no_other_row():
    """What a full run certifies is certified the same; what it gives up is given up, and nothing else."""
    certified = 0
    for index, x in enumerate(images(9)):
        for measure in ("pred_score", "margin"):
            full, early = (certify(smooth(measure=measure, early_abstain=early), 3000, x=x, index=index)
                           for early in (False, True))
            assert tuple(full) == tuple(early)
            certified += full.prediction != ABSTAIN
    assert 3 <= certified <= 15  # both kinds are among the images


@pytest.mark.parametrize("score, taken", [(0.1, 128), (0.3, 320), (0.45, 3008), (0.55, 3008)])
def test_when_sampling_stops(score, taken):
    """At a constant score, the first of 30, 100, 300 and 1000 samples at which score + sqrt(ln(4e6) / 2n) < 0.5.

    ln(4e6) = 15.2, so the widths are 0.50, 0.28, 0.16, 0.087; passes take 64 samples, and 64 selected the class.
    """
    network = scripted(lambda k: [math.log(score / (1 - score) * 10)] + [0.0] * 10)
    certificate = certify(smooth(network, 11, early_abstain=True), 3000, n0=64)
    assert certificate.mean == pytest.approx(score, abs=1e-6)
    assert Scripted.seen - 64 == taken
    assert (certificate.order_statistics is None) == (taken < 3000)
    assert (certificate.prediction == ABSTAIN) == (score < 0.5)


def test_two_measures_stop_together():
    """The margin of 0.4 - 0.06 certifies where the score of 0.4 abstains: all samples are taken, for both."""
    network = scripted(lambda k: [math.log(0.4 / 0.06)] + [0.0] * 10)
    score, margin = certify(smooth(network, 11, ("pred_score", "margin"), early_abstain=True), 3000, n0=64)
    assert Scripted.seen == 64 + 3008
    assert score.prediction == ABSTAIN and margin.prediction == 0
    assert score.order_statistics is not None


# --- what cannot be certified -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("first, last", [(3, 4), (100, 101), (499, 500)])
@pytest.mark.parametrize("measure", ["pred_score", "margin"])
def test_non_finite_scores(bad, first, last, measure):
    """One NaN or infinite logit anywhere, in the selection (samples 0 to 63) or the estimation: no certificate."""
    network = scripted(lambda k: [bad if first <= k < last else 4.0, 0.0, 0.0])
    with pytest.raises(NonFiniteScores):
        certify(smooth(network, 3, measure, early_abstain=True), n=436, n0=64)
    network = scripted(lambda k: [4.0, bad if first <= k < last else 0.0, 0.0])
    with pytest.raises(NonFiniteScores):
        Smooth(network, 3, SIGMA, device="cpu").predict(IMAGE, 64, 436, ALPHA, 64, index=0)


def test_minus_infinity_is_a_softmax_of_zero():
    """A logit of -inf gives the finite softmax 0, which is a score."""
    assert certify(smooth(scripted(lambda k: [4.0, -math.inf]), 2)).mean == 1.0


@pytest.mark.parametrize("changes", [
    {"n0": 0}, {"n": 0}, {"batch": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": math.nan}, {"radii": (-0.25, 0.0)},
    {"bound": "none"}, {"bound": "dkw", "alpha": 0.9}, {"seed": -1}, {"seed": 256}, {"index": -1}, {"index": 2 ** 21}])
def test_bad_arguments(changes):
    """ValueError, before anything is sampled."""
    network = scripted(lambda k: [4.0, 0.0])
    with pytest.raises(ValueError):
        certify(smooth(network, 2), **changes)
    assert Scripted.seen == 0


@pytest.mark.parametrize("sigma", [0, math.inf, math.nan, 0.0009])
def test_bad_sigma(sigma):
    """Noise has a standard deviation above 0."""
    with pytest.raises(ValueError, match="sigma"):
        Smooth(linear(), 5, sigma)


@pytest.mark.parametrize("classes", [4, 6])
def test_wrong_number_of_classes(classes):
    """Said before a certificate for a class that is none."""
    with pytest.raises(ValueError, match="has 5 classes"):
        certify(Smooth(linear(5), classes, SIGMA, device="cpu"))
