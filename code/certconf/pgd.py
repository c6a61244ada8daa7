"""The search for an image near x at which a class's expected score is low: projected gradient descent under noise.

As SmoothAdv (Salman et al. 2019): the mean score over noise draws that stay the same over all steps is lowered by steps
of length 2 R / steps, in the direction of the gradient, inside the ball. The gradient is normalised, so that -log of
the mean, SmoothAdv's loss, has the same direction as the mean itself. The result lies on the 8-bit grid inside the
ball, which is checked in integers. The noise comes from a stream of its own: whoever estimates the score of the result
by other samples owes nothing for the search.
"""
from dataclasses import dataclass

import torch
from torch import nn

from certconf.sampling.checks import logits_of
from certconf.sampling.noise import FloatNoise, IntegerNoise
from certconf.sampling.streams import BLOCK, SEARCH, stream_seed
from certconf.statistics.measures import Measure

HALVINGS = 40  # of the interval in which the shrinking factor lies


@dataclass(frozen=True)
class PGDAttack:
    """What is the same for every image.

    network: from pixels [B, C, H, W] to logits, on the device of the images, with parameters that need no gradient;
    steps, draws, batch: 1 or more; clip: stay in the pixels of [0, 1].
    """

    network: nn.Module
    measure: Measure
    noise: IntegerNoise | FloatNoise
    steps: int
    draws: int
    clip: bool
    batch: int

    def lowest(self, integers: torch.Tensor, chosen: int, radius: float, *, index: int, seed: int = 0) -> torch.Tensor:
        """Integers a' with ||a' - a||_2 <= 255 radius for an image a / 255 of integers a, int64 [C, H, W].

        Of the descents from the image itself and from one random start, the end with the lower mean score of `chosen`.
        radius: a multiple of 0.01, in pixels of range [0, 1].
        """
        if radius == 0:
            return integers
        generator = torch.Generator(integers.device).manual_seed(stream_seed(seed, index, SEARCH))
        draws = self._draws(integers.shape, generator)
        x = pixels(integers)
        random = project(x + radius * random_direction(x, generator), x, radius, self.clip)
        ends = [to_grid(self._descend(start, x, radius, chosen, draws, generator), integers, radius)
                for start in (x, random)]
        return min(ends, key=lambda end: self._mean_and_gradient(pixels(end), chosen, draws)[0])

    def _draws(self, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        """The fixed noise, float32 [draws, C, H, W]."""
        noise = torch.empty(-(-self.draws // BLOCK) * BLOCK, *shape, device=generator.device)
        nothing = self.noise.start(torch.zeros(shape, device=generator.device))
        for block in noise.split(BLOCK):
            self.noise.fill(block, nothing, generator)
        return noise[:self.draws]

    def _descend(self, point: torch.Tensor, x: torch.Tensor, radius: float, chosen: int, draws: torch.Tensor,
                 generator: torch.Generator) -> torch.Tensor:
        for _ in range(self.steps):
            _, gradient = self._mean_and_gradient(point, chosen, draws)
            length = gradient.norm()
            if length > 0 and torch.isfinite(length):
                direction = gradient / length
            else:
                direction = random_direction(x, generator)
            point = project(point - 2 * radius / self.steps * direction, x, radius, self.clip)
        return point

    def _mean_and_gradient(self, point: torch.Tensor, chosen: int, draws: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The mean score of `chosen` over the draws at a point, and its gradient there."""
        point, total = point.detach().requires_grad_(), 0.0
        gradient = torch.zeros_like(point)
        for part in draws.split(self.batch):
            softmax = torch.softmax(logits_of(self.network(point + part), len(part)), dim=1)
            score = self.measure.transform(softmax)[:, chosen].sum()
            if score.requires_grad:  # not that of a step function
                gradient += torch.autograd.grad(score, point)[0]
            total += score.item()
        return total / self.draws, gradient / self.draws


def pixels(integers: torch.Tensor) -> torch.Tensor:
    """The float32 images a / 255 of integers a, by the division of noise.eight_bit, which reads them again."""
    return (integers.double() / 255).float()


def random_direction(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A uniform direction in the space of x."""
    direction = torch.empty_like(x).normal_(generator=generator)
    return direction / direction.norm()


def project(point: torch.Tensor, x: torch.Tensor, radius: float, clip: bool) -> torch.Tensor:
    """The nearest point of the ball around x, then (clip) of [0, 1], which is no further from an x that lies in it."""
    step = point - x
    inside = x + step * (radius / step.norm().clamp(min=1e-12)).clamp(max=1)
    return inside.clamp(0, 1) if clip else inside


def to_grid(point: torch.Tensor, integers: torch.Tensor, radius: float) -> torch.Tensor:
    """The integers a' of a grid point near `point`, inside the ball around a / 255; int64, of the shape of a.

    The step is shrunk by as little as makes its rounding stay in the ball: each rounded entry rises with the factor, so
    that the squared distance does, too, and halving finds the largest one.
    """
    step = point.double() * 255 - integers
    if is_inside(step.round().long(), radius):
        return integers + step.round().long()
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        factor = (low + high) / 2
        if is_inside((factor * step).round().long(), radius):
            low = factor
        else:
            high = factor
    return integers + (low * step).round().long()


def is_inside(difference: torch.Tensor, radius: float) -> bool:
    """Whether sum d^2 <= (255 radius)^2, in integers: difference of int64, radius a multiple of 0.01."""
    return 100 ** 2 * int(difference.square().sum()) <= (255 * round(100 * radius)) ** 2
