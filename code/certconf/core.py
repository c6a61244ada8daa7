"""`Smooth`: the smoothed classifier. How an image x becomes a certificate, with noise sigma and error alpha:

    1. class      c = the class of the highest mean score over N0 noisy copies of x          _select
    2. scores     X_1 ... X_N of class c on N fresh noisy copies                             _sample_scores
    3. order      s_j = X_(r_j), order statistics at about 1,000 ranks                       order_statistics
    4. band       p_j <= P(score >= s_j) for all j at once, with probability 1 - alpha       bounds.clopper_pearson_band
    5. shift      Phi(Phi^-1(p_j) - R / sigma), which holds at distance R                    bounds.shifted_probability
    6. bound(R)   s_0 + sum_j (s_j - s_{j-1}) times these, s_0 the lowest possible score     bounds.weighted_score_bound
    7. row        the bounds at all radii; abstain if bound(0) is below the cutoff           certificate.Certificate
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from certconf.errors import BadNetwork, NonFiniteScores
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import ESTIMATION, SELECTION
from certconf.statistics.bounds import empirical_bernstein_lower, hoeffding_lower
from certconf.statistics.certificate import ABSTAIN, RADII, Certificate, CertificateSpec
from certconf.statistics.measures import MEASURES, Measure
from certconf.statistics.sequential import Plan, under_noise

EARLY_CHECKS = (100, 30, 10, 3)  # early abstention is considered after N / 100, N / 30, ... samples
EARLY_ERROR = 1e-6  # probability, over all the checks, that it changes a row


@dataclass(frozen=True)
class Prediction:
    """The class with the highest expected score, or ABSTAIN, and limits on the expected score of `chosen`."""

    prediction: int
    chosen: int
    lower: float
    upper: float


class Smooth:
    """A base classifier smoothed by Gaussian noise: g(x) = E[score of f at x + N(0, sigma^2 I)].

    With integer noise f first rounds the noisy image to 8-bit steps, so that every bound holds whatever floats do; x
    must then be an 8-bit image (multiples of 1/255), and x' any image. See noise.py for what is assumed.

    base_classifier     any torch module from images [B, C, H, W] with pixels in [0, 1] to logits [B, num_classes];
                        it is copied, not changed; a row of logits must depend on its own image alone, and be the
                        same whatever was computed before, which `check` finds out
    sigma               standard deviation of the noise, in pixels of range [0, 1]
    confidence_measure  a name in MEASURES, or a tuple of them, all certified from the same samples
    device              auto (CUDA, then CPU) or a PyTorch device; precision: fp32, tf32, bf16 or fp16 (of the network
                        alone, whose certificate it then is); compile: through torch.compile
    noise               integer, or float (see noise.py); round_images: certify the nearest 8-bit image
    random_network      the base classifier draws at random (a stochastic denoiser, say): the scores are those of its
                        draws, too, which must be independent and each image's own for the samples to be so
    early_abstain       give an image up as soon as it is clear that it will abstain; this changes a row with
                        probability at most 1e-6, and then to an abstention, which carries no bound
    """

    def __init__(self, base_classifier: nn.Module, num_classes: int, sigma: float,
                 confidence_measure: str | tuple[str, ...] = "pred_score", *, device: str = "auto",
                 precision: str = "fp32", compile: bool = False, early_abstain: bool = False, noise: str = "integer",
                 round_images: bool = False, random_network: bool = False):
        self.single = isinstance(confidence_measure, str)
        names = (confidence_measure,) if self.single else confidence_measure
        self.measures: tuple[Measure, ...] = tuple(MEASURES[name] for name in names)
        self.num_classes, self.sigma, self.early_abstain = num_classes, float(sigma), early_abstain
        self.round_images, device = round_images, choose_device(device)
        self.noise = make_noise(noise, self.sigma, device, round_images)
        self.sampler = Sampler(base_classifier, self.noise, device, precision, compile, random_network)

    def check(self, x: torch.Tensor, n: int, batch_size: int) -> list[str]:
        """Check at noisy copies of an image x [C, H, W] that the base classifier is one fixed function of an image.

        Returns lines that the user should read. Raises BadNetwork. The certificates stay the same.
        """
        return self.sampler.retry_on_out_of_memory(lambda batch: self.sampler.check(x, n, batch), batch_size)

    def certify(self, x: torch.Tensor, n0: int, n: int, alpha: float, batch_size: int, *, index: int, seed: int = 0,
                bound: str = "clopper_pearson", weights: str = "falling", radii: tuple[float, ...] = RADII,
                settle: float | tuple[float, ...] | None = None) -> Certificate | tuple[Certificate, ...]:
        """Certify an image x [C, H, W] from n0 samples that choose the class and n fresh ones that bound its score.

        With probability at least 1 - alpha over the sampling all bounds of the certificate's exp_cdf hold; so do those
        of its exp, with an alpha of their own. The noise comes from (seed, index, stream) alone: give every image an
        index of its own, or their certificates are not independent.
        bound: one of BOUNDS; weights: one of WEIGHTS; radii: in pixels of range [0, 1]; settle: a score (one for each
        measure if there are several): stop once it is settled at every radius whether the bound exceeds it (see
        sequential.py), the certificate then has its own n. Returns a Certificate, or a tuple of them if
        confidence_measure is one. Raises NonFiniteScores, ValueError.
        """
        scores = settle if isinstance(settle, tuple) else (settle,) * len(self.measures)
        plans = [Plan(CertificateSpec(measure, n, alpha, self.sigma, bound, tuple(radii), weights), score)
                 for measure, score in zip(self.measures, scores, strict=True)]
        certificates = self.certify_by(plans, x, n0, batch_size, index=index, seed=seed)
        return certificates[0] if self.single else certificates

    def certify_by(self, plans: Sequence[Plan], x: torch.Tensor, n0: int, batch_size: int, *, index: int,
                   seed: int = 0) -> tuple[Certificate, ...]:
        """`certify` by a given plan for each measure, all with the same n. Raises NonFiniteScores, ValueError."""
        if n0 < 1 or batch_size < 1:
            raise ValueError(f"need n0 >= 1 and batch_size >= 1, not {n0} and {batch_size}")
        n = plans[0].spec.n
        if [(plan.spec.measure, plan.spec.n, plan.spec.sigma) for plan in plans] != [
                (measure, n, self.sigma) for measure in self.measures]:
            raise ValueError("plans of other measures or another sigma, or of different n")
        plans = [self.plan(plan, x) for plan in plans]
        looks_at = [{look.spec.n: look for look in plan.looks} for plan in plans]  # by the number of samples
        early = self._early_checks(plans)
        sizes = sorted({size for looks in looks_at for size in looks} | set(early))

        def certificates(batch: int) -> tuple[Certificate, ...]:
            classes = self._select(x, n0, batch, (seed, index, SELECTION))
            found = [None] * len(plans)
            for scores in self._sample_scores(x, sizes, batch, (seed, index, ESTIMATION), classes):
                drawn, means = scores.shape[1], _finite_means(scores)
                for i, looks in enumerate(looks_at):
                    if drawn in looks and found[i] is None:
                        look = looks[drawn]
                        order = order_statistics(scores[i], look.spec.band.ranks)
                        certificate = look.spec.certificate(classes[i], means[i], order)
                        found[i] = certificate if look.settles(certificate) else None
                if None not in found:
                    return tuple(found)
                if drawn in early and self._all_will_abstain(means, drawn):
                    return tuple(replace(plan.spec, n=drawn).abstention(chosen, mean)
                                 for plan, chosen, mean in zip(plans, classes, means, strict=True))
            raise AssertionError("the last look settles everything")

        return self.sampler.retry_on_out_of_memory(certificates, batch_size)

    def predict(self, x: torch.Tensor, n0: int, n: int, alpha: float, batch_size: int, *, index: int,
                seed: int = 0) -> Prediction:
        """Predict the class of the highest expected score, wrong with probability at most alpha, and bound that score.

        n0 samples choose a class c; on n >= 2 fresh ones, c is predicted if for every j != c the lower limit on
        E[s_c - s_j] (empirical Bernstein, level alpha each: an intersection-union test) is above 0. The limits on
        E[s_c] hold together with probability 1 - alpha (alpha / 2 each). The measure must be pred_score.
        """
        if [measure.name for measure in self.measures] != ["pred_score"]:
            raise ValueError("prediction is by the expected pred_score")
        if n0 < 1 or batch_size < 1 or n < 2 or not 0 < alpha < 1:
            raise ValueError(f"need n0, batch_size >= 1, n >= 2, 0 < alpha < 1, not {n0}, {batch_size}, {n}, {alpha}")
        spec = CertificateSpec(self.measures[0], n, alpha / 2, self.sigma, radii=(0.0,), weights="equal")
        spec = self.plan(Plan(spec), x).looks[0].spec

        def prediction(batch: int) -> Prediction:
            chosen, = self._select(x, n0, batch, (seed, index, SELECTION))
            scores, lead, variance = self._leads(x, n, batch, (seed, index, ESTIMATION), chosen)
            limits = empirical_bernstein_lower(lead, variance, n, alpha, score_range=2.0) - 2.0 * spec.delta
            wins = np.delete(limits, chosen).min() > 0
            mean = float(scores.mean(dtype=torch.float64))
            found = spec.certificate(chosen, mean, order_statistics(scores, spec.band.ranks))
            return Prediction(chosen if wins else ABSTAIN, chosen, found.lower_bound(0.0), found.upper_bound(0.0))

        return self.sampler.retry_on_out_of_memory(prediction, batch_size)

    def plan(self, plan: Plan, x: torch.Tensor) -> Plan:
        """A plan, with what this noise and the size of x add to it. Raises ValueError for a bad one."""
        return under_noise(plan, self.noise.sigma, self.noise.delta(x.numel()))

    def _softmax(self, x: torch.Tensor, count: int, batch: int, key: tuple[int, int, int]):
        for softmax in self.sampler.softmax(x, count, batch, key):
            if softmax.shape[1] != self.num_classes:
                raise BadNetwork(f"the base classifier has {softmax.shape[1]} classes, not {self.num_classes}")
            yield softmax

    def _select(self, x: torch.Tensor, n0: int, batch: int, key: tuple[int, int, int]) -> list[int]:
        """For each measure, the class with the highest mean score over n0 samples."""
        totals = torch.zeros(len(self.measures), self.num_classes, dtype=torch.float64, device=self.sampler.device)
        for softmax in self._softmax(x, n0, batch, key):
            for total, measure in zip(totals, self.measures, strict=True):
                total += measure.transform(softmax).sum(0, dtype=torch.float64)
        if not torch.isfinite(totals).all():
            raise NonFiniteScores
        return totals.argmax(1).tolist()

    def _sample_scores(self, x: torch.Tensor, sizes: Sequence[int], batch: int, key: tuple[int, int, int],
                       classes: list[int]) -> Iterator[torch.Tensor]:
        """The scores of each measure's class: the first of them, float32 [measures, size], for each of rising sizes."""
        scores = torch.empty(len(self.measures), sizes[-1], dtype=torch.float32, device=self.sampler.device)
        done, sizes = 0, list(sizes)
        for softmax in self._softmax(x, sizes[-1], batch, key):
            for row, measure, chosen in zip(scores, self.measures, classes, strict=True):
                row[done:done + len(softmax)] = measure.transform(softmax)[:, chosen]
            done += len(softmax)
            while sizes and done >= sizes[0]:
                yield scores[:, :sizes.pop(0)]

    def _early_checks(self, plans: Sequence[Plan]) -> list[int]:
        """After how many samples early abstention is considered; never in staged sampling, whose looks do so."""
        if not self.early_abstain or any(plan.settle is not None for plan in plans):
            return []
        n = plans[0].spec.n
        return [n // part for part in EARLY_CHECKS if n >= part]

    def _all_will_abstain(self, means: list[float], n: int) -> bool:
        """Whether the mean of all N scores stays below every cutoff, from the means of the first n.

        A bound at radius 0 is at most the mean of all N scores (for alpha below 1/2), of which the first n are a random
        subset: Hoeffding's inequality holds for sampling without replacement (Hoeffding 1963, section 6).
        """
        alpha = EARLY_ERROR / len(EARLY_CHECKS)
        return all(-hoeffding_lower(-mean, n, alpha, measure.range) < measure.cutoff
                   for mean, measure in zip(means, self.measures, strict=True))

    def _leads(self, x: torch.Tensor, n: int, batch: int, key: tuple[int, int, int],
               chosen: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """The scores of `chosen` [n], and the sample mean and variance of s_chosen - s_j for every class j."""
        scores = torch.empty(n, dtype=torch.float32, device=self.sampler.device)
        moments = torch.zeros(2, self.num_classes, dtype=torch.float64, device=self.sampler.device)
        done = 0
        for softmax in self._softmax(x, n, batch, key):
            scores[done:done + len(softmax)] = softmax[:, chosen]
            lead = softmax[:, chosen, None].double() - softmax.double()
            moments += torch.stack([lead.sum(0), lead.square().sum(0)])
            done += len(softmax)
        if not torch.isfinite(moments).all():
            raise NonFiniteScores
        mean, square = moments.cpu().numpy() / n
        variance = np.maximum(square - mean ** 2, 0) * (n / (n - 1)) + 1e-12  # more than its rounding error
        return scores, mean, variance


def _finite_means(scores: torch.Tensor) -> list[float]:
    """The float64 mean of each row. Raises NonFiniteScores: a NaN anywhere makes its row's mean NaN."""
    means = scores.mean(1, dtype=torch.float64)
    if not torch.isfinite(means).all():
        raise NonFiniteScores
    return means.tolist()


def order_statistics(scores: torch.Tensor, ranks: np.ndarray) -> np.ndarray:
    """The order statistics of scores [n] at 1-based ranks [J], float32 [J]; only they leave the device."""
    if scores.device.type == "cpu":
        return np.sort(scores.numpy())[ranks - 1]
    return scores.sort().values[torch.from_numpy(ranks - 1).to(scores.device)].cpu().numpy()
