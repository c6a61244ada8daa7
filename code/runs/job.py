"""What a sampling program works on: images, a network and a device; and the loop that writes its rows."""
import argparse
import platform
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from architectures import file_sha256, load_checkpoint
from datasets import INFO, ImageSet, open_images
from noise import make_noise
from runs.output import RunOutput
from runs.ranks import Ranks
from runs.record import start_of_run
from sampler import choose_device

STOPPED = "stopped; the rows so far are complete, and the same command goes on from them"
SETTINGS = ("dataset", "split", "sigma", "N0", "N", "alpha", "seed", "precision", "skip", "noise",
            "round_images")


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
                "checkpoint_sha256": file_sha256(args.base_classifier), "device_type": self.device.type,
                "delta": self.delta(args), **more}

    def delta(self, args: argparse.Namespace) -> float:
        """That of a noisy image of this size: later programs need it, and know no image."""
        noise = make_noise(args.noise, args.sigma, torch.device("cpu"))
        return noise.delta(self.images.load(0)[0].numel())

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
        if args.noise == "float":
            print("float noise is taken for exact Gaussian noise, which no float is; --noise integer assumes no such "
                  "thing", file=sys.stderr)
        if args.precision != "fp32":
            print(f"the network runs in {args.precision}: the log is about the network at this precision",
                  file=sys.stderr)


def run_job(args: argparse.Namespace, check: Callable, open_outputs: Callable, make_work: Callable) -> int:
    """Run a sampling program, in one process or on every rank, and return the exit status.

    check(args) raises InputError for bad arguments and returns the band's eta (or None); open_outputs(args, ranks, job)
    gives the RunOutputs; make_work(args, job, eta) the function from an index to a result for write_rows. Rank 0 alone
    checks the arguments and holds the files.
    """
    ranks = Ranks.from_environment()
    with ExitStack() as stack:
        job, eta, outputs, todo = None, None, [], []
        if ranks.first:
            eta = check(args)
            job = Job.load(args, ranks)
            for output in open_outputs(args, ranks, job):
                outputs.append(stack.enter_context(closing(output)))
            todo = [i for i in job.indices if any(i not in output.done for output in outputs)]
            _begin(args, job, outputs, todo, eta)
        todo, eta = ranks.share((todo, eta))
        if not todo:
            return 0
        job = job or Job.load(args, ranks)
        return write_rows(outputs, todo, ranks.in_order(todo, make_work(args, job, eta)), ranks.first)


def _begin(args: argparse.Namespace, job: Job, outputs: list[RunOutput], todo: list[int], eta: float | None) -> None:
    if not todo:
        print(f"{args.outfile}: complete; nothing to do", file=sys.stderr)
        return
    job.warn(args)
    for output in outputs:
        output.begin(eta)


def write_rows(outputs: list[RunOutput], todo: list[int], results: Iterable, first: bool) -> int:
    """Write the results of the images `todo` as they come, and return the exit status.

    A result is (line, scores or None) for each output, or None for an image with a non-finite score, which gets no row.
    """
    failed = []
    results = tqdm(results, total=len(todo), unit="image", disable=not first)
    for result, index in zip(results, todo, strict=False):  # ranks other than the first get no results
        if result is None:
            failed.append(index)
            for output in outputs:
                output.leave_out(index)
            tqdm.write(f"image {index}: a score is NaN or infinite; it gets no row", file=sys.stderr)
            continue
        for output, (line, scores) in zip(outputs, result, strict=True):
            output.write(index, line, scores)
    if failed:
        print(f"no row for {len(failed)} images with non-finite scores: {', '.join(map(str, failed))}; "
              "repeating the command tries these again", file=sys.stderr)
    return 1 if failed else 0
