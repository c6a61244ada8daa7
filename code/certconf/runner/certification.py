"""Certifying a data set: the logs of each measure, the rows of an image, and the whole run from a Python program."""
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from certconf.errors import InputError
from certconf.formats.log import LOG, Log
from certconf.formats.scores import parse_scores, scores_dtype, scores_record
from certconf.inputs.catalogue import requested_indices
from certconf.runner.config import CertifyConfig
from certconf.runner.run import ImageResult, Run
from certconf.statistics.sequential import Plan

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from certconf.core import Smooth
    from certconf.inputs.datasets import ImageSet

# the options of certify.py that certify_dataset takes; the others come from the Smooth
OPTIONS = {"N0", "N", "alpha", "batch", "skip", "max", "seed", "bound", "weights", "radii", "save_scores", "settle",
           "overwrite"}


def open_logs(run: Run, plans: list[Plan]) -> None:
    """Open the log of each measure."""
    config = run.config
    run.remarks += config.ceilings(plans)
    for plan in plans:
        measure = plan.spec.measure
        run.open(config.log_path(measure.name), LOG.header(config.radii),
                 partial(Log.parse, score_range=(measure.score_min, measure.score_max)),
                 partial(parse_scores, plan=plan) if config.save_scores else None, program="certify",
                 confidence_measure=measure.name, settle=plan.settle, looks=plan.recorded_looks())


def certify_image(smooth: "Smooth", plans: list[Plan], images: "ImageSet", index: int,
                  config: CertifyConfig) -> ImageResult:
    """For each log the row of an image, and its saved scores or None."""
    x, label = images.load(index)
    start = time.perf_counter()
    certificates = smooth.certify_by(plans, x, config.N0, config.batch, index=index, seed=config.seed)
    seconds = time.perf_counter() - start
    rows = [(LOG.line(index, label, certificate.prediction, seconds, certificate.exp_cdf, certificate.exp),
             scores_record(index, label, certificate, scores_dtype(plan)) if config.save_scores else None)
            for plan, certificate in zip(plans, certificates, strict=True)]
    return ImageResult(rows, max(certificate.spec.n for certificate in certificates))


def certify_dataset(smooth: "Smooth", dataset: "Dataset", outfile: str, **options) -> int:
    """Write the log of a data set certified by `smooth`, as certify.py does; repeating the call resumes.

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
    from certconf.inputs.datasets import image_set
    from certconf.inputs.loading import Inputs, modules_sha256, weights_sha256
    if unknown := sorted(options.keys() - OPTIONS):
        raise TypeError(f"certify_dataset: unknown options: {', '.join(unknown)}")
    if options.get("save_scores") and smooth.early_abstain:
        raise InputError("save_scores needs a Smooth without early_abstain, which gives images up")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("certify_dataset runs in one process: for several, name network and data set as FILE.py:NAME "
                         "to certify.py")
    sampler, network = smooth.sampler, smooth.sampler.base_classifier
    config = CertifyConfig(dataset=class_name(dataset), base_classifier=class_name(network), split=None,
                           sigma=smooth.sigma, outfile=str(outfile), noise=smooth.noise.name,
                           round_images=smooth.round_images, precision=sampler.precision, compile=sampler.compile,
                           random_network=sampler.random,
                           device=str(sampler.device), early_abstain=smooth.early_abstain,
                           confidence_measure=[measure.name for measure in smooth.measures], **options)
    plans = config.plans()
    images = image_set(dataset, config.dataset)
    hashes = {"weights_sha256": weights_sha256(network), "modules_sha256": modules_sha256(network),
              "images_sha256": images.fingerprint()}
    inputs = Inputs(network, smooth.num_classes, images, requested_indices(images.size, config.skip, config.max),
                    {"arch": config.base_classifier, **hashes})
    with Run(config) as run:
        open_logs(run, plans)
        run.load(inputs)
        run.begin(smooth.sampler)
        for index, result in run.map(lambda i: certify_image(smooth, plans, images, i, config)):
            run.write(index, result)
    return len(run.without_row)


def class_name(thing) -> str:
    """The name of an object's class, with its module's."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
