"""Train a base classifier with Gaussian noise added to its images, as Cohen et al. (2019) do.

    python code/train.py cifar10 cifar_resnet110 OUTDIR --noise_sd 0.25
    python code/train.py cifar10 cifar_resnet20 OUTDIR --noise_sd 0.5 --epochs 24 --schedule one_cycle --amp
    python code/train.py cifar10 cifar_resnet110 OUTDIR --noise_sd 0.25 --init RESNET20_CHECKPOINT --epochs 8
    python code/train.py cifar10 cifar_resnet20 OUTDIR --noise_sd 0.25 --init CHECKPOINT --consistency 20
    IMAGENET_DIR=... python code/train.py imagenet resnet50 OUTDIR --noise_sd 0.5 --workers 16

Writes OUTDIR/checkpoint.pth.tar (epoch, arch, state_dict, optimizer, scheduler, config) after each epoch, and one line
per epoch to OUTDIR/log.txt. --resume continues from that checkpoint; without it a checkpoint is never overwritten.
One training at a time writes to an OUTDIR, which it locks.
--consistency adds the loss of Jeong and Shin (2020), whose values for CIFAR-10 are 20 at noise 0.25 and 10 at 0.50.
What a step does: certconf/training.py.
"""
import argparse
import os
import sys
import time
from contextlib import closing
from pathlib import Path

from certconf.errors import InputError, run_cli
from certconf.formats.rows import join_fields
from certconf.inputs.catalogue import DATASET_OF, DATASETS
from certconf.runner.output import AppendFile
from certconf.sampling.streams import TRAINING_EPOCHS, TRAINING_SEEDS, training_seed

LOG_HEADER = "epoch\ttime\tlr\ttrain loss\ttrain acc\ttestloss\ttest acc"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("arch", choices=DATASET_OF)
    parser.add_argument("outdir", help="folder of the checkpoint and the log")
    parser.add_argument("--workers", type=int, default=4,
                        help="processes that load images, 0 or more (ImageNet only; default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=90, help=f"1 to {TRAINING_EPOCHS} (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images of a step, 1 or more (default: %(default)s)")
    parser.add_argument("--lr", "--learning-rate", type=float, default=0.1,
                        help="initial learning rate, above 0 (its maximum, for one_cycle; default: %(default)s)")
    parser.add_argument("--schedule", choices=["step", "one_cycle"], default="step",
                        help="of the learning rate (default: %(default)s)")
    parser.add_argument("--lr_step_size", type=int, default=30,
                        help="epochs between two falls of the learning rate, 1 or more (default: %(default)s)")
    parser.add_argument("--gamma", type=float, default=0.1,
                        help="factor by which it falls, above 0 (default: %(default)s)")
    parser.add_argument("--momentum", type=float, default=0.9, help="of SGD, 0 or more (default: %(default)s)")
    parser.add_argument("--weight-decay", "--wd", type=float, default=1e-4,
                        help="of SGD, 0 or more (default: %(default)s)")
    parser.add_argument("--noise_sd", type=float, default=0.0,
                        help="standard deviation of the noise, pixels in [0, 1], 0 or more (default: %(default)s)")
    parser.add_argument("--init", metavar="CHECKPOINT",
                        help="start from its weights; a CIFAR ResNet may start from a shallower one, and its added "
                             "blocks as the identity (default: random weights)")
    parser.add_argument("--checkpoint_key", metavar="KEY",
                        help="the entry of --init's checkpoint with the weights (default: the one that fits)")
    parser.add_argument("--consistency", type=float, default=0.0, metavar="LAMBDA",
                        help="weight of the consistency term, 0 or more (default: %(default)s, Gaussian training)")
    parser.add_argument("--noise_draws", type=int, default=2,
                        help="with --consistency: noise draws per image, 2 or more (default: %(default)s)")
    parser.add_argument("--entropy", type=float, default=0.5,
                        help="with --consistency: weight of the entropy term, 0 or more (default: %(default)s)")
    parser.add_argument("--hold_out", type=int, default=0, metavar="K",
                        help="leave training images 0, K, 2K, ... out, to certify them with certify.py --split train "
                             "--skip K; 2 or more, or 0: none (default: %(default)s)")
    parser.add_argument("--ema", type=float, default=0.0, metavar="DECAY",
                        help="keep an exponential moving average of weights and BatchNorm statistics, 0 (none) or "
                             "above and below 1: the checkpoint's network is the average (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=f"0 to {TRAINING_SEEDS - 1} (default: %(default)s)")
    parser.add_argument("--gpu", help="id of the one GPU to use, 0 or more (default: PyTorch's choice)")
    parser.add_argument("--device", default="auto",
                        help="auto (CUDA, then CPU), cpu, cuda or cuda:K (default: %(default)s)")
    parser.add_argument("--print-freq", type=int, default=10,
                        help="steps between two lines of progress, 1 or more (default: %(default)s)")
    parser.add_argument("--amp", action="store_true", help="forward passes in bfloat16 (autocast)")
    parser.add_argument("--drop_optimizer", action="store_true",
                        help="leave the optimizer and scheduler out of the finished checkpoint: half the size")
    parser.add_argument("--resume", action="store_true", help="continue from OUTDIR/checkpoint.pth.tar")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for a value that no training can use."""
    for option in ("epochs", "batch", "lr", "lr_step_size", "gamma", "print-freq"):
        value = getattr(args, option.replace("-", "_"))
        if not 0 < value < float("inf"):
            raise InputError(f"--{option} must be above 0 and finite, not {value}")
    for option in ("workers", "momentum", "weight-decay", "noise_sd", "consistency", "entropy"):
        value = getattr(args, option.replace("-", "_"))
        if not 0 <= value < float("inf"):
            raise InputError(f"--{option} must be 0 or above and finite, not {value}")
    if args.epochs > TRAINING_EPOCHS:
        raise InputError(f"--epochs must be at most {TRAINING_EPOCHS}, not {args.epochs}")
    if args.noise_draws < 2:
        raise InputError(f"--noise_draws must be 2 or above, not {args.noise_draws}")
    if args.hold_out < 0 or args.hold_out == 1:
        raise InputError(f"--hold_out must be 0 (none) or 2 and above, not {args.hold_out}")
    if not 0 <= args.ema < 1:
        raise InputError(f"--ema must be 0 (none) or above, and below 1, not {args.ema}")
    if not 0 <= args.seed < TRAINING_SEEDS:
        raise InputError(f"--seed must be between 0 and {TRAINING_SEEDS - 1}, not {args.seed}")
    if args.checkpoint_key is not None and args.init is None:
        raise InputError("--checkpoint_key belongs to --init")
    if args.gpu is not None and not args.gpu.isdecimal():
        raise InputError(f"--gpu is the id of one GPU, not {args.gpu}")


def check_outdir(path: Path, log: Path, resuming: bool) -> None:
    """Raise InputError if a training would overwrite another one, or has none to resume."""
    if resuming and not path.exists():
        raise InputError(f"{path}: no checkpoint to resume from")
    if path.exists() and not resuming:
        raise InputError(f"{path} exists: --resume continues from it, another OUTDIR starts over")
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    if lines and (lines[0] != LOG_HEADER or len(lines) > 1 and not resuming):
        raise InputError(f"{log} exists and is not of this training: move it away, or start in another OUTDIR")


def begin_log(log: AppendFile, done: int) -> None:
    """Write the header, or keep it and the rows of the epochs done: the last row may be ahead of its checkpoint."""
    kept = b"\n".join(log.read().split(b"\n")[:1 + done]).rstrip(b"\n")
    log.cut(len(kept))
    log.append(b"\n" if kept else LOG_HEADER.encode() + b"\n")


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    path, log = (Path(args.outdir) / name for name in ("checkpoint.pth.tar", "log.txt"))
    check_outdir(path, log, args.resume)
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    import torch  # only here, since it takes seconds

    from certconf.inputs.architectures import build_network, initialise
    from certconf.sampling.devices import choose_device, slow_choices
    from certconf.training import averaged, make_batches, make_optimizer, resume, run_epoch, save_state
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    network = build_network(args.arch, args.dataset).to(device, memory_format=torch.channels_last)
    args.init_sha256, remarks = initialise(args.init, network, args.checkpoint_key) if args.init else (None, [])
    average = averaged(network, args.ema) if args.ema else None
    with closing(AppendFile(str(log))) as file:  # locked: one training at a time writes to OUTDIR
        check_outdir(path, log, args.resume)  # again: another may have ended since
        train_batches, test_batches = make_batches(args, device)
        optimizer, scheduler = make_optimizer(args, network, len(train_batches))
        first = resume(args, path, network, average, optimizer, scheduler, len(train_batches)) if args.resume else 0
        if first == args.epochs:
            print(f"{path}: complete; nothing to do", file=sys.stderr)
            return
        for line in remarks + slow_choices(args.device, device, "bf16" if args.amp else "fp32"):
            print(line, file=sys.stderr)
        begin_log(file, first)
        for epoch in range(first, args.epochs):
            torch.manual_seed(training_seed(args.seed, epoch))
            start, rate = time.time(), optimizer.param_groups[0]["lr"]
            train = run_epoch(network, train_batches, args, device, optimizer, scheduler, average)
            test = run_epoch(average or network, test_batches, args, device)
            row = (epoch, f"{time.time() - start:.1f}", f"{rate:.3g}", *(f"{value:.4f}" for value in train + test))
            print("\t".join(map(str, row)), flush=True)
            file.append(join_fields(*row).encode())
            save_state(path, args, epoch + 1, network, average, optimizer, scheduler)


if __name__ == "__main__":
    sys.exit(run_cli(main))
