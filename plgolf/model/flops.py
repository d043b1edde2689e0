"""How much arithmetic a model needs, for what a machine's peak is compared with."""

from plgolf.model.gpt import GPTConfig


def train_flops_per_token(config: GPTConfig, seq_len: int) -> int:
    """Counts the floating-point operations of the products of a forward and a backward pass.

    Two operations a multiply-add, three passes (one forward, two backward); of attention only the causal
    half. Norms, activations and the optimizer are left out, as is usual for model FLOPs utilisation
    (https://arxiv.org/abs/2204.02311, appendix B, but for the causal half).

    Args:
        config: the architecture.
        seq_len: tokens in a sequence.

    Returns:
        Operations per token.

    >>> train_flops_per_token(GPTConfig(), 4096) // 10**6
    215
    """
    attention, dim = config.attention, config.dim
    kv_dim = attention.num_kv_heads * attention.head_dim(dim)
    weights_per_layer = 2 * dim * dim + 2 * dim * kv_dim + 2 * dim * config.mlp.hidden_dim(dim)
    weights = config.num_layers * weights_per_layer + dim * config.vocab_size
    # Scores and weighted sums: each position looks at half of the sequence on average.
    attended = config.num_layers * 2 * dim * (seq_len + 1) // 2
    return 6 * (weights + attended)
