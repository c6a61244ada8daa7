"""What a sampling program works on: images, a network and a device; and the loop that writes its rows."""
import argparse
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from architectures import file_sha256, load_checkpoint
from datasets import INFO, ImageSet, open_images
from runs.output import RunOutput
from runs.ranks import Ranks
from runs.record import start_of_run
from sampler import choose_device

SETTINGS = ("dataset", "split", "sigma", "N0", "N", "alpha", "seed", "precision", "skip")


@dataclass(frozen=True)
class Job:
    """The images of a run, those it was asked for, and the network that is smoothed."""

    images: ImageSet
    indices: range
    network: nn.Module
    checkpoint: dict
    num_classes: int
    device: torch.device

    @classmethod
    def load(cls, args: argparse.Namespace, ranks: Ranks) -> "Job":
        """Load what the arguments name. Raises InputError."""
        device = choose_device(ranks.device_name(args.device))
        network, checkpoint = load_checkpoint(args.base_classifier, args.dataset)
        images, indices = open_images(args.dataset, args.split, args.skip, args.max)
        return cls(images, indices, network, checkpoint, INFO[args.dataset].num_classes, device)

    def settings(self, args: argparse.Namespace, **more) -> dict:
        """What a row of this run depends on."""
        return {**{name: getattr(args, name) for name in SETTINGS}, "arch": self.checkpoint["arch"],
                "checkpoint_sha256": file_sha256(args.base_classifier), "device_type": self.device.type, **more}

    def start(self, args: argparse.Namespace, ranks: Ranks, **more) -> dict:
        """What is recorded of this start."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine()
        return start_of_run(vars(args), batch=args.batch, compile=args.compile, processes=ranks.size, device_name=name,
                            **more)

    def warn(self, args: argparse.Namespace) -> None:
        """Tell on stderr what the user may not expect of this run."""
        config = self.checkpoint.get("config")
        trained = config.get("noise_sd") if isinstance(config, dict) else None
        if isinstance(trained, float) and trained != args.sigma:
            print(f"warning: this network was trained with noise {trained:g}, and is smoothed with {args.sigma:g}",
                  file=sys.stderr)
        if args.precision != "fp32":
            print(f"the network runs in {args.precision}: the log is about the network at this precision",
                  file=sys.stderr)


def missing(job: Job, outputs: list[RunOutput]) -> list[int]:
    """The indices asked for that some output has no row of."""
    return [index for index in job.indices if any(index not in output.done for output in outputs)]


def write_rows(outputs: list[RunOutput], todo: list[int], results: Iterable, first: bool) -> int:
    """Write the results of the images `todo` as they come, and return the exit status.

    A result is (line, scores or None) for each output, or None for an image with a non-finite score, which gets no row.
    """
    failed = []
    results = tqdm(results, total=len(todo), unit="image", disable=not first)
    for result, index in zip(results, todo, strict=False):  # ranks other than the first get no results
        if result is None:
            failed.append(index)
            tqdm.write(f"image {index}: a score is NaN or infinite; it gets no row", file=sys.stderr)
            continue
        for output, (line, scores) in zip(outputs, result, strict=True):
            output.write(index, line, scores)
    if failed:
        print(f"no row for {len(failed)} images with non-finite scores: {', '.join(map(str, failed))}; "
              "repeating the command tries these again", file=sys.stderr)
    return 1 if failed else 0
