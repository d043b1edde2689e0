"""Integer codes of 2 to 8 bits with one scale for each row."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from plgolf.errors import UserError, whole_number
from plgolf.quantize.clip import quantile_limits, sigma_limits
from plgolf.quantize.codec import Plane, check_finite

_SEARCHED = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
"""Quantiles that the record of 2026-03-22 tries."""
_SMALLEST = {torch.float16: 2.0**-24, torch.float32: torch.finfo(torch.float32).tiny}
"""Smallest scale of a dtype; a row of zeros has it."""
_LARGEST_VALUE = 1e18
"""Squares of larger values do not fit float32."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rounds to integers with one scale for each row of a matrix; a vector or a number is one row.

    A row's limit becomes the largest code, and larger values are clipped to it. Codes are computed with the
    scale as it is stored. Of several limits, the one with the smallest squared error is taken, the first
    of equals ("GPTQ-lite" of the record 2026-03-22, https://github.com/openai/parameter-golf). Codes are
    stored one in a byte: of packed bits, a coder makes 6 to 11 % more bytes for 5 and 6 bits.

    Args:
        bits: bits of a code, from 2 to 8; codes are symmetric, such as -31 to 31 for 6.
        quantiles: limits that are quantiles of a row's magnitudes, 1 for the maximum. If there are no
            sigmas either, five from 0.999 to 1 are tried.
        sigmas: limits that are multiples of a row's standard deviation.
        best_for: takes the best limit for each row, or one rule for the whole matrix.
        floor: smallest limit.
        scale: dtype of the stored scales.

    Raises:
        UserError: a setting is out of range.
    """

    bits: int = 8
    quantiles: list[float] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    best_for: Literal["row", "matrix"] = "row"
    floor: float = 0.0
    scale: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        whole_number("bits", self.bits)
        if not 2 <= self.bits <= 8:
            raise UserError(f"bits must be from 2 to 8, got {self.bits}")
        for value in self.quantiles:
            if not 0 < value <= 1:
                raise UserError(f"quantiles must be above 0 and at most 1, got {value}")
        for value in self.sigmas:
            if not 0 < value < math.inf:
                raise UserError(f"sigmas must be positive and finite, got {value}")
        if not 0 <= self.floor < math.inf:
            raise UserError(f"floor must be finite and at least 0, got {self.floor}")

    @property
    def largest_code(self) -> int:
        """Largest code, such as 31 for 6 bits."""
        return (1 << (self.bits - 1)) - 1

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:  # noqa: ARG002
        scales = Plane(getattr(torch, self.scale), (math.prod(shape[:-1]),))
        return {"codes": Plane(torch.int8, shape), "scales": scales}

    def label(self, dtype: torch.dtype) -> str:  # noqa: ARG002
        return f"int{self.bits}"

    def encode(self, values: Tensor, widths: Tensor | None = None) -> dict[str, Tensor]:
        """Turns a CPU tensor into codes and scales.

        Args:
            values: the tensor.
            widths: multiply the limits of rows, float32 (rows,); None for 1.

        Raises:
            UserError: a value is not finite or cannot be stored.
        """
        rows = _as_rows(values.float())
        check_finite(rows)
        dtype = getattr(torch, self.scale)
        codes = torch.zeros(rows.shape, dtype=torch.int8)
        scales = torch.full((len(rows),), _SMALLEST[dtype], dtype=dtype)
        least = torch.full((len(rows),), math.inf, dtype=torch.float64)
        for limits in self._limits(rows) if rows.numel() else ():
            step = self._stored_scales(limits if widths is None else limits * widths)
            found = _rounded(rows, step, self.largest_code)
            errors = (found * step.float()[:, None] - rows).square_().sum(1, dtype=torch.float64)
            errors = errors if self.best_for == "row" else errors.sum().expand_as(errors)
            better = errors < least
            least, scales = torch.where(better, errors, least), torch.where(better, step, scales)
            codes[better] = found[better].to(torch.int8)
        return {"codes": codes.view(values.shape), "scales": scales}

    def _limits(self, rows: Tensor) -> Iterator[Tensor]:
        for quantile in self.quantiles or (() if self.sigmas else _SEARCHED):
            yield quantile_limits(rows, quantile)
        for sigmas in self.sigmas:
            yield sigma_limits(rows, sigmas)

    def _stored_scales(self, limits: Tensor) -> Tensor:
        dtype: torch.dtype = getattr(torch, self.scale)
        scales = (limits.clamp_min(self.floor) / self.largest_code).clamp_min(_SMALLEST[dtype]).to(dtype)
        if not torch.isfinite(scales).all() or limits.max() > _LARGEST_VALUE:
            most = min(torch.finfo(dtype).max * self.largest_code, _LARGEST_VALUE)
            got = max(float(limits.max()), self.floor)
            raise UserError(f"must be at most {most:.6g} for {self.scale} scales, got {got:.6g}")
        return scales

    def rounded(self, weights: Tensor) -> Tensor:
        """Returns what a matrix would be after ``encode`` and ``decode``, in a graph that can be compiled.

        Args:
            weights: float32 (rows, columns), with values that can be stored.

        Raises:
            UserError: several limits would be tried, or one that is not the maximum or a multiple of sigma.
        """
        if self.quantiles == [1.0] and not self.sigmas:
            limits = weights.abs().amax(1)
        elif len(self.sigmas) == 1 and not self.quantiles:
            limits = self.sigmas[0] * weights.std(1)
        else:
            raise UserError(
                "rows must have one limit, quantiles: [1.0] or one of sigmas, to round in training"
            )
        dtype: torch.dtype = getattr(torch, self.scale)
        scales = (limits.clamp_min(self.floor) / self.largest_code).clamp_min(_SMALLEST[dtype]).to(dtype)
        return _rounded(weights, scales, self.largest_code) * scales.float()[:, None]

    def decode(self, planes: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        codes, scales = planes["codes"], planes["scales"]
        if codes.numel():
            low, high = (int(code) for code in codes.aminmax())
            if max(-low, high) > self.largest_code:
                worst = low if -low > self.largest_code else high
                raise UserError(
                    f"codes must be from -{self.largest_code} to {self.largest_code}, got {worst}"
                )
        if not (torch.isfinite(scales) & (scales > 0)).all():
            raise UserError(f"scales must be positive and finite, got {float(scales.min())}")
        return (_as_rows(codes).float() * scales.float()[:, None]).to(dtype).view(shape)

    def largest(self, planes: Mapping[str, Tensor]) -> Tensor | None:
        return (self.largest_code + 0.5) * planes["scales"].float()[:, None]


def _as_rows(values: Tensor) -> Tensor:
    """Views a tensor as (rows, columns); the last axis are the columns."""
    columns = values.shape[-1] if values.ndim else 1
    return values.reshape(math.prod(values.shape[:-1]), columns)


def _rounded(rows: Tensor, scales: Tensor, largest: int) -> Tensor:
    """Returns codes as float32 (rows, columns)."""
    return (rows / scales.float()[:, None]).round_().clamp_(-largest, largest)
