"""Random numbers without state: a step's depend only on the seed, the step and the rank."""

import random

import numpy as np
import torch


def seed_generators(seed: int, step: int, rank: int) -> None:
    """Seeds the global generators of torch, numpy and Python, so that a resumed run draws the same numbers.

    Args:
        seed: seed of the run.
        step: number of finished optimizer steps.
        rank: the rank; each draws different numbers.
    """
    # Odd 64-bit constants spread neighbouring inputs apart (https://doi.org/10.1145/2714064.2660195).
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    # torch.manual_seed would take 0.1 ms to look for every kind of device.
    torch.default_generator.manual_seed(mixed % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(mixed % 2**63)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 (techniques may use it)
