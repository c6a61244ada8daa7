"""The figures of docs/results.md: certified accuracy and ranges, from saved scores, attacks, and other sample sizes.

    python code/draw_results.py radius log_files/cifar10_resnet20 figures/new_radius.png
    python code/draw_results.py range log_files/cifar10_resnet20_attacks figures/new_range.png
    python code/draw_results.py samples log_files/cifar10_resnet20/sample_size_0.25.tsv figures/new_samples.png

The second needs MEASURE/noise_SIGMA.attacks of attack.py, too; the third also prints the certified accuracy at every
radius.
"""
import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
from scipy.special import ndtri

from certificate import ABSTAIN, Certificate
from errors import InputError, run
from files import file_sha256, refuse_existing
from formats.attacks import read_recorded_attacks
from formats.scores import read_scores
from job.checks import check_spec
from measures import MEASURES, SOFT_MEASURES
from report.figures import COLOURS, check_figure_path, new_figure, save_figure

SIGMAS = ("0.25", "0.50")
BANDS = {"clopper_pearson": "Clopper-Pearson band", "dkw": "DKW band (the paper's)"}
MEAN_BAND, MEAN_HOEFFDING = "mean alone, limit from the band", "mean alone, limit from Hoeffding (the paper's baseline)"
STYLES = dict(zip((*BANDS.values(), MEAN_BAND, MEAN_HOEFFDING), zip(COLOURS, ("-", "-", ":", "--"), strict=False),
                  strict=True))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["radius", "range", "samples"],
                        help="certified accuracy against radius, certified range of the score with attacked scores, or "
                             "certified accuracy against N")
    parser.add_argument("source", help="a folder with MEASURE/noise_SIGMA.scores; for samples, sample_size.py's table")
    parser.add_argument("out", help="picture to draw: .png, .pdf or .svg")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture")
    return parser.parse_args()


def radius_of_mean(certificate: Certificate, score: float) -> float:
    """The radius of the naive bound if its limit on the mean is the band's own bound at R = 0, not Hoeffding's."""
    measure = certificate.spec.measure
    mean, threshold = ((value - measure.score_min) / measure.range for value in (certificate.lower_bound(0.0), score))
    return max(float(ndtri(mean) - ndtri(threshold)) / certificate.spec.shift(1.0), 0.0)


def certified_radii(path: Path) -> tuple[dict[str, np.ndarray], float, int]:
    """For each curve the certified radii of all images at the measure's cutoff; 0 if the class is wrong or none."""
    saved = read_scores(str(path))
    score, curves = saved.spec.measure.cutoff, {}
    for bound, name in BANDS.items():
        spec = replace(saved.spec, bound=bound, eta=saved.spec.eta if bound == saved.spec.bound else None)
        images = [(certificate, certificate.chosen == label) for _, label, certificate in saved.certificates(spec)]
        curves[name] = np.array([found.radius(score) * right for found, right in images])
        if bound == saved.spec.bound:
            curves[MEAN_BAND] = np.array([radius_of_mean(found, score) * right for found, right in images])
            curves[MEAN_HOEFFDING] = np.array([found.radius(score, naive=True) * right for found, right in images])
    curves = {name: np.append(radii, np.zeros(len(saved.non_finite))) for name, radii in curves.items()}
    return curves, score, saved.spec.n


def draw_radius(folder: Path):
    """Certified accuracy against radius: a panel for each measure and noise level, a curve for each bound."""
    figure = new_figure(8.8, 6.6)
    for row, measure in zip(figure.subplots(2, 2, sharey=True), SOFT_MEASURES, strict=True):
        for axes, sigma in zip(row, SIGMAS, strict=True):
            curves, score, n = certified_radii(folder / measure / f"noise_{sigma}.scores")
            for name, (colour, line) in STYLES.items():
                radii = np.sort(curves[name])
                steps = np.unique([0.0, *radii])
                accuracy = 1 - np.searchsorted(radii, steps, side="right") / len(radii)
                axes.plot(steps, accuracy, line, color=colour, drawstyle="steps-post", label=name)
            axes.set(title=f"{measure} above {score:g}, sigma {sigma}, N = {n:,}",
                     xlabel="radius (L2 distance, pixels in [0, 1])", ylabel="certified accuracy (fraction)")
            axes.grid(color="0.9")
            axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)  # shared; after all panels are drawn, so that it fits them all
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def mean_range(path: Path, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """The mean lower and upper bound at each radius [R], over the images that do not abstain, and their indices.

    Each side holds at half of the run's alpha, for each image alone. Raises InputError if all images abstain.
    """
    saved = read_scores(str(path))
    side = check_spec(replace(saved.spec, alpha=saved.spec.alpha / 2, eta=None))
    kept = {index for index, _, found in saved.certificates(saved.spec) if found.prediction != ABSTAIN}
    if not kept:
        raise InputError(f"{path}: all images abstain")
    bounds = np.array([[(found.lower_bound(radius), found.upper_bound(radius)) for radius in radii]
                       for index, _, found in saved.certificates(side) if index in kept])
    return *bounds.mean(0).T, kept


def draw_range(folder: Path):
    """The mean certified range of the expected score against radius, and the mean score that attacks reached."""
    figure, radii = new_figure(8.8, 6.6), np.linspace(0, 1.5, 61)
    for row, measure in zip(figure.subplots(2, 2), SOFT_MEASURES, strict=True):
        for axes, sigma in zip(row, SIGMAS, strict=True):
            log = folder / measure / f"noise_{sigma}"
            lower, upper, kept = mean_range(Path(f"{log}.scores"), radii)
            attacks, settings = read_recorded_attacks(f"{log}.attacks")
            if settings.get("log_sha256") != file_sha256(str(log)) or {row.index for row in attacks.attacked} != kept:
                raise InputError(f"{attacks.path}: not an attack of all images of {log} that do not abstain")
            axes.fill_between(radii, lower, upper, color=COLOURS[0], alpha=0.2, linewidth=0, label="certified range")
            axes.plot(radii, lower, color=COLOURS[0])
            axes.plot(radii, upper, color=COLOURS[0])
            axes.plot(attacks.radii, np.mean([row.score for row in attacks.attacked], 0), "o", color=COLOURS[1],
                      label="reached by an attack")
            axes.set(title=f"{measure}, sigma {sigma}, {len(kept)} images", xlim=(0, radii[-1]),
                     ylim=(MEASURES[measure].score_min, 1), xlabel="radius (L2 distance, pixels in [0, 1])",
                     ylabel="expected score (mean over images)")
            axes.grid(color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def accuracy_by_samples(path: Path) -> pandas.DataFrame:
    """Certified accuracy at each measure's cutoff: a row for each (measure, bound, N), a column for each radius."""
    try:
        table = pandas.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    if not {"label", "measure", "bound", "N", "predict"} <= set(table):
        raise InputError(f"{path}: not a table of sample_size.py")
    bounds = table.filter(like="exp_cdf")
    above = bounds.gt(table.measure.map({name: MEASURES[name].cutoff for name in MEASURES}), axis=0)
    certified = above.mul(table.predict == table.label, axis=0)
    return certified.groupby([table.measure, table.bound, table.N]).mean()


def draw_samples(path: Path):
    """Certified accuracy at R = 0.5 against the number of samples: a panel for each measure, a curve for each band."""
    accuracy = accuracy_by_samples(path)
    print(accuracy.to_string())
    figure = new_figure(8.8, 3.8)
    for axes, name in zip(figure.subplots(1, 2, sharey=True), SOFT_MEASURES, strict=True):
        for (bound, label), colour, marker, size in zip(BANDS.items(), COLOURS, "os", (4, 7), strict=False):
            curve = accuracy.loc[name, bound].exp_cdf_50  # hollow squares around dots: equal points are seen as two
            axes.plot(curve.index, curve, marker + "-", markersize=size, fillstyle="full" if marker == "o" else "none",
                      color=colour, label=label, clip_on=False)
        axes.set(title=f"{name} above {MEASURES[name].cutoff:g}, R = 0.5", xscale="log",
                 xlabel="number of samples N", ylabel="certified accuracy (fraction)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(color="0.9")
    axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def main() -> None:
    args = parse_arguments()
    check_figure_path(args.out)
    refuse_existing([args.out], args.overwrite)
    draw = {"radius": draw_radius, "range": draw_range, "samples": draw_samples}[args.figure]
    save_figure(draw(Path(args.source)), args.out, args.overwrite)


if __name__ == "__main__":
    sys.exit(run(main))
