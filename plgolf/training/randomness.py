"""Random numbers without a state: what a step draws follows from the seed and its place in the run."""

import random

import numpy as np
import torch


def seed_generators(seed: int, step: int, rank: int) -> None:
    """Sets the global generators of torch, numpy and Python: a resumed run draws what it would have drawn.

    Args:
        seed: the run's.
        step: optimizer steps before it.
        rank: the rank; each draws something else.
    """
    # Odd 64-bit constants spread neighbours apart (https://doi.org/10.1145/2714064.2660195).
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    # Not torch.manual_seed, which takes 0.1 ms to look for every kind of device.
    torch.default_generator.manual_seed(mixed % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(mixed % 2**63)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 (the generator of others)
