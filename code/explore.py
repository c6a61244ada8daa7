"""Look at certificates: one page, in any browser, that shows which images are certified, how far, and why not.

    pip install -r requirements-explore.txt
    python code/explore.py OUTFILE.scores PAGE.html
    python code/explore.py OUTFILE.scores OUTFILE2.scores PAGE.html
    python code/explore.py OUTFILE.scores PAGE.html --dataset FILE.py:NAME

OUTFILE.scores is what `certify.py --save_scores` left beside its OUTFILE. The page stands alone: it needs no server and
no network. It shows, for a score and a radius that its reader sets, the certified accuracy by the run's band and by the
paper's, the outcome of every image, and the bounds and scores of one image. Several logs are compared on one page if
they are of one data set and of measures with one range.

A record may name a data set of the user's own, FILE.py:NAME. That file is run only if it is named here, too, and only
if it is the file that the run had; without it the page shows no pictures.
"""
import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from certconf.errors import InputError, run_cli
from certconf.files import file_sha256, refuse_existing, write_new
from certconf.formats.rows import round_down, shortest
from certconf.formats.scores import SavedScores, read_scores
from certconf.inputs.catalogue import check_dataset_name
from certconf.inputs.user_code import file_of, is_user_code
from certconf.report.figures import COLOURS
from certconf.report.page import render
from certconf.report.page_data import (
    BANDS,
    Choices,
    Grid,
    certified_places,
    curve_rows,
    image_row,
    make_grid,
    on_grid,
)
from certconf.report.pictures import picture_urls
from certconf.statistics.certificate import CertificateSpec

if TYPE_CHECKING:
    from certconf.inputs.datasets import ImageSet

SAME = ("dataset", "split", "images_sha256")  # settings that the logs of a page share


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", nargs="+", metavar="OUTFILE.scores",
                        help=f"saved scores of runs with --save_scores, at most {len(COLOURS) - 1}")
    parser.add_argument("page", metavar="PAGE.html", help="the page to write")
    parser.add_argument("--dataset", metavar="FILE.py:NAME",
                        help="where the images of a run on a data set of your own are (default: no pictures of these)")
    parser.add_argument("--overwrite", action="store_true", help="replace the page")
    return parser.parse_args()


def read_runs(args: argparse.Namespace) -> dict[str, SavedScores]:
    """The saved scores by the names of their logs. Raises InputError if one page cannot show them together."""
    if not args.page.endswith(".html"):
        raise InputError(f"{args.page}: a page's name ends in .html")
    refuse_existing([args.page], args.overwrite)
    runs = {path.removesuffix(".scores"): read_scores(path) for path in args.scores}
    if len(runs) < len(args.scores) or len(runs) >= len(COLOURS):
        raise InputError(f"each log once, and at most {len(COLOURS) - 1}, one for each colour")
    (name, first), *others = runs.items()
    for other, saved in others:
        if any(saved.settings.get(setting) != first.settings.get(setting) for setting in SAME):
            raise InputError(f"{other} and {name} are not of the same data set: write a page for each")
        if saved.spec.measure.score_min != first.spec.measure.score_min:
            raise InputError(f"{other} and {name}: {saved.spec.measure.name} and {first.spec.measure.name} have "
                             "different ranges: write a page for each")
    return runs


# --- the images -----------------------------------------------------------------------------------------------------

def open_pictures(runs: dict[str, SavedScores], dataset: str | None) -> "ImageSet":
    """The images that the runs had. Raises InputError if they cannot be had, or may not be opened."""
    settings = next(iter(runs.values())).settings
    indices = [index for saved in runs.values() for index in saved.records["idx"].tolist()]
    name = str(settings.get("dataset"))
    if dataset is not None or is_user_code(name):
        if dataset is None:
            raise InputError(f"they are those of {name}, a file that is run only if --dataset names it")
        name = dataset
        if not is_user_code(name) or not Path(file_of(name)).is_file():
            raise InputError(f"--dataset: {name} is no FILE.py:NAME")
        if file_sha256(file_of(name)) != settings.get("dataset_file_sha256"):
            raise InputError(f"{file_of(name)} is not the file that the run had")
    check_dataset_name(name)
    from certconf.inputs.datasets import open_images  # with PyTorch, which takes seconds
    images, _ = open_images(name, settings.get("split"), max(math.gcd(*indices), 1), max(indices) + 1)
    if images.size <= max(indices) or images.fingerprint and images.fingerprint() != settings.get("images_sha256"):
        raise InputError(f"{name} has not the images that the run had")
    return images


def read_pictures(runs: dict[str, SavedScores], dataset: str | None) -> tuple[list[dict], tuple[str, ...]]:
    """The pictures of all images, and the names of the classes. Raises InputError as open_pictures does."""
    images, rows = open_pictures(runs, dataset), {}
    sigma = next(iter(runs.values())).spec.sigma
    for saved in runs.values():
        for index, label in saved.records[["idx", "label"]].tolist():
            if index not in rows:
                x, its_label = images.load(index)
                if its_label != label:
                    raise InputError(f"image {index} has the label {its_label}, not {label} as in the run")
                rows[index] = {"index": index, **picture_urls(x.numpy(), sigma, index)}
    return [rows[index] for index in sorted(rows)], images.classes


# --- bounds ---------------------------------------------------------------------------------------------------------

def bands_of(saved: SavedScores) -> dict[str, CertificateSpec]:
    """The run's own band, and the paper's beside it where it exists (an alpha of 0.5 at most)."""
    specs = {BANDS[saved.spec.bound]: saved.spec}
    if saved.spec.alpha <= 0.5:
        specs.setdefault(BANDS["dkw"], replace(saved.spec, bound="dkw"))
    return specs


def rounded_bounds(saved: SavedScores, spec: CertificateSpec) -> np.ndarray:
    """Every image's lower bounds at the radii of `spec`, rounded down as in a log: [images, radii]."""
    return np.array([[float(round_down(bound)) for bound in certificate.exp_cdf]
                     for _, _, certificate in saved.certificates(saved.plan.of(spec))])


def run_rows(place: int, log: str, saved: SavedScores, grid: Grid, classes: Sequence[str]) -> tuple[list, list]:
    """The rows of one run: those of its curves and those of its images."""
    curves, right = [], saved.records["chosen"] == saved.records["label"]
    for band, spec in bands_of(saved).items():
        lower = rounded_bounds(saved, on_grid(spec, grid))
        places = certified_places(lower, grid)
        if not curves:
            own = lower, places
        rows = curve_rows(places, right, grid, log=log, band=band, series=f"{place} {len(curves)}",
                          images=saved.images, settle=saved.plan.settle, first=place == 0 and not curves)
        curves += [{**row, "settled": spec is saved.spec and row["R"] in spec.radii} for row in rows]

    def name(label: int) -> str:
        return classes[label] if label < len(classes) else f"class {label}"

    images = []
    certificates = saved.certificates(saved.plan.of(on_grid(saved.spec, grid)))
    for (index, label, found), lower, places in zip(certificates, *own, strict=True):
        abstains = bool(found.lower_bound(0.0) < saved.spec.measure.cutoff)
        images.append({"run": place, "index": index, "key": f"{place}/{index}", "label": name(label),
                       "predicted": name(found.chosen) + ", but it abstains" * abstains,
                       "right": found.chosen == label, "abstains": abstains,
                       **image_row(found, lower, places, grid)})
    return curves, images


# --- the page -------------------------------------------------------------------------------------------------------

def notes_of(runs: dict[str, SavedScores], why_no_pictures: str | None) -> list[str]:
    """What a reader should know before believing the numbers."""
    spec = next(iter(runs.values())).spec
    measure, cutoff = spec.measure.name, shortest(spec.measure.cutoff)
    notes = [
        f"Certified above a score at radius R: the class is right, and the lower bound on the expected {measure} at R "
        "is above the score. An image's lower bounds hold at all radii and scores at once with probability 1 - alpha, "
        "and so do its upper bounds: both together with probability 1 - 2 alpha.",
        f"At scores of {cutoff} and above, the curves are what cert_acc.py prints. Below, they also count images that "
        "abstain (the bound at R = 0 is below the cutoff), as radius.py does; a log has no bounds for these.",
        "Bounds are rounded outwards, and radii down to the slider's grid. Between two radii of the grid a curve has "
        "the value at the larger one.",
    ]
    for log, saved in runs.items():
        if saved.spec.bound != "dkw" and saved.spec.alpha <= 0.5:
            notes.append(f"{log}: the paper's band is a statement of its own, from the same scores. Claiming the "
                         "larger of the two costs the sum of their alphas.")
        if saved.plan.settle is not None:
            notes.append(f"{log}: sampled in stages, only until it was settled for score {shortest(saved.plan.settle)} "
                         f"at the radii {', '.join(map(shortest, saved.spec.radii))}. At other scores and radii its "
                         "bounds hold, too, but are weaker than a full run's, which these scores cannot show.")
        if saved.non_finite:
            notes.append(f"{log}: {len(saved.non_finite)} images with non-finite scores have no bounds. They count as "
                         "not certified in the curves, and are not shown.")
    if len({frozenset((*saved.records["idx"].tolist(), *saved.non_finite)) for saved in runs.values()}) > 1:
        notes.append("The logs are not of the same images: their curves are not of the same sample.")
    return notes + ([f"No pictures of the images: {why_no_pictures}."] if why_no_pictures else [])


def build_page(runs: dict[str, SavedScores], dataset: str | None) -> tuple[dict, list[str], Choices]:
    """The datasets of the page, its notes, and what its reader chooses from."""
    grid = make_grid([saved.plan for saved in runs.values()])
    plan = next(iter(runs.values())).plan
    try:
        (pictures, classes), missing = read_pictures(runs, dataset), None
    except InputError as error:
        (pictures, classes), missing = ([], ()), " ".join(str(error).split())
        print(f"no pictures of the images: {missing}", file=sys.stderr)
    datasets = {"curves": [], "images": [], "pictures": pictures}
    for place, (log, saved) in enumerate(runs.items()):
        for name, rows in zip(("curves", "images"), run_rows(place, log, saved, grid, classes), strict=True):
            datasets[name] += rows
    images = {row["index"]: f"{row['index']}: {row['label']}" for row in datasets["images"]}
    bands = dict.fromkeys(row["band"] for row in datasets["curves"])
    choices = Choices(list(runs), list(bands), dict(sorted(images.items())), grid,
                      plan.score,
                      float(round(Fraction(plan.spec.sigma) / grid.step) * grid.step), plan.spec.sigma)
    return datasets, notes_of(runs, missing), choices


def main() -> None:
    args = parse_arguments()
    runs = read_runs(args)
    try:
        from certconf.report.views import layouts, library  # optional, and only here
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install -r requirements-explore.txt") from None
    datasets, notes, choices = build_page(runs, args.dataset)
    title = "Certificates: " + ", ".join(runs)
    page = render(title, notes, {log: saved.settings for log, saved in runs.items()}, layouts(choices), datasets,
                  library())
    write_new(args.page, page.encode(errors="replace"), args.overwrite)  # a name may be any bytes


if __name__ == "__main__":
    sys.exit(run_cli(main))
