"""Skip connections over depth, as plain data: whose output is added to the input of each layer."""


def skip_sources(num_layers: int) -> tuple[int | None, ...]:
    """Pairs the layers like a U-Net (https://arxiv.org/abs/1505.04597), from the middle outwards.

    Returns:
        For each layer, the index of the earlier layer whose output is added to its input, or None. The last
        of an odd number of layers has no skip.

    >>> skip_sources(5)
    (None, None, 1, 0, None)
    """
    half = num_layers // 2
    return (*[None] * half, *reversed(range(half)), *[None] * (num_layers % 2))
