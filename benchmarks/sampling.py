"""Time this program's sampling against a plain loop, in turn.

    python benchmarks/sampling.py                  (on 2 CPU cores about half an hour)
    python benchmarks/sampling.py --quick          (about ten minutes, most of them compiling)
    python benchmarks/sampling.py --networks cifar_resnet110 --device cuda --repeat 9

Prints markdown tables and writes them to benchmarks/results/ with a description of the machine. Each plain loop runs in
a process of its own (plain_loop.py), as its user would start it. The networks have random weights: the time does not
depend on them.
"""
import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import code_path
import torch
from machine import RESULTS, convolution_peak, describe, finish, flops
from plain_loop import NO_MEMORY, SIDE, SIGMA, plain_bounds

from certconf.core import order_statistics
from certconf.errors import InputError, run_cli
from certconf.files import refuse_existing, write_new
from certconf.inputs.architectures import ARCHITECTURES, DATASET_OF, build_network
from certconf.report.tables import format_table
from certconf.sampling import PRECISIONS
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler, forward_size
from certconf.sampling.streams import BLOCK, ESTIMATION
from certconf.statistics.certificate import BOUNDS, RADII, CertificateSpec
from certconf.statistics.measures import MEASURES

PLAIN_BATCH = {"cpu": {"cifar10": 1000, "imagenet": 256}, "cuda": {"cifar10": 400, "imagenet": 400}}
TRIED_BATCHES = {"cpu": {"cifar10": (32, 64, 128, 256, 1000), "imagenet": (4, 8, 16, 32, 64)},
                 "cuda": {"cifar10": (400, 1000, 2000, 4000), "imagenet": (50, 100, 200, 400)}}
PRECISIONS_OF = {"cpu": ("fp32", "bf16", "fp16"), "cuda": tuple(PRECISIONS)}  # on a CPU, tf32 is fp32
ALPHA, N = 0.001, 100_000
NOTES = """Each measurement draws whole passes of samples for about {seconds:g} s (or one pass, if that takes
longer), after a pass that is not timed. Every variant is measured {repeat} times, one after the other in turn: median,
and spread from the fastest to the slowest. The plain loop runs in a process of its own, in float32, eager, with
`x.repeat`, and copies its scores to the host at each batch. Networks have random weights.

Peak: the fraction of the most GFLOP/s that 3x3 convolutions reached in the same run (64 channels at 56x56, 128 at
28x28, 256 at 14x14), on a CPU in float32 with batches of 8 and 16, on a GPU at the variant's precision and batch:
{peaks}. Counted are convolutions and linear layers, two operations for
each multiply-add, none for multiplications by padding zeros. GFLOP per sample: {work}.
"""


@dataclass
class Variant:
    """A way of drawing samples: draw(n) draws n of them, `unit` is one whole pass; times: seconds for 1,000 samples."""

    name: str
    batch: int
    unit: int
    draw: Callable[[int], None]
    precision: str = "fp32"
    samples: int = 0
    times: list[float] = field(default_factory=list)

    def prepare(self, seconds: float) -> None:
        """Warm up (and compile), and choose how many samples a measurement draws."""
        self.draw(self.unit)
        self.samples = self.unit
        self.samples = self.unit * math.ceil(seconds / (self.measure() * self.unit / 1000))

    def measure(self) -> float:
        """Seconds for 1,000 samples."""
        start = time.perf_counter()
        self.draw(self.samples)
        return (time.perf_counter() - start) / self.samples * 1000

    def peak_of(self, device: torch.device) -> tuple:
        """The arguments of the peak that it is compared with: on a GPU that of its precision and batch."""
        return ("fp32",) if device.type == "cpu" else (self.precision, (self.batch,))

    @property
    def median(self) -> float:
        """The median of its times."""
        return statistics.median(self.times)


class PlainProcess:
    """The plain loop at one batch in a process of its own, which ends with the `with` block."""

    def __init__(self, arch: str, device: torch.device, batch: int):
        self.batch = batch
        program = Path(__file__).with_name("plain_loop.py")
        self.process = subprocess.Popen([sys.executable, str(program), arch, str(device), str(batch)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "PlainProcess":
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate()  # the end of its input ends it

    def draw(self, n: int) -> None:
        """Let it draw n samples. Raises torch.OutOfMemoryError, or InputError if the process has ended."""
        try:
            self.process.stdin.write(f"{n}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # then it does not answer either
        answer = self.process.stdout.readline().strip()
        if answer == NO_MEMORY:
            raise torch.OutOfMemoryError
        if not answer:
            raise InputError("benchmarks/plain_loop.py has ended: its own message stands above")

    def variant(self, name: str) -> Variant:
        """This process as a way of drawing samples."""
        return Variant(name, self.batch, self.batch, self.draw)


def best_batch(arch: str, device: torch.device, batches: tuple[int, ...], seconds: float) -> int:
    """The batch at which the plain loop is fastest; one that does not fit into GPU memory is passed over."""
    tried = []
    for batch in batches:
        with PlainProcess(arch, device, batch) as process, suppress(torch.OutOfMemoryError):
            variant = process.variant("plain loop")
            variant.prepare(seconds)
            tried.append((min(variant.measure() for _ in range(3)), batch))
    if not tried:
        raise InputError(f"no batch of {', '.join(map(str, batches))} fits into the memory of {device}")
    return min(tried)[1]


def sampler_variant(network, x, device, precision: str, compile: bool, batch: int, noise: str = "integer") -> Variant:
    """This program."""
    sampler = Sampler(network, make_noise(noise, SIGMA, device), device, precision, compile)
    size = forward_size(device.type, *x.shape[1:], batch, N)

    def draw(n: int) -> None:
        scores, done = torch.empty(n, device=device), 0
        for softmax in sampler.softmax(x, n, batch, (0, 0, ESTIMATION)):
            scores[done:done + len(softmax)] = softmax[:, 0]
            done += len(softmax)
        finish(device)

    name = precision + (", compiled" if compile else "") + (", float noise" if noise == "float" else "")
    return Variant(name, size, max(size, BLOCK), draw, precision)


def time_network(arch: str, args: argparse.Namespace, device: torch.device, peaks: dict) -> tuple[list[Variant], int]:
    """The measured variants of one network, and its FLOPs for one sample; peaks: see measure_in_turn."""
    torch.compiler.reset()  # what was compiled for the network before counts against a limit
    dataset = DATASET_OF[arch]
    network, x = build_network(arch, dataset).eval(), torch.randint(256, (3, SIDE[dataset], SIDE[dataset])) / 255
    usual = PLAIN_BATCH[device.type][dataset]
    best = best_batch(arch, device, TRIED_BATCHES[device.type][dataset], args.seconds / 4)
    with PlainProcess(arch, device, usual) as plain, PlainProcess(arch, device, best) as plain_best:
        variants = [plain.variant("plain loop"), plain_best.variant("plain loop, best batch"),
                    *(sampler_variant(network, x, device, precision, compile, args.batch)
                      for precision in args.precision or PRECISIONS_OF[device.type] for compile in (False, True)),
                    sampler_variant(network, x, device, "fp32", False, args.batch, "float")]
        for variant in variants:
            variant.prepare(args.seconds)
            print(f"{arch}: {variant.name}: ready, {variant.samples} samples a measurement", file=sys.stderr)
        measure_in_turn(variants, args.repeat, device, peaks)
        return variants, flops(network, x)


def measure_in_turn(variants: list[Variant], repeat: int, device: torch.device, peaks: dict) -> None:
    """Measure each variant `repeat` times, one after the other; peaks (by Variant.peak_of) rise to what is seen."""
    for _ in range(repeat):
        for key in dict.fromkeys(variant.peak_of(device) for variant in variants):
            peaks[key] = max(peaks.get(key, 0.0), convolution_peak(device, *key))
        for variant in variants:
            variant.times.append(variant.measure())


def network_rows(arch: str, variants: list[Variant], work: int, peak: Callable) -> list[list[str]]:
    """The rows of the table; work: FLOPs of a sample, peak(variant): FLOP/s of the machine."""
    plain, plain_best = (variant.median for variant in variants[:2])
    return [[arch, variant.name, str(variant.batch), f"{variant.median:.3g}",
             f"{min(variant.times):.3g} to {max(variant.times):.3g}", f"{plain / variant.median:.2f}",
             f"{plain_best / variant.median:.2f}", f"{1000 * work / variant.median / peak(variant):.0%}"]
            for variant in variants]


def time_bounds(n: int, repeat: int, device: torch.device) -> list[list[str]]:
    """The rows of the table of bounds: the bounds of one image from its n scores, at all radii."""
    scores = torch.rand(n, device=device, generator=torch.Generator(device).manual_seed(0))
    on_host = scores.cpu().numpy()
    variants = {"scalar loop of scipy.stats calls, dkw": lambda: plain_bounds(on_host, SIGMA, ALPHA, RADII)}
    once = {}
    for bound in BOUNDS:
        start = time.perf_counter()
        spec = CertificateSpec(MEASURES["pred_score"], n, ALPHA, SIGMA, bound).prepare()
        once[f"this program, {bound}"] = time.perf_counter() - start
        variants[f"this program, {bound}"] = lambda spec=spec: tuple(spec.certificate(
            0, float(scores.mean(dtype=torch.float64)), order_statistics(scores, spec.band.ranks)))
    rows = []
    for name, work in variants.items():
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        rows.append([name, f"{statistics.median(times):.3g}", f"{min(times):.3g} to {max(times):.3g}",
                     f"{once[name]:.2g}" if name in once else ""])
    return rows


def report(args: argparse.Namespace, device: torch.device) -> str:
    """Measure everything, and report it in markdown."""
    peaks = {}  # the most of all networks' times: those of one CPU have one peak
    timed = {arch: time_network(arch, args, device, peaks) for arch in args.networks}
    rows = [row for arch, (variants, work) in timed.items()
            for row in network_rows(arch, variants, work, lambda variant: peaks[variant.peak_of(device)])]
    columns = ["network", "variant", "batch", "s for 1,000 samples", "spread", "times as fast as plain loop",
               "as its best batch", "peak"]
    sampling = format_table(columns, rows, "markdown")
    columns = ["bounds of one image", "s", "spread", "once per run, s"]
    bounds = format_table(columns, time_bounds(N, args.repeat, device), "markdown")
    named = [f"{peak / 1e9:.4g}" + "".join(f" ({precision}, batch {batch})" for batch, in batches)
             for (precision, *batches), peak in peaks.items()]
    notes = NOTES.format(seconds=args.seconds, repeat=args.repeat, peaks=", ".join(named), work=", ".join(
        f"{arch} {work / 1e9:.3g}" for arch, (_, work) in timed.items()))
    return (f"# Sampling\n\n{describe(device)}\n{sampling}\n{notes}\n"
            f"# Bounds, N = {N:,}, {len(RADII)} radii\n\nMedians of {args.repeat}.\n\n{bounds}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=ARCHITECTURES, metavar="ARCH",
                        default=["cifar_resnet20", "cifar_resnet110", "resnet50"],
                        help=f"of {', '.join(ARCHITECTURES)} (default: all)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS,
                        help="(default: all that the device has; quick: fp32 bf16)")
    parser.add_argument("--batch", type=int, default=1000,
                        help="as for certify.py, 1 or more (on a CPU: at most; default: %(default)s)")
    parser.add_argument("--repeat", type=int, help="measurements of each variant, 1 or more (default: 5; quick: 3)")
    parser.add_argument("--seconds", type=float,
                        help="of a measurement, at least; above 0 and below 600 (default: 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, fp32 and bf16 alone")
    parser.add_argument("--device", default="auto",
                        help="auto (CUDA, then CPU), cpu, cuda or cuda:K (default: %(default)s)")
    parser.add_argument("--out", help="default: benchmarks/results/sampling_{cpu,cuda}[_quick].md")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    args = parser.parse_args()
    args.repeat = args.repeat if args.repeat is not None else 3 if args.quick else 5
    args.seconds = args.seconds if args.seconds is not None else 1.0 if args.quick else 5.0
    args.precision = args.precision or (["fp32", "bf16"] if args.quick else None)
    return args


def main() -> None:
    args = parse_arguments()
    if args.repeat < 1 or args.batch < 1 or not 0 < args.seconds < 600:
        raise InputError("--repeat and --batch must be 1 or above, --seconds between 0 and 600")
    device = choose_device(args.device)
    out = args.out or RESULTS / f"sampling_{device.type}{'_quick' if args.quick else ''}.md"
    refuse_existing([out], args.overwrite)
    text = report(args, device)
    print(text, end="")
    write_new(out, text.encode(), args.overwrite)


if __name__ == "__main__":
    sys.exit(run_cli(main))
