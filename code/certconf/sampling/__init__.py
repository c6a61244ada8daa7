"""Noise and noisy forward passes. PRECISIONS: those that a network can run in, with PyTorch's names of their types."""

PRECISIONS = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
