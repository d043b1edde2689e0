"""Blocks of attention heads that are orthogonalised alone; imported where a recipe asks for them."""

from collections.abc import Mapping
from typing import Any

from plgolf.errors import UserError


def blocks_of(group: Mapping[str, Any], heads: int) -> dict[int, int]:
    """Returns the number of blocks of each matrix with heads, by its index in the group.

    A matrix with fewer heads is one block (https://github.com/KellerJordan/modded-nanogpt/pull/253).

    Args:
        group: has ``params`` and, for each, the rows of a head as ``head_rows``, 0 for a matrix without
            heads (``plgolf.roles.param_groups``).
        heads: number of heads in a block.

    Raises:
        UserError: a matrix has heads that blocks of this size do not share out, or there are no heads.
    """
    rows = group.get("head_rows", ())
    if not any(rows):
        raise UserError(f"heads must be null for a model without attention heads, got {heads}")
    blocks = {}
    for index, (p, each) in enumerate(zip(group["params"], rows, strict=True)):
        if each:
            count = p.size(0) // each
            if count > heads and count % heads:
                raise UserError(f"heads must divide the {count} heads of each matrix, got {heads}")
            blocks[index] = max(count // heads, 1)
    return blocks
