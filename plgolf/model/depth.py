"""The order of things over depth, as plain data: which layer's output each layer gets back."""


def skip_sources(num_layers: int) -> tuple[int | None, ...]:
    """Pairs the layers like a U-Net (https://arxiv.org/abs/1505.04597): the last half undoes the first.

    Args:
        num_layers: layers in all; with an odd number the extra layer is in the second half.

    Returns:
        For each layer the index of the earlier layer whose output is added to its input, or None.

    >>> skip_sources(5)
    (None, None, 1, 0, None)
    """
    half = num_layers // 2
    return tuple(
        half - 1 - (layer - half) if half <= layer < 2 * half else None for layer in range(num_layers)
    )
