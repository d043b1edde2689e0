"""Layers that a setting chooses, in words."""

import re

from plgolf.errors import UserError


def layer_indices(which: str, num_layers: int, *, name: str = "layers") -> frozenset[int]:
    """Returns the layers that words choose; layers count from 0.

    Args:
        which: ``all``, ``first 3``, ``last 4``, ``from 8``, or numbers and ranges: ``3-5`` or ``9, 10``.
        num_layers: number of layers of the model.
        name: the setting, for errors.

    Raises:
        UserError: the words have another form, or choose a layer that the model does not have.

    >>> sorted(layer_indices("last 2", 9)), sorted(layer_indices("0, 3-5", 9))
    ([7, 8], [0, 3, 4, 5])
    """
    if which == "all":
        return frozenset(range(num_layers))
    chosen = re.fullmatch(r"(first|last|from) (\d{1,4})", which)
    if chosen:
        count = int(chosen[2])
        first, last = {
            "first": (0, count - 1),
            "last": (num_layers - count, num_layers - 1),
            "from": (count, num_layers - 1),
        }[chosen[1]]
        ranges = [(first, last)]
    elif re.fullmatch(r"\d{1,4}(-\d{1,4})?(, ?\d{1,4}(-\d{1,4})?)*", which):
        ends = [part.split("-") for part in which.split(",")]
        ranges = [(int(numbers[0]), int(numbers[-1])) for numbers in ends]
    else:
        raise UserError(
            f"{name} must be like 'all', 'first 3', 'last 4', 'from 8', '3-5' or '9, 10', got {which!r:.100}"
        )
    if not all(0 <= first <= last < num_layers for first, last in ranges):
        raise UserError(f"{name} must be some of the layers 0 to {num_layers - 1}, got {which!r:.100}")
    return frozenset(layer for first, last in ranges for layer in range(first, last + 1))


def repeated(order: list[int], which: str, times: int) -> list[int]:
    """Returns the order of layers, with some neighbours running several times in a row.

    Raises:
        UserError: the layers are not neighbours, or not layers of the model.

    >>> repeated([0, 1, 2, 3], "1-2", 2)
    [0, 1, 2, 1, 2, 3]
    """
    layers = sorted(layer_indices(which, len(order), name="recurrence.layers"))
    first, last = layers[0], layers[-1]
    if layers != order[first : last + 1]:
        raise UserError(f"recurrence.layers must be neighbours, got {which!r:.100}")
    return [*order[:first], *layers * times, *order[last + 1 :]]
