"""The order of the layers, as plain data: which layer comes when, and whose output is added to its input."""

from typing import NamedTuple


class Visit(NamedTuple):
    """One use of a layer.

    Args:
        layer: index of the layer.
        skip: the earlier visit whose output is added to the input of this one; None for none.
    """

    layer: int
    skip: int | None


def visits(num_layers: int) -> tuple[Visit, ...]:
    """Pairs the visits like a U-Net (https://arxiv.org/abs/1505.04597), from the middle outwards.

    The last of an odd number of visits has no skip.

    >>> [visit.skip for visit in visits(5)]
    [None, None, 1, 0, None]
    """
    half = num_layers // 2
    skips = (*[None] * half, *reversed(range(half)), *[None] * (num_layers % 2))
    return tuple(map(Visit, range(num_layers), skips))
