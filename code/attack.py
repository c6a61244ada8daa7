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
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial

import torch

from certconf import errors
from certconf.core import NonFiniteScores, order_statistics
from certconf.files import file_sha256, read_bytes
from certconf.formats.attacks import Row, columns, parse_attacks
from certconf.formats.log import Log, check_radii, read_recorded_log
from certconf.formats.record import recorded_alpha, recorded_measure, report_post_hoc
from certconf.formats.rows import report_flaws, shortest
from certconf.pgd import Search, pixels
from certconf.runner.checks import check_spec
from certconf.runner.options import add_sampling_options, check_sampling_options
from certconf.runner.output import ResumableLog
from certconf.runner.run import STOPPED, ImageResult, Run
from certconf.runner.settings import SETTINGS
from certconf.sampling.noise import ATTACK, eight_bit, make_noise
from certconf.sampling.sampler import Sampler
from certconf.statistics.bounds import SMALLEST_ALPHA
from certconf.statistics.certificate import ABSTAIN, Certificate, CertificateSpec

LARGEST_RADIUS = 100  # up to which the integers of attacked images are int16
# of the log's run and of the attack; with what a record that lacks one means by it
SAME = {"dataset": None, "split": None, "checkpoint_sha256": None, "sigma": None, "precision": "fp32", "noise": "float",
        "round_images": False}
IF_RECORDED = ("arch", "weights_sha256", "dataset_file_sha256", "images_sha256")  # older records lack some of them


@dataclass(frozen=True)
class Target:
    """What is attacked: a log, the settings of its run, and the radii; spec: of the limits on an attacked score."""

    log: Log
    settings: dict
    radii: tuple[float, ...]
    spec: CertificateSpec

    def bounds(self, row) -> tuple[float, ...]:
        """The bounds of a row of the log at the radii."""
        return tuple(row.exp_cdf[self.log.radii.index(radius)] for radius in self.radii)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser, least_alpha=2 * SMALLEST_ALPHA, attacks=True)
    parser.set_defaults(N=10000, alpha=1e-6)
    parser.add_argument("--radii", type=float, nargs="+", metavar="R",
                        help=f"increasing radii of LOG, 0 or above and at most {LARGEST_RADIUS} (default: all of them)")
    parser.add_argument("--steps", type=int, default=20, help="of a descent, 1 or more (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=64,
                        help="noise draws that a descent averages over, 1 or more (default: %(default)s)")
    parser.add_argument("--clip", action="store_true",
                        help="attack with pixels in [0, 1] only; certificates cover the points outside, too")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> Target:
    """Read the log. Raises InputError for arguments that no run can use."""
    check_sampling_options(args)
    for name in ("steps", "draws"):
        if getattr(args, name) < 1:
            raise errors.InputError(f"--{name} must be 1 or above, not {getattr(args, name)}")
    if os.path.realpath(args.log) == os.path.realpath(args.outfile):
        raise errors.InputError(f"{args.outfile}: is LOG itself; choose another name")
    log, settings = read_recorded_log(args.log)
    report_flaws(log)
    measure, alpha = recorded_measure(settings), recorded_alpha(settings)
    if settings.get("program") not in ("certify", "recertify") or measure is None or alpha is None:
        raise errors.InputError(f"{args.log}: has no record of the run that certified it")
    radii = log.radii if args.radii is None else tuple(args.radii)
    check_radii(radii)
    if not set(radii) <= set(log.radii) or radii[-1] > LARGEST_RADIUS:
        raise errors.InputError(f"--radii: must be radii of {args.log}, at most {LARGEST_RADIUS}: "
                                f"{' '.join(map(shortest, log.radii))}")
    spec = CertificateSpec(measure, args.N, args.alpha / 2, args.sigma, radii=(0.0,), weights="equal")
    return Target(log, settings, radii, check_spec(spec))


def open_logs(run: Run) -> list[ResumableLog]:
    """The one file. Images that LOG has no row of are none to attack, and count as done."""
    args, target, measure = run.args, run.prepared, run.prepared.spec.measure
    settings = run.settings(program="attack", confidence_measure=measure.name, radii=list(target.radii),
                            log_sha256=file_sha256(args.log))
    check_same_run(args, settings, target)
    certified = set(target.log.indices)
    if certified.isdisjoint(run.subject.indices):
        raise errors.InputError(f"{args.log}: has no row of the images that --skip and --max ask for")
    parse = partial(parse_attacks, score_range=(measure.score_min, measure.score_max))
    file = ResumableLog(args.outfile, settings, run.start(), columns(target.radii), parse, overwrite=args.overwrite)
    file.done |= set(range(run.subject.images.size)) - certified
    return [file]


def check_same_run(args: argparse.Namespace, settings: dict, target: Target) -> None:
    """Raise InputError that names each option by which the log is about another network, noise or set of images."""
    its = {name: target.settings.get(name, default) for name, default in SAME.items()}
    its |= {name: target.settings[name] for name in IF_RECORDED if name in target.settings}
    names = [f"{SETTINGS[name]} ({value}, now {settings.get(name)})" for name, value in its.items()
             if value != settings.get(name)]
    if names:
        raise errors.InputError(f"{args.log} was made with other settings: {', '.join(names)}")


def attack_image(run: Run, search: Search, sampler: Sampler, index: int) -> ImageResult:
    """The row of an image in the one file."""
    args, target = run.args, run.prepared
    row = next(row for row in target.log.rows if row.index == index)
    x, label = run.subject.images.load(index)
    if label != row.label or row.predict >= run.subject.num_classes:
        raise errors.InputError(f"{args.log}: image {index} of {args.dataset} has another label, or too few classes")
    if row.predict == ABSTAIN:
        nothing = (0.0,) * len(target.radii)
        return ImageResult([(Row(index, label, ABSTAIN, 0.0, *[nothing] * 4).line(),)], 0)
    start, found = time.perf_counter(), []
    integers = eight_bit(x, args.round_images).long().to(run.device)
    for radius in target.radii:
        attacked = search.lowest(integers, row.predict, radius, index=index, seed=args.seed)
        found.append(estimate(sampler, target.spec, pixels(attacked), row.predict, args, index))
    scores, lower, upper = zip(*((each.mean, each.lower_bound(0.0), each.upper_bound(0.0)) for each in found),
                               strict=True)
    seconds = time.perf_counter() - start
    line = Row(index, label, row.predict, seconds, target.bounds(row), scores, lower, upper).line()
    return ImageResult([(line,)], args.N * len(target.radii))


def estimate(sampler: Sampler, spec: CertificateSpec, x: torch.Tensor, chosen: int, args: argparse.Namespace,
             index: int) -> Certificate:
    """The certificate of a class at an attacked image, from samples that neither its search nor LOG has seen.

    Its bounds at radius 0 are the limits: each holds with probability 1 - spec.alpha. Raises NonFiniteScores.
    """
    spec = replace(spec, delta=sampler.noise.delta(x.numel()))

    def certificate(batch: int) -> Certificate:
        scores = torch.cat([spec.measure.transform(softmax)[:, chosen].clone()
                            for softmax in sampler.softmax(x, spec.n, batch, (args.seed, index, ATTACK))])
        mean = float(scores.mean(dtype=torch.float64))
        if not torch.isfinite(scores).all():
            raise NonFiniteScores
        return spec.certificate(chosen, mean, order_statistics(scores, spec.band.ranks))

    return sampler.with_fitting_batch(certificate, args.batch)


def report(args: argparse.Namespace, alpha: float) -> int:
    """Print what OUTFILE says, with the probabilities that chance alone does so; returns the exit status."""
    attacks = parse_attacks(args.outfile, read_bytes(args.outfile))  # there may be no row
    images, broken = len(attacks.attacked), attacks.broken()
    for row, place in broken:
        print(f"broken: image {row.index} at radius {attacks.radii[place]:g}: its score is at most {row.upper[place]:g}"
              f", but certified to be at least {row.bound[place]:g}")
    pairs = images * len(attacks.radii)
    print(f"attacked {pairs} pairs of an image and a radius: {len(broken)} certificates broken")
    print(f"chance: some limit is wrong with probability at most {pairs} * {args.alpha:g} = {pairs * args.alpha:.3g}; "
          f"some certificate, {images} * {alpha:g} = {images * alpha:.3g}")
    return 1 if broken else 0


def main() -> int:
    args = parse_arguments()
    with Run(args, check_arguments, open_logs) as run:
        target = run.prepared
        noise = make_noise(args.noise, args.sigma, run.device, args.round_images, reach=255 * LARGEST_RADIUS)
        network = run.subject.network.to(run.device).requires_grad_(False)
        search = Search(network, target.spec.measure, noise, args.steps, args.draws, args.clip, args.batch)
        sampler = Sampler(network, noise, run.device, args.precision, args.compile)
        for index, result in run.map(lambda i: attack_image(run, search, sampler, i)):
            run.write(index, result)
    if not run.worker.first:
        return run.status
    report_post_hoc(args.log, target.settings)
    return max(report(args, target.settings["alpha"]), run.status)


if __name__ == "__main__":
    sys.exit(errors.run(main, STOPPED))
