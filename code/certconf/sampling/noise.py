"""The noise, and how it is added to an image.

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
"""
import numpy as np
import torch

from certconf.errors import InputError
from certconf.sampling.law import BITS, check_sigma, rounded_gaussian

CELL_BITS = 16  # of u, which alone decide most draws
LOW_BITS = BITS - CELL_BITS
SPLIT = -2 ** 15  # marks, in a table of int16, a cell in which a threshold lies


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

    name = "integer"

    def __init__(self, sigma: float, device: torch.device, round_images: bool = False, reach: int = 0):
        check_sigma("integer", sigma)
        self.sigma, self.round_images, self.reach = float(sigma), round_images, reach
        thresholds, self._error = rounded_gaussian(self.sigma)
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

    name = "float"

    def __init__(self, sigma: float):
        check_sigma("float", sigma)
        self.sigma = float(np.float32(sigma))  # that of the noise as it is drawn

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
    check_sigma(kind, sigma)
    return IntegerNoise(sigma, device, round_images, reach) if kind == "integer" else FloatNoise(sigma)
