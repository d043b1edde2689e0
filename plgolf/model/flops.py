"""Counts the arithmetic of training, for comparison with the peak of a machine."""

import torch

from plgolf.model.gpt import GPT, GPTConfig
from plgolf.model.linear import CastLinear


def train_flops_per_token(config: GPTConfig, seq_len: int) -> int:
    """Counts the floating-point operations of all products in training, per token.

    A multiply-add counts as two operations, the backward pass as two forward passes, and attention as its
    causal half. Norms, activations and the optimizer are left out, as in model FLOPs utilisation
    (https://arxiv.org/abs/2204.02311, appendix B, which counts all of attention).

    >>> train_flops_per_token(GPTConfig(), 4096) // 10**6
    215
    """
    with torch.device("meta"):
        gpt = GPT(config)
    in_layers = [_weights(gpt.blocks[visit.layer]) for visit in gpt.visits]
    outside = _weights(gpt) - sum(map(_weights, gpt.blocks))
    head = config.dim * config.vocab_size if config.head.tied else 0
    # Scores and weighted sums: a position attends to half of the sequence on average.
    attended = len(gpt.visits) * 2 * config.dim * (seq_len + 1) // 2
    return 6 * (sum(in_layers) + outside + head + attended)


def _weights(module: torch.nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, CastLinear))
