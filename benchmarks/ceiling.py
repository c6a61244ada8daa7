"""How far certificates can reach: the ceiling of each band for a number of samples, in units of sigma.

    python benchmarks/ceiling.py
    python benchmarks/ceiling.py --N 10000 --alpha 1e-6

Even if all N scores are the highest possible one, the bound on their expectation is above the middle of the measure's
range (pred_score 0.5, margin 0) only for R < sigma Phi^-1(p_1), where p_1 is the band's limit at the smallest score.
"""
import argparse
import sys

import code_path
from scipy.special import ndtri

from certconf.errors import InputError, run_cli
from certconf.report.tables import FORMATS, format_table
from certconf.statistics.bounds import clopper_pearson_band, dkw_band

BANDS = {
    "paper's band (DKW)": dkw_band,
    "Clopper-Pearson, equal levels": lambda n, alpha: clopper_pearson_band(n, alpha, weights="equal"),
    "Clopper-Pearson, falling levels": lambda n, alpha: clopper_pearson_band(n, alpha, weights="falling"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--N", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="(default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.001, help="(default: %(default)s)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    return parser.parse_args()


def ceiling(band, n: int, alpha: float) -> str:
    """The ceiling in units of sigma, rounded up to two places; 0 if no bound is above the middle even at R = 0."""
    return f"{max(float(ndtri(band(n, alpha).prob[0])), 0.0) + 0.005:.2f}"


def main() -> None:
    args = parse_arguments()
    try:
        rows = [[f"{n:,}", *(ceiling(band, n, args.alpha) for band in BANDS.values())] for n in args.N]
    except ValueError as error:
        raise InputError(str(error)) from None
    print(format_table(["N", *BANDS], rows, args.format), end="")


if __name__ == "__main__":
    sys.exit(run_cli(main))
