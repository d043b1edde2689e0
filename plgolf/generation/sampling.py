"""From logits to the next token."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen among all that may come next.

    Temperature comes first, then ``top_k``, then ``top_p`` of what is left (https://arxiv.org/abs/1904.09751).

    Args:
        temperature: what logits are divided by: below 1 the likely becomes likelier, 0 always takes the
            likeliest.
        top_k: takes one of so many likeliest tokens; null for all of them.
        top_p: takes one of the fewest likeliest tokens that together have this probability; 1 for all.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be finite and at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Turns logits into the distribution that the next token is drawn from.

    Among equals the lower id counts as the likelier one.

    Args:
        logits: (vocab,).
        sampling: temperature, ``top_k`` and ``top_p``.

    Returns:
        Float64 (vocab,), adding up to 1.

    Raises:
        UserError: a logit is no number, as of weights that are finite and too large.

    >>> probabilities(torch.tensor([2.0, 1.0, 2.0]), Sampling(temperature=1.0, top_k=2))
    tensor([0.5000, 0.0000, 0.5000], dtype=torch.float64)
    """
    exact = logits.double()
    # Softmax of the distance to the largest: a tiny temperature then makes zeros and no infinities.
    highest = exact.max()
    if not highest.isfinite():
        raise UserError(f"the model's logits must be finite, got {highest.item()}")
    distance = exact - highest
    if sampling.temperature == 0:
        return torch.zeros_like(exact).index_fill(0, exact.argmax(), 1.0)
    values = (distance / sampling.temperature).softmax(0)
    if sampling.top_k is None and sampling.top_p == 1:
        return values
    likeliest, ids = values.sort(descending=True, stable=True)
    if sampling.top_k is not None:
        likeliest[sampling.top_k :] = 0.0
        likeliest /= likeliest.sum()
    if sampling.top_p < 1:
        # A token stays if those before it do not reach top_p yet: the likeliest always does.
        before = likeliest.cumsum(0) - likeliest
        likeliest[before >= sampling.top_p] = 0.0
    return torch.zeros_like(values).scatter(0, ids, likeliest / likeliest.sum())


def draw(distribution: Tensor, generator: torch.Generator) -> int:
    """Draws a token with one random number, so that a seed's numbers meet the same places of a text.

    Args:
        distribution: float64 (vocab,), adding up to 1.
        generator: of the random number, on the CPU.

    Returns:
        An id of probability above 0.
    """
    at = torch.rand((), dtype=torch.float64, generator=generator)
    cumulative = distribution.cpu().cumsum(0)
    # Up to the sum as it was rounded: above it, there is no token. The first place beyond ``at`` has one.
    return int(torch.searchsorted(cumulative, at * cumulative[-1], right=True))
