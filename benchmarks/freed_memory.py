"""Time forward passes on a CPU whose freed memory this process keeps, or returns to the kernel (glibc's default).

    python benchmarks/freed_memory.py --out log_files/new/freed_memory.md          (about five minutes on 2 cores)

Each measurement is a process of its own, since the choice lasts as long as one; the two kinds take turns. Page faults
are those of the samples that are timed, after as many that are not.
"""
import argparse
import resource
import statistics
import subprocess
import sys
import time

import code_path
import torch
from machine import RESULTS, describe
from plain_loop import SIDE

from certconf.errors import run_cli
from certconf.files import refuse_existing, write_new
from certconf.inputs.architectures import ARCHITECTURES, DATASET_OF, build_network
from certconf.report.tables import format_table
from certconf.sampling import PRECISIONS
from certconf.sampling.devices import choose_device
from certconf.sampling.noise import make_noise
from certconf.sampling.sampler import Sampler
from certconf.sampling.streams import ESTIMATION

KINDS = ("returned", "kept")
SAMPLES = {"cifar_resnet20": 4096, "cifar_resnet110": 1024, "resnet50": 64}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each kind (default: %(default)s)")
    parser.add_argument("--out", default=str(RESULTS / "freed_memory.md"), help="report (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the report")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "KIND"), help="one measurement (the program's own use)")
    return parser.parse_args()


def measure(arch: str, kind: str, precision: str) -> tuple[float, int]:
    """Seconds for 1,000 samples, and page faults per sample."""
    device = choose_device("cpu") if kind == "kept" else torch.device("cpu")
    side, count = SIDE[DATASET_OF[arch]], SAMPLES[arch]
    network = build_network(arch, DATASET_OF[arch]).eval()
    sampler = Sampler(network, make_noise("integer", 0.25, device), device, precision, compile=False)
    for _ in range(2):  # the first is not timed
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in sampler.softmax(torch.zeros(3, side, side), count, 1000, (0, 0, ESTIMATION)):
            pass
        seconds = time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return 1000 * seconds / count, round(faults / count)


def report(args: argparse.Namespace) -> str:
    """A table with a row for each network: medians, and spread from the fastest to the slowest."""
    rows = []
    for arch in ARCHITECTURES:
        found = {kind: [] for kind in KINDS}
        for _ in range(args.repeat):
            for kind in KINDS:
                output = subprocess.run([sys.executable, __file__, "--precision", args.precision, "--one", arch, kind],
                                        capture_output=True, text=True, check=True).stdout
                found[kind].append(tuple(map(float, output.split())))
        cells = [arch]
        for kind in KINDS:
            seconds, faults = zip(*found[kind], strict=True)
            cells += [f"{statistics.median(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})",
                      f"{statistics.median(faults):.0f}"]
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(found["returned"], found["kept"], strict=True))
        rows.append([*cells, f"{ratio:.2f}"])
    columns = ["network", *(f"{what}, {kind}" for kind in KINDS
                            for what in ("s for 1,000 samples", "page faults per sample")), "ratio"]
    table = format_table(columns, rows, "markdown")
    return f"# Freed memory, {args.precision}\n\n{describe(torch.device('cpu'))}\n{table}"


def main() -> None:
    args = parse_arguments()
    if args.one:
        print(*measure(*args.one, args.precision))
        return
    refuse_existing([args.out], args.overwrite)
    text = report(args)
    print(text, end="")
    write_new(args.out, text.encode(), args.overwrite)


if __name__ == "__main__":
    sys.exit(run_cli(main))
