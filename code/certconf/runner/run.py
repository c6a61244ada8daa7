"""A run of a sampling program: its images and network, its logs on rank 0, and the loop over its images."""
import argparse
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import torch
from tqdm import tqdm

from certconf.core import NonFiniteScores
from certconf.errors import InputError
from certconf.inputs.subject import Subject, load_subject
from certconf.runner.output import ResumableLog
from certconf.runner.settings import SETTINGS, settings_of, start_of_run
from certconf.runner.worker import Worker
from certconf.sampling.devices import choose_device, slow_choices
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import BadNetwork

STOPPED = "stopped; the rows so far are complete, and the same command resumes from them"


class ImageResult(NamedTuple):
    """What a program has to write of an image: for each log its row (and saved scores), and the samples drawn."""

    rows: Sequence[tuple]
    samples: int


class Run:
    """A context in which a program maps a function over the images that its logs lack, and writes the results.

    check(args) raises InputError for bad arguments, and returns what every rank needs of them, `prepared`;
    open_logs(run) gives the ResumableLogs. Rank 0 alone calls both and holds the files; `worker` is this process.

    subject, device   what the arguments name (or the subject that is given)
    todo              the indices of the images that some log lacks
    without_row       the indices of the images that got no row, since a score was not finite
    status            the exit status: 1 if there are such images
    """

    def __init__(self, args: argparse.Namespace, check: Callable, open_logs: Callable[["Run"], Iterable[ResumableLog]],
                 subject: Subject | None = None):
        self.args, self._check, self._open_logs, self.subject = args, check, open_logs, subject
        self.worker, self.logs, self.todo, self.prepared = Worker.from_environment(), [], [], None
        self.without_row, self._samples = [], []

    def __enter__(self) -> "Run":
        with ExitStack() as stack:
            stack.enter_context(self.worker)
            if self.worker.first:
                self.prepared = self._check(self.args)
                self._load()
                for log in self._open_logs(self):
                    self.logs.append(stack.enter_context(closing(log)))
                self.todo = [i for i in self.subject.indices if any(i not in log.done for log in self.logs)]
                self._begin_logs()
            self.todo, self.prepared, known = self.worker.share(
                (self.todo, self.prepared, self.subject and self.subject.settings))
            if not self.worker.first:
                self._load()
            if names := [name for name in known or {} if self.subject.settings[name] != known[name]]:
                raise InputError(f"{', '.join(SETTINGS[name] for name in names)}: not the same in every process")
            self._context = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._context.__exit__(kind, error, trace)
        if isinstance(error, BadNetwork):
            raise InputError(f"{self.args.base_classifier}: {error}") from None

    @property
    def status(self) -> int:
        """The exit status of the program: 1 if an image got no row."""
        return 1 if self.without_row else 0

    def settings(self, **known) -> dict:
        """What a row of this run depends on."""
        return settings_of(self.args, device_type=self.device.type, delta=self._delta(), **self.subject.settings,
                           **known)

    def _delta(self) -> float:
        """CertificateSpec.delta for the images of this run: programs that read its log see no image."""
        noise = make_noise(self.args.noise, self.args.sigma, torch.device("cpu"), self.args.round_images)
        x, _ = self.subject.images.load(0)
        noise.start(x)  # refuses an image that it cannot be added to, before a log is made
        return noise.delta(x.numel())

    def start(self) -> dict:
        """What is recorded of this start."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine()
        return start_of_run(self.args, processes=self.worker.size, device_name=name)

    def map(self, work: Callable[[int], object]) -> Iterator[tuple[int, object]]:
        """Call work(index) for each image of `todo`, on all ranks, and yield (index, result) in order, on rank 0 alone.

        The result is None for an image with a non-finite score.
        """
        def attempt(index: int):
            try:
                return work(index)
            except NonFiniteScores:
                return None

        self._bar = tqdm(self.worker.map(attempt, self.todo), total=len(self.todo), unit="image",
                         disable=not (self.worker.first and self.todo))
        yield from self._bar
        if getattr(self.args, "settle", None) and self._samples:
            print(f"drew {sum(self._samples) / len(self._samples) / self.args.N:.3f} of the N samples per image, on "
                  f"average over {len(self._samples)} images", file=sys.stderr)
        if self.without_row:
            print(f"no row for {len(self.without_row)} images with non-finite scores: "
                  f"{', '.join(map(str, self.without_row))}; repeating the command tries these again", file=sys.stderr)

    def write(self, index: int, result: ImageResult | None) -> None:
        """Write the result of an image; None is recorded as an image without a row."""
        if result is None:
            self.without_row.append(index)
            for log in self.logs:
                log.record_without_row(index)
            tqdm.write(f"image {index}: a score is NaN or infinite; it gets no row", file=sys.stderr)
            return
        self._samples.append(result.samples)
        self._bar.set_postfix_str(f"{sum(self._samples)} samples", refresh=False)
        for log, parts in zip(self.logs, result.rows, strict=True):
            log.write(index, *parts)

    def _load(self) -> None:
        """Load what the arguments name. Raises InputError."""
        self.device = choose_device(self.worker.device_name(self.args.device))
        if self.device.index is not None:  # or CUDA graphs would take memory on GPU 0 as well
            torch.cuda.set_device(self.device)
        self.subject = self.subject or load_subject(self.args)

    def _begin_logs(self) -> None:
        if not self.todo:
            print(f"{self.args.outfile}: complete; nothing to do", file=sys.stderr)
            return
        self._warn()
        for log in self.logs:
            log.begin()

    def _warn(self) -> None:
        """Report on stderr what the user may not expect of this run."""
        for line in slow_choices(self.args.device, self.device, self.args.precision):
            print(line, file=sys.stderr)
        trained = self.subject.trained_noise
        if trained is not None and trained != self.args.sigma:
            print(f"warning: this network was trained with noise {trained:g}, and is smoothed with {self.args.sigma:g}",
                  file=sys.stderr)
        if self.args.noise == "float":
            print("float noise is taken for exact Gaussian noise, which no float is; --noise integer makes no such "
                  "assumption", file=sys.stderr)
        if self.args.precision != "fp32":
            print(f"the network runs in {self.args.precision}: the log is about the network at this precision",
                  file=sys.stderr)
