"""Certified confidence by randomized smoothing: how confident does a classifier provably stay under perturbation?

    from certconf import Smooth, certify_dataset, load_checkpoint, open_images

statistics/  bands and bounds from scores; no PyTorch, no files      inputs/   networks and images
sampling/    noise and noisy forward passes                          formats/  logs, records, saved scores
core.py      Smooth: from an image to its certificate                runner/   a run: resumed, in one or many processes

Nothing is loaded until it is used: the statistics alone (certconf.statistics.bounds) need NumPy and SciPy only.
"""
from importlib import import_module

HOMES = {"Smooth": "certconf.core", "Certificate": "certconf.statistics.certificate",
         "certify_dataset": "certconf.runner.certification",
         "load_checkpoint": "certconf.inputs.architectures", "open_images": "certconf.inputs.datasets"}
__all__ = list(HOMES)


def __getattr__(name: str):
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
