"""The noise: its law, its streams of random numbers, and how it is added to an image.

Integer noise (the default). Pixels are 8-bit, x = a / 255 with integers a. The noise is a Gaussian of standard
deviation s = 255 sigma, rounded to the nearest integer k. The sum z = a + k is exact (float32 holds every integer below
2^24) and becomes a pixel once, z / 255 in float32 (one float for each integer; ToTensor's for 0 ... 255). Why the
certificates then hold whatever floats do inside the network: for integers a, round(a + s Z) = a + round(s Z), so a
sample's score is F(a + s Z), where F is one fixed function on R^d: it rounds, divides, and runs the float program.
Neyman and Pearson's lemma applies to F, at every 8-bit image x' (and to F smoothed at every real x'). Two assumptions
remain: a score is one fixed function of its noisy image (no state, no other images of the batch), and the generator's
bits are uniform and independent.

Float noise adds float32(sigma) * normal_() in float32. Its certificates assume that this is exact Gaussian noise, which
no float is (Voracek and Hein, ICLR 2023, arXiv 2207.07209).

Streams: sample k of (seed, index, stage) is the same for every batch and number of processes, since the noise of an
image is drawn in blocks of BLOCK samples. Certification and training use disjoint halves of the 32-bit seeds that
PyTorch's CPU generator takes, so that no network was trained on the noise that certifies it.
"""
from functools import lru_cache

import mpmath
import numpy as np
import torch

from certconf.errors import InputError

NOISES = ("integer", "float")
BLOCK = 32  # samples drawn by one call of the random number generator; a power of two
SMALLEST_SIGMA = 1e-3  # float32's spacing near 1 is 6e-8: below it, float noise would not be Gaussian enough
LARGEST_INTEGER_SIGMA = 8.0  # up to which every rounded Gaussian is an int16, and none is SPLIT

# stages: independent streams per image; certificates use the first two, and an attack draws its search from the last
SELECTION, ESTIMATION, ATTACK, SEARCH = 0, 1, 2, 3
SEEDS, INDICES, STAGES = 2 ** 8, 2 ** 21, 2 ** 2  # with the top bit they fill 32 bits
TRAINING_SEEDS, TRAINING_EPOCHS = 2 ** 15, 2 ** 16  # the half whose top bit is 0

BITS = 63  # of the uniform number u that one draw of integer noise needs
CELL_BITS = 16  # of u, which alone decide most draws
LOW_BITS = BITS - CELL_BITS
SPLIT = -2 ** 15  # marks, in a table of int16, a cell in which a threshold lies
PRECISION = 160  # bits of the arithmetic behind the thresholds


def stream_seed(seed: int, index: int, stage: int) -> int:
    """An injective map from (seed, index, stage) to the 32-bit numbers whose top bit is 1. Raises ValueError."""
    if not (0 <= seed < SEEDS and 0 <= index < INDICES and stage in (SELECTION, ESTIMATION, ATTACK, SEARCH)):
        raise ValueError(f"need 0 <= seed < {SEEDS} and 0 <= index < {INDICES}, not seed {seed}, index {index}")
    return 2 ** 31 + (seed * INDICES + index) * STAGES + stage


def training_seed(seed: int, epoch: int) -> int:
    """An injective map from (seed, epoch) of a training to the 32-bit numbers whose top bit is 0. Raises ValueError."""
    if not (0 <= seed < TRAINING_SEEDS and 0 <= epoch < TRAINING_EPOCHS):
        raise ValueError(f"need 0 <= seed < {TRAINING_SEEDS} and 0 <= epoch < {TRAINING_EPOCHS}, not {seed}, {epoch}")
    return seed * TRAINING_EPOCHS + epoch


@lru_cache
def rounded_gaussian(sigma: float) -> tuple[np.ndarray, float]:
    """The law of k = round(255 sigma Z) in 63-bit arithmetic: thresholds T, int64 [2 K], and its error.

    With u uniform on the integers of [0, 2^63), k = -K + #{j : T_j <= u}; T_j = round(2^63 Phi((j - K + 1/2) / s)), so
    that P(k <= j - K) is right to 2^-64. Equal thresholds, of integers too rare to be drawn, are kept. The error is the
    total variation between the drawn law and that of round(s Z), from the sum of the rounding errors, rounded up.
    """
    with mpmath.workprec(PRECISION):
        scale = 255 * mpmath.mpf(sigma) * mpmath.sqrt(2)
        whole, tails, errors = mpmath.mpf(2) ** BITS, [], []
        while not tails or tails[-1]:
            exact = whole * mpmath.erfc((len(tails) + mpmath.mpf(0.5)) / scale) / 2  # P(k > len(tails)), times 2^63
            tails.append(int(mpmath.nint(exact)))
            errors.append(float(tails[-1] - exact))
    upper = np.array(tails[:-1], dtype=np.uint64)  # the last is 0: no integer beyond it is drawn
    thresholds = np.concatenate([upper[::-1], np.uint64(2 ** BITS) - upper]).astype(np.int64)
    # integer j >= 1 has the error errors[j - 1] - errors[j], -j the same, 0 has -2 errors[0], and beyond the last
    # integer the whole tail is missing
    total = 2 * abs(errors[0]) + 2 * np.abs(np.diff(errors)).sum() + 2 * abs(errors[-1])
    return thresholds, float(total / 2 / 2 ** BITS) * (1 + 1e-9)


def eight_bit(x: torch.Tensor, round_images: bool, reach: int = 0) -> torch.Tensor:
    """The integers a, int16, of an image of pixels a / 255 as float32. Raises InputError if it is no 8-bit image.

    round_images: take the nearest 8-bit image instead. reach: a may lie so far outside 0 ... 255 (an attacked image).
    """
    integers = (x.double() * 255).round().clamp(-reach, 255 + reach)
    if not torch.isfinite(x).all():
        raise InputError("an image has pixels that are NaN or infinite")
    if not round_images and not torch.equal((integers / 255).float(), x):
        raise InputError("an image has pixels that are not multiples of 1/255 in [0, 1], which integer noise and "
                         "attacks need: --round_images takes the nearest 8-bit image; certifying with --noise float "
                         "does without")
    return integers.to(torch.int16)


class IntegerNoise:
    """a / 255 -> (a + round(255 sigma Z)) / 255, as the module's docstring says. 0.001 <= sigma <= 8."""

    def __init__(self, sigma: float, device: torch.device, round_images: bool = False, reach: int = 0):
        if not SMALLEST_SIGMA <= sigma <= LARGEST_INTEGER_SIGMA:
            raise ValueError(f"integer noise needs {SMALLEST_SIGMA} <= sigma <= {LARGEST_INTEGER_SIGMA:g}, not "
                             f"{sigma}: float noise has no upper limit")
        self.round_images, self.reach = round_images, reach
        thresholds, self._error = rounded_gaussian(float(sigma))
        self._least = -(len(thresholds) // 2)
        starts = np.arange(2 ** CELL_BITS, dtype=np.int64) << LOW_BITS
        first = np.searchsorted(thresholds, starts, side="right")
        last = np.searchsorted(thresholds, starts + (2 ** LOW_BITS - 1), side="right")
        table = np.where(first == last, self._least + first, SPLIT).astype(np.int16)
        self.thresholds, self.table = (torch.from_numpy(array).to(device) for array in (thresholds, table))
        self._levels = torch.tensor(255.0, device=device)  # a tensor: CUDA may multiply by the reciprocal of a scalar

    def delta(self, dimension: int) -> float:
        """An upper bound on the total variation between the drawn and the exact law of a noisy image in R^dimension."""
        return dimension * self._error

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """What `fill` adds noise to. Raises InputError if x is no 8-bit image."""
        return eight_bit(x, self.round_images, self.reach)

    def fill(self, out: torch.Tensor, start: torch.Tensor, generator: torch.Generator) -> None:
        """Write noisy copies of an image into `out`, float32 [B, *image], with 4 | B; start is of `start(x)`."""
        draw = self._draw_by_table if out.device.type == "cpu" else self._draw
        out.copy_(draw(out.numel(), generator).view(out.shape)).add_(start).div_(self._levels)

    def _draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`count` integers of the rounded Gaussian, each from 63 bits."""
        uniform = torch.empty(count, dtype=torch.int64, device=self.table.device)
        uniform.random_(-2 ** 63, None, generator=generator).bitwise_and_(2 ** BITS - 1)
        return torch.bucketize(uniform, self.thresholds, right=True).add_(self._least)

    def _draw_by_table(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """The same law, several times as fast on a CPU: 16 bits decide all draws but those in a cell with a threshold.

        Those, about 1 in 100, draw the 47 bits that are left.
        """
        words = torch.empty(count // 4, dtype=torch.int64).random_(-2 ** 63, None, generator=generator)
        cells = words.view(torch.uint16).to(torch.int32)
        integers = self.table.index_select(0, cells)
        split = (integers == SPLIT).nonzero().flatten()
        low = torch.empty(len(split), dtype=torch.int64).random_(-2 ** 63, None, generator=generator)
        uniform = (cells[split].long() << LOW_BITS) | (low & (2 ** LOW_BITS - 1))
        integers[split] = (torch.bucketize(uniform, self.thresholds, right=True) + self._least).to(torch.int16)
        return integers


class FloatNoise:
    """x -> x + float32(sigma) * normal_() in float32, which is taken for exact Gaussian noise."""

    def __init__(self, sigma: float):
        if not SMALLEST_SIGMA <= sigma <= float(np.finfo(np.float32).max):
            raise ValueError(f"sigma must be at least {SMALLEST_SIGMA} and finite in float32, not {sigma}")
        self.sigma = sigma

    def delta(self, dimension: int) -> float:
        """0: what is assumed."""
        return 0.0

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """What `fill` adds noise to."""
        return x

    def fill(self, out: torch.Tensor, start: torch.Tensor, generator: torch.Generator) -> None:
        """Write noisy copies of an image into `out`, float32 [B, *image]."""
        out.normal_(generator=generator).mul_(self.sigma).add_(start)


def make_noise(kind: str, sigma: float, device: torch.device, round_images: bool = False,
               reach: int = 0) -> IntegerNoise | FloatNoise:
    """The noise of a name in NOISES; reach: see eight_bit. Raises ValueError for a sigma that it cannot have."""
    if kind not in NOISES:
        raise ValueError(f"unknown noise {kind!r}: choose from {', '.join(NOISES)}")
    return IntegerNoise(sigma, device, round_images, reach) if kind == "integer" else FloatNoise(sigma)
