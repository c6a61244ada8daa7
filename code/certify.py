"""Certify the confidence of a smoothed classifier, image by image.

    python code/certify.py cifar10 CHECKPOINT 0.25 OUTFILE --skip 20
    python code/certify.py cifar10 CHECKPOINT 0.25 'log_{confidence_measure}' --confidence_measure pred_score margin
    python code/certify.py cifar10 CHECKPOINT 0.25 OUTFILE --settle 0.5
    python code/certify.py cifar10 examples/cifar10_denoised.py:network 0.25 OUTFILE --skip 20
    IMAGENET_DIR=... torchrun --nproc_per_node=8 -- code/certify.py imagenet CHECKPOINT 0.5 OUTFILE --batch 400

certify_dataset does the same from Python, for a Smooth and a data set of your own (see docs/own_network.md).

OUTFILE gets one row per image (its columns: formats/log.py), OUTFILE.json the settings of the run. Repeating a command
resumes from the rows that are done. cert_acc.py turns the log into certified accuracy.
"""
import argparse
import operator
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from torch.utils.data import Dataset

from certconf import errors
from certconf.core import Smooth
from certconf.formats.log import Row, columns, parse_log
from certconf.formats.scores import parse_scores, scores_dtype, scores_record
from certconf.inputs.datasets import ImageSet, image_set, requested_indices
from certconf.inputs.subject import Subject, modules_sha256, weights_sha256
from certconf.runner.checks import check_spec
from certconf.runner.options import add_certificate_options, add_sampling_options, check_sampling_options
from certconf.runner.output import ResumableLog
from certconf.runner.run import STOPPED, ImageResult, Run
from certconf.statistics.certificate import CertificateSpec
from certconf.statistics.measures import MEASURES
from certconf.statistics.sequential import describe_looks

PLACE = "{confidence_measure}"
# the command-line options that certify_dataset accepts; the others come from the Smooth
OPTIONS = {"N0", "N", "alpha", "batch", "skip", "max", "seed", "bound", "weights", "radii", "save_scores", "settle",
           "overwrite"}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sampling_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--no_early_abstain", dest="early_abstain", action="store_false",
                        help="take all N samples of images that will abstain, too (default: give them up early)")
    parser.add_argument("--save_scores", action="store_true",
                        help="keep each image's order statistics in OUTFILE.scores (turns early abstention off)")
    parser.add_argument("--settle", type=float, nargs="+", metavar="SCORE",
                        help="one for each measure, strictly between its least and its greatest score: stop sampling "
                             "an image once it is settled at every radius whether its bound exceeds SCORE (default: "
                             "take all N samples)")
    return parser


def parse_arguments() -> argparse.Namespace:
    args = make_parser().parse_args()
    args.early_abstain &= not args.save_scores
    return args


def make_specs(args: argparse.Namespace) -> list[CertificateSpec]:
    """The spec of each measure's certificates. Raises InputError for arguments that no run can use."""
    check_sampling_options(args)
    scores = args.settle or [None] * len(args.confidence_measure)
    if len(scores) != len(args.confidence_measure):
        raise errors.InputError("--settle: one score for each measure")
    kept_ranks = args.weights if args.save_scores else None
    specs = [check_spec(CertificateSpec(MEASURES[name], args.N, args.alpha, args.sigma, args.bound, tuple(args.radii),
                                        args.weights, kept_ranks, settle=score))
             for name, score in zip(args.confidence_measure, scores, strict=True)]
    if len(set(args.confidence_measure)) < len(args.confidence_measure):
        raise errors.InputError("--confidence_measure: each measure once")
    if len(args.confidence_measure) > 1 and PLACE not in args.outfile:
        raise errors.InputError(f"OUTFILE must contain {PLACE} if there are several measures")
    return specs


def open_logs(run: Run) -> Iterator[ResumableLog]:
    """The log of each measure."""
    args = run.args
    for spec in run.prepared:
        name = spec.measure.name
        settings = run.settings(program="certify", confidence_measure=name, settle=spec.settle,
                                looks=describe_looks(spec))
        yield ResumableLog(args.outfile.replace(PLACE, name), settings, run.start(), columns(args.radii),
                           partial(parse_log, score_range=(spec.measure.score_min, spec.measure.score_max)),
                           partial(parse_scores, spec=spec) if args.save_scores else None,
                           eta=spec.eta, overwrite=args.overwrite)


def certify_image(smooth: Smooth, specs: list[CertificateSpec], images: ImageSet, index: int,
                  args: argparse.Namespace) -> ImageResult:
    """For each log the row of an image, and its saved scores or None."""
    x, label = images.load(index)
    start = time.perf_counter()
    certificates = smooth.certify_by(specs, x, args.N0, args.batch, index=index, seed=args.seed)
    seconds = time.perf_counter() - start
    rows = [(Row.of(index, label, certificate, seconds).line(),
             scores_record(index, label, certificate, scores_dtype(spec)) if args.save_scores else None)
            for spec, certificate in zip(specs, certificates, strict=True)]
    return ImageResult(rows, max(certificate.spec.n for certificate in certificates))


def main() -> int:
    args = parse_arguments()
    with Run(args, make_specs, open_logs) as run:
        smooth = Smooth(run.subject.network, run.subject.num_classes, args.sigma, tuple(args.confidence_measure),
                        device=str(run.device), precision=args.precision, compile=args.compile,
                        early_abstain=args.early_abstain, noise=args.noise, round_images=args.round_images)
        for index, result in run.map(lambda i: certify_image(smooth, run.prepared, run.subject.images, i, args)):
            run.write(index, result)
    return run.status


def certify_dataset(smooth: Smooth, dataset: Dataset, outfile: str, **options) -> int:
    """Write the log of a data set certified by `smooth`, as this program does; repeating the call resumes.

    dataset   map-style, of (image, label): the image a float tensor [C, H, W] in [0, 1], a uint8 tensor or a PIL image,
              all of one size; the label an integer of 0 or above
    outfile   the log; it contains {confidence_measure} if smooth has several measures
    options   of the command line, by their names and with their defaults: N0, N, alpha, batch, skip, max, seed, bound,
              weights, radii, save_scores, settle (a score for each measure), overwrite

    Returns the number of images without a row. The record holds the hashes of the network's weights, buffers and
    printed modules, and of the images (of the first 32, if the data set has `targets`), but of no code, nor of
    attributes that are not printed: start another log if these change. Raises InputError, TypeError for an unknown
    option.
    """
    if unknown := sorted(options.keys() - OPTIONS):
        raise TypeError(f"certify_dataset: unknown options: {', '.join(unknown)}")
    if options.get("save_scores") and smooth.early_abstain:
        raise errors.InputError("save_scores needs a Smooth without early_abstain, which gives images up")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise errors.InputError("certify_dataset runs in one process: for several, name network and data set as "
                                "FILE.py:NAME to certify.py")
    sampler, network = smooth.sampler, smooth.sampler.base_classifier
    parser = make_parser()
    args = parser.parse_args([class_name(dataset), class_name(network), "0", ""])
    del args.split  # a data set is one split
    vars(args).update(outfile=str(outfile), sigma=smooth.sigma, noise="float" if smooth.float_noise else "integer",
                      round_images=smooth.round_images, precision=sampler.precision, compile=sampler.compile,
                      device=str(sampler.device), early_abstain=smooth.early_abstain,
                      confidence_measure=[measure.name for measure in smooth.measures],
                      **{action.dest: value_of(action, options[action.dest])
                         for action in parser._actions if action.dest in options})
    make_specs(args)
    images = image_set(dataset, args.dataset)
    hashes = {"weights_sha256": weights_sha256(network), "modules_sha256": modules_sha256(network),
              "images_sha256": images.fingerprint()}
    subject = Subject(network, smooth.num_classes, images, requested_indices(images.size, args.skip, args.max),
                      {"arch": args.base_classifier, **hashes})
    with Run(args, make_specs, open_logs, subject) as run:
        for index, result in run.map(lambda i: certify_image(smooth, run.prepared, images, i, args)):
            run.write(index, result)
    return len(run.without_row)


def value_of(action: argparse.Action, value):
    """An option's value, given in Python, as the command line would give it. Raises InputError."""
    with suppress(TypeError, ValueError):
        if value == action.default or action.choices and value in action.choices:
            return value
        if action.nargs == 0 and type(value) is bool:
            return value
        if action.nargs == "+":
            return [action.type(each) for each in (value if isinstance(value, Sequence) else [value])]
        if action.type in (int, float):
            return operator.index(value) if action.type is int else float(value)
    raise errors.InputError(f"certify_dataset: {action.dest}: {value!r} is no value of {action.option_strings[0]}")


def class_name(thing) -> str:
    """The name of an object's class, with its module's."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


if __name__ == "__main__":
    sys.exit(errors.run(main, STOPPED))
