"""Counts the arithmetic of training, for comparison with the peak of a machine."""

from plgolf.model.gpt import GPTConfig


def train_flops_per_token(config: GPTConfig, seq_len: int) -> int:
    """Counts the floating-point operations of all products in training, per token.

    A multiply-add counts as two operations, the backward pass as two forward passes, and attention as its
    causal half. Norms, activations and the optimizer are left out, as in model FLOPs utilisation
    (https://arxiv.org/abs/2204.02311, appendix B, which counts all of attention).

    >>> train_flops_per_token(GPTConfig(), 4096) // 10**6
    215
    """
    attention, dim = config.attention, config.dim
    kv_dim = attention.num_kv_heads * attention.head_dim(dim)
    weights_per_layer = 2 * dim * dim + 2 * dim * kv_dim + 2 * dim * config.mlp.hidden_dim(dim)
    weights = config.num_layers * weights_per_layer + dim * config.vocab_size
    # Scores and weighted sums: a position attends to half of the sequence on average.
    attended = config.num_layers * 2 * dim * (seq_len + 1) // 2
    return 6 * (weights + attended)
