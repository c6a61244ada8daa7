"""Hard labels: the measure top_class, its certificates (Cohen et al. 2019) and its runs."""
import json

import numpy as np
import pytest
import torch
from certify_runs import OPTIONS, call_program, certify, tiny_network, weights_file
from helpers import assert_refused, read_rows, without_time
from scipy.special import ndtri
from scipy.stats import beta, binomtest

from certconf.core import Smooth
from certconf.inputs.datasets import open_images
from certconf.sampling.streams import ESTIMATION, SELECTION
from certconf.statistics.bounds import clopper_pearson_ranks, two_valued_band
from certconf.statistics.certificate import ABSTAIN, RADII, CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import Plan

SIGMA, ALPHA = 0.25, 0.001
TOP = MEASURES["top_class"]
ALL = ("pred_score", "margin", "top_class")


def cohen_limit(k, n, alpha=ALPHA):
    """Their lower limit on the class's probability, after k of n samples of it: SciPy's Beta quantile."""
    return beta.ppf(alpha, k, n - k + 1) if k else 0.0


def certificate_of(k, n, spec=None):
    """The certificate of n hard labels, k of which are the class."""
    spec = spec or CertificateSpec(TOP, n, ALPHA, SIGMA)
    scores = np.sort(np.arange(n) < k).astype(np.float32)
    return spec.certificate(4, float(scores.mean(dtype=np.float64)), scores[spec.band.ranks - 1])


@pytest.mark.parametrize("n", [100, 1000])
def test_radius_is_that_of_cohen_et_al(n):
    """Where every rank has a limit: sigma Phi^-1(p), from below by 1e-5 of alpha and the radius's own rounding."""
    assert len(clopper_pearson_ranks(100)) == 100
    ranks = set(clopper_pearson_ranks(n).tolist())
    for k in [k for k in range(n + 1) if n - k + 1 in ranks or k == 0]:
        certificate, p = certificate_of(k, n), cohen_limit(k, n)
        radius, expected = certificate.radius(0.5), max(SIGMA * ndtri(p), 0.0)
        assert radius <= expected and radius == pytest.approx(expected, abs=1e-5)
        assert certificate.prediction == (4 if p > 0.5 else ABSTAIN)


def test_ranks_round_down():
    """n = 100,000: the limit is Cohen et al.'s for the next lower count that has a rank."""
    n, ranks = 100_000, clopper_pearson_ranks(100_000)
    for k in np.random.default_rng(0).integers(60_000, n, 200).tolist():
        counts = n - ranks + 1
        m = counts[counts <= k].max()
        radius = certificate_of(k, n).radius(0.5)
        assert radius == pytest.approx(SIGMA * ndtri(cohen_limit(m, n)), abs=1e-6)
        assert 0 <= SIGMA * ndtri(cohen_limit(k, n)) - radius < 0.03 * SIGMA


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("n, alpha", [(60, 0.1), (5000, 0.05)])
def test_coverage(p, n, alpha):
    """The bound at the image exceeds the class's probability in at most a share alpha of the samples.

    At n = 60, where each count has a rank, also as often as the exact test does: nothing is given away.
    """
    band = two_valued_band(n, alpha)
    counts = np.random.default_rng(3).binomial(n, p, 20_000)
    scores = np.arange(1, n + 1)[None, :] > n - np.arange(n + 1)[:, None]  # [k, rank]: k ones, sorted
    survival = np.where(scores[:, band.ranks - 1], p, 1.0)
    fails = (band.prob > survival).any(1)[counts].sum()
    assert binomtest(int(fails), len(counts), alpha, alternative="greater").pvalue > 1e-6
    if n == 60:
        exact = np.array([cohen_limit(k, n, alpha) > p for k in range(n + 1)])[counts].sum()
        assert fails == exact


def test_dkw_and_looks():
    """The paper's band is as for other measures; each look of staged sampling has limits at its own level."""
    spec = CertificateSpec(TOP, 1000, ALPHA, SIGMA, "dkw")
    assert np.array_equal(spec.band.prob, CertificateSpec(MEASURES["pred_score"], 1000, ALPHA, SIGMA, "dkw").band.prob)
    looks = Plan(CertificateSpec(TOP, 4000, ALPHA, SIGMA), 0.5).looks
    assert len(looks) == 10
    for look in looks:
        n, alpha = look.spec.n, look.spec.alpha
        assert look.spec.band.prob[0] == pytest.approx(cohen_limit(n, n, alpha), rel=1e-5)


# --- runs -------------------------------------------------------------------------------------------------------------

def arguments(folder, *options, stop=160):
    return ("cifar10", weights_file(folder), SIGMA, folder / "{confidence_measure}", *OPTIONS, "--N", 1000, "--max",
            stop, "--save_scores", "--confidence_measure", *ALL, *options)


@pytest.fixture(scope="module", params=[(), ("--settle", 0.5, 0.0, 0.5)], ids=["one look", "staged"])
def logs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("top")
    for stop in (60, 160):  # interrupted, and resumed
        result = certify(*arguments(folder, *request.param, stop=stop))
        assert result.returncode == 0, result.stderr
    return folder


def test_three_measures_in_one_pass(logs):
    """Three logs; that of the class is certified at radius R where Cohen et al.'s radius exceeds R."""
    rows = {name: without_time(read_rows(logs / name)) for name in ALL}
    assert [row["idx"] for row in rows["top_class"]] == [row["idx"] for row in rows["pred_score"]]
    images, _ = open_images("cifar10", "test", 20)
    sampler, certified = Smooth(tiny_network(), 10, SIGMA, "top_class", device="cpu").sampler, 0
    for row in rows["top_class"]:
        x, _ = images.load(int(row["idx"]))
        chosen, counts = (sum(torch.bincount(softmax.argmax(1), minlength=10)
                              for softmax in sampler.softmax(x, n, 1000, (0, int(row["idx"]), stream)))
                          for n, stream in ((16, SELECTION), (1000, ESTIMATION)))
        radius = max(SIGMA * ndtri(cohen_limit(int(counts[chosen.argmax()]), 1000)), 0.0)
        for r in RADII:
            bound = float(row[f"exp_cdf_{round(100 * r):02d}"])
            assert bound <= 0.5 or r < radius
            if json.loads((logs / "top_class.json").read_text())["settings"]["settle"] is None and r < radius - 0.01:
                assert bound > 0.5
            certified += bound > 0.5
    assert certified > 3


def test_recertified_log_equals_the_run(logs, tmp_path):
    assert call_program("code/recertify.py", logs / "top_class.scores", tmp_path / "again").returncode == 0
    assert without_time(read_rows(tmp_path / "again")) == without_time(read_rows(logs / "top_class"))
    radius = call_program("code/radius.py", logs / "top_class.scores", tmp_path / "radii", "--score", 0.5)
    assert radius.returncode == 0, radius.stderr


def test_saved_scores_between_the_two_values(logs, tmp_path):
    """A file whose scores are not 0 or 1 is not of this measure: its limits would not hold."""
    record = json.loads((logs / "top_class.json").read_text())
    records = np.fromfile(logs / "top_class.scores", np.dtype([tuple(field) for field in record["scores_dtype"]]))
    row = int(np.argmax(records["order"][:, -1] == 1))
    records["order"][row][records["order"][row] == 0] = 0.5
    records["order"][row][0] = 0.5
    records.tofile(tmp_path / "log.scores")
    (tmp_path / "log.json").write_text(json.dumps(record))
    assert_refused(call_program("code/recertify.py", tmp_path / "log.scores", tmp_path / "out"), "saved scores")
