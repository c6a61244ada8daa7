"""What the looks of staged sampling cost: samples per image as a share of N, beside the fewest, known in hindsight.

    python benchmarks/looks.py log_files/cifar10_resnet20_staged/*/*.scores --skip 200

A row for each file of saved scores. `n / N` is the mean share over the images, under the looks of the run; without
--settle it is 1, and the score is the measure's cutoff. `hindsight` is what it would be if the right number of samples
were known beforehand: for an image that is certified at some radius, the fewest samples that certify it at the same
radii, with all of alpha and the quantiles of the image's own scores; for any other image the least look. The sizes
tried are those of today's looks at N. `certificates` counts pairs of an image and a radius: a run that gives images up
too early draws less, and certifies less.
"""
import argparse
import sys
from dataclasses import replace
from functools import lru_cache

import code_path
import numpy as np

from certconf.errors import InputError, run_cli
from certconf.formats.scores import read_scores
from certconf.report.labels import add_label_options, label_of_files
from certconf.report.tables import FORMATS, format_table
from certconf.statistics.certificate import ABSTAIN, Certificate, CertificateSpec
from certconf.statistics.sequential import Plan, look_sizes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", nargs="+", help="OUTFILE.scores of a run with --save_scores")
    parser.add_argument("--skip", type=int, default=1,
                        help="count images with indices 0, SKIP, 2 SKIP, ... only; 1 or more (default: %(default)s)")
    add_label_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    args = parser.parse_args()
    if args.skip < 1:
        raise InputError(f"--skip must be 1 or above, not {args.skip}")
    return args


def shares(path: str, skip: int) -> dict[str, str]:
    """The cells of a file of saved scores, without its name. Raises InputError if --skip leaves no image."""
    saved = read_scores(path)
    found = [certificate for index, _, certificate in saved.certificates(saved.plan) if index % skip == 0]
    if not found:
        raise InputError(f"{saved.path}: no image with an index that --skip {skip} leaves")
    score = saved.plan.score
    total = sum(int(certified(certificate, score).sum()) for certificate in found)
    taken = np.mean([certificate.spec.n for certificate in found]) / saved.spec.n
    fewest = np.mean([hindsight(saved.plan, certificate) for certificate in found]) / saved.spec.n
    return {"images": str(len(found)), "N": f"{saved.spec.n:,}", "looks": str(len(saved.plan.schedule)),
            "certificates": str(total), "n / N": f"{taken:.3f}", "hindsight": f"{fewest:.3f}"}


def hindsight(plan: Plan, certificate: Certificate) -> int:
    """The fewest samples that certify what `certificate` does, at most its own; the least look if that is nothing."""
    score = plan.score
    wanted, own = certified(certificate, score), certificate.spec.n
    sizes = [n for n in look_sizes(plan.spec.n) if n < own]
    if not wanted.any():
        return min([*sizes, own])
    enough = (n for n in sizes if (certified(smaller(plan.spec, certificate, n), score) >= wanted).all())
    return next(enough, own)


def certified(certificate: Certificate, score: float) -> np.ndarray:
    """At which radii the image is certified, bool [R]."""
    return np.greater(certificate.exp_cdf, score) & (certificate.prediction != ABSTAIN)


def smaller(spec: CertificateSpec, certificate: Certificate, n: int) -> Certificate:
    """The certificate of n samples with all of spec.alpha, if their quantiles are those of `certificate`'s sample."""
    once, own = one_look(spec, n), certificate.spec
    order = np.interp((once.band.ranks - 0.5) / n, (own.band.ranks - 0.5) / own.n, certificate.order_statistics)
    return once.certificate(certificate.chosen, certificate.mean, order)


@lru_cache
def one_look(spec: CertificateSpec, n: int) -> CertificateSpec:
    """The spec of one look at n samples; the same object for all images, which share its band."""
    return replace(spec, n=n)


def main() -> None:
    args = parse_arguments()
    labels = label_of_files(args.scores, args.labels)
    rows = [{"scores": labels[path]} | shares(path, args.skip) for path in args.scores]
    print(format_table(list(rows[0]), [list(row.values()) for row in rows], args.format, args.title), end="")


if __name__ == "__main__":
    sys.exit(run_cli(main))
