"""Streams of random numbers: a seed of PyTorch's generators for each thing that is drawn.

Sample k of (seed, index, stream) is the same for every batch and number of processes, since the noise of an image is
drawn in blocks of BLOCK samples. Certification and training use disjoint halves of the 32-bit seeds that PyTorch's CPU
generator takes, so that no network was trained on the noise that certifies it.
"""
BLOCK = 32  # samples drawn by one call of the random number generator; a power of two

# streams: independent streams per image; certificates use the first two, and an attack draws its search from the last
SELECTION, ESTIMATION, ATTACK, SEARCH = 0, 1, 2, 3
SEEDS, INDICES, STREAMS = 2 ** 8, 2 ** 21, 2 ** 2  # with the top bit they fill 32 bits
TRAINING_SEEDS, TRAINING_EPOCHS = 2 ** 15, 2 ** 16  # the half whose top bit is 0


def stream_seed(seed: int, index: int, stream: int) -> int:
    """An injective map from (seed, index, stream) to the 32-bit numbers whose top bit is 1. Raises ValueError."""
    if not (0 <= seed < SEEDS and 0 <= index < INDICES and stream in (SELECTION, ESTIMATION, ATTACK, SEARCH)):
        raise ValueError(f"need 0 <= seed < {SEEDS} and 0 <= index < {INDICES}, not seed {seed}, index {index}")
    return 2 ** 31 + (seed * INDICES + index) * STREAMS + stream


def training_seed(seed: int, epoch: int) -> int:
    """An injective map from (seed, epoch) of a training to the 32-bit numbers whose top bit is 0. Raises ValueError."""
    if not (0 <= seed < TRAINING_SEEDS and 0 <= epoch < TRAINING_EPOCHS):
        raise ValueError(f"need 0 <= seed < {TRAINING_SEEDS} and 0 <= epoch < {TRAINING_EPOCHS}, not {seed}, {epoch}")
    return seed * TRAINING_EPOCHS + epoch
