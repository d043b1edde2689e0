"""GPTQ: rounds the columns of a matrix one after another and corrects the rest for each error.

https://arxiv.org/abs/2210.17323, as the record 2026-04-27 has it (https://github.com/openai/parameter-golf).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.quantize.codec import Plane
from plgolf.quantize.low_rank import LowRank
from plgolf.quantize.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Gptq:
    """Rounds a matrix so that its outputs change little on the inputs of a calibration.

    Args:
        rows: bits, scales and limits of rows, such as ``sigmas: [12.85]`` (SDClip). They are found before
            the matrix is rounded.
        damping: share of the mean power of the inputs that is added to the power of each.
        importance: from 0 to 1; limits of rows are multiplied by 1 + importance * (r - 1), where r is the sum
            of a row's magnitudes, each times the power of its input, over the mean of all rows
            ("Hessian-aware SDClip", record 2026-04-06, which has 0.175).
        low_rank: corrects the rounded matrix by a part of its error (LQER); null for no correction.

    Raises:
        UserError: a setting is out of range.
    """

    rows: Rows
    damping: float = 0.01
    importance: float = newer(0.0)
    low_rank: LowRank | None = newer(None)

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise UserError(f"damping must be above 0 and at most 1, got {self.damping}")
        if not 0 <= self.importance < 1:
            raise UserError(f"importance must be at least 0 and below 1, got {self.importance}")

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"must be a matrix for gptq, got the shape {list(shape)}")
        planes = self.rows.planes(shape, dtype)
        return planes if self.low_rank is None else planes | self.low_rank.planes(shape)

    def label(self, dtype: torch.dtype) -> str:
        rank = "" if self.low_rank is None else f"+rank{self.low_rank.rank}"
        return self.rows.label(dtype) + rank

    def encode_all(self, values: Sequence[Tensor], hessians: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        weights, sums = torch.stack(list(values)).float(), torch.stack(list(hessians))
        if not torch.isfinite(sums).all():
            raise UserError("must have inputs that are finite in the calibration, got NaN or infinity")
        found = [
            self.rows.encode(matrix, self._widths(matrix, h)) for matrix, h in zip(weights, sums, strict=True)
        ]
        scales = torch.stack([planes["scales"] for planes in found]).to(sums.device).float()[:, :, None]
        largest, damping = self.rows.largest_code, self.damping
        codes = gptq_codes(weights.to(sums.device), sums, scales, largest, damping=damping).cpu()
        return [{**planes, "codes": each} for planes, each in zip(found, codes, strict=True)]

    def _widths(self, matrix: Tensor, hessian: Tensor) -> Tensor | None:
        if not self.importance:
            return None
        power = hessian.diagonal().cpu()
        rows = (matrix.abs() * (power / power.mean())).mean(1)
        return 1 + self.importance * (rows / rows.mean() - 1)

    def decode(self, planes: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.low_rank is None:
            return self.rows.decode(planes, shape, dtype)
        correction = self.low_rank.decode(planes)
        return (self.rows.decode(planes, shape, torch.float32) + correction).to(dtype)

    def largest(self, planes: Mapping[str, Tensor]) -> Tensor | None:
        return self.rows.largest(planes)


def gptq_codes(
    weights: Tensor,
    hessians: Tensor,
    scales: Tensor,
    largest: int,
    *,
    damping: float = 0.01,
    block: int = 128,
) -> Tensor:
    """Rounds matrices of one shape so that their outputs, on the inputs of the Hessians, change little.

    Columns are taken by the power of their input, the largest first. Input channels that are always 0 get
    the code 0.

    Args:
        weights: float32 (matrices, rows, columns).
        hessians: sums of x x^T over inputs x, up to a factor, float32 (matrices, columns, columns).
        scales: steps between codes, above 0, float32 (matrices, rows, columns), or with 1 column.
        largest: largest code; the smallest is its negative.
        damping: share of the mean of a Hessian's diagonal that is added to the diagonal.
        block: columns whose errors are taken to the columns after them at once.

    Returns:
        Int8 codes (matrices, rows, columns).
    """
    order, factors = _factors(hessians, damping)
    columns = order[:, None].expand_as(weights)
    alive = hessians.diagonal(dim1=1, dim2=2)[:, None] != 0
    left = (weights * alive).gather(2, columns)
    steps = scales.expand_as(weights).gather(2, columns)
    codes = torch.empty_like(left)
    for start in range(0, left.size(2), block):
        within = slice(start, start + block)
        now, corner = left[:, :, within], factors[:, within, within]
        errors = torch.empty_like(now)
        for j in range(now.size(2)):
            step = steps[:, :, start + j]
            code = (now[:, :, j] / step).round_().clamp_(-largest, largest)
            codes[:, :, start + j] = code
            errors[:, :, j] = (now[:, :, j] - code * step) / corner[:, j, j, None]
            now[:, :, j:] -= errors[:, :, j, None] * corner[:, None, j, j:]
        left[:, :, start + block :] -= errors @ factors[:, within, start + block :]
    return torch.empty_like(codes).scatter_(2, columns, codes).to(torch.int8)


def _factors(hessians: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Returns the order of columns (matrices, columns), and upper Cholesky factors of the inverses in it."""
    hessians = hessians.clone()
    diagonal = hessians.diagonal(dim1=1, dim2=2)
    diagonal[diagonal == 0] = 1
    added = damping * diagonal.mean(1, keepdim=True)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    rows = order[:, :, None].expand_as(hessians)
    hessians = hessians.gather(1, rows).gather(2, rows.mT)
    diagonal = hessians.diagonal(dim1=1, dim2=2)
    diagonal += added
    lower, failed = torch.linalg.cholesky_ex(hessians)
    while failed.any():  # A run must not fail at its end for inputs that are nearly dependent.
        added = added * 10
        diagonal += added * failed.bool()[:, None]
        lower, failed = torch.linalg.cholesky_ex(hessians)
    return order, torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
