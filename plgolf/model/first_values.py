"""Further choices of initial values, set after those of ``initialise``; imported where a model has them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT


@dataclass(frozen=True, kw_only=True)
class FirstValuesConfig:
    """Initial values beside ``embedding_std`` and ``matrix_init``.

    Args:
        embedding: ``overtone`` replaces the k-th singular value of the embedding, from 1, by the largest
            divided by sqrt(k), so that few directions are strong (record 2026-03-19, 10L).
        residual_mix: ``sigmoid`` has layer i of L mix sigmoid(3 (i / (L - 1) - 1/2)) of the stream with the
            rest of the first layer's input (record 2026-03-19, 10L); ``stream`` all of the stream.
        up_scale: factors on the MLPs' first matrices in the first and last layer, in between on a line
            (modded-nanogpt 1 to 0.7, nanochat 0.4).

    Raises:
        UserError: a factor is not finite and positive.
    """

    embedding: Literal["normal", "overtone"] = "normal"
    residual_mix: Literal["stream", "sigmoid"] = "stream"
    up_scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for i, factor in enumerate(self.up_scale):
            if not 0 < factor < math.inf:
                raise UserError(f"up_scale.{i} must be finite and positive, got {factor}")


@torch.no_grad()
def set_first_values(gpt: "GPT") -> None:
    """Sets the values that the configuration of a model chooses; the others stay."""
    weight, config = gpt.embedding.weight, gpt.config.first_values or FirstValuesConfig()
    if config.embedding == "overtone" and not weight.is_meta:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        ranks = torch.arange(1, s.numel() + 1, dtype=s.dtype, device=s.device)
        weight.copy_(u * (s[0] / ranks.sqrt()) @ vh)
    first, last = config.up_scale
    for i in range(gpt.config.num_layers):
        block: Any = gpt.blocks[i]
        depth = i / max(gpt.config.num_layers - 1, 1)
        if config.residual_mix == "sigmoid":
            keep = 1 / (1 + math.exp(-3 * (depth - 0.5)))
            block.residual_mix[0], block.residual_mix[1] = keep, 1 - keep
        block.mlp.up_proj.weight.mul_(first + (last - first) * depth)
