"""Corrects a rounded matrix by the largest part of its error, as two small matrices of few bits.

LQER (https://arxiv.org/abs/2402.02446) as the record 2026-04-27 has it, section 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.errors import UserError, whole_number
from plgolf.quantize.codec import Plane, check_finite

_SMALLEST = 2.0**-24
"""Smallest scale that float16 can hold."""
_RANGES = {"left": (-2, 1), "right": (-8, 7)}
"""Smallest and largest codes of the factors that share scales; half a code more is their limit."""
_SYMMETRIC = 7
"""Largest code of 4 bits."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Stores the largest singular values of a rounding error, with their vectors, as two factors.

    Args:
        rank: number of singular values.
        group: values of the right factor, row by row, that share a scale: the right factor then has 4 bits,
            the left one 2 bits and one scale. Null for 4 bits and a scale for each row in both.

    Raises:
        UserError: a setting is out of range.
    """

    rank: int = 4
    group: int | None = 64

    def __post_init__(self) -> None:
        whole_number("rank", self.rank, least=1)
        if self.group is not None:
            whole_number("group", self.group, least=1)

    def planes(self, shape: tuple[int, ...]) -> dict[str, Plane]:
        """Returns the arrays of the factors of a matrix.

        Raises:
            UserError: the rank is larger than a side, or the group does not divide the right factor.
        """
        rows, columns = shape
        if self.rank > min(shape):
            raise UserError(f"must have at least low_rank.rank ({self.rank}) rows and columns, got {shape}")
        lefts, rights = rows, self.rank
        if self.group is not None:
            rights, rest = divmod(self.rank * columns, self.group)
            lefts = 1
            if rest:
                rule = f"must have columns that low_rank.group ({self.group}) divides, times the rank"
                raise UserError(f"{rule} ({self.rank}), got {columns}")
        return {
            "left": Plane(torch.int8, (rows, self.rank)),
            "left_scales": Plane(torch.float16, (lefts,)),
            "right": Plane(torch.int8, (self.rank, columns)),
            "right_scales": Plane(torch.float16, (rights,)),
        }

    def encode(self, error: Tensor) -> dict[str, Tensor]:
        """Rounds the factors of an error, float32 (rows, columns), to the arrays of ``planes``.

        Raises:
            UserError: a value is not finite or too large for float16 scales.
        """
        check_finite(error)
        u, values, v = torch.linalg.svd(error, full_matrices=False)
        factors = {"left": u[:, : self.rank] * values[: self.rank], "right": v[: self.rank]}
        planes = dict[str, Tensor]()
        for name, factor in factors.items():
            low, high, limit = self._range(name)
            groups = factor.reshape(self.planes(tuple(error.shape))[f"{name}_scales"].shape[0], -1)
            scales = (groups.abs().amax(1) / limit).clamp_min(_SMALLEST).half()
            check_finite(scales)
            codes = (groups / scales.float()[:, None]).round_().clamp_(low, high)
            planes |= {name: codes.to(torch.int8).view(factor.shape), f"{name}_scales": scales}
        return planes

    def decode(self, planes: Mapping[str, Tensor]) -> Tensor:
        """Returns the product of the factors, float32 (rows, columns).

        Raises:
            UserError: a value is out of range.
        """
        factors = []
        for name in _RANGES:
            codes, scales, (low, high, _) = planes[name], planes[f"{name}_scales"], self._range(name)
            found = [int(code) for code in codes.aminmax()]
            if found[0] < low or found[1] > high:
                raise UserError(f"{name} must be from {low} to {high}, got {found[0]} to {found[1]}")
            if not (torch.isfinite(scales) & (scales > 0)).all():
                raise UserError(f"{name}_scales must be positive and finite, got {float(scales.min())}")
            groups = codes.reshape(len(scales), -1).float() * scales.float()[:, None]
            factors.append(groups.view(codes.shape))
        return factors[0] @ factors[1]

    def _range(self, name: str) -> tuple[int, int, float]:
        """Returns the smallest and largest code of a factor, and the magnitude of the largest value."""
        if self.group is None:
            return -_SYMMETRIC, _SYMMETRIC, _SYMMETRIC
        low, high = _RANGES[name]
        return low, high, high + 0.5


def largest_errors(errors: Mapping[str, float], most: int | None) -> set[str]:
    """Returns the names of the ``most`` largest errors, of equals the first; all if ``most`` is None."""
    return set(sorted(errors, key=lambda name: -errors[name])[:most])
