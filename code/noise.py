"""The noise: its streams of random numbers, which certification and training never share."""

TRAINING_SEEDS, TRAINING_EPOCHS = 2 ** 15, 2 ** 16


def training_seed(seed: int, epoch: int) -> int:
    """An injective map from a training's seed and epoch to the 32-bit numbers whose top bit is 0."""
    if not (0 <= seed < TRAINING_SEEDS and 0 <= epoch < TRAINING_EPOCHS):
        raise ValueError(f"need 0 <= seed < {TRAINING_SEEDS} and 0 <= epoch < {TRAINING_EPOCHS}, not {seed}, {epoch}")
    return seed * TRAINING_EPOCHS + epoch
