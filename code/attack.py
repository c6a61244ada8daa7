"""Try to break the certificates of a log: search the ball around each image for a lower score than certified.

    python code/attack.py cifar10 CHECKPOINT 0.25 LOG OUTFILE --skip 100
    python code/attack.py cifar10 CHECKPOINT 0.25 LOG OUTFILE --skip 100 --radii 0.25 0.5 --steps 100 --clip

LOG is a log of certify.py or recertify.py with its record; the options that fix its network, its noise and its images
must be those of its run. Each image of it that does not abstain is attacked at each radius (pgd.py), and the expected
score of the attacked image is estimated from N samples of its own, with limits that hold together with probability
1 - ALPHA. A certificate is broken if the upper limit is below the log's bound (exp_cdf): a line then says so, and the
exit status is 1. OUTFILE gets one row per image (formats/attacks.py); repeating a command resumes.
"""
import argparse
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from certconf import errors
from certconf.files import file_sha256, read_bytes
from certconf.formats.attacks import ATTACKS, Attacks
from certconf.formats.log import Log
from certconf.formats.record import recorded_alpha, recorded_measure
from certconf.formats.rows import shortest
from certconf.report.notes import report_flaws, report_post_hoc
from certconf.runner.config import AttackConfig, check_plan
from certconf.runner.options import add_sampling_options
from certconf.runner.run import STOPPED, ImageResult, Run
from certconf.runner.settings import SETTINGS
from certconf.sampling.streams import ATTACK
from certconf.statistics.bounds import SMALLEST_ALPHA
from certconf.statistics.certificate import ABSTAIN, Certificate, CertificateSpec

if TYPE_CHECKING:
    import torch

    from certconf.pgd import PGDAttack
    from certconf.sampling.sampler import Sampler

LARGEST_RADIUS = 100  # up to which the integers of attacked images are int16
# of the log's run and of the attack; with what a record that lacks one means by it
SAME = {"dataset": None, "split": None, "checkpoint_sha256": None, "sigma": None, "precision": "fp32", "noise": "float",
        "round_images": False, "random_network": False}
IF_RECORDED = ("arch", "weights_sha256", "dataset_file_sha256", "images_sha256")  # older records lack some of them


@dataclass(frozen=True)
class Target:
    """What is attacked: a log, the settings of its run, and the radii; spec: of the limits on an attacked score."""

    log: Log
    settings: dict
    radii: tuple[float, ...]
    spec: CertificateSpec


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser, least_alpha=2 * SMALLEST_ALPHA, attacks=True)
    parser.set_defaults(N=AttackConfig.N, alpha=AttackConfig.alpha)
    parser.add_argument("--radii", type=float, nargs="+", metavar="R",
                        help=f"increasing radii of LOG, 0 or above and at most {LARGEST_RADIUS} (default: all of them)")
    parser.add_argument("--steps", type=int, default=AttackConfig.steps,
                        help="of a descent, 1 or more (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=AttackConfig.draws,
                        help="noise draws that a descent averages over, 1 or more (default: %(default)s)")
    parser.add_argument("--clip", action="store_true",
                        help="attack with pixels in [0, 1] only; certificates cover the points outside, too")
    return parser.parse_args()


def read_target(config: AttackConfig) -> Target:
    """Read the log. Raises InputError if it, or a radius of it, cannot be attacked."""
    log, settings = Log.read(config.log)
    measure, alpha = recorded_measure(settings), recorded_alpha(settings)
    if settings.get("program") not in ("certify", "recertify") or measure is None or alpha is None:
        raise errors.InputError(f"{config.log}: has no record of the run that certified it")
    radii = log.radii if config.radii is None else config.radii
    if not set(radii) <= set(log.radii) or radii[-1] > LARGEST_RADIUS:
        raise errors.InputError(f"--radii: must be radii of {config.log}, at most {LARGEST_RADIUS}: "
                                f"{' '.join(map(shortest, log.radii))}")
    spec = CertificateSpec(measure, config.N, config.alpha / 2, config.sigma, radii=(0.0,), weights="equal")
    return Target(log, settings, radii, check_plan(spec).spec)


def check_same_run(config: AttackConfig, settings: dict, target: Target, indices: range) -> None:
    """Raise InputError if the log is about another network, noise or set of images, by option, or none of `indices`."""
    its = {name: target.settings.get(name, default) for name, default in SAME.items()}
    its |= {name: target.settings[name] for name in IF_RECORDED if name in target.settings}
    names = [f"{SETTINGS[name]} ({value}, now {settings.get(name)})" for name, value in its.items()
             if value != settings.get(name)]
    if names:
        raise errors.InputError(f"{config.log} was made with other settings: {', '.join(names)}")
    if set(target.log.indices).isdisjoint(indices):
        raise errors.InputError(f"{config.log}: has no row of the images that --skip and --max ask for")


def make_attack(run: Run, target: Target) -> tuple["PGDAttack", "Sampler"]:
    """The search for attacked images, and the sampler of them, with the network that the run has loaded."""
    from certconf.pgd import PGDAttack  # with PyTorch, which is loaded by now
    from certconf.sampling.noise import make_noise
    from certconf.sampling.sampler import Sampler
    config, network = run.config, run.inputs.network.to(run.device).requires_grad_(False)
    noise = make_noise(config.noise, config.sigma, run.device, config.round_images, reach=255 * LARGEST_RADIUS)
    search = PGDAttack(network, target.spec.measure, noise, config.steps, config.draws, config.clip, config.batch)
    return search, Sampler(network, noise, run.device, config.precision, config.compile, config.random_network)


def attack_image(run: Run, target: Target, search: "PGDAttack", sampler: "Sampler", index: int) -> ImageResult:
    """The row of an image in the one file."""
    from certconf.pgd import pixels
    from certconf.sampling.noise import eight_bit
    config = run.config
    row = next(row for row in target.log.rows if row.index == index)
    x, label = run.inputs.images.load(index)
    if label != row.label or row.predict >= run.inputs.num_classes:
        raise errors.InputError(f"{config.log}: image {index} of {config.dataset} has another label, or too few "
                                "classes")
    if row.predict == ABSTAIN:
        nothing = (0.0,) * len(target.radii)
        return ImageResult([(ATTACKS.line(index, label, ABSTAIN, 0.0, *[nothing] * 4),)], 0)
    start, found = time.perf_counter(), []
    integers = eight_bit(x, config.round_images).long().to(run.device)
    for radius in target.radii:
        attacked = search.lowest(integers, row.predict, radius, index=index, seed=config.seed)
        found.append(estimate(sampler, target.spec, pixels(attacked), row.predict, config, index))
    scores, lower, upper = zip(*((each.mean, each.lower_bound(0.0), each.upper_bound(0.0)) for each in found),
                               strict=True)
    seconds = time.perf_counter() - start
    bounds = [row.exp_cdf[target.log.radii.index(radius)] for radius in target.radii]
    line = ATTACKS.line(index, label, row.predict, seconds, bounds, scores, lower, upper)
    return ImageResult([(line,)], config.N * len(target.radii))


def estimate(sampler: "Sampler", spec: CertificateSpec, x: "torch.Tensor", chosen: int, config: AttackConfig,
             index: int) -> Certificate:
    """The certificate of a class at an attacked image, from samples that neither its search nor LOG has seen.

    Its bounds at radius 0 are the limits: each holds with probability 1 - spec.alpha. Raises NonFiniteScores.
    """
    import torch

    from certconf.core import order_statistics
    spec = replace(spec, delta=sampler.noise.delta(x.numel()))

    def certificate(batch: int) -> Certificate:
        scores = torch.cat([spec.measure.transform(softmax)[:, chosen].clone()
                            for softmax in sampler.softmax(x, spec.n, batch, (config.seed, index, ATTACK))])
        mean = float(scores.mean(dtype=torch.float64))
        if not torch.isfinite(scores).all():
            raise errors.NonFiniteScores
        return spec.certificate(chosen, mean, order_statistics(scores, spec.band.ranks))

    return sampler.retry_on_out_of_memory(certificate, config.batch)


def report(config: AttackConfig, alpha: float) -> int:
    """Print what OUTFILE says, with the probabilities that chance alone does so; returns the exit status."""
    attacks = Attacks.parse(config.outfile, read_bytes(config.outfile))  # there may be no row
    images, broken = len(attacks.attacked), attacks.broken()
    for row, place in broken:
        print(f"broken: image {row.index} at radius {attacks.radii[place]:g}: its score is at most {row.upper[place]:g}"
              f", but certified to be at least {row.bound[place]:g}")
    for radius, bound, score, gap in zip(attacks.radii, *attacks.summary(), strict=True) if images else ():
        print(f"radius {radius:g}: mean bound {bound:.3f}, mean score at the attacked images {score:.3f}, "
              f"smallest gap {gap:.3f}")
    pairs = images * len(attacks.radii)
    print(f"attacked {pairs} pairs of an image and a radius: {len(broken)} certificates broken")
    print(f"chance: some limit is wrong with probability at most {pairs} * {config.alpha:g} = "
          f"{pairs * config.alpha:.3g}; some certificate, {images} * {alpha:g} = {images * alpha:.3g}")
    return 1 if broken else 0


def main() -> int:
    args = parse_arguments()
    with Run() as run:
        config = run.config = run.share(AttackConfig, **vars(args))
        target = run.share(read_target, config)
        measure = target.spec.measure
        run.open(config.outfile, ATTACKS.header(target.radii),
                 partial(Attacks.parse, score_range=(measure.score_min, measure.score_max)), program="attack",
                 confidence_measure=measure.name, radii=list(target.radii), log_sha256=file_sha256(config.log))
        certified = set(target.log.indices)
        if not run.complete(certified):
            inputs = run.load()
            run.share(check_same_run, config, {**vars(config), **run.settings}, target, inputs.indices)
            search, sampler = make_attack(run, target)
            run.begin(sampler, certified)
            for index, result in run.map(partial(attack_image, run, target, search, sampler)):
                run.write(index, result)
    if not run.worker.first:
        return run.status
    report_flaws(target.log)
    report_post_hoc(config.log, target.settings)
    return max(report(config, target.settings["alpha"]), run.status)


if __name__ == "__main__":
    sys.exit(errors.run_cli(main, STOPPED))
