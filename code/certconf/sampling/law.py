"""The law of the noise: the integers that are drawn, their probabilities, and how far these are from a Gaussian's.

integer   the Gaussian of standard deviation 255 sigma rounded to integers, from 63-bit numbers (see noise.py)
float     float32(sigma) times float32 normals, which is taken for exact Gaussian noise
"""
from functools import lru_cache

import mpmath
import numpy as np

NOISES = ("integer", "float")
SMALLEST_SIGMA = 1e-3  # float32's spacing near 1 is 6e-8: below it, float noise would not be Gaussian enough
LARGEST_INTEGER_SIGMA = 8.0  # up to which every rounded Gaussian is an int16, and none marks a split cell
LARGEST_FLOAT_SIGMA = float(np.finfo(np.float32).max)
BITS = 63  # of the uniform number u that one draw of integer noise needs
PRECISION = 160  # bits of the arithmetic behind the thresholds


def check_sigma(noise: str, sigma: float) -> None:
    """Raise ValueError for a noise that is not in NOISES, or a standard deviation that it cannot have."""
    if noise not in NOISES:
        raise ValueError(f"unknown noise {noise!r}: choose from {', '.join(NOISES)}")
    if noise == "integer" and not SMALLEST_SIGMA <= sigma <= LARGEST_INTEGER_SIGMA:
        raise ValueError(f"integer noise needs {SMALLEST_SIGMA} <= sigma <= {LARGEST_INTEGER_SIGMA:g}, not {sigma}: "
                         "float noise has no such upper limit")
    if not SMALLEST_SIGMA <= sigma <= LARGEST_FLOAT_SIGMA:
        raise ValueError(f"sigma must be at least {SMALLEST_SIGMA} and finite in float32, not {sigma}")


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
