"""A model whose mistakes show: no parameter has a value, such as 0 or 1, that would hide them."""

import torch

from plgolf import GPT, GPTConfig


def lively(config: GPTConfig, *, noise: float = 0.2) -> GPT:
    """Returns a model in eval mode with noise on every parameter; the same for each call."""
    torch.manual_seed(0)
    gpt = GPT(config).eval()
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(noise * torch.randn_like(p))
    return gpt
