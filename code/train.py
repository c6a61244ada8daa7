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
"""
import argparse
import io
import os
import sys
import time
from contextlib import closing
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from certconf.consistency import consistency_loss
from certconf.errors import InputError, run
from certconf.files import write_whole
from certconf.formats.rows import join_fields
from certconf.inputs import datasets
from certconf.inputs.architectures import ARCHITECTURES, build_network, initialise, load_state, read_checkpoint
from certconf.inputs.catalogue import DATASETS
from certconf.runner.output import AppendFile
from certconf.sampling.devices import choose_device, slow_choices
from certconf.sampling.streams import TRAINING_EPOCHS, TRAINING_SEEDS, training_seed

LOG_HEADER = "epoch\ttime\tlr\ttrain loss\ttrain acc\ttestloss\ttest acc"
MAY_DIFFER_ON_RESUME = ("outdir", "workers", "gpu", "device", "print_freq", "resume", "init", "drop_optimizer")
# what a config without these options was trained with
ADDED_SINCE = {"consistency": 0.0, "noise_draws": 2, "entropy": 0.5, "hold_out": 0, "init_sha256": None}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("arch", choices=ARCHITECTURES)
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
    parser.add_argument("--weight-decay", "--wd", type=float, default=1e-4, help="of SGD, 0 or more (default: %(default)s)")
    parser.add_argument("--noise_sd", type=float, default=0.0,
                        help="standard deviation of the noise, pixels in [0, 1], 0 or more (default: %(default)s)")
    parser.add_argument("--init", metavar="CHECKPOINT",
                        help="start from its weights; a CIFAR ResNet may start from a shallower one, and its added "
                             "blocks as the identity (default: random weights)")
    parser.add_argument("--consistency", type=float, default=0.0, metavar="LAMBDA",
                        help="weight of the consistency term, 0 or more (default: %(default)s, Gaussian training)")
    parser.add_argument("--noise_draws", type=int, default=2,
                        help="with --consistency: noise draws per image, 2 or more (default: %(default)s)")
    parser.add_argument("--entropy", type=float, default=0.5,
                        help="with --consistency: weight of the entropy term, 0 or more (default: %(default)s)")
    parser.add_argument("--hold_out", type=int, default=0, metavar="K",
                        help="leave training images 0, K, 2K, ... out, to certify them with certify.py --split train "
                             "--skip K; 2 or more, or 0: none (default: %(default)s)")
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
    if not 0 <= args.seed < TRAINING_SEEDS:
        raise InputError(f"--seed must be between 0 and {TRAINING_SEEDS - 1}, not {args.seed}")
    if args.gpu is not None and not args.gpu.isdecimal():
        raise InputError(f"--gpu is the id of one GPU, not {args.gpu}")


def kept_indices(size: int, hold_out: int) -> list[int]:
    """The training images that are used: all but 0, hold_out, 2 hold_out, ... (0: all)."""
    return [i for i in range(size) if not hold_out or i % hold_out]


class CifarBatches:
    """CIFAR-10 as batches on the device: the whole split is held there as bytes, and augmented batch by batch."""

    def __init__(self, train: bool, batch: int, device: torch.device, hold_out: int = 0):
        images, labels = datasets.cifar10_tensors(train)
        kept = kept_indices(len(labels), hold_out)
        self.images, self.labels = images[kept].to(device), labels[kept].to(device)
        self.train, self.batch = train, batch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self):
        count, device = len(self.labels), self.labels.device
        order = torch.randperm(count, device=device) if self.train else torch.arange(count, device=device)
        for chosen in order.split(self.batch):
            images = self.images[chosen].float().div_(255)
            yield (datasets.augment_cifar10(images) if self.train else images), self.labels[chosen]


def make_batches(args: argparse.Namespace, device: torch.device) -> tuple:
    """Training and test batches, each an iterable of (pixels [B, 3, H, W] in [0, 1], labels [B]) with a length."""
    if args.dataset == "cifar10":
        return CifarBatches(True, args.batch, device, args.hold_out), CifarBatches(False, args.batch, device)
    train = datasets.imagenet_folder("train", datasets.imagenet_train_transform())
    train = torch.utils.data.Subset(train, kept_indices(len(train), args.hold_out))
    test = datasets.imagenet_folder("val", datasets.imagenet_test_transform())
    options = {"batch_size": args.batch, "num_workers": args.workers, "pin_memory": device.type == "cuda"}
    return (torch.utils.data.DataLoader(train, shuffle=True, **options),
            torch.utils.data.DataLoader(test, shuffle=False, **options))


def run_epoch(network, batches, args, device, optimizer=None, scheduler=None) -> tuple[float, float]:
    """One pass over the batches with noise added; trains if there is an optimizer. Returns mean loss and accuracy.

    Both are means over all noisy images. The loss is the one that is minimised; without an optimizer, cross-entropy.
    """
    training = optimizer is not None
    consistency = training and args.consistency > 0
    draws = args.noise_draws if consistency else 1
    network.train(training)
    total_loss = total_correct = count = 0
    for step, (images, labels) in enumerate(batches):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        images = images.repeat(draws, 1, 1, 1)
        images = images + args.noise_sd * torch.randn_like(images)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(training), torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            logits = network(images).float().unflatten(0, (draws, -1))
        with torch.set_grad_enabled(training):
            loss = (consistency_loss(logits, labels, args.consistency, args.entropy) if consistency
                    else cross_entropy(logits[0], labels))
        if training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        total_loss += loss.detach() * len(labels)
        total_correct += (logits.detach().argmax(-1) == labels).float().mean(0).sum()
        count += len(labels)
        if training and step % args.print_freq == 0:
            print(f"  step {step}/{len(batches)}  loss {float(total_loss) / count:.4f}  "
                  f"accuracy {float(total_correct) / count:.4f}", flush=True)
    return float(total_loss) / count, float(total_correct) / count


def make_optimizer(args: argparse.Namespace, network: nn.Module, steps: int) -> tuple:
    """SGD and its learning-rate schedule; steps: per epoch."""
    optimizer = torch.optim.SGD(network.parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    if args.schedule == "step":
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, args.lr_step_size * steps, args.gamma)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * steps, pct_start=0.2, anneal_strategy="linear",
        cycle_momentum=False)


def resume(args: argparse.Namespace, path: Path, network, optimizer, scheduler, steps: int) -> int:
    """Load the state of an unfinished training and return its next epoch. Raises InputError if it does not fit."""
    checkpoint = read_checkpoint(str(path))
    config, epoch = checkpoint.get("config"), checkpoint.get("epoch")
    if not isinstance(config, dict) or type(epoch) is not int:
        raise InputError(f"{path}: holds no training state to resume from")
    config = {**ADDED_SINCE, **config}
    for name, value in vars(args).items():
        if name not in MAY_DIFFER_ON_RESUME and config.get(name) != value:
            raise InputError(f"{path}: was trained with {name} {config.get(name)}, not {value}")
    if epoch == args.epochs and config.get("drop_optimizer") is True:
        return epoch
    if not {"optimizer", "scheduler"} <= checkpoint.keys():
        raise InputError(f"{path}: holds no training state to resume from")
    load_state(str(path), checkpoint, network)
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        if checkpoint["scheduler"]["last_epoch"] != epoch * steps:
            raise ValueError("the schedule is not at the end of an epoch")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise InputError(f"{path}: its training state is damaged") from None
    return epoch


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


def save(path: Path, **content) -> None:
    """Write a checkpoint whole or not at all. Raises InputError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    device = choose_device(args.device)
    path, log = (Path(args.outdir) / name for name in ("checkpoint.pth.tar", "log.txt"))
    check_outdir(path, log, args.resume)
    torch.manual_seed(args.seed)
    network = build_network(args.arch, args.dataset).to(device, memory_format=torch.channels_last)
    args.init_sha256 = initialise(args.init, network) if args.init else None
    with closing(AppendFile(str(log))) as file:  # locked: one training at a time writes to OUTDIR
        check_outdir(path, log, args.resume)  # again: another may have ended since
        train_batches, test_batches = make_batches(args, device)
        optimizer, scheduler = make_optimizer(args, network, len(train_batches))
        first = resume(args, path, network, optimizer, scheduler, len(train_batches)) if args.resume else 0
        if first == args.epochs:
            print(f"{path}: complete; nothing to do", file=sys.stderr)
            return
        for line in slow_choices(args.device, device, "bf16" if args.amp else "fp32"):
            print(line, file=sys.stderr)
        begin_log(file, first)
        for epoch in range(first, args.epochs):
            torch.manual_seed(training_seed(args.seed, epoch))
            start, rate = time.time(), optimizer.param_groups[0]["lr"]
            train = run_epoch(network, train_batches, args, device, optimizer, scheduler)
            test = run_epoch(network, test_batches, args, device)
            row = (epoch, f"{time.time() - start:.1f}", f"{rate:.3g}", *(f"{value:.4f}" for value in train + test))
            print("\t".join(map(str, row)), flush=True)
            file.append(join_fields(*row).encode())
            state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            if args.drop_optimizer and epoch + 1 == args.epochs:
                state = {}
            save(path, epoch=epoch + 1, arch=args.arch, state_dict=network.state_dict(), **state, config=vars(args))


if __name__ == "__main__":
    sys.exit(run(main))
