"""Chooses the next token from logits."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from plgolf.errors import UserError, at_least, whole_number


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings, applied in this order: temperature, ``top_k``, ``top_p``.

    Nucleus sampling (``top_p``): https://arxiv.org/abs/1904.09751.

    Args:
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: samples from this number of most likely tokens; null for all.
        top_p: samples from the smallest set of most likely tokens with this total probability; 1 for all.

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Real) or not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be finite and at least 0, got {self.temperature!r}")
        if self.top_k is not None:
            whole_number("top_k", self.top_k)
            at_least("top_k", self.top_k, 1)
        if not isinstance(self.top_p, Real) or not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Computes the distribution of the next token. Of equal logits the lower id counts as more likely.

    Args:
        logits: logits, floating point (vocab,).
        sampling: temperature, ``top_k`` and ``top_p``.

    Returns:
        Probabilities, float64 (vocab,), with sum 1.

    Raises:
        UserError: a logit is NaN or the largest is infinite, which happens if weights are too large.
    """
    exact = logits.double()
    # Softmax of the distance to the largest logit: a tiny temperature then gives zeros instead of infinities.
    highest = exact.max()
    if not highest.isfinite():
        raise UserError(f"the model's logits must be finite, got {highest.item()}")
    distance = exact - highest
    if sampling.temperature == 0:
        return torch.zeros_like(exact).index_fill(0, exact.argmax(), 1.0)
    values = (distance / sampling.temperature).softmax(0)
    if sampling.top_k is None and sampling.top_p == 1:
        return values
    kept, ids = values.sort(descending=True, stable=True)
    if sampling.top_k is not None:
        kept[sampling.top_k :] = 0.0
        kept /= kept.sum()
    if sampling.top_p < 1:
        # A token stays if those before it do not reach top_p: the most likely one always does.
        before = kept.cumsum(0) - kept
        kept[before >= sampling.top_p] = 0.0
    return torch.zeros_like(values).scatter(0, ids, kept / kept.sum())


def draw(distribution: Tensor, generator: torch.Generator) -> int:
    """Draws a token of ``probabilities`` with exactly one random number of a CPU generator."""
    at = torch.rand((), dtype=torch.float64, generator=generator)
    cumulative = distribution.cpu().cumsum(0)
    # Scaled by the rounded sum: no token lies above it. The first place beyond the number has a token.
    return int(torch.searchsorted(cumulative, at * cumulative[-1], right=True))
