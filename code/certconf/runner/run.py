"""A run of a sampling program: it opens its logs, loads network and images, and loops over the images that lack a row.

PyTorch is loaded with the network: a run that is refused or complete before that answers at once.
"""
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from certconf.errors import BadNetwork, InputError, NonFiniteScores
from certconf.files import file_sha256
from certconf.inputs.catalogue import INFO, requested_indices
from certconf.inputs.user_code import file_of, is_user_code
from certconf.runner.config import SamplingConfig
from certconf.runner.output import ResumableLog
from certconf.runner.settings import SETTINGS, settings_of, start_of_run
from certconf.runner.worker import Worker

if TYPE_CHECKING:
    from certconf.inputs.loading import Inputs
    from certconf.sampling.sampler import Sampler

STOPPED = "stopped; the rows so far are complete, and the same command resumes from them"


class ImageResult(NamedTuple):
    """What a program has to write of an image: for each log its row (and saved scores), and the samples drawn."""

    rows: Sequence[tuple]
    samples: int


class Run:
    """A context that holds a run's processes and, on rank 0, its logs. A program calls, in this order:

    share     what rank 0 reads and checks, for every rank
    open      each log: refused if it has other settings
    complete  whether nothing is left to do, as far as that is known without the network
    load      the network and the images; `settings` are then those of the whole run
    begin     compares the logs with these, checks the network, and writes the logs' records
    map       yields the result of each image without a row, on rank 0 alone, which gives it to write

    without_row: the indices of the images that got no row, since a score was not finite.
    remarks: lines for stderr, once nothing is left that could be refused.
    """

    def __init__(self, config: SamplingConfig | None = None):
        self.config, self.worker = config, Worker.from_environment()
        self.logs: list[ResumableLog] = []
        self.without_row: list[int] = []
        self.remarks: list[str] = []
        self._samples: list[int] = []

    def __enter__(self) -> "Run":
        self._stack = ExitStack()
        self._stack.enter_context(self.worker)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, BadNetwork):
            raise InputError(f"{self.config.base_classifier}: {error}") from None

    @property
    def status(self) -> int:
        """The exit status of the program: 1 if an image got no row."""
        return 1 if self.without_row else 0

    def share(self, make: Callable, *args, **options):
        """What make(*args, **options) returns on rank 0, on every rank: one process says why it refuses."""
        return self.worker.share(make(*args, **options) if self.worker.first else None)

    def open(self, path: str, header: Sequence[str], parse: Callable, parse_scores: Callable | None = None,
             **known) -> None:
        """Open a log (see ResumableLog) on rank 0. known: settings that are not of the configuration."""
        if self.worker.first:
            settings = settings_of(self.config, **self._checkpoint(), **known)
            self.logs.append(self._stack.enter_context(closing(ResumableLog(
                path, settings, header, parse, parse_scores, overwrite=self.config.overwrite, whole=False))))

    def _checkpoint(self) -> dict:
        """What is recorded of a checkpoint. The user's own code is recorded once it has run. Raises InputError."""
        name, path = self.config.base_classifier, file_of(self.config.base_classifier)
        if self.config.split is None:  # objects of a Python program
            return {}
        if not os.path.isfile(path):
            kind = "file" if is_user_code(name) else "checkpoint"
            raise InputError(f"{path}: {f'a folder, not a {kind}' if os.path.isdir(path) else f'no such {kind}'}")
        return {} if is_user_code(name) else {"checkpoint_sha256": file_sha256(path)}

    def complete(self, only: Set[int] | None = None) -> bool:
        """Whether every log has all rows that are asked for; False if only the loaded images can tell.

        only: indices to run (default: all).
        """
        done, config = False, self.config
        named = config.dataset in INFO and not is_user_code(config.base_classifier)
        if self.worker.first and named and (size := INFO[config.dataset].size(config.split)):
            asked = requested_indices(size, config.skip, config.max)
            done = not self._missing(asked, only) and (only is None or not only.isdisjoint(asked))
            if done:
                self._say_complete()
        return self.worker.share(done)

    def load(self, inputs: "Inputs | None" = None) -> "Inputs":
        """Load what the configuration names (unless `inputs` is given), on every rank. Raises InputError."""
        # only here, since PyTorch takes seconds
        import torch

        from certconf.inputs.loading import load_inputs
        from certconf.sampling.devices import choose_device
        from certconf.sampling.noise import make_noise

        config = self.config
        self.device = choose_device(self.worker.device_name(config.device))
        if self.device.index is not None:  # or CUDA graphs would take memory on GPU 0 as well
            torch.cuda.set_device(self.device)
        self.inputs = inputs or load_inputs(config)
        x, _ = self.inputs.images.load(0)
        noise = make_noise(config.noise, config.sigma, torch.device("cpu"), config.round_images)
        noise.start(x)  # refuses an image that it cannot be added to, before a log is made
        self.settings = {"device_type": self.device.type, "delta": noise.delta(x.numel()), **self.inputs.settings}
        return self.inputs

    def begin(self, sampler: "Sampler", only: Set[int] | None = None) -> None:
        """Compare logs and ranks with what was loaded, check the network, and write the logs' records.

        only: indices to run, or all. Raises InputError, BadNetwork.
        """
        pending = None
        if self.worker.first:
            for log in self.logs:
                log.check_settings({name: value for name, value in {**log.settings, **self.settings}.items()
                                    if name in SETTINGS})
            pending = self._missing(self.inputs.indices, only)
            if pending:
                x, _ = self.inputs.images.load(pending[0])
                found = sampler.retry_on_out_of_memory(lambda batch: sampler.check(x, self.config.N, batch),
                                                       self.config.batch)
                self._warn([*self.remarks, *self.inputs.remarks, *found])
                for log in self.logs:
                    log.begin(self._start())
            else:
                self._say_complete()
        self.pending, known = self.worker.share((pending, self.inputs.settings))
        if names := [name for name in known if self.inputs.settings.get(name) != known[name]]:
            raise InputError(f"{', '.join(SETTINGS[name] for name in names)}: not the same in every process")

    def map(self, work: Callable[[int], ImageResult]) -> Iterator[tuple[int, ImageResult | None]]:
        """Call work(index) for each pending image, on all ranks, and yield (index, result) in order, on rank 0 alone.

        The result is None for an image with a non-finite score.
        """
        def attempt(index: int):
            try:
                return work(index)
            except NonFiniteScores:
                return None

        self._bar = tqdm(self.worker.map(attempt, self.pending), total=len(self.pending), unit="image",
                         disable=not (self.worker.first and self.pending))
        yield from self._bar
        if getattr(self.config, "settle", None) and self._samples:
            print(f"drew {sum(self._samples) / len(self._samples) / self.config.N:.3f} of the N samples per image, on "
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

    def _missing(self, indices: Sequence[int], only: Set[int] | None) -> list[int]:
        """Those of the indices (and of `only`) that some log has no row of."""
        return [i for i in indices if (only is None or i in only) and any(i not in log.done for log in self.logs)]

    def _say_complete(self) -> None:
        print(f"{self.config.outfile}: complete; nothing to do", file=sys.stderr)

    def _start(self) -> dict:
        """What is recorded of this start."""
        import torch
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine()
        return start_of_run(self.config, processes=self.worker.size, device_name=name)

    def _warn(self, found: Sequence[str]) -> None:
        """Report on stderr what the user may not expect of this run; found: lines about its network and images."""
        from certconf.sampling.devices import slow_choices
        config, trained = self.config, self.inputs.trained_noise
        for line in [*found, *slow_choices(config.device, self.device, config.precision)]:
            print(line, file=sys.stderr)
        if trained is not None and trained != config.sigma:
            print(f"warning: this network was trained with noise {trained:g}, and is smoothed with {config.sigma:g}",
                  file=sys.stderr)
        if config.noise == "float":
            print("float noise is taken for exact Gaussian noise, which no float is; --noise integer makes no such "
                  "assumption", file=sys.stderr)
        if config.precision != "fp32":
            print(f"the network runs in {config.precision}: the log is about the network at this precision",
                  file=sys.stderr)
