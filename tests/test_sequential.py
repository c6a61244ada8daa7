"""statistics/sequential.py: the looks, when they settle an image, and how often a staged certificate fails."""
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import binomtest

from certconf.statistics import bounds, certificate
from certconf.statistics.bounds import clopper_pearson_band, dkw_band, limit_weights
from certconf.statistics.certificate import ABSTAIN, BOUNDS, RADII, CertificateSpec
from certconf.statistics.measures import MEASURES, SOFT_MEASURES
from certconf.statistics.sequential import GROWTH, OPTIMISM, Plan, look_sizes, split_alpha

SIGMA, N = 0.25, 4000  # looks at 500, 629, 793, 1000, ... 3174 and 4000
UNLIKELY = 1e-4  # a simulation may fail by chance this often, were its seed not fixed


def plan(measure="pred_score", n=N, alpha=0.001, score=0.5, **changes):
    """The looks of a plan."""
    return Plan(CertificateSpec(MEASURES[measure], n, alpha, SIGMA, **changes), score).looks


def levels(alpha, looks):
    return split_alpha(alpha, [GROWTH ** k for k in range(looks)])


def certificate_at(look, scores):
    """The look's certificate of class 4 from the first scores of a sample [N]."""
    first = np.sort(scores[:look.spec.n].astype(np.float32))
    return look.spec.certificate(4, float(first.mean(dtype=np.float64)), first[look.spec.band.ranks - 1])


def run(looks, scores):
    """The certificate of the first look that settles the sample."""
    for look in looks:
        certificate = certificate_at(look, scores)
        if look.settles(certificate):
            return certificate
    raise AssertionError("the last look settles everything")


# --- the plan ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, doublings, looks", [
    (100_000, [781, 1562, 3125, 6250, 12_500, 25_000, 50_000, 100_000], 22),
    (10_000, [625, 1250, 2500, 5000, 10_000], 13),
    (1_000_000, [7812, 15_625, 31_250, 62_500, 125_000, 250_000, 500_000, 1_000_000], 22),
    (1000, [500, 1000], 4), (501, [501], 1), (1, [1], 1)])
def test_sizes(n, doublings, looks):
    """At most 22 looks, three of them until the samples have doubled; fewer where the first would have under 500."""
    sizes = look_sizes(n)
    assert sizes[::-1][::3][::-1] == doublings and len(sizes) == looks
    for back, size in enumerate(reversed(sizes)):  # n 2^(-back / 3), rounded down, in exact arithmetic
        assert size ** 3 * 2 ** back <= n ** 3 < (size + 1) ** 3 * 2 ** back


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.floats(1e-95, 0.999), st.integers(1, 22))
def test_alphas(alpha, looks):
    """Each 1.4 times the one before; never more than alpha together, in exact arithmetic, and alpha up to rounding."""
    spec = CertificateSpec(MEASURES["pred_score"], math.ceil(510 * 2 ** ((looks - 1) / 3)), alpha, SIGMA)
    alphas = [each for _, each in Plan(spec, 0.5).schedule]
    assert len(alphas) == looks and (looks > 1 or alphas == [alpha])
    assert np.divide(alphas[1:], alphas[:-1]) == pytest.approx([1.4] * (looks - 1), rel=1e-12)
    assert Fraction(alpha) * (1 - Fraction(1, 10 ** 15)) <= sum(map(Fraction, alphas)) <= Fraction(alpha)


def test_specs_of_the_looks():
    """Each look has the band of its own n and alpha, and its own limit on the mean."""
    looks = plan()
    assert [look.spec.n for look in looks] == look_sizes(N)
    assert [look.spec.alpha for look in looks] == levels(0.001, 10)
    assert all(look.final is looks[-1].spec for look in looks)
    for look in looks:
        band = clopper_pearson_band(look.spec.n, look.spec.alpha)
        assert np.array_equal(look.spec.band.ranks, band.ranks) and np.array_equal(look.spec.band.prob, band.prob)
        width = math.sqrt(math.log(1 / look.spec.alpha) / (2 * look.spec.n))
        assert certificate_at(look, np.full(N, 0.75)).mean_lower == pytest.approx(0.75 - width, abs=1e-12)
    first, last = plan(bound="dkw")[0].spec, plan(bound="dkw", kept_ranks="falling")[-1].spec
    assert np.array_equal(first.band.prob, dkw_band(500, levels(0.001, 10)[0]).prob)
    assert np.array_equal(last.band.ranks, looks[-1].spec.band.ranks)


def test_looks_given():
    """A plan's own looks are kept, for other specs too; at another alpha they share it as before."""
    spec = CertificateSpec(MEASURES["pred_score"], N, 0.001, SIGMA)
    own = ((700, 0.0001), (2000, 0.0003), (N, 0.0006))
    kept = Plan(spec, 0.5, own)
    assert [(look.spec.n, look.spec.alpha) for look in kept.looks] == list(own) and kept.schedule_at(0.001) == own
    sizes, alphas = zip(*kept.schedule_at(0.0005), strict=True)
    assert sizes == (700, 2000, N) and alphas == pytest.approx((0.00005, 0.00015, 0.0003), rel=1e-12)
    assert sum(map(Fraction, alphas)) <= Fraction(0.0005)
    assert kept.recorded_looks() == [[700, 0.0001], [2000, 0.0003], [N, 0.0006]]
    assert Plan(spec).schedule == ((N, 0.001),) and Plan(spec).recorded_looks() is None


@pytest.mark.parametrize("schedule", [
    ((2000, 0.0004), (1000, 0.0003), (N, 0.0003)), ((1000, 0.0005), (1000, 0.0001), (N, 0.0001)),
    ((500, 0.0005), (2000, 0.0005)), ((500, 0.0005), (N + 1, 0.0005)), ((0, 0.0005), (N, 0.0005)),
    ((500, 0.0005), (N, math.nextafter(0.0005, 1))), ((500, 0.0), (N, 0.0005)), ((500, -0.1), (N, 0.0005)),
    ((500, math.nan), (N, 0.0005)), ((500, 0.0005), (N, math.inf)), ((500, 1e-101), (N, 0.0005))])
def test_looks_that_are_refused(schedule):
    """Sizes that do not rise to N, levels that are not positive, or add up to more than alpha, if by one digit."""
    spec = CertificateSpec(MEASURES["pred_score"], N, 0.001, SIGMA)
    with pytest.raises(ValueError, match="of the looks must"):
        Plan(spec, 0.5, schedule)


def test_several_looks_settle_a_score():
    spec = CertificateSpec(MEASURES["pred_score"], N, 0.001, SIGMA)
    with pytest.raises(ValueError, match="score"):
        Plan(spec, None, ((500, 0.0005), (N, 0.0005)))


def test_no_look_is_calibrated_before_it_is_needed(monkeypatch):
    """The last look is calibrated before the sampling, another one when a certificate comes from it."""
    seen, real = [], bounds.clopper_pearson_band
    monkeypatch.setattr(certificate, "clopper_pearson_band", lambda n, *args: seen.append(n) or real(n, *args))
    spec = CertificateSpec(MEASURES["pred_score"], 4321, 0.00123, SIGMA)
    looks = Plan(spec, 0.5).prepare().looks
    assert seen == [4321]
    looks[1].settles(certificate_at(looks[1], np.ones(4321)))
    assert seen == [4321, looks[1].spec.n]


@pytest.mark.parametrize("measure, score", [("pred_score", 0.0), ("pred_score", 1.0), ("margin", -1.0),
                                            ("pred_score", math.nan)])
def test_score_outside_the_range(measure, score):
    with pytest.raises(ValueError, match="range"):
        plan(measure, score=score)


# --- when a look settles ----------------------------------------------------------------------------------------------

def limit_of_equal_scores(look):
    """p_1 = (1.1 eta)^(1/n): the limit of the lowest rank."""
    return (1.1 * look.spec.band.eta) ** (1 / look.spec.n)


@pytest.mark.parametrize("scores, score, radii, settled, prediction", [
    (1.0, 0.5, (0.0, 0.4), True, 4),  # Phi(1.9 - 1.6) is above 0.5
    (1.0, 0.5, (0.0, 0.4, 1.5), True, 4),  # and at 6 sigma no 4000 samples suffice
    (0.3, 0.5, RADII, True, ABSTAIN),  # not even its mean is above the cutoff
    (0.502, 0.5, RADII, False, ABSTAIN),  # its mean is, and 4000 samples might show it
    (0.502, 0.4, (0.0,), False, ABSTAIN),  # the bound exceeds the score already, but the cutoff is open
    (0.502, 0.9, RADII, False, ABSTAIN),  # the bound will never exceed the score, but the cutoff is open
    (0.7, 0.9, RADII, True, 4),  # above the cutoff, and never above this score
    (np.nan, 0.5, RADII, False, ABSTAIN),
])
def test_settled_at_the_first_look(scores, score, radii, settled, prediction):
    """All scores are equal: the bound at R is their value times Phi(Phi^-1(p_1) - R / sigma), p_1 = 0.98 or so."""
    look = plan(score=score, radii=radii)[0]
    certificate = certificate_at(look, np.full(N, scores))
    assert certificate.prediction == prediction
    assert look.settles(certificate) == settled


def test_a_radius_between_the_looks():
    """All scores are 1. A radius that only the last look certifies keeps an image open; others do not."""
    looks = plan(radii=(0.0,))
    first, last = (SIGMA * ndtri(limit_of_equal_scores(look)) for look in (looks[0], looks[-1]))
    # what counts beyond the score 1 is nothing, so the reach is the last look's own limit
    for radius, settled in ((first * 0.999, True), (first * 1.001, False), (last * 0.999, False), (last * 1.001, True)):
        look = plan(radii=(radius,))[0]
        assert look.settles(certificate_at(look, np.ones(N))) == settled


def test_the_last_look_settles_everything():
    """Also what is still open, or not a number."""
    look = plan()[-1]
    for scores in (0.502, np.nan):
        assert look.settles(certificate_at(look, np.full(N, scores)))


@pytest.mark.parametrize("measure", SOFT_MEASURES)
def test_reach_by_hand(measure):
    """Equal scores c: c - min times the last limit p_1, and max - c times its limit at the share u = 1 - 0.3^(1/500).

    Among 4000 scores that is a little under 10: between the limits of 9 and of 10 scores.
    """
    look, c = plan(measure, score=0.3)[0], 0.625
    low, high = MEASURES[measure].score_min, MEASURES[measure].score_max
    u = 1 - OPTIMISM ** (1 / 500)
    assert 9 < N * u < 10
    eta = look.final.band.eta
    limits = [betaincinv(k, N - k + 1, eta * limit_weights([N - k + 1], "falling")[0]) for k in (9, 10)]
    limit = limits[0] + (N * u - 9) * (limits[1] - limits[0])
    shifts = np.array((0.0, *RADII)) / SIGMA
    p = limit_of_equal_scores(plan(measure, score=0.3)[-1])
    expected = low + (c - low) * ndtr(ndtri(p) - shifts) + (high - c) * ndtr(ndtri(limit) - shifts)
    reach = look.optimistic_bound(np.full(len(look.spec.band.ranks), c))
    assert reach == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0.2, 30), st.floats(0.2, 5), st.floats(0, 1), st.integers(0, 10 ** 6), st.sampled_from(BOUNDS))
def test_reach_is_optimistic(a, b, atom, seed, bound):
    """Were the rest of the sample like its first look, the last bound would be at most the reach, at every radius."""
    looks, rng = plan(bound=bound), np.random.default_rng(seed)
    first = np.where(rng.random(500) < atom, 1.0, rng.beta(a, b, 500))
    last = certificate_at(looks[-1], np.repeat(first, N // 500))
    bounds = [last.lower_bound(radius) for radius in (0.0, *RADII)]
    best = looks[0].optimistic_bound(certificate_at(looks[0], first).order_statistics)
    assert np.all(bounds <= best + 1e-6)  # float32 scores


# --- how often it fails -----------------------------------------------------------------------------------------------

SCORES = {  # from a uniform u: the score, and the function s -> P(score >= s) at the scores that occur
    "continuous": (lambda u: u, lambda s: 1 - s),
    "half are 1": (lambda u: np.minimum(2 * u, 1), lambda s: 1 - s / 2),
    "four values": (lambda u: np.floor(4 * u) / 4, lambda s: 1 - s),
    "two values": (lambda u: np.where(u < 0.03, 0.0, 1.0), lambda s: np.where(s > 0, 0.97, 1.0)),
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_coverage_with_optional_stopping(scores, bound):
    """The share of samples in which some look's band fails, the worst that a stopping rule can find: at most alpha.

    Continuous scores: look k fails in a share alpha_k itself, which Clopper-Pearson's calibration promises.
    """
    transform, survival = SCORES[scores]
    alpha, runs, n = 0.2, 2000, 2000
    looks = plan(n=n, alpha=alpha, bound=bound)
    assert len(looks) == 7
    sample = transform(np.random.default_rng(17).random((runs, n)))
    failed = []
    for look in looks:
        thresholds = np.sort(sample[:, :look.spec.n], axis=1)[:, look.spec.band.ranks - 1]
        failed.append(np.any(look.spec.band.prob > survival(thresholds), axis=1))
        if bound == "clopper_pearson" and scores == "continuous":
            assert binomtest(int(failed[-1].sum()), runs, look.spec.alpha).pvalue > UNLIKELY
    failures = int(np.any(failed, axis=0).sum())
    assert binomtest(failures, runs, alpha, alternative="greater").pvalue > UNLIKELY
    assert failures > max(map(np.sum, failed)) or scores != "continuous"  # not one look's failures alone


# --- what it costs and saves ------------------------------------------------------------------------------------------

def mixtures(count, n, seed):
    """Samples [n] of scores as a classifier gives them: confident ones, with a share that is low."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        low = rng.random(n) < rng.choice([0.0, 0.02, 0.1, 0.3, 0.7])
        yield np.where(low, rng.beta(1, rng.uniform(1, 5), n), rng.beta(10 ** rng.uniform(0, 2), 1, n))


@pytest.mark.parametrize("bound", BOUNDS)
def test_staged_decisions(bound):
    """Among Beta mixtures, giving up loses at most 1 in 100 of the certificates of the last look, and saves samples.

    One look at all N scores with all of alpha certifies at most 3 % more.
    """
    n, count = 16_000, 300
    looks, whole = plan(n=n, bound=bound), CertificateSpec(MEASURES["pred_score"], n, 0.001, SIGMA, bound)
    sizes, certified = [], []  # of the radii: staged, by the last look, by one look with all of alpha
    for scores in mixtures(count, n, seed=3):
        row, ordered = run(looks, scores), np.sort(scores.astype(np.float32))
        others = [spec.certificate(4, float(scores.mean()), ordered[spec.band.ranks - 1])
                  for spec in (looks[-1].spec, whole)]
        certified.append([np.greater(found.exp_cdf, 0.5) & (found.prediction != ABSTAIN) for found in (row, *others)])
        sizes.append(row.spec.n)
    staged, last, single = np.array(certified).transpose(1, 0, 2)
    assert last.sum() > count and len(set(sizes)) >= len(looks) - 1  # hardly a look that settles no image
    assert (last & ~staged).sum() <= last.sum() / 100
    assert staged.sum() >= single.sum() * 0.97
    assert np.mean(sizes) / n < 0.2
