"""Training with Gaussian noise (Cohen et al. 2019): batches, one pass over them, optimizer and schedule."""
import argparse
import io
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from certconf.consistency import consistency_loss
from certconf.errors import InputError
from certconf.files import write_whole
from certconf.inputs import datasets
from certconf.inputs.architectures import load_state
from certconf.inputs.checkpoints import read_file
from certconf.inputs.weights import TRAINED

MAY_DIFFER_ON_RESUME = ("outdir", "workers", "gpu", "device", "print_freq", "resume", "init", "drop_optimizer")
# what a config without these options was trained with
ADDED_SINCE = {"consistency": 0.0, "noise_draws": 2, "entropy": 0.5, "hold_out": 0, "init_sha256": None,
               "ema": 0.0, "checkpoint_key": None}


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


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and of its BatchNorms' statistics, over training steps."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def run_epoch(network, batches, args, device, optimizer=None, scheduler=None, average=None) -> tuple[float, float]:
    """One pass over the batches with noise added; trains if there is an optimizer. Returns mean loss and accuracy.

    average: of `averaged`, which follows every step.
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
        with torch.set_grad_enabled(training):
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                logits = network(images).float().unflatten(0, (draws, -1))
            loss = (consistency_loss(logits, labels, args.consistency, args.entropy) if consistency
                    else cross_entropy(logits[0], labels))
        if training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if average:
                average.update_parameters(network)
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


def resume(args: argparse.Namespace, path: Path, network: nn.Module, average, optimizer, scheduler,
           steps: int) -> int:
    """Load the state of an unfinished training and return its next epoch. Raises InputError if it does not fit."""
    no_state = InputError(f"{path}: holds no training state to resume from")
    checkpoint = read_file(str(path))
    if not isinstance(checkpoint, dict):
        raise no_state
    config, epoch = checkpoint.get("config"), checkpoint.get("epoch")
    if not isinstance(config, dict) or type(epoch) is not int:
        raise no_state
    config = {**ADDED_SINCE, **config}
    for name, value in vars(args).items():
        if name not in MAY_DIFFER_ON_RESUME and config.get(name) != value:
            raise InputError(f"{path}: was trained with {name} {config.get(name)}, not {value}")
    if epoch == args.epochs and config.get("drop_optimizer") is True:
        return epoch
    if not {"optimizer", "scheduler"} <= checkpoint.keys() or average and not isinstance(checkpoint.get(TRAINED), dict):
        raise no_state
    if average:  # the checkpoint's network is the average
        load_state(str(path), checkpoint, average.module, args.arch, "state_dict")
        average.n_averaged.fill_(1)  # above 0: the next update averages, and does not copy
        checkpoint = {**checkpoint, "state_dict": checkpoint[TRAINED]}
    load_state(str(path), checkpoint, network, args.arch, "state_dict")
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        if checkpoint["scheduler"]["last_epoch"] != epoch * steps:
            raise ValueError("the schedule is not at the end of an epoch")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise InputError(f"{path}: its training state is damaged") from None
    return epoch


def save_state(path: Path, args: argparse.Namespace, epochs: int, network: nn.Module, average, optimizer,
               scheduler) -> None:
    """Write the checkpoint after so many epochs, whole or not at all. Raises InputError.

    Its network is the average if there is one. What --resume needs is left out at the end with --drop_optimizer.
    """
    state = {}
    if not args.drop_optimizer or epochs < args.epochs:
        state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
                 **({TRAINED: network.state_dict()} if average else {})}
    buffer = io.BytesIO()
    torch.save({"epoch": epochs, "arch": args.arch, "state_dict": (average.module if average else network).state_dict(),
                **state, "config": vars(args)}, buffer)
    write_whole(path, buffer.getbuffer())
